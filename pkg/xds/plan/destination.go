package plan

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// defaultConnectTimeout holds where no Timeout does.
const defaultConnectTimeout = 10 * time.Second

// remembered bounds how many listeners one destination keeps: more than one is rare.
const remembered = 64

// destination is what a plan has of an index's Destination. It is kept with it.
type destination struct {
	of       *index.Destination
	protocol index.Protocol
	// route is nil when there are no targets.
	route *Route
	// clusters of the targets, in their order, each once; their endpoints beside.
	clusters  []*Cluster
	groups    []*index.Group
	listeners map[listenKey]*Outbound
	problems  []Problem
	// far: some of the endpoints may be in other zones.
	far bool

	timeout *meshv1.Timeout_Conf
	retry   *meshv1.Retry_Conf
}

type listenKey struct {
	at         netip.AddrPort
	redirected bool
}

func destinationParts(of *index.Destination) *destination {
	if d, ok := of.Memo.Load().(*destination); ok {
		return d
	}
	d := &destination{of: of, listeners: map[listenKey]*Outbound{}}
	if of.Timeout != nil {
		if spec, err := resource.Decode[meshv1.Timeout](of.Timeout); err == nil {
			d.timeout = spec.GetConf()
		}
	}
	if of.Retry != nil {
		if spec, err := resource.Decode[meshv1.Retry](of.Retry); err == nil {
			d.retry = spec.GetConf()
		}
	}
	d.plan()
	of.Memo.Store(d)
	return d
}

func (d *destination) plan() {
	var targets []Target
	var led []index.Target // to clusters, each once
	external := false
	for _, t := range d.of.Targets {
		if reserved(t.Service.Name) {
			d.problems = append(d.problems, Problem{
				Part: t.Service.Name, Text: "left out: the name is taken by the proxy itself", Sources: sources(d.of.Route),
			})
			continue
		}
		if len(targets) == 0 {
			d.protocol = t.Service.Protocol
		} else {
			d.protocol = d.protocol.Common(t.Service.Protocol)
		}
		targets = append(targets, Target{Cluster: ClusterName(t.Service.Name, t.Tags), Weight: t.Weight})
		external = external || t.Service.External
		d.far = d.far || t.Service.Remote
		if !slices.Contains(d.groups, t.Group) {
			d.groups = append(d.groups, t.Group)
			led = append(led, t)
		}
	}
	if len(targets) == 0 {
		return
	}
	fit(targets)
	d.route = &Route{Name: "outbound:" + d.of.Service, Service: d.of.Service, Targets: targets, RewriteHost: external}
	if len(d.of.Tags) > 1 {
		// Outbounds to one service with different tags can lead to different places.
		rest := maps.Clone(d.of.Tags)
		delete(rest, index.TagService)
		d.route.Name += "{" + index.FormatTags(rest) + "}"
	}
	d.route.Sources = sources(d.of.Route, d.of.Timeout, d.of.Retry)
	switch d.protocol {
	case index.HTTP, index.HTTP2:
		d.route.Timeout = duration(d.timeout.GetHttp().GetRequestTimeout())
		d.route.Retry = httpRetry(d.retry.GetHttp())
	case index.GRPC:
		// A stream may live for long: the timeout of HTTP requests does not hold for it.
		d.route.Retry = grpcRetry(d.retry.GetGrpc())
	}
	if d.far && d.protocol.IsHTTP() {
		d.route.Retry = d.route.Retry.far()
	}
	balance := d.loadBalancer()
	for i, t := range led {
		s := t.Service
		c := &Cluster{
			Name: ClusterName(s.Name, t.Tags), Service: s.Name, Tags: t.Tags, Discovery: DiscoverMesh, Protocol: s.Protocol,
			HTTP2:          s.Protocol.IsHTTP() && !(s.External && s.Protocol == index.HTTP),
			ConnectTimeout: duration(d.timeout.GetConnectTimeout()), LoadBalancer: balance,
			Sources: sources(d.of.Route, d.of.Timeout),
		}
		if c.ConnectTimeout == 0 {
			c.ConnectTimeout = defaultConnectTimeout
		}
		if s.Remote {
			c.ConnectTimeout, c.Wary = min(c.ConnectTimeout, farConnectTimeout), true
		}
		switch s.Protocol {
		case index.HTTP, index.HTTP2:
			c.IdleTimeout = duration(d.timeout.GetHttp().GetIdleTimeout())
		case index.GRPC:
			c.MaxStream = duration(d.timeout.GetGrpc().GetMaxStreamDuration())
		}
		if d.of.MTLS != "" && !s.External {
			c.TLS = clientTLS(d.of.MTLS, s.Name, t.Tags)
		}
		if s.External {
			e := d.groups[i].Endpoints()
			c.Discovery, c.Hosts = DiscoverDNS, e.Items
			c.Sources = append(c.Sources, sources(e.Objects...)...)
			for _, p := range e.Problems {
				d.problems = append(d.problems, Problem{Part: p.Object.Key.String(), Text: "left out: " + p.Text, Sources: sources(p.Object)})
			}
		}
		d.clusters = append(d.clusters, c)
	}
}

// listener plans the outbound that leads here from an address.
func (d *destination) listener(l Listener) *Outbound {
	k := listenKey{at: l.Listen, redirected: l.Redirected}
	if o, ok := d.listeners[k]; ok {
		return o
	}
	o := &Outbound{Listener: l, Service: d.of.Service, Protocol: d.protocol, Route: d.route}
	switch {
	case d.route == nil:
		o.Sources = sources(d.of.Route)
	case d.protocol == index.GRPC:
		o.IdleTimeout = duration(d.timeout.GetGrpc().GetStreamIdleTimeout())
		o.Sources = sources(d.of.Timeout)
	case !d.protocol.IsHTTP():
		o.IdleTimeout = duration(d.timeout.GetTcp().GetIdleTimeout())
		o.ConnectAttempts = d.retry.GetTcp().GetMaxConnectAttempts()
		if o.ConnectAttempts == 0 && d.far {
			o.ConnectAttempts = farAttempts
		}
		o.Sources = d.route.Sources
	}
	if len(d.listeners) >= remembered {
		clear(d.listeners)
	}
	d.listeners[k] = o
	return o
}

