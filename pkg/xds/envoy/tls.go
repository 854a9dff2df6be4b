package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// SecretType is the type of what proxies prove themselves with and verify others by.
const SecretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// The secrets of a proxy in a mesh with mTLS.
const (
	// IdentityCert is the proxy's certificate with its key, of which a Set knows nothing but that it is needed.
	IdentityCert = "identity_cert"
	// MeshCA verifies the certificates of the other proxies.
	MeshCA = "mesh_ca"
)

// tlsRefs are what a listener or cluster with mTLS needs.
func tlsRefs() []Ref { return []Ref{{SecretType, IdentityCert}, {SecretType, MeshCA}} }

// Certificate makes the secret IdentityCert, with the version by which the proxy will name it. It is one proxy's
// and not interned. No error holds bytes of the key.
func Certificate(version string, chainPEM, keyPEM []byte) (*Resource, error) {
	m := &tlsv3.Secret{Name: IdentityCert, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: bytesSource(chainPEM), PrivateKey: bytesSource(keyPEM),
	}}}
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return &Resource{
		TypeURL: SecretType, Name: IdentityCert, Version: version,
		Wire: &discoveryv3.Resource{Name: IdentityCert, Version: version, Resource: &anypb.Any{TypeUrl: SecretType, Value: content}},
	}, nil
}

// meshCA makes the secret MeshCA.
func meshCA(p *plan.Identity) (message, []Ref, error) {
	return &tlsv3.Secret{Name: MeshCA, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: bytesSource(p.Authority.Cert),
	}}}, nil, nil
}

// serverTLS asks callers for a certificate of the mesh, with one of the URIs if some are given.
func serverTLS(mesh string, uris ...string) (*corev3.TransportSocket, error) {
	matchers := []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + mesh + "/"}}}
	if len(uris) > 0 {
		matchers = exactly(uris)
	}
	return tlsTransport(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:         commonTLS(matchers...),
		RequireClientCertificate: wrapperspb.Bool(true),
	})
}

// clientTLS asks for the certificate of a service. There is no ALPN: what is spoken is known on both sides.
func clientTLS(t *plan.ClientTLS) (*corev3.TransportSocket, error) {
	return tlsTransport(&tlsv3.UpstreamTlsContext{CommonTlsContext: commonTLS(exactly(t.SPIFFE)...), Sni: t.SNI})
}

// exactly matches each of the texts as it is.
func exactly(texts []string) []*matcherv3.StringMatcher {
	matchers := make([]*matcherv3.StringMatcher, len(texts))
	for i, s := range texts {
		matchers[i] = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
	}
	return matchers
}

// commonTLS proves the own services, and takes certificates of the mesh with one of the URIs.
func commonTLS(uris ...*matcherv3.StringMatcher) *tlsv3.CommonTlsContext {
	validation := &tlsv3.CertificateValidationContext{}
	for _, m := range uris {
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: m,
		})
	}
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: IdentityCert, SdsConfig: ads()}},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         validation,
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: MeshCA, SdsConfig: ads()},
			},
		},
	}
}

func tlsTransport(context message) (*corev3.TransportSocket, error) {
	config, err := pack(context)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{Name: tlsSocket, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}, nil
}
