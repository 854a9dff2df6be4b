package envoy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// inbound leads to the workload without limits of its own: the callers' side has them.
func inbound(l *plan.Inbound) (message, []Ref, error) {
	refs := []Ref{{ClusterType, l.Cluster}}
	var filter *listenerv3.Filter
	var err error
	if l.Protocol.IsHTTP() {
		m := connectionManager(l.Cluster)
		m.StreamIdleTimeout = durationpb.New(0)
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "inbound:" + l.Service,
			VirtualHosts: []*routev3.VirtualHost{virtualHost(l.Service, &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: l.Cluster}, Timeout: durationpb.New(0),
			})},
			ValidateClusters: wrapperspb.Bool(false),
		}}
		filter, err = httpFilterChain(m, l.Protocol)
	} else {
		filter, err = pass(tcpFilter, &tcpv3.TcpProxy{
			StatPrefix: statPrefix(l.Cluster), ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: l.Cluster},
		})
	}
	filters := []*listenerv3.Filter{filter}
	if l.MTLS != "" && err == nil {
		var who *listenerv3.Filter
		who, err = authorization(l)
		filters = []*listenerv3.Filter{who, filter}
	}
	m := listener(l.Listener, corev3.TrafficDirection_INBOUND, filters...)
	if l.MTLS != "" && err == nil {
		refs = append(refs, tlsRefs()...)
		m.FilterChains[0].TransportSocket, err = serverTLS(l.MTLS, callers(l)...)
	}
	return m, refs, err
}

// outbound leads to where the route says. Idle connections of the workload are left to it.
func outbound(l *plan.Outbound) (message, []Ref, error) {
	switch {
	case l.Route == nil:
		return listener(l.Listener, corev3.TrafficDirection_OUTBOUND), nil, nil
	case l.Protocol.IsHTTP():
		m := connectionManager(l.Service)
		m.StreamIdleTimeout = durationpb.New(l.IdleTimeout)
		m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(0)}
		m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: l.Route.Name}}
		filter, err := httpFilterChain(m, l.Protocol)
		return listener(l.Listener, corev3.TrafficDirection_OUTBOUND, filter), []Ref{{RouteType, l.Route.Name}}, err
	default:
		m := &tcpv3.TcpProxy{StatPrefix: statPrefix(l.Service), IdleTimeout: optional(l.IdleTimeout)}
		if l.ConnectAttempts > 0 {
			m.MaxConnectAttempts = wrapperspb.UInt32(l.ConnectAttempts)
		}
		if targets := l.Route.Targets; len(targets) == 1 {
			m.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: targets[0].Cluster}
		} else {
			weighted := &tcpv3.TcpProxy_WeightedCluster{}
			for _, t := range targets {
				weighted.Clusters = append(weighted.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{
					Name: t.Cluster, Weight: t.Weight,
				})
			}
			m.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: weighted}
		}
		filter, err := pass(tcpFilter, m)
		return listener(l.Listener, corev3.TrafficDirection_OUTBOUND, filter), clusterRefs(l.Route), err
	}
}

// forwarder hands connections to the listener of the address that they were going to, or passes them on there.
func forwarder(f *plan.Forwarder) (message, []Ref, error) {
	filter, err := pass(tcpFilter, &tcpv3.TcpProxy{
		StatPrefix: statPrefix(f.Cluster), ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: f.Cluster},
	})
	direction := corev3.TrafficDirection_OUTBOUND
	if f.Inbound {
		direction = corev3.TrafficDirection_INBOUND
	}
	m := listener(f.Listener, direction, filter)
	m.UseOriginalDst = wrapperspb.Bool(true)
	return m, []Ref{{ClusterType, f.Cluster}}, err
}

func routeConfiguration(r *plan.Route) (message, []Ref, error) {
	action := &routev3.RouteAction{Timeout: durationpb.New(r.Timeout)}
	if len(r.Targets) == 1 {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: r.Targets[0].Cluster}
	} else {
		weighted := &routev3.WeightedCluster{}
		for _, t := range r.Targets {
			weighted.Clusters = append(weighted.Clusters, &routev3.WeightedCluster_ClusterWeight{
				Name: t.Cluster, Weight: wrapperspb.UInt32(t.Weight),
			})
		}
		action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	}
	if r.RewriteHost {
		action.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	host := virtualHost(r.Service, action)
	var err error
	host.RetryPolicy, err = retryPolicy(r.Retry)
	return &routev3.RouteConfiguration{
		Name: r.Name, VirtualHosts: []*routev3.VirtualHost{host}, ValidateClusters: wrapperspb.Bool(false),
	}, clusterRefs(r), err
}

