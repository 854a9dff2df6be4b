// Package xdstest has an ADS client that behaves as Envoy does, for tests and benchmarks of what serves it.
package xdstest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
)

// Options of a client. Node is required.
type Options struct {
	Node *corev3.Node
	// Token goes with the stream as metadata; empty: none.
	Token string
	// Refuse, if not nil, is asked for every resource that comes and names a reason to NACK its response.
	// It is called from the client's goroutine.
	Refuse func(typeURL string, r *discoveryv3.Resource) string
	// Stalled types are taken in, but neither ACKed nor NACKed until Resume.
	Stalled []string
	// Lost types are not even taken in.
	Lost []string
	// Before is the state in which an earlier stream of the same proxy ended; nil: a new proxy.
	Before *State
	// Quiet keeps no log of what came.
	Quiet bool
}

// State is what the proxy has.
type State struct {
	// Versions of what was accepted, by type and name.
	Versions map[string]map[string]string
	// Warming are clusters that wait for their endpoints.
	Warming map[string]bool
	// Log of what came, oldest first.
	Log []Exchange
	// Err is how the stream ended; nil while it is open.
	Err error
	// Done: the stream has ended.
	Done bool

	// names of what clusters and listeners need, by their name; "" for those that need nothing.
	endpoints map[string]string
	routes    map[string][]string
	keys      keyring
}

// Exchange is one response.
type Exchange struct {
	TypeURL string
	// Names of the resources in their order, and of those removed.
	Names, Removed []string
	// Warming is how many clusters were warming before it came.
	Warming int
	// Refused is the reason of the NACK.
	Refused string
}

// Has says whether a type's resource was accepted.
func (s *State) Has(typeURL, name string) bool { return s.Versions[typeURL][name] != "" }

// Client is one proxy with one stream.
type Client struct {
	o      Options
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	cancel context.CancelFunc
	resume chan string
	leave  chan struct{}
	ended  sync.WaitGroup

	// Of the client's goroutine.
	subscribed map[string]map[string]bool
	stalled    map[string]bool
	withheld   map[string][]*discoveryv3.DeltaDiscoveryRequest
	// unacked is the CDS response whose ACK waits for warming clusters.
	unacked string

	mu      sync.Mutex
	state   State
	changed chan struct{}
}

// Node makes the node of a proxy. An empty dataplane is left out.
func Node(mesh, name, dataplane string) *corev3.Node {
	n := &corev3.Node{Id: mesh + "." + name, Cluster: name, Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{}}}
	if dataplane != "" {
		n.Metadata.Fields["dataplane.resource"] = structpb.NewStringValue(dataplane)
	}
	return n
}

// Connect opens a stream and asks for clusters, as Envoy does. Close ends it.
func Connect(ctx context.Context, conn grpc.ClientConnInterface, o Options) (*Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	if o.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", o.Token)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &Client{
		o: o, stream: stream, cancel: cancel, resume: make(chan string), leave: make(chan struct{}), changed: make(chan struct{}),
		subscribed: map[string]map[string]bool{}, stalled: map[string]bool{},
		withheld: map[string][]*discoveryv3.DeltaDiscoveryRequest{},
	}
	for _, t := range o.Stalled {
		c.stalled[t] = true
	}
	c.state = State{Versions: map[string]map[string]string{}, Warming: map[string]bool{}, endpoints: map[string]string{}, routes: map[string][]string{}, keys: newKeyring()}
	if b := o.Before; b != nil {
		for t, v := range b.Versions {
			c.state.Versions[t] = maps.Clone(v)
		}
		c.state.endpoints, c.state.routes = maps.Clone(b.endpoints), maps.Clone(b.routes)
		c.state.Warming, c.state.keys = maps.Clone(b.Warming), b.keys.clone()
	}
	received := make(chan *discoveryv3.DeltaDiscoveryResponse)
	c.ended.Go(func() { c.receive(ctx, received) })
	c.ended.Go(func() { c.run(ctx, received) })
	return c, nil
}

// Close ends the stream as a broken connection does, and waits.
func (c *Client) Close() { c.cancel(); c.ended.Wait() }

// Leave ends the stream as a proxy does that stops in good order, and waits.
func (c *Client) Leave() {
	close(c.leave)
	c.ended.Wait()
	c.cancel()
}

