package controlplane_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// TestCascades: a mesh goes with all that it holds, and a zone with all that came from it, at one revision each, from
// the stores of both control planes.
func TestCascades(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const n = 200
	w.must("PUT", "/meshes/large", `{}`)
	w.must("PUT", "/zones/zone-2", `{}`)
	everyone := []*meshv1.Selector{{Match: map[string]string{"kuma.io/service": "*"}}}
	fill := func(log store.Log, kind resource.Kind, scope, prefix string, origin resource.Origin, m proto.Message) {
		t.Helper()
		spec, err := resource.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		var b store.Batch
		for i := range n {
			b.Puts = append(b.Puts, store.Put{Key: resource.Key{Kind: kind, Scope: scope, Name: fmt.Sprintf("%s%d", prefix, i)}, Origin: origin, Spec: spec})
		}
		if _, err := log.Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	config, status := w.global.Store.Config(), w.global.Store.Status()
	fill(config, resource.KindTimeout, "large", "t-", resource.Local, &meshv1.Timeout{Sources: everyone, Destinations: everyone, Conf: &meshv1.Timeout_Conf{}})
	w.synced()
	if got := w.zone.Store.Config().View().Count(store.InScope(resource.KindTimeout, "large")); got != n+1 {
		t.Fatalf("the zone has %d", got)
	}

	at := config.View().Revision()
	w.must("DELETE", "/meshes/large", "")
	if now := config.View().Revision(); now != at+1 {
		t.Errorf("a mesh took the revisions %s to %s", at+1, now)
	}
	w.synced()
	for where, v := range map[string]store.View{"global": config.View(), "zone": w.zone.Store.Config().View()} {
		for o := range v.Scan(store.Everything()) {
			if o.Key.Scope == "large" || o.Key.Name == "large" {
				t.Fatalf("%s has %s", where, o.Key)
			}
		}
	}

	fill(config, resource.KindDataplane, "default", "zone-2.d-", "zone-2", &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{}})
	fill(status, resource.KindDataplaneInsight, "default", "zone-2.d-", "zone-2", &meshv1.DataplaneInsight{})
	at = config.View().Revision()
	w.must("DELETE", "/zones/zone-2", "")
	if now := config.View().Revision(); now != at+1 {
		t.Errorf("a zone took the revisions %s to %s", at+1, now)
	}
	for _, log := range []store.Log{config, status} {
		for o := range log.View().Scan(store.Everything()) {
			if o.Origin == "zone-2" {
				t.Fatalf("%s is left", o.Key)
			}
		}
	}
}