func retryPolicy(r *plan.Retry) (*routev3.RetryPolicy, error) {
	if r == nil {
		return nil, nil
	}
	m := &routev3.RetryPolicy{
		RetryOn: strings.Join(r.On, ","), RetriableStatusCodes: r.Statuses, PerTryTimeout: optional(r.PerTry),
	}
	if r.Retries != nil {
		m.NumRetries = wrapperspb.UInt32(*r.Retries)
	}
	if r.OtherHost {
		config, err := pack(&previousv3.PreviousHostsPredicate{})
		if err != nil {
			return nil, err
		}
		m.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: previousHosts, ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: config},
		}}
		m.HostSelectionRetryMaxAttempts = otherHostTries
	}
	if r.BackOff > 0 {
		m.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(r.BackOff), MaxInterval: optional(r.MaxBackOff)}
	}
	return m, nil
}

// virtualHost takes every request.
func virtualHost(name string, action *routev3.RouteAction) *routev3.VirtualHost {
	return &routev3.VirtualHost{
		Name: name, Domains: []string{"*"},
		Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: action},
		}},
	}
}

func clusterRefs(r *plan.Route) []Ref {
	var refs []Ref
	seen := make(map[string]struct{}, len(r.Targets))
	for _, t := range r.Targets {
		if _, ok := seen[t.Cluster]; !ok {
			seen[t.Cluster] = struct{}{}
			refs = append(refs, Ref{ClusterType, t.Cluster})
		}
	}
	return refs
}

// The names of Envoy's filters.
const (
	hcmFilter       = "envoy.filters.network.http_connection_manager"
	tcpFilter       = "envoy.filters.network.tcp_proxy"
	grpcStatsFilter = "envoy.filters.http.grpc_stats"
	routerFilter    = "envoy.filters.http.router"
	previousHosts   = "envoy.retry_host_predicates.previous_hosts"
)

// otherHostTries is how often a proxy draws an endpoint that it has not tried for a request before it takes any.
const otherHostTries = 5

// connectionManager accepts HTTP/1 and HTTP/2: between proxies it is the latter.
func connectionManager(name string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{StatPrefix: statPrefix(name), CodecType: hcmv3.HttpConnectionManager_AUTO}
}

// httpFilterChain completes a connection manager with the filters of a protocol.
func httpFilterChain(m *hcmv3.HttpConnectionManager, p index.Protocol) (*listenerv3.Filter, error) {
	if p == index.GRPC {
		config, err := pack(&grpcstatsv3.FilterConfig{EmitFilterState: true})
		if err != nil {
			return nil, err
		}
		m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: grpcStatsFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}})
	}
	config, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: routerFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}})
	return pass(hcmFilter, m)
}

// pass makes a network filter.
func pass(name string, config message) (*listenerv3.Filter, error) {
	packed, err := pack(config)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed}}, nil
}

// listener has one filter chain; without filters it closes every connection.
func listener(l plan.Listener, direction corev3.TrafficDirection, filters ...*listenerv3.Filter) *listenerv3.Listener {
	m := &listenerv3.Listener{
		Name: l.Name, TrafficDirection: direction,
		Address:      address(l.Listen.Addr().String(), uint32(l.Listen.Port())),
		FilterChains: []*listenerv3.FilterChain{{Filters: filters}},
	}
	if l.Redirected {
		m.BindToPort = wrapperspb.Bool(false)
	}
	return m
}

// ads says that a resource comes on the stream on which its user came.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// pack validates a message, for the validation of the one around it does not look inside, and packs it.
func pack(m message) (*anypb.Any, error) {
	if err := m.ValidateAll(); err != nil {
		return nil, err
	}
	packed := &anypb.Any{}
	if err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, err
	}
	return packed, nil
}

// statPrefix is a name of which statistics can be made: what is neither letter nor digit becomes "_".
func statPrefix(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
}

// altStatName is the name in statistics where the cluster's own does not do.
func altStatName(name string) string {
	if s := statPrefix(name); s != name {
		return s
	}
	return ""
}