// Resume answers a stalled type from now on, first what was held back.
func (c *Client) Resume(ctx context.Context, typeURL string) error {
	select {
	case c.resume <- typeURL:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// State is a copy of the present one.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	s.Versions = map[string]map[string]string{}
	for t, v := range c.state.Versions {
		s.Versions[t] = maps.Clone(v)
	}
	s.Warming, s.Log = maps.Clone(c.state.Warming), slices.Clone(c.state.Log)
	s.endpoints, s.routes, s.keys = maps.Clone(c.state.endpoints), maps.Clone(c.state.routes), c.state.keys.clone()
	return s
}

// Wait until the state is as wanted. The function must not keep what it is given. It fails when the context or
// the stream ends before, unless the function wanted the latter.
func (c *Client) Wait(ctx context.Context, want func(*State) bool) error {
	for {
		c.mu.Lock()
		ok, done, err, changed := want(&c.state), c.state.Done, c.state.Err, c.changed
		c.mu.Unlock()
		switch {
		case ok:
			return nil
		case done:
			return fmt.Errorf("the stream has ended: %w", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// update changes the state and wakes who waits.
func (c *Client) update(f func(*State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.state)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) receive(ctx context.Context, to chan<- *discoveryv3.DeltaDiscoveryResponse) {
	defer close(to)
	for {
		r, err := c.stream.Recv()
		if err != nil {
			c.update(func(s *State) { s.Err, s.Done = err, true })
			return
		}
		select {
		case to <- r:
		case <-ctx.Done():
			c.update(func(s *State) { s.Err, s.Done = ctx.Err(), true })
			return
		}
	}
}

func (c *Client) run(ctx context.Context, received <-chan *discoveryv3.DeltaDiscoveryResponse) {
	c.ask(resourcev3.ClusterType)
	if c.o.Before != nil {
		for _, t := range []string{resourcev3.EndpointType, resourcev3.ListenerType, resourcev3.RouteType, resourcev3.SecretType} {
			c.ask(t)
		}
	}
	leave := c.leave
	for {
		select {
		case <-leave:
			leave = nil
			_ = c.stream.CloseSend()
		case r, ok := <-received:
			if !ok {
				return
			}
			if leave == nil {
				continue
			}
			if !slices.Contains(c.o.Lost, r.GetTypeUrl()) {
				c.handle(r)
			}
		case t := <-c.resume:
			delete(c.stalled, t)
			held := c.withheld[t]
			delete(c.withheld, t)
			for _, r := range held {
				c.send(r)
			}
		case <-ctx.Done():
			for range received { // until the receiver has seen it too
			}
			return
		}
	}
}

func (c *Client) send(r *discoveryv3.DeltaDiscoveryRequest) {
	_ = c.stream.Send(r) // what went wrong is told by Recv
}

// ask opens a type: all clusters and listeners, endpoints and routes by name.
func (c *Client) ask(t string) {
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, InitialResourceVersions: maps.Clone(c.state.Versions[t])}
	switch t {
	case resourcev3.ClusterType:
		r.Node = c.o.Node
	case resourcev3.EndpointType, resourcev3.RouteType, resourcev3.SecretType:
		names := c.needed(t)
		if len(names) == 0 {
			return
		}
		r.ResourceNamesSubscribe = slices.Sorted(maps.Keys(names))
		c.subscribed[t] = names
		if t == resourcev3.SecretType {
			c.update(func(s *State) {
				for n := range names {
					s.keys.cold[n] = s.Versions[t][n] == ""
				}
			})
		}
	}
	c.send(r)
	if c.subscribed[t] == nil {
		c.subscribed[t] = map[string]bool{}
	}
}

// needed are the names that the clusters or listeners of the proxy name.
func (c *Client) needed(t string) map[string]bool {
	names := map[string]bool{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t == resourcev3.SecretType {
		return c.state.keys.needed()
	}
	if t == resourcev3.EndpointType {
		for _, n := range c.state.endpoints {
			if n != "" {
				names[n] = true
			}
		}
		return names
	}
	for _, list := range c.state.routes {
		for _, n := range list {
			names[n] = true
		}
	}
	return names
}

// log keeps what came.
func (c *Client) log(r *discoveryv3.DeltaDiscoveryResponse, refused string) {
	if c.o.Quiet {
		return
	}
	c.update(func(s *State) {
		x := Exchange{TypeURL: r.GetTypeUrl(), Removed: r.GetRemovedResources(), Warming: len(s.Warming), Refused: refused}
		for _, item := range r.GetResources() {
			x.Names = append(x.Names, item.GetName())
		}
		s.Log = append(s.Log, x)
	})
}

// answer ACKs or NACKs, now or later.
func (c *Client) answer(r *discoveryv3.DeltaDiscoveryRequest) {
	if t := r.GetTypeUrl(); c.stalled[t] {
		c.withheld[t] = append(c.withheld[t], r)
		return
	}
	c.send(r)
}

// handle takes in a response and answers it.
func (c *Client) handle(r *discoveryv3.DeltaDiscoveryResponse) {
	t := r.GetTypeUrl()
	reason := ""
	for _, item := range r.GetResources() {
		if c.o.Refuse != nil && reason == "" {
			reason = c.o.Refuse(t, item)
		}
	}
	c.log(r, reason)
	answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t, ResponseNonce: r.GetNonce()}
	if reason != "" {
		answer.ErrorDetail = &rpcstatus.Status{Code: int32(codes.Internal), Message: reason}
		c.answer(answer)
		if t == resourcev3.ClusterType { // its first answer, good or bad, is what Envoy waits for
			c.listen()
		}
		return
	}
	c.update(func(s *State) { s.take(r) })
	switch t {
	case resourcev3.ClusterType:
		c.resubscribe(resourcev3.EndpointType)
		c.resubscribe(resourcev3.SecretType)
		c.unacked = r.GetNonce()
		c.warmed()
		return
	case resourcev3.EndpointType, resourcev3.SecretType:
		c.answer(answer)
		c.warmed()
		return
	case resourcev3.ListenerType:
		c.answer(answer)
		c.resubscribe(resourcev3.RouteType)
		c.resubscribe(resourcev3.SecretType)
		return
	}
	c.answer(answer)
}

// warmed ACKs clusters when none is warming any more, and goes on to listeners after the first time.
func (c *Client) warmed() {
	c.mu.Lock()
	warming := len(c.state.Warming) > 0 || c.state.keys.warming()
	c.mu.Unlock()
	if c.unacked == "" || warming {
		return
	}
	c.answer(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resourcev3.ClusterType, ResponseNonce: c.unacked})
	c.unacked = ""
	c.listen()
}

// listen asks for listeners, once.
func (c *Client) listen() {
	if c.subscribed[resourcev3.ListenerType] == nil {
		c.ask(resourcev3.ListenerType)
	}
}

// resubscribe tells what is needed now and was not before, and the other way round.
func (c *Client) resubscribe(t string) {
	if c.subscribed[t] == nil {
		c.ask(t)
		return
	}
	now := c.needed(t)
	r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t}
	for n := range now {
		if !c.subscribed[t][n] {
			r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, n)
		}
	}
	if t == resourcev3.SecretType {
		c.update(func(s *State) {
			for _, n := range r.ResourceNamesSubscribe {
				s.keys.cold[n] = true
			}
		})
	}
	for n := range c.subscribed[t] {
		if !now[n] {
			r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, n)
		}
	}
	if len(r.ResourceNamesSubscribe)+len(r.ResourceNamesUnsubscribe) == 0 {
		return
	}
	c.subscribed[t] = now
	c.update(func(s *State) {
		for _, n := range r.ResourceNamesUnsubscribe {
			delete(s.Versions[t], n)
			if t == resourcev3.SecretType {
				delete(s.keys.has, n)
			}
		}
	})
	slices.Sort(r.ResourceNamesSubscribe)
	slices.Sort(r.ResourceNamesUnsubscribe)
	c.send(r)
}

