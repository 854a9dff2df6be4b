package index

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
)

// abroad: backend is here and in zone-2, which has an ingress with an address and one with a name. in is the
// ingress of this zone.
const abroad = base + `
---
type: Mesh
name: default
mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}
---
type: Zone
name: zone-2
---
type: ZoneIngress
name: zone-2.default.one
address: 10.2.0.1
port: 10001
---
type: ZoneIngress
name: zone-2.default.two
address: two.test
port: 10001
---
type: ZoneService
mesh: default
name: zone-2.a
tags: {kuma.io/service: backend, kuma.io/protocol: http, version: v1}
instances: 3
---
type: ZoneService
mesh: default
name: zone-2.b
tags: {kuma.io/service: backend, kuma.io/protocol: http, version: v2}
instances: 4
---
type: Dataplane
mesh: default
name: in
networking:
  address: 10.0.0.9
  ingress: {}
  inbound: [{port: 10001, tags: {kuma.io/service: ingress}}]
`

// reached are the endpoints to which web's outbound leads.
func reached(t *testing.T, ix *Index) []string {
	t.Helper()
	p, _ := ix.Proxy(dp("web"))
	var out []string
	for _, e := range p.Destination(0).Targets[0].Group.Endpoints().Items {
		s := fmt.Sprintf("%s:%d weight %d", e.Host, e.Port, e.Weight)
		if e.Later {
			s += " later"
		}
		out = append(out, s)
	}
	return out
}

