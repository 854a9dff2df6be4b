package envoy

import (
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

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
	out := make([]*rbacconfigv3.Principal, len(p.Services))
	for i, service := range p.Services {
		out[i] = &rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_Authenticated_{
			Authenticated: &rbacconfigv3.Principal_Authenticated{PrincipalName: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "spiffe://" + mesh + "/" + service},
			}},
		}}
	}
	return out
}
