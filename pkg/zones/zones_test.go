package zones

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

type world struct {
	t     *testing.T
	store store.Store
}

// in runs a test in a bubble with an Announcer that starts with what before has written.
func in(t *testing.T, before, test func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, store: memory.New(memory.Options{})}
		w.put(resource.KindMesh, "", "default", &meshv1.Mesh{})
		if before != nil {
			before(w)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- New(Options{Log: w.store.Config(), Zone: "zone-1", Logger: slog.New(slog.DiscardHandler)}).Run(ctx)
		}()
		synctest.Wait()
		test(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (w *world) apply(b store.Batch) {
	w.t.Helper()
	if _, err := w.store.Config().Apply(w.t.Context(), b); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) put(kind resource.Kind, scope, name string, m proto.Message) {
	w.t.Helper()
	spec, err := resource.Encode(m)
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: kind, Scope: scope, Name: name}, Spec: spec}}})
}

// dataplane has one inbound for each version, "-" in front for one that is not ready.
func (w *world) dataplane(name string, versions ...string) {
	w.t.Helper()
	n := &meshv1.Dataplane_Networking{Address: "10.0.0.1"}
	for i, v := range versions {
		in := &meshv1.Dataplane_Networking_Inbound{Port: uint32(80 + i)}
		if v[0] == '-' {
			in.Health, v = &meshv1.Dataplane_Networking_Inbound_Health{}, v[1:]
		}
		in.Tags = map[string]string{resource.TagService: "backend", "version": v}
		n.Inbound = append(n.Inbound, in)
	}
	w.put(resource.KindDataplane, "default", name, &meshv1.Dataplane{Networking: n})
}

func (w *world) ingress(name string, i *meshv1.Dataplane_Networking_Ingress) {
	w.t.Helper()
	w.put(resource.KindDataplane, "default", name, &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Ingress: i, Inbound: []*meshv1.Dataplane_Networking_Inbound{{Port: 10001, Tags: map[string]string{resource.TagService: "ingress"}}},
	}})
}

func (w *world) delete(kind resource.Kind, scope, name string) {
	w.t.Helper()
	w.apply(store.Batch{Deletes: []resource.Key{{Kind: kind, Scope: scope, Name: name}}})
}

// want waits for the pause and compares all that is announced.
func (w *world) want(want ...string) {
	w.t.Helper()
	time.Sleep(pause)
	synctest.Wait()
	var got []string
	v := w.store.Config().View()
	for o := range v.Scan(store.OfKind(resource.KindZoneIngress)) {
		i, err := resource.Decode[systemv1.ZoneIngress](o)
		if err != nil {
			w.t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s at %s:%d", o.Key.Name, i.GetAddress(), i.GetPort()))
	}
	counts := map[string]uint32{}
	for o := range v.Scan(store.OfKind(resource.KindZoneService)) {
		s, err := resource.Decode[systemv1.ZoneService](o)
		if err != nil {
			w.t.Fatal(err)
		}
		counts[s.GetTags()["version"]] = s.GetInstances()
	}
	for _, version := range []string{"v1", "v2"} {
		if n := counts[version]; n > 0 {
			got = append(got, fmt.Sprintf("%d of %s", n, version))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCountsInstances(t *testing.T) {
	in(t, func(w *world) { w.dataplane("a", "v1") }, func(w *world) {
		w.want("1 of v1")
		w.dataplane("b", "v1", "v2")
		w.want("2 of v1", "1 of v2")
		w.dataplane("a", "-v1")
		w.want("1 of v1", "1 of v2")
		w.delete(resource.KindDataplane, "default", "b")
		w.want()
	})
}

func TestAddressOfIngresses(t *testing.T) {
	in(t, nil, func(w *world) {
		w.ingress("in", &meshv1.Dataplane_Networking_Ingress{})
		w.want()
		w.put(resource.KindZone, "", "zone-2", &systemv1.Zone{Ingress: &systemv1.Zone_Ingress{Address: "two.test:1"}})
		w.want()
		w.put(resource.KindZone, "", "zone-1", &systemv1.Zone{Ingress: &systemv1.Zone_Ingress{Address: "one.test:10001"}})
		w.want("default.in at one.test:10001")
		w.ingress("in", &meshv1.Dataplane_Networking_Ingress{PublicAddress: "own.test", PublicPort: 10002})
		w.want("default.in at own.test:10002")
		w.delete(resource.KindDataplane, "default", "in")
		w.want()
	})
}

// Nothing is written when nothing is different, at a start neither; what was said before and is not so is taken back.
func TestWritesOnlyWhatDiffers(t *testing.T) {
	tags := map[string]string{resource.TagService: "backend", "version": "v1"}
	before := func(w *world) {
		w.dataplane("a", "v1")
		w.put(resource.KindZoneService, "default", resource.ZoneServiceName(tags), &systemv1.ZoneService{Tags: tags, Instances: 1})
	}
	in(t, before, func(w *world) {
		head := w.store.Config().View().Revision()
		w.dataplane("a", "v1")
		w.put(resource.KindTimeout, "default", "t", &meshv1.Timeout{})
		w.put(resource.KindDataplane, "default", "gateway", &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Gateway: &meshv1.Dataplane_Networking_Gateway{Tags: tags},
		}})
		time.Sleep(time.Hour)
		if now := w.store.Config().View().Revision(); now != head+3 {
			t.Errorf("%d revisions for 3 writes that change nothing here", now-head)
		}
		w.want("1 of v1")
	})
	stale := func(w *world) {
		w.put(resource.KindZoneService, "default", resource.ZoneServiceName(tags), &systemv1.ZoneService{Tags: tags, Instances: 9})
		w.put(resource.KindZoneIngress, "", "default.gone", &systemv1.ZoneIngress{Address: "gone.test", Port: 1})
	}
	in(t, stale, func(w *world) { w.want() })
}

// What comes in quick succession is written together.
func TestCollects(t *testing.T) {
	in(t, nil, func(w *world) {
		head := w.store.Config().View().Revision()
		for i := range 50 {
			w.dataplane(fmt.Sprintf("dp-%d", i), "v1")
		}
		w.want("50 of v1")
		if own := w.store.Config().View().Revision() - head - 50; own != 2 {
			t.Errorf("%d writes of its own, want one at once and one for the rest", own)
		}
	})
}

func TestMeshTakesItsServices(t *testing.T) {
	in(t, nil, func(w *world) {
		w.dataplane("a", "v1")
		w.want("1 of v1")
		w.apply(store.Batch{DeleteScopes: []string{"default"}, Deletes: []resource.Key{{Kind: resource.KindMesh, Name: "default"}}})
		w.want()
		w.put(resource.KindMesh, "", "default", &meshv1.Mesh{})
		w.want()
		w.dataplane("a", "v1", "v1")
		w.want("2 of v1")
	})
}
