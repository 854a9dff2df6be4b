package envoy

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// two is a mesh in which two proxies of different services call a third.
func two(t *testing.T) (*indextest.Log, *index.Index) {
	t.Helper()
	log := indextest.New()
	log.PutMessage(resource.Key{Kind: resource.KindMesh, Name: "default"}, resource.Local, time.Time{}, resource.NewTable().All()[0].New())
	for i := range 3 {
		d := benchDataplane(i, "v1")
		d.Networking.Outbound = d.Networking.Outbound[2:3]
		log.PutMessage(benchKey(i), resource.Local, time.Time{}, d)
	}
	if err := log.PutYAML(`
type: TrafficRoute
mesh: default
name: all
sources: [{match: {kuma.io/service: "*"}}]
destinations: [{match: {kuma.io/service: "*"}}]
conf: {split: [{weight: 1, destination: {kuma.io/service: "*"}}]}
`); err != nil {
		t.Fatal(err)
	}
	return log, index.New("zone-1", log.View())
}

func translate(t *testing.T, tr *Translator, ix *index.Index, i int) *Set {
	t.Helper()
	p, err := plan.Build(ix, benchKey(i))
	if err != nil {
		t.Fatal(err)
	}
	set := tr.Translate(p)
	if len(set.Invalid) > 0 {
		t.Fatal(set.Invalid)
	}
	return set
}

func find(t *testing.T, s *Set, typeURL, name string) *Resource {
	t.Helper()
	for _, r := range s.Resources {
		if r.TypeURL == typeURL && r.Name == name {
			return r
		}
	}
	t.Fatalf("no %s %q", typeURL, name)
	return nil
}

func TestProxiesShareResources(t *testing.T) {
	_, ix := two(t)
	tr := NewTranslator()
	a, b := translate(t, tr, ix, 0), translate(t, tr, ix, 1)
	for _, ref := range []Ref{
		{ClusterType, "service-02"},
		{EndpointType, "service-02"},
		{RouteType, "outbound:service-02"},
		{ListenerType, "outbound:127.0.0.1:10002"},
		{ClusterType, "localhost:9080"},
	} {
		if find(t, a, ref.TypeURL, ref.Name) != find(t, b, ref.TypeURL, ref.Name) {
			t.Errorf("%v is not shared", ref)
		}
	}
	if again := translate(t, tr, ix, 0); again != a {
		t.Error("nothing has changed, and the set is another one")
	}
	if other := translate(t, NewTranslator(), ix, 0); find(t, other, ClusterType, "service-02").Version != find(t, a, ClusterType, "service-02").Version {
		t.Error("equal content has another version in another translator")
	}
}

func TestEndpointChangesOneResource(t *testing.T) {
	log, ix := two(t)
	tr := NewTranslator()
	before := translate(t, tr, ix, 0)
	from := log.Head()
	log.PutMessage(benchKey(2), resource.Local, time.Time{}, benchDataplane(2, "v2"))
	ix.Apply(log.Since(from))
	after := translate(t, tr, ix, 0)
	if len(before.Resources) != len(after.Resources) {
		t.Fatalf("%d resources, before %d", len(after.Resources), len(before.Resources))
	}
	for i, r := range after.Resources {
		if same := r == before.Resources[i]; same == (r.TypeURL == EndpointType) {
			t.Errorf("%s %s: same is %v", r.TypeURL, r.Name, same)
		}
	}
	endpoints := find(t, after, EndpointType, "service-02")
	if got := after.sourcesOf(endpoints); len(got) != 1 || got[0].Key != benchKey(2) || got[0].Revision != log.Head() {
		t.Errorf("sources: %v", got)
	}
}

// What no set uses any more is forgotten.
func TestForgetsWhatIsNotUsed(t *testing.T) {
	log, ix := two(t)
	tr := NewTranslator()
	set := translate(t, tr, ix, 0)
	count := func() int {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return len(tr.interned)
	}
	n := count()
	for i := range 50 {
		from := log.Head()
		log.PutMessage(benchKey(2), resource.Local, time.Time{}, benchDataplane(2, strings.Repeat("x", i+1)))
		ix.Apply(log.Since(from))
		set = translate(t, tr, ix, 0)
	}
	deadline := time.After(30 * time.Second)
	for count() > n {
		runtime.GC()
		done := make(chan struct{})
		runtime.AddCleanup(new([16]byte), func(c chan struct{}) { close(c) }, done)
		runtime.GC()
		select {
		case <-done:
		case <-deadline:
			t.Fatalf("%d resources are remembered, %d are in use", count(), n)
		}
	}
	runtime.KeepAlive(set)
	runtime.KeepAlive(ix)
}

// What does not validate is left out and named with its sources, the rest is there, also when endpoints change.
func TestInvalidResourceIsNamed(t *testing.T) {
	source := plan.Source{Key: resource.Key{Kind: resource.KindTrafficRoute, Scope: "default", Name: "bad"}, Revision: 7}
	frame := &plan.Frame{Clusters: []*plan.Cluster{
		{Name: "bad", Discovery: plan.DiscoverMesh, ConnectTimeout: -time.Second, Sources: []plan.Source{source}},
		{Name: "good", Discovery: plan.DiscoverMesh, ConnectTimeout: time.Second},
	}}
	tr := NewTranslator()
	for port := range uint32(2) {
		p := &plan.Proxy{Frame: frame, Endpoints: []*plan.Endpoints{
			{Cluster: "bad"}, {Cluster: "good", Hosts: []index.Endpoint{{Host: "10.0.0.1", Port: 80 + port}}},
		}}
		set := tr.Translate(p)
		if len(set.Invalid) != 1 || set.Invalid[0].Ref != (Ref{ClusterType, "bad"}) || !strings.Contains(set.Invalid[0].Err.Error(), "ConnectTimeout") {
			t.Fatalf("invalid: %v", set.Invalid)
		}
		if got := set.Origin.Sources(set.Invalid[0].Ref); len(got) != 1 || got[0] != source {
			t.Errorf("its sources are %v", got)
		}
		if len(set.Resources) != 3 {
			t.Errorf("%d resources, want the cluster and both endpoints", len(set.Resources))
		}
		find(t, set, ClusterType, "good")
		if got := find(t, set, EndpointType, "good"); !strings.Contains(got.Wire.String(), fmt.Sprint(80+port)) {
			t.Errorf("endpoints of before: %v", got.Wire)
		}
	}
}

func (s *Set) sourcesOf(r *Resource) []plan.Source {
	return s.Origin.Sources(Ref{TypeURL: r.TypeURL, Name: r.Name})
}
