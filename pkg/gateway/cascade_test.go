package gateway_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// TestLargeCascades: a mesh goes with all that it holds, and a zone with all that came from it, at one revision each,
// also where that is more than a batch may have.
func TestLargeCascades(t *testing.T) {
	p := start(t, setup{})
	p.mesh("large")
	p.must(p.put("/zones/zone-1", `{}`), 201)
	const n = 10_500 // a batch of a user has 10,000 at most
	fill := func(log store.Log, kind resource.Kind, scope, prefix string, origin resource.Origin) {
		t.Helper()
		var b store.Batch
		for i := range n {
			b.Puts = append(b.Puts, store.Put{Key: resource.Key{Kind: kind, Scope: scope, Name: fmt.Sprintf("%s%d", prefix, i)}, Origin: origin})
		}
		if _, err := log.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	fill(p.store.Config(), resource.KindTimeout, "large", "t-", resource.Local)
	fill(p.store.Config(), resource.KindDataplane, "default", "zone-1.d-", "zone-1")
	fill(p.store.Status(), resource.KindDataplaneInsight, "default", "zone-1.d-", "zone-1")
	for _, path := range []string{"/meshes/large", "/zones/zone-1"} {
		at := p.store.Config().View().Revision()
		p.must(p.do("DELETE", path, ""), 200)
		if now := p.store.Config().View().Revision(); now != at+1 {
			t.Errorf("%s took the revisions %s to %s", path, at+1, now)
		}
	}
	for _, log := range []store.Log{p.store.Config(), p.store.Status()} {
		for o := range log.View().Scan(store.Everything()) {
			if o.Key != (resource.Key{Kind: resource.KindMesh, Name: "default"}) {
				t.Fatalf("%s is left", o.Key)
			}
		}
	}
}

// TestCascadesThatFail: what goes with a mesh or a zone goes with it in one write, or stays with it.
func TestCascadesThatFail(t *testing.T) {
	var h *hooked
	p := start(t, setup{wrap: func(s store.Store) store.Store { h = &hooked{Store: s}; return h }})
	p.mesh("m")
	p.must(p.put("/meshes/m", mtls("b", `{"name":"b","type":"builtin"}`)), 200)
	p.must(p.put("/meshes/m/timeouts/t", timeout), 201)
	p.must(p.put("/zones/zone-1", `{}`), 201)
	for _, k := range []resource.Key{
		{Kind: resource.KindDataplane, Scope: "default", Name: "zone-1.d"},
		{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "zone-1.d"},
		{Kind: resource.KindProxyPosition, Scope: "m", Name: "zone-1.old"},
		{Kind: resource.KindZonePosition, Name: "zone-1.self"},
	} {
		p.seed(k, "zone-1", nil)
	}
	all := func() (keys []string) {
		for _, log := range []store.Log{p.store.Config(), p.store.Status()} {
			for o := range log.View().Scan(store.Everything()) {
				keys = append(keys, o.Key.String()+" "+o.Revision.String())
			}
		}
		return keys
	}
	for _, path := range []string{"/meshes/m", "/zones/zone-1"} {
		before := all()
		writes := 0
		h.hook = func(store.Batch) error { writes++; return fmt.Errorf("write: %w", store.ErrNoSpace) }
		p.must(p.do("DELETE", path, ""), 503)
		if writes != 1 {
			t.Errorf("%s took %d writes", path, writes)
		}
		if diff := cmp.Diff(before, all()); diff != "" {
			t.Errorf("%s went in part: %s", path, diff)
		}
		h.hook = nil
		p.must(p.do("DELETE", path, ""), 200)
	}
	left := all()
	if i := slices.IndexFunc(left, func(k string) bool { return k[:4] != "Mesh" }); i >= 0 || len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}
