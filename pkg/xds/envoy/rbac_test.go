package envoy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

func TestAuthorization(t *testing.T) {
	tests := map[string]struct {
		mtls       string
		permission *plan.Permission
		// want are the principals, as names, with "*" for any; policy is empty where there is none.
		policy string
		want   []string
	}{
		"plain":        {permission: &plan.Permission{Name: "all", Any: true}},
		"none":         {mtls: "default", want: []string{}},
		"any":          {"default", &plan.Permission{Name: "all", Any: true}, "all", []string{"*"}},
		"two services": {"demo", &plan.Permission{Name: "two", Services: []string{"a", "b"}}, "two", []string{"spiffe://demo/a", "spiffe://demo/b"}},
		"nobody":       {mtls: "default", permission: &plan.Permission{Name: "unreadable"}, want: []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, protocol := range []index.Protocol{index.TCP, index.HTTP, index.GRPC, index.Kafka} {
				m, _, err := inbound(&plan.Inbound{
					Listener: plan.Listener{Name: "inbound:10.0.0.1:80", Listen: netip.MustParseAddrPort("10.0.0.1:80")},
					Service:  "web", Protocol: protocol, Cluster: "localhost:80", MTLS: tt.mtls, Permission: tt.permission,
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, chain := range m.(*listenerv3.Listener).GetFilterChains() {
					filters := chain.GetFilters()
					at := slices.IndexFunc(filters, func(f *listenerv3.Filter) bool { return f.GetName() == rbacFilter })
					if tt.want == nil {
						if at >= 0 {
							t.Fatalf("%s: there is a filter", protocol)
						}
						continue
					}
					if at != 0 || len(filters) < 2 {
						t.Fatalf("%s: the filter is at %d of %d, want the first", protocol, at, len(filters))
					}
					config := &rbacv3.RBAC{}
					if err := filters[0].GetTypedConfig().UnmarshalTo(config); err != nil {
						t.Fatal(err)
					}
					if config.GetStatPrefix() != "inbound_10_0_0_1_80." || config.GetRules() == nil || config.GetRules().GetAction() != rbacconfigv3.RBAC_ALLOW {
						t.Errorf("%s: %v", protocol, config)
					}
					got, policy := []string{}, ""
					for name, p := range config.GetRules().GetPolicies() {
						policy = name
						for _, who := range p.GetPrincipals() {
							if who.GetAny() {
								got = append(got, "*")
							} else {
								got = append(got, who.GetAuthenticated().GetPrincipalName().GetExact())
							}
						}
					}
					if diff := cmp.Diff(tt.want, got); diff != "" || policy != tt.policy {
						t.Errorf("%s: policy %q, want %q, principals (-want +got):\n%s", protocol, policy, tt.policy, diff)
					}
				}
			}
		})
	}
}

// A service that may speak first is opened to nobody whom the permission does not name.
func TestWhoMayOpenAConnection(t *testing.T) {
	tests := map[string]struct {
		protocol   index.Protocol
		permission *plan.Permission
		want       string
	}{
		"any":      {index.TCP, &plan.Permission{Name: "all", Any: true}, `prefix:"spiffe://demo/"`},
		"one":      {index.TCP, &plan.Permission{Name: "one", Services: []string{"a"}}, `exact:"spiffe://demo/a"`},
		"two":      {index.Kafka, &plan.Permission{Name: "two", Services: []string{"a", "b"}}, `exact:"spiffe://demo/a" exact:"spiffe://demo/b"`},
		"none":     {index.Unknown, nil, `exact:"spiffe://demo/"`},
		"nobody":   {index.TCP, &plan.Permission{Name: "unreadable"}, `exact:"spiffe://demo/"`},
		"http":     {index.HTTP, &plan.Permission{Name: "one", Services: []string{"a"}}, `prefix:"spiffe://demo/"`},
		"http off": {index.GRPC, nil, `prefix:"spiffe://demo/"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, _, err := inbound(&plan.Inbound{
				Listener: plan.Listener{Name: "inbound:10.0.0.1:80", Listen: netip.MustParseAddrPort("10.0.0.1:80")},
				Service:  "web", Protocol: tt.protocol, Cluster: "localhost:80", MTLS: "demo", Permission: tt.permission,
			})
			if err != nil {
				t.Fatal(err)
			}
			context := &tlsv3.DownstreamTlsContext{}
			if err := m.(*listenerv3.Listener).GetFilterChains()[0].GetTransportSocket().GetTypedConfig().UnmarshalTo(context); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, san := range context.GetCommonTlsContext().GetCombinedValidationContext().GetDefaultValidationContext().GetMatchTypedSubjectAltNames() {
				got = append(got, strings.ReplaceAll(san.GetMatcher().String(), " ", ""))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" || !context.GetRequireClientCertificate().GetValue() {
				t.Errorf("callers (-want +got):\n%s", diff)
			}
		})
	}
}
