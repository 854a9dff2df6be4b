package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

const tlsInspector = "envoy.filters.listener.tls_inspector"

// ingressAttempts is how many endpoints an ingress tries for one connection.
const ingressAttempts = 3

// ingress has a filter chain for each server name, and none for others: their connections are closed. When one
// comes or goes, Envoy leaves the connections of the others alone.
func ingress(l *plan.Ingress) (message, []Ref, error) {
	m := listener(l.Listener, corev3.TrafficDirection_INBOUND)
	inspector, err := pack(&inspectorv3.TlsInspector{})
	if err != nil {
		return m, nil, err
	}
	m.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name: tlsInspector, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: inspector},
	}}
	if len(l.Clusters) == 0 {
		return m, nil, nil
	}
	m.FilterChains = make([]*listenerv3.FilterChain, 0, len(l.Clusters))
	refs := make([]Ref, 0, len(l.Clusters))
	for _, name := range l.Clusters {
		filter, err := pass(tcpFilter, &tcpv3.TcpProxy{
			StatPrefix: statPrefix(name), ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: name},
			MaxConnectAttempts: wrapperspb.UInt32(ingressAttempts),
		})
		if err != nil {
			return m, nil, err
		}
		m.FilterChains = append(m.FilterChains, &listenerv3.FilterChain{
			Name: name, Filters: []*listenerv3.Filter{filter},
			FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{name}},
		})
		refs = append(refs, Ref{ClusterType, name})
	}
	return m, refs, nil
}
