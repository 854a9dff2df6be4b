package gateway_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/gateway/openapi"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

func TestOpenAPIIsUpToDate(t *testing.T) {
	config, err := os.ReadFile("../../proto/gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := openapi.Rules(config)
	if err != nil {
		t.Fatal(err)
	}
	want, err := openapi.Document(resource.NewTable(), rules)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, setup{})
	a := p.must(p.do("GET", "/openapi.yaml", ""), 200)
	if a.body != string(want) {
		t.Error("openapi.yaml is not up to date: go generate ./pkg/gateway")
	}
}

// Every path of the document leads somewhere, with exactly the methods that it lists, and every kind is there.
func TestOpenAPIListsEveryRoute(t *testing.T) {
	p := start(t, setup{})
	var doc struct {
		OpenAPI    string                    `yaml:"openapi"`
		Paths      map[string]map[string]any `yaml:"paths"`
		Components struct {
			Schemas    map[string]any `yaml:"schemas"`
			Parameters map[string]any `yaml:"parameters"`
		} `yaml:"components"`
	}
	body := p.do("GET", "/openapi.yaml", "").body
	if err := yaml.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.") {
		t.Error(doc.OpenAPI)
	}
	insight := func(path string) bool { return strings.Contains(path, "-insights/") }
	for path, item := range doc.Paths {
		concrete := strings.NewReplacer("{mesh}", "default", "{name}", "x", "{id}", "x").Replace(path)
		want := slices.Sorted(maps.Keys(item))
		var got []string
		// An unknown method is refused by the router, which names all that it knows.
		for m := range strings.SplitSeq(strings.ToLower(p.do("PROPFIND", concrete, "").header.Get("Allow")), ", ") {
			// Insights' items are routed, and refused with a sentence.
			if !insight(path) || m == "get" {
				got = append(got, m)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	for _, d := range resource.NewTable().All() {
		if d.Access == resource.Internal {
			if doc.Components.Schemas[string(d.Kind)] != nil && d.Kind != "ZonePosition" && d.Kind != "ProxyPosition" {
				t.Errorf("internal %s is shown", d.Kind)
			}
			continue
		}
		paths := []string{"/" + d.Plural, "/" + d.Plural + "/{name}"}
		if d.Scope == resource.ScopeMesh {
			paths = []string{"/" + d.Plural, "/meshes/{mesh}/" + d.Plural, "/meshes/{mesh}/" + d.Plural + "/{name}"}
		}
		for _, path := range paths {
			if doc.Paths[path] == nil {
				t.Errorf("no %s", path)
			}
		}
		if doc.Components.Schemas[string(d.Kind)] == nil {
			t.Errorf("no schema of %s", d.Kind)
		}
	}
	// No reference leads nowhere.
	for rest := body; ; {
		_, after, ok := strings.Cut(rest, "#/components/")
		if !ok {
			break
		}
		rest = after
		ref, _, _ := strings.Cut(after, "\n")
		group, name, _ := strings.Cut(strings.Trim(ref, `"' `), "/")
		if group == "schemas" && doc.Components.Schemas[name] == nil || group == "parameters" && doc.Components.Parameters[name] == nil {
			t.Errorf("nothing at %s", ref)
		}
	}
}
