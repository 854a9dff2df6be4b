package resource

import (
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func validateExternalService(k Key, m proto.Message) Violations {
	e, ok := m.(*meshv1.ExternalService)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	if n := e.GetNetworking(); n == nil {
		v.Add("networking", mustBeDefined)
	} else {
		checkHostPort(&v, "networking.address", n.GetAddress())
		tls := n.GetTls()
		for _, s := range []struct {
			name   string
			source *meshv1.DataSource
		}{{"caCert", tls.GetCaCert()}, {"clientCert", tls.GetClientCert()}, {"clientKey", tls.GetClientKey()}} {
			if s.source != nil {
				checkDataSource(&v, "networking.tls."+s.name, s.source)
				if KeepsKey(k.Scope, nil, s.source.GetSecret()) {
					v.Add("networking.tls."+s.name+".secret", "must not be a secret with a key of the mesh's own: it would go to proxies")
				}
			}
		}
	}
	checkServiceTags(&v, "tags", e.GetTags())
	checkProtocol(&v, "tags", e.GetTags())
	return v
}

func validateZone(k Key, m proto.Message) Violations {
	z, ok := m.(*systemv1.Zone)
	if !ok {
		return wrongMessage(m)
	}
	v := ValidateZoneName("name", k.Name)
	if address := z.GetIngress().GetAddress(); address != "" {
		checkHostPort(&v, "ingress.address", address)
	}
	return v
}
