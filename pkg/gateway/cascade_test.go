package gateway_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// TestCascadesThatFail: what goes with a mesh or a zone goes with it in one write, or stays with it.
func TestCascadesThatFail(t *testing.T) {
	var h *hooked
	p := start(t, setup{wrap: func(s store.Store) store.Store { h = &hooked{Store: s}; return h }})
	p.must(p.put("/meshes/m", mtls("b", `{"name":"b","type":"builtin"}`)), 201)
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
