package envoy

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

const (
	benchProxies  = 500
	benchServices = 100
)

func benchKey(i int) resource.Key {
	return resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: fmt.Sprintf("dp-%03d", i)}
}

// benchDataplane offers one of the services and calls all of them.
func benchDataplane(i int, version string) *meshv1.Dataplane {
	n := &meshv1.Dataplane_Networking{
		Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1),
		Inbound: []*meshv1.Dataplane_Networking_Inbound{{Port: 8080, ServicePort: 9080, Tags: map[string]string{
			index.TagService: fmt.Sprintf("service-%02d", i%benchServices), index.TagProtocol: "http", "version": version,
		}}},
	}
	for s := range benchServices {
		n.Outbound = append(n.Outbound, &meshv1.Dataplane_Networking_Outbound{
			Port: uint32(10000 + s), Tags: map[string]string{index.TagService: fmt.Sprintf("service-%02d", s)},
		})
	}
	return &meshv1.Dataplane{Networking: n}
}

func benchTimeout(connect time.Duration) *meshv1.Timeout {
	all := []*meshv1.Selector{{Match: map[string]string{index.TagService: index.Wildcard}}}
	return &meshv1.Timeout{Sources: all, Destinations: all, Conf: &meshv1.Timeout_Conf{ConnectTimeout: durationpb.New(connect)}}
}

var benchTimeoutKey = resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "all"}

// benchLog is a mesh of 500 proxies that each call 100 services.
func benchLog() *indextest.Log {
	log := indextest.New()
	all := []*meshv1.Selector{{Match: map[string]string{index.TagService: index.Wildcard}}}
	log.PutMessage(resource.Key{Kind: resource.KindMesh, Name: "default"}, resource.Local, time.Time{}, &meshv1.Mesh{})
	log.PutMessage(resource.Key{Kind: resource.KindTrafficRoute, Scope: "default", Name: "all"}, resource.Local, time.Time{}, &meshv1.TrafficRoute{
		Sources: all, Destinations: all,
		Conf: &meshv1.TrafficRoute_Conf{Split: []*meshv1.TrafficRoute_Split{{Weight: 1, Destination: all[0].Match}}},
	})
	log.PutMessage(benchTimeoutKey, resource.Local, time.Time{}, benchTimeout(time.Second))
	for i := range benchProxies {
		log.PutMessage(benchKey(i), resource.Local, time.Time{}, benchDataplane(i, "v1"))
	}
	return log
}

// recompute makes the sets of the given proxies.
func recompute(b *testing.B, tr *Translator, ix *index.Index, proxies []resource.Key, sets map[resource.Key]*Set) {
	for _, k := range proxies {
		p, err := plan.Build(ix, k)
		if err != nil {
			b.Fatal(err)
		}
		if sets[k] = tr.Translate(p); len(sets[k].Invalid) > 0 {
			b.Fatal(sets[k].Invalid)
		}
	}
}

// benchChange measures the work after one change that touches all proxies.
func benchChange(b *testing.B, change func(log *indextest.Log, i int)) {
	log := benchLog()
	ix, tr, sets := index.New("zone-1", log.View()), NewTranslator(), map[resource.Key]*Set{}
	recompute(b, tr, ix, ix.Proxies(), sets)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		from := log.Head()
		change(log, i)
		changes := log.Since(from)
		b.StartTimer()
		dirty := ix.Apply(changes)
		if len(dirty) != benchProxies {
			b.Fatalf("%d proxies are dirty, want all %d", len(dirty), benchProxies)
		}
		recompute(b, tr, ix, dirty, sets)
	}
}

// One endpoint of a service that all proxies call changes.
func BenchmarkEndpoint(b *testing.B) {
	benchChange(b, func(log *indextest.Log, i int) {
		log.PutMessage(benchKey(7), resource.Local, time.Time{}, benchDataplane(7, fmt.Sprintf("v%d", i+2)))
	})
}

// A timeout changes that holds for every cluster of every proxy.
func BenchmarkTimeout(b *testing.B) {
	benchChange(b, func(log *indextest.Log, i int) {
		log.PutMessage(benchTimeoutKey, resource.Local, time.Time{}, benchTimeout(time.Second+time.Duration(i+1)*time.Millisecond))
	})
}

// Everything is worked out again, though nothing changed.
func BenchmarkAll(b *testing.B) {
	log := benchLog()
	ix, tr, sets := index.New("zone-1", log.View()), NewTranslator(), map[resource.Key]*Set{}
	proxies := ix.Proxies()
	recompute(b, tr, ix, proxies, sets)
	b.ReportAllocs()
	for b.Loop() {
		recompute(b, tr, ix, proxies, sets)
	}
}

// A control plane starts.
func BenchmarkStart(b *testing.B) {
	view := benchLog().View()
	b.ReportAllocs()
	for b.Loop() {
		ix, tr := index.New("zone-1", view), NewTranslator()
		recompute(b, tr, ix, ix.Proxies(), map[resource.Key]*Set{})
	}
}
