// Package simulated is a data plane proxy without an Envoy: it speaks delta ADS over TLS as Envoy does, keeps
// what it is given, and carries no traffic. A thousand of them fit into one process.
package simulated

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// Types of resources.
const (
	CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// redial is how long the proxy waits before it dials again; Envoy begins with up to 500 ms.
const redial = 250 * time.Millisecond

// Options say whom to dial and as whom.
type Options struct {
	// Address is the zone's dpServer, host:port.
	Address string
	// Roots verify it.
	Roots *x509.CertPool
	Token string
	// Node is <mesh>.<name>.
	Node string
	// Dataplane is JSON, given inline; empty: it was registered.
	Dataplane string
	// DataplaneVersion and EnvoyVersion are what the proxy says of itself; empty: nothing.
	DataplaneVersion, EnvoyVersion string
	// OnResponse is called by the receiving goroutine for each response, once it is taken in; it must not block.
	OnResponse func(*discoveryv3.DeltaDiscoveryResponse)
}

// Proxy is one simulated proxy. Its methods are safe for concurrent use.
type Proxy struct {
	o      Options
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	done   chan struct{}
	ready  chan struct{}

	mu      sync.Mutex
	state   state
	refuse  map[string]bool
	lastErr error
	leaving bool
	// leave ends the sending side of the stream that is open.
	leave func() error
}

// state is what the proxy has, by name.
type state struct {
	versions  map[string]map[string]string // by type
	clusters  map[string]*clusterv3.Cluster
	warming   map[string]*clusterv3.Cluster
	endpoints map[string]*endpointv3.ClusterLoadAssignment
	listeners map[string]*listenerv3.Listener
	routes    map[string]*routev3.RouteConfiguration
}

// Start dials, and dials again whenever the stream ends, until Close.
func Start(o Options) (*Proxy, error) {
	conn, err := grpc.NewClient(o.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: o.Roots, MinVersion: tls.VersionTLS12})),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10), grpc.WithDisableServiceConfig(),
		// As Envoy, which answers nothing that it gets with a ping that measures the connection.
		grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{
		o: o, conn: conn, cancel: cancel, done: make(chan struct{}), ready: make(chan struct{}), refuse: map[string]bool{},
		state: state{
			versions:  map[string]map[string]string{CDS: {}, EDS: {}, LDS: {}, RDS: {}},
			clusters:  map[string]*clusterv3.Cluster{},
			warming:   map[string]*clusterv3.Cluster{},
			endpoints: map[string]*endpointv3.ClusterLoadAssignment{},
			listeners: map[string]*listenerv3.Listener{},
			routes:    map[string]*routev3.RouteConfiguration{},
		},
	}
	go p.run(ctx)
	return p, nil
}

// Close ends the proxy as a crash would, and waits.
func (p *Proxy) Close() {
	p.cancel()
	_ = p.conn.Close()
	<-p.done
}

// Leave ends the stream in order, as an Envoy that drains does, and waits.
func (p *Proxy) Leave() {
	p.mu.Lock()
	p.leaving = true
	leave := p.leave
	p.mu.Unlock()
	if leave != nil && leave() == nil {
		<-p.done
	}
	p.Close()
}

// Ready is closed with the first complete configuration.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Err is how the last stream ended.
func (p *Proxy) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastErr
}

// Refuse makes the proxy refuse a listener of this name from now on.
func (p *Proxy) Refuse(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse[name] = true
}

// Cluster is the cluster in use; ok is false while it is warming or not there.
func (p *Proxy) Cluster(name string) (c *clusterv3.Cluster, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, warms := p.state.warming[name]; warms {
		return nil, false
	}
	c, ok = p.state.clusters[name]
	return c, ok
}

// Endpoints is the load assignment of a cluster.
func (p *Proxy) Endpoints(cluster string) (*endpointv3.ClusterLoadAssignment, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.state.endpoints[cluster]
	return e, ok
}

// Routes is the route configuration that an HTTP listener uses.
func (p *Proxy) Routes(listener string) (*routev3.RouteConfiguration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.state.listeners[listener]
	if !ok {
		return nil, fmt.Errorf("no listener %s among %v", listener, slices.Sorted(maps.Keys(p.state.listeners)))
	}
	names, inline, err := routesOf(l)
	if err != nil {
		return nil, err
	}
	if inline != nil {
		return inline, nil
	}
	for _, name := range names {
		if r, ok := p.state.routes[name]; ok {
			return r, nil
		}
	}
	return nil, fmt.Errorf("listener %s has no routes yet (%v)", listener, names)
}

