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

// base: web and shop call backend, mobile calls nothing; shop is another identity than web.
const base = `
type: Mesh
name: default
---
type: Dataplane
mesh: default
name: web
networking:
  address: 10.0.0.1
  inbound: [{port: 80, tags: {kuma.io/service: web, kuma.io/protocol: http}}]
  outbound: [{port: 10001, tags: {kuma.io/service: backend}}]
---
type: Dataplane
mesh: default
name: shop
networking:
  address: 10.0.0.2
  gateway: {tags: {kuma.io/service: shop, tier: gold}}
  outbound: [{port: 10001, service: backend}]
---
type: Dataplane
mesh: default
name: mobile
networking:
  address: 10.0.0.3
  inbound: [{port: 80, tags: {kuma.io/service: mobile, kuma.io/protocol: http}}]
---
type: Dataplane
mesh: default
name: backend
networking:
  address: 10.0.0.4
  inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]
---
type: TrafficRoute
mesh: default
name: all
creationTime: "2020-01-01T00:00:00Z"
sources: [{match: {kuma.io/service: "*"}}]
destinations: [{match: {kuma.io/service: "*"}}]
conf: {split: [{weight: 1, destination: {kuma.io/service: "*"}}]}
`

func start(t *testing.T, text string) (*indextest.Log, *Index) {
	t.Helper()
	log := indextest.New()
	if err := log.PutYAML(text); err != nil {
		t.Fatal(err)
	}
	return log, New("zone-1", log.View())
}

// apply makes changes and returns the names of the proxies that they touch.
func apply(t *testing.T, log *indextest.Log, ix *Index, change func()) []string {
	t.Helper()
	from := log.Head()
	change()
	var names []string
	for _, k := range ix.Apply(log.Since(from)) {
		names = append(names, k.Name)
	}
	return names
}

func dp(name string) resource.Key {
	return resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name}
}

