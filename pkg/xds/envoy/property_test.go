package envoy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// world draws changes in a small world, so that they meet often.
type world struct {
	t   *rapid.T
	log *indextest.Log
}

func (w world) pick(label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(w.t, label)
}

func (w world) coin(label string) bool { return rapid.Bool().Draw(w.t, label) }

func (w world) service() string {
	return w.pick("service", "a", "a", "a", "b", "b", "b", "c", "localhost:80")
}
func (w world) scope() string    { return w.pick("mesh", "default", "default", "default", "other") }
func (w world) protocol() string { return w.pick("protocol", "", "http", "http2", "grpc", "tcp") }
func (w world) host() string {
	return w.pick("address", "10.0.0.1", "10.0.0.2", "fd00::1", "one.test", "two.test")
}

// zone is another one, or this one, of which nothing should come from elsewhere.
func (w world) zone() string { return w.pick("zone", "zone-2", "zone-2", "zone-3", "zone-1") }

func (w world) abroad() resource.Origin {
	if w.pick("born", "elsewhere", "elsewhere", "elsewhere", "here") == "here" {
		return resource.Local
	}
	return resource.Global
}

func (w world) tags() map[string]string {
	tags := map[string]string{index.TagService: w.service()}
	if p := w.protocol(); p != "" {
		tags[index.TagProtocol] = p
	}
	if w.coin("versioned") {
		tags["version"] = w.pick("version", "v1", "v2")
	}
	return tags
}

// selectors match by service, and sources sometimes by version too.
func (w world) selectors(source bool) []*meshv1.Selector {
	var out []*meshv1.Selector
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 2}).Draw(w.t, "selectors") {
		m := map[string]string{index.TagService: w.pick("selected", "a", "b", "*", "*")}
		if source && w.coin("by version") {
			m["version"] = w.pick("version", "v1", "*")
		}
		out = append(out, &meshv1.Selector{Match: m})
	}
	return out
}

func (w world) dataplane() *meshv1.Dataplane {
	n := &meshv1.Dataplane_Networking{Address: w.host()}
	if w.pick("gateway", "no", "no", "no", "yes") == "yes" {
		n.Gateway = &meshv1.Dataplane_Networking_Gateway{Tags: w.tags()}
	} else {
		for i := range rapid.IntRange(1, 2).Draw(w.t, "inbounds") {
			in := &meshv1.Dataplane_Networking_Inbound{Port: uint32(80 + i), ServicePort: uint32(rapid.IntRange(80, 81).Draw(w.t, "service port")), Tags: w.tags()}
			if w.coin("health") {
				in.Health = &meshv1.Dataplane_Networking_Inbound_Health{Ready: w.coin("ready")}
			}
			n.Inbound = append(n.Inbound, in)
		}
	}
	if w.pick("ingress", "no", "no", "no", "yes") == "yes" {
		n.Ingress = &meshv1.Dataplane_Networking_Ingress{}
	}
	for range rapid.SampledFrom([]int{0, 1, 2, 3}).Draw(w.t, "outbounds") {
		out := &meshv1.Dataplane_Networking_Outbound{Port: uint32(rapid.IntRange(8000, 8003).Draw(w.t, "port"))}
		if w.coin("older") {
			out.Service = w.service()
		} else {
			out.Tags = w.tags()
		}
		n.Outbound = append(n.Outbound, out)
	}
	if w.coin("redirected") {
		n.TransparentProxying = &meshv1.Dataplane_Networking_TransparentProxying{RedirectPortInbound: 15006, RedirectPortOutbound: 15001}
	}
	return &meshv1.Dataplane{Networking: n}
}

