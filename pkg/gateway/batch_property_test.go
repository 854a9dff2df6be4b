package gateway_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// batchWrite is one item of a random batch.
type batchWrite struct {
	key    resource.Key
	path   string
	delete bool
	body   string
}

// rank is the order in which single writes do what a batch does: what goes first, and meshes before what is in them.
func (w batchWrite) rank() int {
	mesh := w.key.Kind == resource.KindMesh
	switch {
	case w.delete && !mesh:
		return 0
	case w.delete:
		return 1
	case mesh:
		return 2
	}
	return 3
}

// drawNext draws a write that is mostly one that can be done where these resources are.
func drawNext(t *rapid.T, there []batchWrite) batchWrite {
	if len(there) > 0 && rapid.IntRange(0, 1).Draw(t, "of what is there") == 0 {
		w := rapid.SampledFrom(there).Draw(t, "which")
		w.delete = rapid.Bool().Draw(t, "delete it")
		return w
	}
	w := drawWrite(t)
	w.delete = w.delete && (w.key.Kind == resource.KindMesh || rapid.IntRange(0, 9).Draw(t, "what is not there") == 0)
	return w
}

func drawWrite(t *rapid.T) batchWrite {
	w := batchWrite{delete: rapid.IntRange(0, 2).Draw(t, "delete") == 0}
	mesh := rapid.SampledFrom([]string{"a", "a", "a", "a", "b", "b", "b", "b", "nowhere"}).Draw(t, "mesh")
	name := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "name")
	value := rapid.IntRange(1, 2).Draw(t, "value")
	spec := ""
	switch kind := rapid.SampledFrom([]resource.Kind{resource.KindMesh, resource.KindTimeout, resource.KindSecret, resource.KindZone, resource.KindGlobalSecret}).Draw(t, "kind"); kind {
	case resource.KindMesh:
		// A new mesh gets keys, which take their time to make.
		name = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "mesh itself")
		if rapid.IntRange(0, 40).Draw(t, "new") == 0 {
			name = "nowhere"
		}
		w.key, w.path, spec = resource.Key{Kind: kind, Name: name}, "/meshes/"+name, fmt.Sprintf(`"routing":{"localityAwareLoadBalancing":%t}`, value == 1)
	case resource.KindTimeout:
		w.key, w.path, spec = resource.Key{Kind: kind, Scope: mesh, Name: name}, "/meshes/"+mesh+"/timeouts/"+name, timeoutOf(fmt.Sprintf("%ds", value))[1:]
		spec = strings.TrimSuffix(spec, "}")
	case resource.KindSecret:
		w.key, w.path, spec = resource.Key{Kind: kind, Scope: mesh, Name: name}, "/meshes/"+mesh+"/secrets/"+name, fmt.Sprintf(`"data":"%dAAA"`, value)
	case resource.KindGlobalSecret:
		w.key, w.path, spec = resource.Key{Kind: kind, Name: name}, "/global-secrets/"+name, fmt.Sprintf(`"data":"%dAAA"`, value)
	default:
		w.key, w.path, spec = resource.Key{Kind: kind, Name: name}, "/zones/"+name, fmt.Sprintf(`"enabled":%t`, value == 1)
	}
	w.body = fmt.Sprintf(`{"type":%q,"mesh":%q,"name":%q,%s}`, w.key.Kind, w.key.Scope, w.key.Name, spec)
	if rapid.IntRange(0, 30).Draw(t, "broken") == 0 {
		w.body = fmt.Sprintf(`{"type":%q,"mesh":%q,"name":%q,"foo":1}`, w.key.Kind, w.key.Scope, w.key.Name)
	}
	return w
}

// content is all that a control plane holds, without what is random.
func (p *plane) content() map[string]string {
	out := map[string]string{}
	for o := range p.store.Config().View().Scan(store.Everything()) {
		switch {
		case o.Key.Kind == resource.KindPublicKey:
			out[string(o.Key.Kind)+" "+o.Key.Scope] += "one "
		case strings.Contains(o.Key.Name, "signing-key"):
			out[o.Key.String()] = "a key"
		default:
			out[o.Key.String()] = string(o.Spec)
		}
	}
	return out
}

// TestBatchIsSomeOrder: a batch that is taken leaves what single writes in one order leave, each with the same result;
// of one that is refused a single write is refused too, and it leaves nothing.
func TestBatchIsSomeOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		together, apart := start(t, setup{bare: true}), start(t, setup{bare: true})
		first := rapid.SliceOfNDistinct(rapid.Custom(drawWrite), 0, 6, func(w batchWrite) resource.Key { return w.key }).Draw(rt, "first")
		first = slices.DeleteFunc(first, func(w batchWrite) bool {
			return w.key.Scope == "nowhere" || w.key.Name == "nowhere" || strings.Contains(w.body, "foo")
		})
		for _, p := range []*plane{together, apart} {
			p.mesh("a")
			p.mesh("b")
			for _, w := range first {
				if res, _ := p.serve(t, "PUT", w.path, "", w.body); res.Code >= 300 {
					rt.Fatalf("%d %s", res.Code, res.Body)
				}
			}
		}
		writes := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) batchWrite { return drawNext(t, first) }), 0, 5, func(w batchWrite) resource.Key { return w.key }).Draw(rt, "writes")
		var puts, deletes []string
		for _, w := range writes {
			if w.delete {
				deletes = append(deletes, keyOf(string(w.key.Kind), w.key.Scope, w.key.Name))
			} else {
				puts = append(puts, w.body)
			}
		}
		body, before := batchOf(puts, deletes), together.content()
		dry, _ := together.serve(t, "PUT", "/batch?dryRun=true", "", body)
		if diff := cmp.Diff(before, together.content()); diff != "" {
			rt.Fatalf("a dry run wrote: %s", diff)
		}
		res, _ := together.serve(t, "PUT", "/batch", "", body)
		if dry.Code != res.Code {
			rt.Fatalf("dry %d, then %d", dry.Code, res.Code)
		}
		var answered batchAnswer
		if res.Code == 200 {
			if err := json.Unmarshal(res.Body.Bytes(), &answered); err != nil {
				rt.Fatal(err)
			}
		}
		results := map[resource.Key]string{}
		for _, r := range answered.Results {
			results[resource.Key{Kind: resource.Kind(r["type"]), Scope: r["mesh"], Name: r["name"]}] = r["result"]
		}

		refused := 0
		slices.SortStableFunc(writes, func(a, b batchWrite) int { return a.rank() - b.rank() })
		for _, w := range writes {
			method, want := "PUT", "updated"
			if w.delete {
				method, want = "DELETE", "deleted"
			}
			old, found := apart.store.Config().View().Get(w.key)
			one, _ := apart.serve(t, method, w.path, "", w.body)
			switch {
			case one.Code >= 300:
				refused++
				continue
			case one.Code == 201:
				want = "created"
			case !w.delete && found:
				if now, ok := apart.store.Config().View().Get(w.key); ok && string(now.Spec) == string(old.Spec) {
					want = "unchanged"
				}
			}
			if res.Code == 200 && results[w.key] != want {
				rt.Fatalf("%s is %s, alone %s", w.key, results[w.key], want)
			}
		}
		if (refused > 0) != (res.Code != 200) {
			rt.Fatalf("the batch got %d, and %d of its items alone were refused: %s", res.Code, refused, res.Body)
		}
		want := before
		if res.Code == 200 {
			want = apart.content()
		}
		if diff := cmp.Diff(want, together.content(), cmpopts.EquateEmpty()); diff != "" {
			rt.Fatal(diff)
		}
	})
}
