package envoy

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// Names under which Envoy looks for settings.
const (
	httpOptions    = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	tagsMetadata   = "envoy.lb"
	socketMetadata = "envoy.transport_socket_match"
	tlsSocket      = "envoy.transport_sockets.tls"
)

func cluster(c *plan.Cluster) (message, []Ref, error) {
	m := &clusterv3.Cluster{
		Name:           c.Name,
		AltStatName:    altStatName(c.Name),
		ConnectTimeout: durationpb.New(c.ConnectTimeout),
	}
	var refs []Ref
	var err error
	switch c.Discovery {
	case plan.DiscoverFixed:
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		m.LoadAssignment = assignment(c.Name, c.Hosts)
	case plan.DiscoverMesh:
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		m.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}
		refs = []Ref{{EndpointType, c.Name}}
	case plan.DiscoverDNS:
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		m.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		m.LoadAssignment = assignment(c.Name, c.Hosts)
		m.TransportSocketMatches, err = sockets(c)
	case plan.DiscoverOriginal:
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		m.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	}
	if err != nil {
		return m, refs, err
	}
	if c.TLS != nil {
		if m.TransportSocket, err = clientTLS(c.TLS); err != nil {
			return m, refs, err
		}
		refs = append(refs, tlsRefs()...)
	}
	if c.From.IsValid() {
		m.UpstreamBindConfig = &corev3.BindConfig{SourceAddress: socketAddress(c.From.String(), 0)}
	}
	if c.Discovery == plan.DiscoverMesh || c.Discovery == plan.DiscoverDNS {
		balance(m, c.LoadBalancer)
		watchful(m, c)
	}
	if c.Protocol.IsHTTP() {
		options, err := pack(protocolOptions(c))
		if err != nil {
			return m, refs, err
		}
		m.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptions: options}
	}
	return m, refs, nil
}

func protocolOptions(c *plan.Cluster) *upstreamv3.HttpProtocolOptions {
	explicit := &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}
	if c.HTTP2 {
		explicit.ProtocolConfig = &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2(c)}
	}
	options := &upstreamv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	}
	if c.IdleTimeout > 0 || c.MaxStream > 0 {
		options.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{
			IdleTimeout: optional(c.IdleTimeout), MaxStreamDuration: optional(c.MaxStream),
		}
	}
	return options
}

func balance(m *clusterv3.Cluster, lb plan.LoadBalancer) {
	switch lb.Balance {
	case plan.RoundRobin:
		m.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
	case plan.LeastRequest:
		m.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if lb.Choices > 0 {
			m.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{
				LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{ChoiceCount: wrapperspb.UInt32(lb.Choices)},
			}
		}
	case plan.RingHash:
		m.LbPolicy = clusterv3.Cluster_RING_HASH
		ring := &clusterv3.Cluster_RingHashLbConfig{}
		if lb.MurmurHash {
			ring.HashFunction = clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2
		}
		if lb.MinRing > 0 {
			ring.MinimumRingSize = wrapperspb.UInt64(lb.MinRing)
		}
		if lb.MaxRing > 0 {
			ring.MaximumRingSize = wrapperspb.UInt64(lb.MaxRing)
		}
		m.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: ring}
	case plan.Random:
		m.LbPolicy = clusterv3.Cluster_RANDOM
	case plan.Maglev:
		m.LbPolicy = clusterv3.Cluster_MAGLEV
	}
}

// sockets are the ways to secure connections to external endpoints, found by the name of their object.
func sockets(c *plan.Cluster) ([]*clusterv3.Cluster_TransportSocketMatch, error) {
	var out []*clusterv3.Cluster_TransportSocketMatch
	for _, h := range c.Hosts {
		if h.TLS == nil {
			continue
		}
		context := &tlsv3.UpstreamTlsContext{Sni: h.TLS.ServerName, CommonTlsContext: &tlsv3.CommonTlsContext{}}
		if c.HTTP2 {
			context.CommonTlsContext.AlpnProtocols = []string{"h2"}
		}
		if len(h.TLS.Cert) > 0 {
			context.CommonTlsContext.TlsCertificates = []*tlsv3.TlsCertificate{{
				CertificateChain: bytesSource(h.TLS.Cert), PrivateKey: bytesSource(h.TLS.Key),
			}}
		}
		if len(h.TLS.CA) > 0 {
			kind := tlsv3.SubjectAltNameMatcher_DNS
			if _, err := netip.ParseAddr(h.Host); err == nil {
				kind = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
			}
			context.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{
				ValidationContext: &tlsv3.CertificateValidationContext{
					TrustedCa: bytesSource(h.TLS.CA),
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
						SanType: kind, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: h.Host}},
					}},
				},
			}
		}
		config, err := pack(context)
		if err != nil {
			return nil, err
		}
		name := h.Tags[index.TagExternal]
		out = append(out, &clusterv3.Cluster_TransportSocketMatch{
			Name: name, Match: object(map[string]string{index.TagExternal: name}),
			TransportSocket: &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}},
		})
	}
	return out, nil
}

func loadAssignment(e *plan.Endpoints) (message, []Ref, error) {
	return assignment(e.Cluster, e.Hosts), nil, nil
}

// assignment groups hosts by where they are and when they are called, in the order in which each place first
// comes up.
func assignment(name string, hosts []index.Endpoint) *endpointv3.ClusterLoadAssignment {
	type place struct {
		region, zone, subZone string
		later                 bool
	}
	m := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	groups := map[place]*endpointv3.LocalityLbEndpoints{}
	for _, h := range hosts {
		at := place{h.Region, h.Zone, h.SubZone, h.Later}
		g, ok := groups[at]
		if !ok {
			g = &endpointv3.LocalityLbEndpoints{}
			if h.Later {
				g.Priority = 1
			}
			if at != (place{later: h.Later}) {
				g.Locality = &corev3.Locality{Region: at.region, Zone: at.zone, SubZone: at.subZone}
			}
			groups[at] = g
			m.Endpoints = append(m.Endpoints, g)
		}
		g.LbEndpoints = append(g.LbEndpoints, lbEndpoint(h))
	}
	return m
}

func lbEndpoint(h index.Endpoint) *endpointv3.LbEndpoint {
	e := &endpointv3.Endpoint{Address: address(h.Host, h.Port)}
	m := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: e}}
	if len(h.Tags) > 0 || h.Weight > 0 {
		m.LoadBalancingWeight = wrapperspb.UInt32(max(h.Weight, 1))
	}
	if len(h.Tags) == 0 {
		return m
	}
	// No route asks for them: they are for who reads the proxy's configuration.
	m.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{tagsMetadata: object(h.Tags)}}
	if name, external := h.Tags[index.TagExternal]; external {
		e.Hostname = h.Host
		if h.TLS != nil {
			m.Metadata.FilterMetadata[socketMetadata] = object(map[string]string{index.TagExternal: name})
		}
	}
	return m
}

// object holds tags without the service's, which is the cluster's.
func object(tags map[string]string) *structpb.Struct {
	fields := make(map[string]*structpb.Value, len(tags))
	for k, v := range tags {
		if k != index.TagService {
			fields[k] = structpb.NewStringValue(v)
		}
	}
	return &structpb.Struct{Fields: fields}
}

func bytesSource(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func address(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: socketAddress(host, port)}}
}

func socketAddress(host string, port uint32) *corev3.SocketAddress {
	return &corev3.SocketAddress{Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}
}

// optional is absent for 0.
func optional(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