// change makes one random change of the log.
func (w world) change() {
	kind := rapid.SampledFrom([]resource.Kind{
		resource.KindDataplane, resource.KindDataplane, resource.KindDataplane, resource.KindDataplane, resource.KindMesh,
		resource.KindTrafficRoute, resource.KindTrafficRoute, resource.KindTrafficRoute, resource.KindTimeout, resource.KindRetry, resource.KindExternalService, resource.KindSecret,
		resource.KindZone, resource.KindZoneIngress, resource.KindZoneService, resource.KindZoneService,
	}).Draw(w.t, "kind")
	k := resource.Key{Kind: kind, Scope: w.scope(), Name: fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(w.t, "name"))}
	if kind == resource.KindMesh {
		k.Scope, k.Name = "", k.Scope
	}
	switch kind {
	case resource.KindZone:
		k.Scope, k.Name = "", w.zone()
	case resource.KindZoneIngress:
		k.Scope, k.Name = "", w.zone()+"."+k.Name
	case resource.KindZoneService:
		k.Name = w.zone() + "." + k.Name
	}
	if kind == resource.KindMesh && w.coin("rather not") {
		return
	}
	if w.pick("what", "put", "put", "put", "delete") == "delete" {
		w.log.Delete(k)
		return
	}
	created := time.Unix(int64(rapid.IntRange(1, 2).Draw(w.t, "created")), 0).UTC()
	put := func(m proto.Message) { w.log.PutMessage(k, resource.Local, created, m) }
	switch kind {
	case resource.KindMesh:
		m := &meshv1.Mesh{
			Networking: &meshv1.Mesh_Networking{Outbound: &meshv1.Mesh_Networking_Outbound{Passthrough: wrapperspb.Bool(w.coin("passthrough"))}},
			Routing:    &meshv1.Mesh_Routing{LocalityAwareLoadBalancing: w.coin("local first")},
		}
		if w.coin("mTLS") {
			m.Mtls = &meshv1.Mesh_Mtls{EnabledBackend: "ca", Backends: []*meshv1.CertificateAuthorityBackend{{Name: "ca", Type: "builtin"}}}
		}
		put(m)
	case resource.KindZone:
		put(&systemv1.Zone{Enabled: wrapperspb.Bool(w.coin("enabled"))})
	case resource.KindZoneIngress:
		w.log.PutMessage(k, w.abroad(), created, &systemv1.ZoneIngress{Address: w.host(), Port: uint32(rapid.IntRange(10001, 10002).Draw(w.t, "ingress port"))})
	case resource.KindZoneService:
		w.log.PutMessage(k, w.abroad(), created, &systemv1.ZoneService{Tags: w.tags(), Instances: uint32(rapid.IntRange(1, 2).Draw(w.t, "instances"))})
	case resource.KindDataplane:
		origin := resource.Local
		if w.pick("born", "here", "here", "here", "elsewhere") == "elsewhere" {
			origin = resource.Global
		}
		if w.pick("readable", "yes", "yes", "yes", "yes", "yes", "yes", "yes", "no") == "no" {
			w.log.Put(k, origin, created, []byte{0xff})
			return
		}
		w.log.PutMessage(k, origin, created, w.dataplane())
	case resource.KindTrafficRoute:
		conf := &meshv1.TrafficRoute_Conf{}
		for range rapid.IntRange(0, 3).Draw(w.t, "splits") {
			to := map[string]string{index.TagService: w.pick("to", "a", "b", "c", "d", "*")}
			if w.coin("subset") {
				to["version"] = w.pick("version", "v1", "v2", "*")
			}
			conf.Split = append(conf.Split, &meshv1.TrafficRoute_Split{Weight: uint32(rapid.IntRange(0, 2).Draw(w.t, "weight")), Destination: to})
		}
		if w.coin("random") {
			conf.LoadBalancer = &meshv1.TrafficRoute_LoadBalancer{LbType: &meshv1.TrafficRoute_LoadBalancer_Random_{}}
		}
		put(&meshv1.TrafficRoute{Sources: w.selectors(true), Destinations: w.selectors(false), Conf: conf})
	case resource.KindTimeout:
		put(&meshv1.Timeout{Sources: w.selectors(true), Destinations: w.selectors(false), Conf: &meshv1.Timeout_Conf{
			ConnectTimeout: durationpb.New(time.Duration(rapid.IntRange(0, 2).Draw(w.t, "connect")) * time.Second),
		}})
	case resource.KindRetry:
		to := w.selectors(false)
		if len(to) > 0 && w.coin("by protocol") {
			to[0].Match[index.TagProtocol] = w.pick("protocol", "http", "grpc", "*")
		}
		put(&meshv1.Retry{Sources: w.selectors(true), Destinations: to, Conf: &meshv1.Retry_Conf{
			Http: &meshv1.Retry_Conf_Http{NumRetries: wrapperspb.UInt32(uint32(rapid.IntRange(1, 2).Draw(w.t, "retries")))},
			Tcp:  &meshv1.Retry_Conf_Tcp{MaxConnectAttempts: 3},
		}})
	case resource.KindExternalService:
		n := &meshv1.ExternalService_Networking{Address: w.pick("external", "one.test:443", "10.9.9.9:80", "nonsense")}
		if w.coin("tls") {
			n.Tls = &meshv1.ExternalService_Networking_Tls{Enabled: true, CaCert: &meshv1.DataSource{
				Type: &meshv1.DataSource_Secret{Secret: fmt.Sprintf("n%d", rapid.IntRange(0, 3).Draw(w.t, "secret"))},
			}}
		}
		put(&meshv1.ExternalService{Networking: n, Tags: w.tags()})
	case resource.KindSecret:
		data := []byte("not PEM")
		if w.coin("PEM") {
			data = []byte(testCA)
		}
		put(&systemv1.Secret{Data: wrapperspb.Bytes(data)})
	}
}

// outcome is what comes of a proxy: resources with their sources, or an error.
type outcome struct {
	resources []*Resource
	sources   [][]plan.Source
	problems  []string
	failure   string
}