func (p *Proxy) run(ctx context.Context) {
	defer close(p.done)
	for {
		err := p.stream(ctx)
		p.mu.Lock()
		p.lastErr, p.leave = err, nil
		leaving := p.leaving
		p.mu.Unlock()
		if leaving {
			return
		}
		t := time.NewTimer(redial)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// session is what belongs to one stream; one goroutine owns it, but for its end.
type session struct {
	// sending guards the sending side of stream.
	sending    sync.Mutex
	stream     grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	subscribed map[string]map[string]bool // EDS and RDS
	listening  bool
	// heldACK is the CDS response that is acknowledged once nothing is warming.
	heldACK *discoveryv3.DeltaDiscoveryRequest
}

func (s *session) send(r *discoveryv3.DeltaDiscoveryRequest) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.Send(r)
}

func (s *session) close() error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.CloseSend()
}

func (p *Proxy) stream(ctx context.Context) error {
	// The connection's own back-off is for a world of servers; ours is one that comes back soon.
	p.conn.ResetConnectBackoff()
	if p.o.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", p.o.Token)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(p.conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	s := &session{stream: stream, subscribed: map[string]map[string]bool{EDS: {}, RDS: {}}}
	p.mu.Lock()
	p.leave = s.close
	p.mu.Unlock()
	first := p.request(CDS)
	first.Node = p.node()
	if err := s.send(first); err != nil {
		_, err = stream.Recv()
		return err
	}
	if err := p.resume(s); err != nil {
		_, err = stream.Recv()
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := p.take(s, resp); err != nil {
			return errors.Join(err, s.close())
		}
		if p.o.OnResponse != nil {
			p.o.OnResponse(resp)
		}
	}
}

// resume asks again for all that was asked for on an earlier stream: where nothing has changed since, there will
// be no response to follow.
func (p *Proxy) resume(s *session) error {
	p.mu.Lock()
	had := len(p.state.listeners) > 0
	p.mu.Unlock()
	if !had {
		return nil
	}
	if err := p.follow(s, EDS, p.wantEndpoints()); err != nil {
		return err
	}
	s.listening = true
	if err := s.send(p.request(LDS)); err != nil {
		return err
	}
	routes, err := p.wantRoutes()
	if err != nil {
		return err
	}
	return p.follow(s, RDS, routes)
}

func (p *Proxy) node() *corev3.Node {
	md := map[string]*structpb.Value{}
	if p.o.Dataplane != "" {
		md["dataplane.resource"] = structpb.NewStringValue(p.o.Dataplane)
	}
	versions := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for of, v := range map[string]string{"kumaDp": p.o.DataplaneVersion, "envoy": p.o.EnvoyVersion} {
		if v != "" {
			versions.Fields[of] = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"version": structpb.NewStringValue(v)}})
		}
	}
	md["version"] = structpb.NewStructValue(versions)
	return &corev3.Node{Id: p.o.Node, Cluster: p.o.Node, Metadata: &structpb.Struct{Fields: md}, UserAgentName: "simulated"}
}

// request is the first one for a type on a stream: it says what the proxy has from an earlier one.
func (p *Proxy) request(typeURL string) *discoveryv3.DeltaDiscoveryRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, InitialResourceVersions: maps.Clone(p.state.versions[typeURL])}
}

// take takes a response in, subscribes to what it names, and answers it.
func (p *Proxy) take(s *session, resp *discoveryv3.DeltaDiscoveryResponse) error {
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}
	if err := p.apply(resp); err != nil {
		answer.ErrorDetail = &status.Status{Code: 13, Message: err.Error()}
		return s.send(answer)
	}
	if resp.TypeUrl == CDS && p.isWarming() {
		s.heldACK = answer
	} else if err := s.send(answer); err != nil {
		return err
	}
	if err := p.follow(s, EDS, p.wantEndpoints()); err != nil {
		return err
	}
	if s.heldACK != nil && !p.isWarming() {
		held := s.heldACK
		s.heldACK = nil
		if err := s.send(held); err != nil {
			return err
		}
	}
	if !s.listening && !p.isWarming() { // Envoy asks for listeners once its clusters are warm
		s.listening = true
		if err := s.send(p.request(LDS)); err != nil {
			return err
		}
	}
	routes, err := p.wantRoutes()
	if err != nil {
		return err
	}
	if err := p.follow(s, RDS, routes); err != nil {
		return err
	}
	if s.listening && p.complete() {
		select {
		case <-p.ready:
		default:
			close(p.ready)
		}
	}
	return nil
}

