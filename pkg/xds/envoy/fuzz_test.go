package envoy

import (
	"cmp"
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// Whatever bytes stand in a store, nothing panics, no plan names anything twice, and a bad object does not take
// the translation of others down.
func FuzzStoredBytes(f *testing.F) {
	kinds := []resource.Kind{
		resource.KindDataplane, resource.KindMesh, resource.KindTrafficRoute, resource.KindTimeout, resource.KindRetry,
		resource.KindExternalService, resource.KindSecret,
	}
	for _, name := range []string{"http", "split-http", "retries", "external", "transparent", "load-balancers", "addresses"} {
		text, err := os.ReadFile("testdata/" + name + ".input.yaml")
		if err != nil {
			f.Fatal(err)
		}
		objects, err := indextest.Parse(string(text))
		if err != nil {
			f.Fatal(err)
		}
		for i, o := range objects {
			spec, err := resource.Encode(o.Spec)
			if err != nil {
				f.Fatal(err)
			}
			other, err := resource.Encode(objects[(i+1)%len(objects)].Spec)
			if err != nil {
				f.Fatal(err)
			}
			for n, k := range kinds {
				if k == o.Key.Kind {
					f.Add(uint8(n), spec, uint8((n+2)%len(kinds)), other)
				}
			}
		}
	}
	base, err := os.ReadFile("testdata/http.input.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kindA uint8, a []byte, kindB uint8, b []byte) {
		log := indextest.New()
		if err := log.PutYAML(string(base)); err != nil {
			t.Fatal(err)
		}
		ix, tr := index.New("zone-1", log.View()), NewTranslator()
		for _, x := range []struct {
			kind uint8
			spec []byte
		}{{kindA, a}, {kindB, b}, {kindA, b}} {
			from := log.Head()
			k := resource.Key{Kind: kinds[int(x.kind)%len(kinds)], Scope: "default", Name: "backend-1"}
			if k.Kind == resource.KindMesh {
				k.Scope, k.Name = "", "default"
			}
			log.Put(k, resource.Local, time.Time{}, x.spec)
			ix.Apply(log.Since(from))
			for _, h := range ix.Hosts() {
				ix.Resolved(map[string][]netip.Addr{h: {netip.AddrFrom4([4]byte{10, 0, 0, 9})}})
			}
			for _, k := range ix.Proxies() {
				p, err := plan.Build(ix, k)
				if errors.Is(err, plan.ErrUnreadable) || errors.Is(err, plan.ErrUnknownMesh) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				set := tr.Translate(p)
				names := map[Ref]bool{}
				for _, x := range set.Invalid {
					names[x.Ref] = true // it must not be there too
				}
				for i, r := range set.Resources {
					if r.TypeURL == ListenerType && len(set.sourcesOf(r)) == 0 {
						t.Fatalf("%s has %s without sources", k, r.Name)
					}
					if i > 0 && ordered(set.Resources[i-1], r) >= 0 {
						t.Fatalf("%s has %s not in order", k, r.Name)
					}
					if ref := (Ref{r.TypeURL, r.Name}); names[ref] {
						t.Fatalf("%s has %v twice", k, ref)
					} else {
						names[ref] = true
					}
				}
			}
		}
	})
}

// ordered compares the places of two resources in a set.
func ordered(a, b *Resource) int {
	order := []string{ClusterType, EndpointType, ListenerType, RouteType}
	return cmp.Or(cmp.Compare(slices.Index(order, a.TypeURL), slices.Index(order, b.TypeURL)), cmp.Compare(a.Name, b.Name))
}
