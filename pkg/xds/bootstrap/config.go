package bootstrap

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	grpccredsv3 "github.com/envoyproxy/go-control-plane/envoy/config/grpc_credential/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/xds"
)

// adsCluster is the name of the cluster that leads to the control plane.
const adsCluster = "ads_cluster"

// config is what Envoy's bootstrap is made of.
type config struct {
	request *Request
	// host and port of the control plane.
	host string
	port uint32
	ca   []byte
	// admin is the address of Envoy's admin.
	admin string
	// inline dataplane as JSON; empty: it was registered.
	inline  string
	cluster string
}

// render gives JSON, which is YAML too.
func (c *config) render() ([]byte, error) {
	b, err := c.bootstrap()
	if err != nil {
		return nil, err
	}
	if err := b.ValidateAll(); err != nil {
		return nil, refuse(422, "the request makes no valid bootstrap: %v", err)
	}
	return protojson.MarshalOptions{Multiline: true, Indent: " ", UseProtoNames: true}.Marshal(b)
}

func (c *config) bootstrap() (*bootstrapv3.Bootstrap, error) {
	metadata, err := c.metadata()
	if err != nil {
		return nil, err
	}
	cluster, err := c.ads()
	if err != nil {
		return nil, err
	}
	service, err := c.service()
	if err != nil {
		return nil, err
	}
	fromADS := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: c.request.Mesh + "." + c.request.Name, Cluster: c.cluster, Metadata: metadata},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			LdsConfig: fromADS, CdsConfig: fromADS,
			AdsConfig: &corev3.ApiConfigSource{
				ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true, GrpcServices: []*corev3.GrpcService{service},
			},
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{cluster}},
	}
	if c.request.AdminPort != 0 {
		b.Admin = &bootstrapv3.Admin{Address: address(c.admin, c.request.AdminPort)}
	}
	return b, nil
}

func (c *config) metadata() (*structpb.Struct, error) {
	r := c.request
	m := map[string]any{
		xds.MetadataVersion: map[string]any{
			"kumaDp": map[string]any{
				"version": r.Version.KumaDp.Version, "gitTag": r.Version.KumaDp.GitTag,
				"gitCommit": r.Version.KumaDp.GitCommit, "buildDate": r.Version.KumaDp.BuildDate,
			},
			"envoy": map[string]any{"version": r.Version.Envoy.Version, "build": r.Version.Envoy.Build},
		},
	}
	if c.inline != "" {
		m[xds.MetadataDataplane] = c.inline
	}
	if r.DataplaneTokenPath != "" {
		m["dataplaneTokenPath"] = r.DataplaneTokenPath
	}
	for name, port := range map[string]uint32{
		"dataplane.admin.port": r.AdminPort, "dataplane.dns.port": r.DNSPort, "dataplane.dns.empty.port": r.EmptyDNSPort,
	} {
		if port != 0 {
			m[name] = strconv.FormatUint(uint64(port), 10)
		}
	}
	if len(r.DynamicMetadata) > 0 {
		dynamic := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(r.DynamicMetadata)) {
			dynamic[k] = r.DynamicMetadata[k]
		}
		m["dynamicMetadata"] = dynamic
	}
	s, err := structpb.NewStruct(m)
	if err != nil {
		return nil, refuse(422, "the request makes no valid metadata: %v", err)
	}
	return s, nil
}

// service is how Envoy speaks to the control plane. A token in a file is read by Google's client alone.
func (c *config) service() (*corev3.GrpcService, error) {
	if c.request.DataplaneTokenPath == "" {
		s := &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
			ClusterName: adsCluster,
			// However long the control plane was away, its proxies are soon back.
			RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
				BaseInterval: durationpb.New(250 * time.Millisecond), MaxInterval: durationpb.New(2 * time.Second),
			}},
		}}}
		if c.request.DataplaneToken != "" {
			s.InitialMetadata = []*corev3.HeaderValue{{Key: "authorization", Value: c.request.DataplaneToken}}
		}
		return s, nil
	}
	credentials, err := anypb.New(&grpccredsv3.FileBasedMetadataConfig{
		SecretData: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: c.request.DataplaneTokenPath}},
		HeaderKey:  "authorization",
	})
	if err != nil {
		return nil, err
	}
	//nolint:gosec // what looks like credentials is the name of a factory
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_GoogleGrpc_{GoogleGrpc: &corev3.GrpcService_GoogleGrpc{
		TargetUri: target(c.host, c.port), StatPrefix: "ads", CredentialsFactoryName: "envoy.grpc_credentials.file_based_metadata",
		ChannelCredentials: &corev3.GrpcService_GoogleGrpc_ChannelCredentials{
			CredentialSpecifier: &corev3.GrpcService_GoogleGrpc_ChannelCredentials_SslCredentials{
				SslCredentials: &corev3.GrpcService_GoogleGrpc_SslCredentials{RootCerts: inlineBytes(c.ca)},
			},
		},
		CallCredentials: []*corev3.GrpcService_GoogleGrpc_CallCredentials{{
			CredentialSpecifier: &corev3.GrpcService_GoogleGrpc_CallCredentials_FromPlugin{
				FromPlugin: &corev3.GrpcService_GoogleGrpc_CallCredentials_MetadataCredentialsFromPlugin{
					Name:       "envoy.grpc_credentials.file_based_metadata",
					ConfigType: &corev3.GrpcService_GoogleGrpc_CallCredentials_MetadataCredentialsFromPlugin_TypedConfig{TypedConfig: credentials},
				},
			},
		}},
	}}}, nil
}

func target(host string, port uint32) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// ads is the cluster of the control plane.
func (c *config) ads() (*clusterv3.Cluster, error) {
	_, notIP := netip.ParseAddr(c.host)
	san, discovery, sni := tlsv3.SubjectAltNameMatcher_DNS, clusterv3.Cluster_STRICT_DNS, c.host
	if notIP == nil {
		san, discovery, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, clusterv3.Cluster_STATIC, "" // an IP is no server name
	}
	tls, err := anypb.New(&tlsv3.UpstreamTlsContext{
		Sni: sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inlineBytes(c.ca),
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: san,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: c.host}},
				}},
			}},
		},
	})
	if err != nil {
		return nil, err
	}
	h2, err := anypb.New(&httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		},
	}})
	if err != nil {
		return nil, err
	}
	return &clusterv3.Cluster{
		Name: adsCluster, ConnectTimeout: durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: discovery},
		TransportSocket: &corev3.TransportSocket{
			Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: tls},
		},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": h2},
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes: wrapperspb.UInt32(3), KeepaliveTime: wrapperspb.UInt32(10), KeepaliveInterval: wrapperspb.UInt32(10),
		}},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: adsCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: address(c.host, c.port)},
			}}},
		}}},
	}, nil
}

func address(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func inlineBytes(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(b)}}
}

// checkCA says what keeps PEM from being a CA certificate.
func checkCA(b []byte) error {
	found := false
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a %.40s, not a certificate", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if !cert.IsCA {
			return errors.New("is not the certificate of a CA")
		}
		found = true
	}
	if !found {
		return errors.New("is not PEM")
	}
	return nil
}