// follow subscribes to the names that are wanted now.
func (p *Proxy) follow(s *session, typeURL string, want map[string]bool) error {
	have := s.subscribed[typeURL]
	var r *discoveryv3.DeltaDiscoveryRequest
	if len(have) == 0 {
		r = p.request(typeURL)
	} else {
		r = &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL}
	}
	for name := range want {
		if !have[name] {
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
		}
	}
	for name := range have {
		if !want[name] {
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, name)
		}
	}
	if len(r.ResourceNamesSubscribe) == 0 && len(r.ResourceNamesUnsubscribe) == 0 {
		return nil
	}
	s.subscribed[typeURL] = want
	return s.send(r)
}

func (p *Proxy) apply(resp *discoveryv3.DeltaDiscoveryResponse) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := &p.state
	for _, r := range resp.Resources {
		if resp.TypeUrl == LDS && p.refuse[r.Name] {
			return fmt.Errorf("Error adding/updating listener(s) %s: cannot bind: Address already in use", r.Name) //nolint:staticcheck // as Envoy writes it
		}
	}
	for _, r := range resp.Resources {
		st.versions[resp.TypeUrl][r.Name] = r.Version
		raw := r.GetResource().GetValue()
		var err error
		switch resp.TypeUrl {
		case CDS:
			c := &clusterv3.Cluster{}
			err = proto.Unmarshal(raw, c)
			if c.GetEdsClusterConfig() != nil {
				st.warming[r.Name] = c
			} else {
				st.clusters[r.Name] = c
			}
		case EDS:
			e := &endpointv3.ClusterLoadAssignment{}
			err = proto.Unmarshal(raw, e)
			st.endpoints[r.Name] = e
			for name, c := range st.warming {
				if serviceOf(c) == r.Name {
					st.clusters[name] = c
					delete(st.warming, name)
				}
			}
		case LDS:
			l := &listenerv3.Listener{}
			err = proto.Unmarshal(raw, l)
			st.listeners[r.Name] = l
		case RDS:
			c := &routev3.RouteConfiguration{}
			err = proto.Unmarshal(raw, c)
			st.routes[r.Name] = c
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Name, err)
		}
	}
	for _, name := range resp.RemovedResources {
		delete(st.versions[resp.TypeUrl], name)
		switch resp.TypeUrl {
		case CDS:
			delete(st.clusters, name)
			delete(st.warming, name)
		case EDS:
			delete(st.endpoints, name)
		case LDS:
			delete(st.listeners, name)
		case RDS:
			delete(st.routes, name)
		}
	}
	return nil
}

func serviceOf(c *clusterv3.Cluster) string {
	if s := c.GetEdsClusterConfig().GetServiceName(); s != "" {
		return s
	}
	return c.GetName()
}

func (p *Proxy) isWarming() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.state.warming) > 0
}

func (p *Proxy) wantEndpoints() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[string]bool{}
	for _, set := range []map[string]*clusterv3.Cluster{p.state.clusters, p.state.warming} {
		for _, c := range set {
			if c.GetEdsClusterConfig() != nil {
				want[serviceOf(c)] = true
			}
		}
	}
	return want
}

func (p *Proxy) wantRoutes() (map[string]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[string]bool{}
	for _, l := range p.state.listeners {
		names, _, err := routesOf(l)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			want[n] = true
		}
	}
	return want, nil
}

// complete says whether there are listeners, and all that they name.
func (p *Proxy) complete() bool {
	want, err := p.wantRoutes()
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range want {
		if _, ok := p.state.routes[name]; !ok {
			return false
		}
	}
	return err == nil && len(p.state.listeners) > 0 && len(p.state.warming) == 0
}

// routesOf gives the names of the route configurations that a listener asks for, or the one it brings.
func routesOf(l *listenerv3.Listener) (names []string, inline *routev3.RouteConfiguration, err error) {
	chains := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(slices.Clone(chains), d)
	}
	for _, chain := range chains {
		for _, f := range chain.GetFilters() {
			hcm := &hcmv3.HttpConnectionManager{}
			if !f.GetTypedConfig().MessageIs(hcm) {
				continue
			}
			if err := f.GetTypedConfig().UnmarshalTo(hcm); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", l.GetName(), err)
			}
			if rds := hcm.GetRds(); rds != nil {
				names = append(names, rds.GetRouteConfigName())
			} else {
				inline = hcm.GetRouteConfig()
			}
		}
	}
	return names, inline, nil
}