// take applies a response that is accepted.
func (s *State) take(r *discoveryv3.DeltaDiscoveryResponse) {
	t := r.GetTypeUrl()
	if s.Versions[t] == nil {
		s.Versions[t] = map[string]string{}
	}
	s.keys.take(t, r.GetResources(), r.GetRemovedResources())
	for _, item := range r.GetResources() {
		name := item.GetName()
		s.Versions[t][name] = item.GetVersion()
		switch t {
		case resourcev3.ClusterType:
			s.endpoints[name] = endpointsOf(item)
			if s.endpoints[name] != "" {
				s.Warming[name] = true
			}
		case resourcev3.EndpointType:
			for cluster, n := range s.endpoints {
				if n == name {
					delete(s.Warming, cluster)
				}
			}
		case resourcev3.ListenerType:
			s.routes[name] = routesOf(item)
		}
	}
	for _, name := range r.GetRemovedResources() {
		delete(s.Versions[t], name)
		switch t {
		case resourcev3.ClusterType:
			delete(s.endpoints, name)
			delete(s.Warming, name)
		case resourcev3.EndpointType:
			for cluster, n := range s.endpoints { // Envoy goes on without them
				if n == name {
					delete(s.Warming, cluster)
				}
			}
		case resourcev3.ListenerType:
			delete(s.routes, name)
		}
	}
}

// endpointsOf is the name under which a cluster asks for its endpoints, or "".
func endpointsOf(r *discoveryv3.Resource) string {
	var c clusterv3.Cluster
	if err := r.GetResource().UnmarshalTo(&c); err != nil || c.GetType() != clusterv3.Cluster_EDS {
		return ""
	}
	if n := c.GetEdsClusterConfig().GetServiceName(); n != "" {
		return n
	}
	return c.GetName()
}

// routesOf are the route configurations that a listener names.
func routesOf(r *discoveryv3.Resource) []string {
	var l listenerv3.Listener
	if err := r.GetResource().UnmarshalTo(&l); err != nil {
		return nil
	}
	var names []string
	for _, chain := range append(slices.Clone(l.GetFilterChains()), l.GetDefaultFilterChain()) {
		for _, f := range chain.GetFilters() {
			var h hcmv3.HttpConnectionManager
			if f.GetTypedConfig().MessageIs(&h) && f.GetTypedConfig().UnmarshalTo(&h) == nil && h.GetRds() != nil {
				names = append(names, h.GetRds().GetRouteConfigName())
			}
		}
	}
	return names
}
