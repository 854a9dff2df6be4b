package xdstest

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// Resource wraps a message as the translator does, but for interning.
func Resource(typeURL, name string, m proto.Message, refs ...envoy.Ref) *envoy.Resource {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err) // a test's own message
	}
	h := fnv.New64a()
	h.Write(value)
	version := fmt.Sprintf("%x", h.Sum64())
	return &envoy.Resource{
		TypeURL: typeURL, Name: name, Version: version, Refs: refs,
		Wire: &discoveryv3.Resource{Name: name, Version: version, Resource: &anypb.Any{TypeUrl: typeURL, Value: value}},
	}
}

// Cluster is an EDS cluster with a connect timeout, the part of it that tests change.
func Cluster(name string, timeout time.Duration) *envoy.Resource {
	return Resource(resourcev3.ClusterType, name, &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(timeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()},
	}, envoy.Ref{TypeURL: resourcev3.EndpointType, Name: name})
}

// Endpoints has one endpoint on the loopback for each port.
func Endpoints(name string, ports ...uint32) *envoy.Resource {
	m := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if len(ports) > 0 {
		m.Endpoints = []*endpointv3.LocalityLbEndpoints{{}}
	}
	for _, p := range ports {
		m.Endpoints[0].LbEndpoints = append(m.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(p)}},
		})
	}
	return Resource(resourcev3.EndpointType, name, m)
}

// Listener speaks HTTP on a port, with its routes by RDS.
func Listener(name string, port uint32, route string) *envoy.Resource {
	return Resource(resourcev3.ListenerType, name, &listenerv3.Listener{
		Name: name, Address: address(port),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter("envoy.filters.network.http_connection_manager", &hcmv3.HttpConnectionManager{
			StatPrefix: name,
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
				ConfigSource: ads(), RouteConfigName: route,
			}},
			HttpFilters: []*hcmv3.HttpFilter{{
				Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})},
			}},
		})}}},
	}, envoy.Ref{TypeURL: resourcev3.RouteType, Name: route})
}

// TCPListener sends what comes on a port to a cluster.
func TCPListener(name string, port uint32, cluster string) *envoy.Resource {
	return Resource(resourcev3.ListenerType, name, &listenerv3.Listener{
		Name: name, Address: address(port),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
			StatPrefix: name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster},
		})}}},
	}, envoy.Ref{TypeURL: resourcev3.ClusterType, Name: cluster})
}

// Route sends everything to a cluster, with a timeout.
func Route(name string, timeout time.Duration, cluster string) *envoy.Resource {
	return Resource(resourcev3.RouteType, name, &routev3.RouteConfiguration{
		Name: name,
		VirtualHosts: []*routev3.VirtualHost{{
			Name: name, Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}, Timeout: durationpb.New(timeout),
				}},
			}},
		}},
	}, envoy.Ref{TypeURL: resourcev3.ClusterType, Name: cluster})
}

// Set puts resources together, in a set's order. Each comes from a Timeout of its name.
func Set(resources ...*envoy.Resource) *envoy.Set {
	order := []string{resourcev3.ClusterType, resourcev3.EndpointType, resourcev3.ListenerType, resourcev3.RouteType, resourcev3.SecretType}
	sorted := slices.SortedFunc(slices.Values(resources), func(a, b *envoy.Resource) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.TypeURL), slices.Index(order, b.TypeURL)), cmp.Compare(a.Name, b.Name))
	})
	return &envoy.Set{Resources: sorted, Origin: origin{}}
}

type origin struct{}

// Sources implements envoy.Origin.
func (origin) Sources(r envoy.Ref) []plan.Source {
	return []plan.Source{{Key: resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: r.Name}, Revision: 1}}
}

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err) // a test's own message
	}
	return a
}

func filter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(m)}}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func address(port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