func (o outcome) equal(p outcome) bool {
	return o.failure == p.failure && slices.Equal(o.resources, p.resources) && slices.Equal(o.problems, p.problems) &&
		slices.EqualFunc(o.sources, p.sources, slices.Equal[[]plan.Source])
}

func outcomes(t *rapid.T, tr *Translator, ix *index.Index) map[resource.Key]outcome {
	all := map[resource.Key]outcome{}
	for _, k := range ix.Proxies() {
		p, err := plan.Build(ix, k)
		if err != nil {
			if !errors.Is(err, plan.ErrUnknownMesh) && !errors.Is(err, plan.ErrUnreadable) {
				t.Fatal(err)
			}
			all[k] = outcome{failure: err.Error()}
			continue
		}
		set := tr.Translate(p)
		if len(set.Invalid) > 0 {
			t.Fatal(set.Invalid)
		}
		o := outcome{resources: set.Resources}
		names := map[Ref]bool{}
		for _, r := range set.Resources {
			ref := Ref{r.TypeURL, r.Name}
			if names[ref] {
				t.Fatalf("%s has %v twice", k, ref)
			}
			names[ref] = true
			o.sources = append(o.sources, set.sourcesOf(r))
		}
		for _, r := range set.Resources {
			for _, ref := range r.Refs {
				if !names[ref] && ref.Name != "outbound:passthrough:ipv4" && ref.TypeURL != SecretType {
					t.Fatalf("%s: %s needs %v, which is not there", k, r.Name, ref)
				}
			}
		}
		for _, p := range p.Problems {
			o.problems = append(o.problems, p.String())
		}
		all[k] = o
	}
	return all
}

// After any sequence of changes an index that followed them plans as one made anew does, and what it did not
// report as dirty has not changed.
func TestFollowingEqualsStartingAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{t: t, log: indextest.New()}
		tr := NewTranslator()
		for _, mesh := range []string{"default", "other"} {
			w.log.PutMessage(resource.Key{Kind: resource.KindMesh, Name: mesh}, resource.Local, time.Time{}, &meshv1.Mesh{})
		}
		if w.coin("defaults") {
			all := []*meshv1.Selector{{Match: map[string]string{index.TagService: index.Wildcard}}}
			w.log.PutMessage(resource.Key{Kind: resource.KindTrafficRoute, Scope: "default", Name: "n0"}, resource.Local, time.Unix(1, 0), &meshv1.TrafficRoute{
				Sources: all, Destinations: all, Conf: &meshv1.TrafficRoute_Conf{Split: []*meshv1.TrafficRoute_Split{{Weight: 1, Destination: all[0].Match}}},
			})
		}
		for range rapid.SampledFrom([]int{0, 10, 20}).Draw(t, "at first") {
			w.change()
		}
		ix := index.New("zone-1", w.log.View())
		before := outcomes(t, tr, ix)
		answers := map[string][]netip.Addr{}
		for range rapid.IntRange(1, 12).Draw(t, "groups") {
			var dirty []resource.Key
			if w.pick("step", "log", "log", "log", "dns") == "dns" {
				name := w.pick("name", "one.test", "two.test")
				addrs := []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(rapid.IntRange(1, 3).Draw(t, "resolved"))})}
				dirty = ix.Resolved(map[string][]netip.Addr{name: addrs})
				if slices.Contains(ix.Hosts(), name) {
					answers[name] = addrs
				}
			} else {
				from := w.log.Head()
				for range rapid.IntRange(1, 3).Draw(t, "changes") {
					w.change()
				}
				dirty = ix.Apply(w.log.Since(from))
			}
			maps.DeleteFunc(answers, func(name string, _ []netip.Addr) bool { return !slices.Contains(ix.Hosts(), name) })
			if !slices.IsSortedFunc(dirty, resource.Key.Compare) || len(slices.Compact(slices.Clone(dirty))) != len(dirty) {
				t.Fatalf("dirty is not sorted, or names a proxy twice: %v", dirty)
			}

			anew := index.New("zone-1", w.log.View())
			anew.Resolved(answers)
			if !slices.Equal(ix.Hosts(), anew.Hosts()) {
				t.Fatalf("hosts: %v, anew: %v", ix.Hosts(), anew.Hosts())
			}
			after, want := outcomes(t, tr, ix), outcomes(t, tr, anew)
			if !maps.EqualFunc(after, want, outcome.equal) {
				t.Fatalf("followed: %+v\nanew: %+v", after, want)
			}
			for k, o := range before {
				now, stays := after[k]
				if (!stays || !o.equal(now)) && !slices.Contains(dirty, k) {
					t.Fatalf("%s has changed and is not dirty", k)
				}
			}
			for k := range after {
				if _, was := before[k]; !was && !slices.Contains(dirty, k) {
					t.Fatalf("%s is new and not dirty", k)
				}
			}
			before = after
		}
	})
}
