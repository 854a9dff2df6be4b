package gateway_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/gateway"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// TestLongList: a list of 20,000 comes in pages that end at the limit in bytes, each item once.
func TestLongList(t *testing.T) {
	const n = 20_000
	p := start(t, setup{api: api.Options{MaxPageBytes: 1 << 18}})
	spec, err := resource.Encode(&systemv1.Zone{Enabled: wrapperspb.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	b := store.Batch{}
	for i := range n {
		b.Puts = append(b.Puts, store.Put{Key: resource.Key{Kind: resource.KindZone, Name: fmt.Sprintf("z-%06d", i)}, Spec: spec})
	}
	if _, err := p.store.Config().Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	seen, pages := 0, 0
	for path := "/zones?size=10000"; path != ""; pages++ {
		body := p.must(p.do("GET", path, ""), 200).body
		if len(body) > 1<<19 {
			t.Fatalf("a page of %d bytes", len(body))
		}
		var page struct {
			Total int
			Items []struct{ Name string }
			Next  string
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		for _, z := range page.Items {
			if want := fmt.Sprintf("z-%06d", seen); z.Name != want {
				t.Fatalf("item %d is %s", seen, z.Name)
			}
			seen++
		}
		if page.Total != n {
			t.Fatalf("total %d", page.Total)
		}
		path = ""
		if page.Next != "" {
			u, err := url.Parse(page.Next)
			if err != nil {
				t.Fatal(err)
			}
			path = u.RequestURI()
		}
	}
	if seen != n || pages <= n/10_000 {
		t.Errorf("%d items on %d pages", seen, pages)
	}
}

// TestLimitsAtTheirEdges: what is as large as allowed is taken, and one more is refused by the key's name.
func TestLimitsAtTheirEdges(t *testing.T) {
	p := start(t, setup{api: api.Options{Limits: resource.Limits{ObjectBytes: 4096, Depth: 16, AliasGrowth: 2}, MaxPageItems: 100}})
	secret := func(size int) string {
		const frame = `{"data":""}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("A", (size-len(frame))/4*4)+`"`, 1)
	}
	p.must(p.do("PUT", "/meshes/default/secrets/s", secret(4096)), 201)
	if a := p.do("PUT", "/meshes/default/secrets/t", secret(4104)); a.status != 413 || !strings.Contains(a.body, "4 KiB (limits.objectBytes)") {
		t.Errorf("%d %s", a.status, a.body)
	}
	deep := func(n int) string {
		return `{"conf":` + strings.Repeat(`{"x":`, n-2) + "{}" + strings.Repeat("}", n-2) + "}"
	}
	if a := p.do("PUT", "/meshes/m", deep(16)); a.status != 400 || strings.Contains(a.body, "limits.jsonDepth") {
		t.Errorf("%d %s", a.status, a.body) // refused for what it says, not for its depth
	}
	if a := p.do("PUT", "/meshes/m", deep(17)); a.status != 400 || !strings.Contains(a.body, "nested more than 16 deep (limits.jsonDepth)") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := p.do("GET", "/meshes?size=101", ""); a.status != 400 || !strings.Contains(a.body, "limits.pageItems") {
		t.Errorf("%d %s", a.status, a.body)
	}
	p.must(p.do("GET", "/meshes?size=100", ""), 200)
}

// TestBodiesAtTheirEdges: a body as large as allowed is read, and one byte more is refused by the key's name, as is
// one item more than a batch may have, or one byte more that aliases make of a YAML body.
func TestBodiesAtTheirEdges(t *testing.T) {
	p := start(t, setup{
		api:    api.Options{MaxBatchItems: 3, Limits: resource.Limits{AliasGrowth: 2}},
		limits: gateway.Limits{BodyBytes: 4096, BatchBytes: 8192},
	})
	padded := func(body string, size int) string { return body + strings.Repeat(" ", size-len(body)) }
	policies := func(n int) (items []string) {
		for i := range n {
			items = append(items, policyIn("default", fmt.Sprintf("t-%d", i), "1s"))
		}
		return items
	}
	// The alias stands for a string of n bytes and one for the string itself, and a body may grow by twice its size.
	grown := func(n int) string {
		const frame = "x: &a \"\"\ny: [*a, *a, *a]\n#"
		// 3*(n+1) is what the aliases cost, 2*len(body) what they may.
		size := (3*(n+1) + 1) / 2
		return strings.Replace(frame, `""`, `"`+strings.Repeat("z", n)+`"`, 1) + strings.Repeat("-", size-len(frame)-n)
	}
	for name, c := range map[string]struct {
		method, path    string
		most, more      string
		taken, refused  int
		reason, content string
	}{
		"body": {
			method: "POST", path: "/tokens/zone", most: padded(`{"zone":"z"}`, 4096), more: padded(`{"zone":"z"}`, 4097),
			taken: 200, refused: 413, reason: "larger than 4 KiB (limits.bodyBytes)",
		},
		"batch": {
			method: "PUT", path: "/batch", most: padded(batchOf(policies(1), nil), 8192), more: padded(batchOf(policies(1), nil), 8193),
			taken: 200, refused: 413, reason: "larger than 8 KiB (limits.batchBytes)",
		},
		"batch items": {
			method: "PUT", path: "/batch", most: batchOf(policies(3), nil), more: batchOf(policies(3), []string{keyOf("Timeout", "default", "x")}),
			taken: 200, refused: 413, reason: "than 3 items (limits.batchItems)",
		},
		"aliases": {
			method: "PUT", path: "/meshes/m", content: "text/yaml", most: grown(1001), more: grown(1001)[:len(grown(1001))-1],
			taken: 400, refused: 400, reason: "grow more than 2 times (limits.yamlAliasGrowth)", // a mesh has no such fields
		},
	} {
		t.Run(name, func(t *testing.T) {
			header := []string{"Content-Type", cmp.Or(c.content, "application/json")}
			if a := p.do(c.method, c.path, c.most, header...); a.status != c.taken || strings.Contains(a.body, "(limits.") {
				t.Errorf("as much as allowed: %d %s", a.status, a.body)
			}
			if a := p.do(c.method, c.path, c.more, header...); a.status != c.refused || !strings.Contains(a.body, c.reason) {
				t.Errorf("one more: %d %s", a.status, a.body)
			}
		})
	}
}