func TestDirtyIsWhatAChangeTouches(t *testing.T) {
	put := func(text string) func(*testing.T, *indextest.Log) {
		return func(t *testing.T, log *indextest.Log) {
			t.Helper()
			if err := log.PutYAML(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	policy := func(kind, from, to, conf string) string {
		return fmt.Sprintf("type: %s\nmesh: default\nname: narrow\nsources: [{match: {%s}}]\ndestinations: [{match: {%s}}]\nconf: {%s}\n", kind, from, to, conf)
	}
	tests := map[string]struct {
		change func(*testing.T, *indextest.Log)
		want   []string
	}{
		"endpoint added": {put(`
type: Dataplane
mesh: default
name: backend-2
networking:
  address: 10.0.0.5
  inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]
`), []string{"backend-2", "shop", "web"}},
		"endpoint that nobody calls": {put(`
type: Dataplane
mesh: default
name: mobile-2
networking:
  address: 10.0.0.6
  inbound: [{port: 80, tags: {kuma.io/service: mobile, kuma.io/protocol: http}}]
`), []string{"mobile-2"}},
		"endpoint of another mesh": {put(`
type: Dataplane
mesh: other
name: backend
networking:
  address: 10.0.0.6
  inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]
`), []string{"backend"}},
		"endpoint removed": {func(_ *testing.T, log *indextest.Log) { log.Delete(dp("backend")) }, []string{"backend", "shop", "web"}},
		"mesh removed": {func(_ *testing.T, log *indextest.Log) {
			log.Delete(resource.Key{Kind: resource.KindMesh, Name: "default"})
		}, []string{"backend", "mobile", "shop", "web"}},
		"policy for one caller":        {put(policy("Timeout", "kuma.io/service: web", "kuma.io/service: backend", "connectTimeout: 1s")), []string{"web"}},
		"policy for a caller by tag":   {put(policy("Timeout", "kuma.io/service: '*', tier: gold", "kuma.io/service: '*'", "connectTimeout: 1s")), []string{"shop"}},
		"policy for a service":         {put(policy("Retry", "kuma.io/service: '*'", "kuma.io/service: backend", "tcp: {maxConnectAttempts: 2}")), []string{"shop", "web"}},
		"policy for a protocol":        {put(policy("Retry", "kuma.io/service: '*'", "kuma.io/service: '*', kuma.io/protocol: http", "http: {numRetries: 2}")), []string{"shop", "web"}},
		"policy for other protocols":   {put(policy("Retry", "kuma.io/service: '*'", "kuma.io/service: '*', kuma.io/protocol: tcp", "http: {numRetries: 2}")), nil},
		"policy that nobody matches":   {put(policy("Timeout", "kuma.io/service: backend", "kuma.io/service: '*'", "connectTimeout: 1s")), nil},
		"policy that another outranks": {put("type: TrafficRoute\nmesh: default\nname: zz\ncreationTime: \"2019-01-01T00:00:00Z\"\nsources: [{match: {kuma.io/service: '*'}}]\ndestinations: [{match: {kuma.io/service: '*'}}]\nconf: {split: [{weight: 1, destination: {kuma.io/service: nowhere}}]}\n"), nil},
		"external service that nobody calls": {put(`
type: ExternalService
mesh: default
name: api
networking: {address: "api.test:443"}
tags: {kuma.io/service: api}
`), nil},
		"write that changes nothing": {func(_ *testing.T, log *indextest.Log) {
			o, _ := log.View().Get(dp("backend"))
			log.Put(o.Key, o.Origin, o.Created, o.Spec)
		}, nil},
		"dataplane born elsewhere": {func(_ *testing.T, log *indextest.Log) {
			o, _ := log.View().Get(dp("backend"))
			log.Put(dp("zone-2.backend"), "zone-2", o.Created, o.Spec)
		}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			log, ix := start(t, base)
			got := apply(t, log, ix, func() { tt.change(t, log) })
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("dirty (-want +got):\n%s", diff)
			}
		})
	}
}

// The protocol of a service changes whose callers are led elsewhere: the retry that holds for them changes too.
func TestProtocolTakesPartInTheChoiceOfRetry(t *testing.T) {
	log, ix := start(t, base+`
---
type: TrafficRoute
mesh: default
name: elsewhere
sources: [{match: {kuma.io/service: web}}]
destinations: [{match: {kuma.io/service: backend}}]
conf: {split: [{weight: 1, destination: {kuma.io/service: mobile}}]}
---
type: Retry
mesh: default
name: grpc
sources: [{match: {kuma.io/service: web}}]
destinations: [{match: {kuma.io/service: backend, kuma.io/protocol: grpc}}]
conf: {grpc: {numRetries: 2}}
`)
	p, _ := ix.Proxy(dp("web"))
	if r := p.Destination(0).Retry; r != nil {
		t.Fatalf("%s holds for http", r.Key)
	}
	got := apply(t, log, ix, func() {
		if err := log.PutYAML(`
type: Dataplane
mesh: default
name: backend
networking:
  address: 10.0.0.4
  inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: grpc}}]
`); err != nil {
			t.Fatal(err)
		}
	})
	if diff := cmp.Diff([]string{"backend", "shop", "web"}, got); diff != "" {
		t.Error(diff)
	}
	if r := p.Destination(0).Retry; r == nil || r.Key.Name != "grpc" {
		t.Errorf("no retry for grpc: %v", r)
	}
}

func TestSecretReachesCallers(t *testing.T) {
	log, ix := start(t, base+`
---
type: ExternalService
mesh: default
name: api
networking: {address: "api.test:443", tls: {enabled: true, caCert: {secret: ca}}}
tags: {kuma.io/service: api, kuma.io/protocol: http}
---
type: Dataplane
mesh: default
name: caller
networking:
  address: 10.0.0.7
  gateway: {tags: {kuma.io/service: caller}}
  outbound: [{port: 10001, tags: {kuma.io/service: api}}]
`)
	p, _ := ix.Proxy(dp("caller"))
	endpoints := func() *Endpoints { return p.Destination(0).Targets[0].Group.Endpoints() }
	if e := endpoints(); len(e.Items) != 0 || len(e.Problems) != 1 {
		t.Fatalf("an endpoint without the certificate that it must have: %+v", e)
	}
	got := apply(t, log, ix, func() {
		if err := log.PutYAML("type: Secret\nmesh: default\nname: ca\ndata: bm90IFBFTQ==\n"); err != nil {
			t.Fatal(err)
		}
	})
	if diff := cmp.Diff([]string{"caller"}, got); diff != "" {
		t.Error(diff)
	}
	if e := endpoints(); len(e.Problems) != 1 || e.Problems[0].Text != "networking.tls.caCert: not a certificate in PEM" {
		t.Errorf("problems: %+v", e.Problems)
	}
}

func TestRank(t *testing.T) {
	all, svc := map[string]string{TagService: "*"}, map[string]string{TagService: "a"}
	tests := map[string]struct {
		better, worse map[string]string
	}{
		"exact over any":              {svc, all},
		"two wildcards over an exact": {map[string]string{TagService: "*", "version": "*"}, svc},
		"more exact of equally many":  {map[string]string{TagService: "a", "version": "*"}, map[string]string{TagService: "*", "version": "*"}},
		"any over no tags":            {all, map[string]string{}},
	}
	tags := map[string]string{TagService: "a", "version": "1"}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, okB := match(tt.better, tags)
			w, okW := match(tt.worse, tags)
			if !okB || !okW || b.compare(w) <= 0 {
				t.Errorf("%v ranks %v, %v ranks %v", tt.better, b, tt.worse, w)
			}
		})
	}
	if _, ok := match(map[string]string{"missing": "*"}, tags); ok {
		t.Error("a wildcard matches a tag that is not there")
	}
}