func TestEndpointsInOtherZones(t *testing.T) {
	put := func(text string) func(*indextest.Log) {
		return func(log *indextest.Log) {
			if err := log.PutYAML(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(k resource.Kind, scope, name string) func(*indextest.Log) {
		return func(log *indextest.Log) { log.Delete(resource.Key{Kind: k, Scope: scope, Name: name}) }
	}
	const own = "10.0.0.4:80 weight 0"
	callers := []string{"shop", "web"}
	tests := map[string]struct {
		change func(*indextest.Log)
		want   []string
		dirty  []string
	}{
		"nothing":       {func(*indextest.Log) {}, []string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 7"}, nil},
		"zone off":      {put("type: Zone\nname: zone-2\nenabled: false\n"), []string{own}, callers},
		"zone deleted":  {remove(resource.KindZone, "", "zone-2"), []string{own}, callers},
		"service gone":  {remove(resource.KindZoneService, "default", "zone-2.b"), []string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 3"}, callers},
		"ingress gone":  {remove(resource.KindZoneIngress, "", "zone-2.default.one"), []string{own}, callers},
		"another zone":  {put("type: Zone\nname: zone-3\n"), []string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 7"}, nil},
		"same address":  {put("type: ZoneIngress\nname: zone-2.other.one\naddress: 10.2.0.1\nport: 10001\n"), []string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 7"}, callers},
		"nobody's call": {put("type: ZoneService\nmesh: default\nname: zone-2.c\ntags: {kuma.io/service: mobile}\ninstances: 1\n"), []string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 7"}, nil},
		"own zone's": {
			put("type: ZoneService\nmesh: default\nname: zone-1.c\ntags: {kuma.io/service: backend}\ninstances: 9\n"),
			[]string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 7"},
			nil,
		},
		"a second way": {
			put("type: ZoneIngress\nname: zone-2.default.three\naddress: 10.2.0.3\nport: 10001\n"),
			[]string{"10.0.0.4:80 weight 2", "10.2.0.1:10001 weight 7", "10.2.0.3:10001 weight 7"},
			callers,
		},
		"local first": {
			put("type: Mesh\nname: default\nrouting: {localityAwareLoadBalancing: true}\nmtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}\n"),
			[]string{"10.0.0.4:80 weight 1", "10.2.0.1:10001 weight 7 later"},
			[]string{"backend", "in", "mobile", "shop", "web"},
		},
		"without mTLS": {put("type: Mesh\nname: default\n"), []string{own}, []string{"backend", "in", "mobile", "shop", "web"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			log, ix := start(t, abroad)
			dirty := apply(t, log, ix, func() { tt.change(log) })
			if diff := cmp.Diff(tt.want, reached(t, ix)); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.dirty, dirty); diff != "" {
				t.Errorf("dirty (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamesOfIngresses(t *testing.T) {
	_, ix := start(t, abroad)
	if diff := cmp.Diff([]string{"two.test"}, ix.Hosts()); diff != "" {
		t.Fatal(diff)
	}
	if n := len(ix.Resolved(map[string][]netip.Addr{"two.test": {netip.MustParseAddr("10.2.0.2")}})); n != 2 {
		t.Errorf("%d proxies are dirty, want the two callers", n)
	}
	want := []string{"10.0.0.4:80 weight 2", "10.2.0.1:10001 weight 7", "10.2.0.2:10001 weight 7"}
	if diff := cmp.Diff(want, reached(t, ix)); diff != "" {
		t.Error(diff)
	}
}

// The protocol of a service that is nowhere here is that of its instances elsewhere.
func TestProtocolFromElsewhere(t *testing.T) {
	log, ix := start(t, abroad)
	apply(t, log, ix, func() { log.Delete(dp("backend")) })
	p, _ := ix.Proxy(dp("web"))
	if s := p.Destination(0).Targets[0].Service; s.Protocol != HTTP || !s.Remote {
		t.Errorf("%+v", s)
	}
}

// An ingress leads to what is here, by the tags that routes ask for, with mTLS only.
func TestDoors(t *testing.T) {
	log, ix := start(t, abroad)
	doors := func() (out []string) {
		p, _ := ix.Proxy(dp("in"))
		for _, d := range p.Ingress.Doors {
			out = append(out, fmt.Sprintf("%s/%s{%s} %d", d.Mesh, d.Service, FormatTags(d.Tags), len(d.Group.Endpoints().Items)))
		}
		return out
	}
	steps := []struct {
		name   string
		change string
		want   []string
		dirty  []string
	}{
		{"at first", "", []string{"default/backend{} 1", "default/mobile{} 1", "default/web{} 1"}, nil},
		{"a new instance", `
type: Dataplane
mesh: default
name: backend-2
networking: {address: 10.0.0.5, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: http, version: v2}}]}
`, []string{"default/backend{} 2", "default/mobile{} 1", "default/web{} 1"}, []string{"backend-2", "in", "shop", "web"}},
		{"a route by version", `
type: TrafficRoute
mesh: default
name: by-version
sources: [{match: {kuma.io/service: nobody}}]
destinations: [{match: {kuma.io/service: backend}}]
conf: {split: [{weight: 1, destination: {kuma.io/service: backend, version: "*"}}, {weight: 1, destination: {kuma.io/service: backend, version: v9}}]}
`, []string{"default/backend{} 2", "default/backend{version=v2} 1", "default/mobile{} 1", "default/web{} 1"}, []string{"in"}},
		{"without mTLS", "type: Mesh\nname: default\n", nil, []string{"backend", "backend-2", "in", "mobile", "shop", "web"}},
	}
	for _, s := range steps {
		dirty := apply(t, log, ix, func() {
			if err := log.PutYAML(s.change); err != nil {
				t.Fatal(err)
			}
		})
		if diff := cmp.Diff(s.want, doors()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
		if diff := cmp.Diff(s.dirty, dirty); diff != "" {
			t.Errorf("%s: dirty (-want +got):\n%s", s.name, diff)
		}
	}
}

// When all objects are gone, nothing is left of other zones.
func TestForgetsOtherZones(t *testing.T) {
	log, ix := start(t, abroad)
	log.Put(resource.Key{Kind: resource.KindZoneService, Scope: "default", Name: "zone-2.odd"}, resource.Global, time.Time{}, []byte{0xff})
	var keys []resource.Key
	for o := range log.View().Scan(store.Everything()) {
		keys = append(keys, o.Key)
	}
	apply(t, log, ix, func() {
		for _, k := range keys {
			log.Delete(k)
		}
	})
	if len(ix.meshes)+len(ix.zones)+len(ix.hosts)+len(ix.ingresses)+len(ix.ingress.Doors) != 0 {
		t.Errorf("left: %d meshes, %d zones, hosts %v, %d ingresses", len(ix.meshes), len(ix.zones), ix.Hosts(), len(ix.ingresses))
	}
}
