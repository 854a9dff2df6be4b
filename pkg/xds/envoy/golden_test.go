package envoy

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

var update = flag.Bool("update", false, "rewrite the golden files, and remove those without an input")

// cases are the inputs below testdata: <name>.input.yaml, with what comes out in <name>.golden.yaml.
func cases(t *testing.T) []string {
	t.Helper()
	inputs, err := filepath.Glob("testdata/*.input.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	names := make([]string, len(inputs))
	for i, f := range inputs {
		names[i] = strings.TrimSuffix(filepath.Base(f), ".input.yaml")
	}
	return names
}

// load makes an index of one input.
func load(t *testing.T, name string) *index.Index {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".input.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	log := indextest.New()
	if err := log.PutYAML(string(text)); err != nil {
		t.Fatal(err)
	}
	return index.New("zone-1", log.View())
}

func TestGolden(t *testing.T) {
	names := cases(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			ix, tr := load(t, name), NewTranslator()
			var out []any
			for _, k := range ix.Proxies() {
				if !strings.HasPrefix(k.Name, "web") {
					continue
				}
				p, err := plan.Build(ix, k)
				if err != nil {
					t.Fatal(err)
				}
				set := tr.Translate(p)
				if len(set.Invalid) > 0 {
					t.Fatal(set.Invalid)
				}
				out = append(out, describe(t, p, set))
			}
			got, err := yaml.MarshalWithOptions(out, yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s differs; if that is meant, run with -update (-want +got):\n%s", file, diff)
			}
		})
	}
	goldens, err := filepath.Glob("testdata/*.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range goldens {
		if slices.Contains(names, strings.TrimSuffix(filepath.Base(f), ".golden.yaml")) {
			continue
		}
		if !*update {
			t.Errorf("%s has no input", f)
		} else if err := os.Remove(f); err != nil {
			t.Error(err)
		}
	}
}

// describe writes a proxy's resources with their sources and references, in order.
func describe(t *testing.T, p *plan.Proxy, set *Set) yaml.MapSlice {
	t.Helper()
	var resources []any
	for _, r := range set.Resources {
		item := yaml.MapSlice{{Key: "resource", Value: content(t, r)}}
		var sources, refs []string
		for _, s := range set.sourcesOf(r) {
			sources = append(sources, s.Key.String()+" @"+s.Revision.String())
		}
		for _, ref := range r.Refs {
			refs = append(refs, ref.TypeURL[strings.LastIndexByte(ref.TypeURL, '.')+1:]+" "+ref.Name)
		}
		if sources != nil {
			item = append(item, yaml.MapItem{Key: "sources", Value: sources})
		}
		if refs != nil {
			item = append(item, yaml.MapItem{Key: "refs", Value: refs})
		}
		resources = append(resources, item)
	}
	out := yaml.MapSlice{{Key: "proxy", Value: p.Key.String()}, {Key: "resources", Value: resources}}
	if len(p.Problems) > 0 {
		var problems []string
		for _, x := range p.Problems {
			problems = append(problems, x.String())
		}
		out = append(out, yaml.MapItem{Key: "problems", Value: problems})
	}
	return out
}

// content is a resource as ordered YAML.
func content(t *testing.T, r *Resource) yaml.MapSlice {
	t.Helper()
	raw, err := protojson.Marshal(r.Wire.GetResource())
	if err != nil {
		t.Fatal(err)
	}
	var compact json.RawMessage
	if err := json.Unmarshal(raw, &compact); err != nil {
		t.Fatal(err)
	}
	var out yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(compact, &out, yaml.UseOrderedMap()); err != nil {
		t.Fatal(err)
	}
	return out
}
