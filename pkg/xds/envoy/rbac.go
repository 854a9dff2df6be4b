package envoy

import (
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

const rbacFilter = "envoy.filters.network.rbac"

// authorization lets in whom an inbound's permission names, by the service in the caller's certificate. Without a
// permission, or with one that names nobody, there are no policies, which denies all.
func authorization(l *plan.Inbound) (*listenerv3.Filter, error) {
	rules := &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW}
	if principals := principals(l.MTLS, l.Permission); len(principals) > 0 {
		rules.Policies = map[string]*rbacconfigv3.Policy{l.Permission.Name: {
			Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
			Principals:  principals,
		}}
	}
	return pass(rbacFilter, &rbacv3.RBAC{Rules: rules, StatPrefix: statPrefix(l.Name) + "."})
}

func principals(mesh string, p *plan.Permission) []*rbacconfigv3.Principal {
	if p == nil {
		return nil
	}
	if p.Any {
		return []*rbacconfigv3.Principal{{Identifier: &rbacconfigv3.Principal_Any{Any: true}}}
	}
	var out []*rbacconfigv3.Principal
	for _, m := range exactly(identities(mesh, p.Services)) {
		out = append(out, &rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_Authenticated_{
			Authenticated: &rbacconfigv3.Principal_Authenticated{PrincipalName: m},
		}})
	}
	return out
}

// identities are the URIs in the certificates of services.
func identities(mesh string, services []string) []string {
	uris := make([]string, len(services))
	for i, s := range services {
		uris[i] = "spiffe://" + mesh + "/" + s
	}
	return uris
}

// callers are the identities with which a connection may be opened; none: any of the mesh. The filter looks at a
// connection only when its first bytes come, and tcp_proxy has long been connected then: a service that speaks first
// would greet whom it must not. So who is not permitted is refused with the handshake. HTTP services never speak first.
func callers(l *plan.Inbound) []string {
	switch {
	case l.Protocol.IsHTTP() || l.Permission != nil && l.Permission.Any:
		return nil
	case l.Permission == nil || len(l.Permission.Services) == 0:
		return identities(l.MTLS, []string{""}) // no service has an empty name
	}
	return identities(l.MTLS, l.Permission.Services)
}