func (d *destination) loadBalancer() LoadBalancer {
	if d.of.Route == nil {
		return LoadBalancer{}
	}
	spec, err := resource.Decode[meshv1.TrafficRoute](d.of.Route)
	if err != nil {
		return LoadBalancer{}
	}
	switch t := spec.GetConf().GetLoadBalancer().GetLbType().(type) {
	case *meshv1.TrafficRoute_LoadBalancer_LeastRequest_:
		lb := LoadBalancer{Balance: LeastRequest}
		if n := t.LeastRequest.GetChoiceCount(); n >= 2 {
			lb.Choices = min(n, MaxChoices)
		}
		return lb
	case *meshv1.TrafficRoute_LoadBalancer_RingHash_:
		lb := LoadBalancer{
			Balance: RingHash, MurmurHash: t.RingHash.GetHashFunction() == "MURMUR_HASH_2",
			MinRing: min(t.RingHash.GetMinRingSize(), MaxRingSize), MaxRing: min(t.RingHash.GetMaxRingSize(), MaxRingSize),
		}
		if lb.MaxRing > 0 {
			// Also a smallest ring that is not given is checked against the largest.
			const usual = 1024
			if lb.MinRing == 0 && lb.MaxRing < usual || lb.MinRing > lb.MaxRing {
				lb.MinRing = lb.MaxRing
			}
		}
		return lb
	case *meshv1.TrafficRoute_LoadBalancer_Random_:
		return LoadBalancer{Balance: Random}
	case *meshv1.TrafficRoute_LoadBalancer_Maglev_:
		return LoadBalancer{Balance: Maglev}
	default:
		return LoadBalancer{}
	}
}

// fit scales weights down until their sum fits into 32 bits.
func fit(targets []Target) {
	var sum uint64
	for _, t := range targets {
		sum += uint64(t.Weight)
	}
	if sum <= math.MaxUint32 {
		return
	}
	// Nothing is rounded down to 0, so room is left for that.
	by := sum/(math.MaxUint32-uint64(len(targets))) + 1
	for i := range targets {
		targets[i].Weight = uint32(max(uint64(targets[i].Weight)/by, 1))
	}
}

func httpRetry(c *meshv1.Retry_Conf_Http) *Retry {
	if c == nil {
		return nil
	}
	r := &Retry{On: []string{"gateway-error", "connect-failure", "refused-stream"}}
	if len(c.GetRetriableStatusCodes()) > 0 {
		r.On = []string{"connect-failure", "refused-stream", "retriable-status-codes"}
		r.Statuses = c.GetRetriableStatusCodes()
	}
	if c.GetNumRetries() != nil {
		n := c.GetNumRetries().GetValue()
		r.Retries = &n
	}
	r.PerTry = duration(c.GetPerTryTimeout())
	r.backOff(c.GetBackOff())
	return r
}

func grpcRetry(c *meshv1.Retry_Conf_Grpc) *Retry {
	if c == nil {
		return nil
	}
	r := &Retry{On: []string{"cancelled", "connect-failure", "gateway-error", "refused-stream", "reset", "resource-exhausted", "unavailable"}}
	if len(c.GetRetryOn()) > 0 {
		r.On = make([]string, len(c.GetRetryOn()))
		for i, on := range c.GetRetryOn() {
			r.On[i] = strings.ReplaceAll(on, "_", "-")
		}
	}
	if c.GetNumRetries() != nil {
		n := c.GetNumRetries().GetValue()
		r.Retries = &n
	}
	r.PerTry = duration(c.GetPerTryTimeout())
	r.backOff(c.GetBackOff())
	return r
}

// backOff takes intervals that a proxy accepts: at least a millisecond, and the longest not below the first.
func (r *Retry) backOff(b *meshv1.Retry_BackOff) {
	base := duration(b.GetBaseInterval())
	if base == 0 {
		return
	}
	r.BackOff = max(base, time.Millisecond)
	if longest := duration(b.GetMaxInterval()); longest > 0 {
		r.MaxBackOff = max(longest, r.BackOff)
	}
}

// maxDuration is far beyond any use, and within what proxies can count in.
const maxDuration = 10 * 365 * 24 * time.Hour

// duration is 0 for what is absent or not above 0. What is below a millisecond, which proxies count in, is one.
func duration(d *durationpb.Duration) time.Duration {
	if t := d.AsDuration(); t > 0 {
		return min(max(t, time.Millisecond), maxDuration)
	}
	return 0
}

// sources of the objects that are there.
func sources(objects ...*resource.Object) []Source {
	out := make([]Source, 0, len(objects))
	for _, o := range objects {
		if o != nil {
			out = append(out, source(o))
		}
	}
	return out
}

// endpointParts is what a plan has of a service's endpoints. It is kept with them.
func endpointParts(e *index.Endpoints) *Endpoints {
	if p, ok := e.Memo.Load().(*Endpoints); ok {
		return p
	}
	name := ClusterName(e.Service, e.Tags)
	if e.Mesh != "" {
		name = ServerName(e.Mesh, e.Service, e.Tags)
	}
	p := &Endpoints{Cluster: name, Hosts: e.Items, Sources: sources(e.Objects...)}
	e.Memo.Store(p)
	return p
}
