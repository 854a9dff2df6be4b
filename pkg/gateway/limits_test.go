package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// TestLongList: a list of 100,000 comes in pages that end at the limit in bytes, each item once.
func TestLongList(t *testing.T) {
	const n = 100_000
	p := start(t, setup{api: api.Options{MaxPageBytes: 1 << 20}})
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
		if len(body) > 2<<20 {
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