func TestTies(t *testing.T) {
	newer, older := time.Unix(2, 0), time.Unix(1, 0)
	at := func(name string, created time.Time) *policy {
		return &policy{object: &resource.Object{Key: resource.Key{Name: name}, Created: created}}
	}
	if !at("z", newer).before(at("a", older)) || at("a", older).before(at("z", newer)) {
		t.Error("the newest must win")
	}
	if !at("a", newer).before(at("b", newer)) || at("b", newer).before(at("a", newer)) {
		t.Error("of the same age, the first by name must win")
	}
}

func TestCommonProtocol(t *testing.T) {
	tests := []struct{ a, b, want Protocol }{
		{GRPC, HTTP2, HTTP2},
		{GRPC, GRPC, GRPC},
		{GRPC, HTTP, TCP},
		{HTTP, HTTP2, TCP},
		{Kafka, TCP, TCP},
		{Kafka, HTTP, TCP},
		{HTTP, Unknown, Unknown},
		{Unknown, Unknown, Unknown},
	}
	for _, tt := range tests {
		if got := tt.a.Common(tt.b); got != tt.want {
			t.Errorf("%q and %q: %q, want %q", tt.a, tt.b, got, tt.want)
		}
		if got := tt.b.Common(tt.a); got != tt.want {
			t.Errorf("%q and %q: %q, want %q", tt.b, tt.a, got, tt.want)
		}
	}
}

func TestHosts(t *testing.T) {
	named := func(host string) string {
		return fmt.Sprintf("type: Dataplane\nmesh: default\nname: backend\nnetworking:\n  address: %s\n  inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]\n", host)
	}
	log, ix := start(t, base)
	if got := ix.Hosts(); len(got) != 0 {
		t.Fatalf("hosts of IP addresses: %v", got)
	}
	apply(t, log, ix, func() {
		if err := log.PutYAML(named("backend.test")); err != nil {
			t.Fatal(err)
		}
	})
	if diff := cmp.Diff([]string{"backend.test"}, ix.Hosts()); diff != "" {
		t.Error(diff)
	}
	hosts := func() (out []string) {
		p, _ := ix.Proxy(dp("web"))
		for _, e := range p.Destination(0).Targets[0].Group.Endpoints().Items {
			out = append(out, e.Host)
		}
		return out
	}
	if got := hosts(); got != nil {
		t.Errorf("endpoints before there is an answer: %v", got)
	}
	resolved := func(texts ...string) int {
		var addrs []netip.Addr
		for _, s := range texts {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		return len(ix.Resolved(map[string][]netip.Addr{"backend.test": addrs, "other.test": addrs}))
	}
	if n := resolved("10.1.0.2", "10.1.0.1"); n != 3 {
		t.Errorf("%d proxies are dirty, want the one and its two callers", n)
	}
	if diff := cmp.Diff([]string{"10.1.0.1"}, hosts()); diff != "" {
		t.Error(diff)
	}
	if n := resolved("10.1.0.1", "10.1.0.2"); n != 0 {
		t.Errorf("%d proxies are dirty after the same answer in another order", n)
	}
	if n := resolved(); n != 0 || len(hosts()) != 1 {
		t.Error("an empty answer took the last good one away")
	}
}

// When all objects are gone, nothing is left of them.
func TestKeepsNothing(t *testing.T) {
	log, ix := start(t, base+`
---
type: ExternalService
mesh: default
name: api
networking: {address: "api.test:443", tls: {enabled: true, caCert: {secret: ca}}}
tags: {kuma.io/service: backend}
---
type: Secret
mesh: default
name: ca
---
type: Dataplane
mesh: default
name: named
networking: {address: named.test, gateway: {tags: {kuma.io/service: named}}, outbound: [{port: 1, service: api}]}
`)
	var keys []resource.Key
	for o := range log.View().Scan(store.Everything()) {
		keys = append(keys, o.Key)
	}
	apply(t, log, ix, func() {
		for _, k := range keys {
			log.Delete(k)
		}
	})
	if len(ix.meshes) != 0 || len(ix.hosts) != 0 || len(ix.Hosts()) != 0 || len(ix.Proxies()) != 0 {
		t.Errorf("left: %d meshes, hosts %v, proxies %v", len(ix.meshes), ix.Hosts(), ix.Proxies())
	}
}

func TestUnreadableDataplaneIsAProxyWithoutASpec(t *testing.T) {
	log, ix := start(t, base)
	apply(t, log, ix, func() { log.Put(dp("web"), resource.Local, time.Time{}, []byte{0xff}) })
	p, ok := ix.Proxy(dp("web"))
	if !ok || p.Spec != nil {
		t.Errorf("%+v, %v", p, ok)
	}
}
