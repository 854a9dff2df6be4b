package plan

import (
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Identity is what a proxy has to be able to prove, by certificates that are not part of the plan: a plan is a
// pure function, and they come and go while it stays the same.
type Identity struct {
	Mesh string
	// Services of the proxy, sorted.
	Services []string
	// Authority that vouches for it and for those that it talks to. Without one that is usable it gets no
	// certificate: it still requires them, and so lets nobody in.
	Authority *index.Authority
	// Sources are the mesh, and the secrets of the authority.
	Sources []Source
}

// ClientTLS is how a connection to a service of the mesh is secured.
type ClientTLS struct {
	// SNI says, to an ingress on the way too, where the connection is to lead.
	SNI string
	// SPIFFE are the identities of which the other side must prove one.
	SPIFFE []string
}

// clientTLS leads to a service, or to its endpoints that bear tags.
func clientTLS(mesh, service string, tags map[string]string) *ClientTLS {
	return &ClientTLS{SNI: ServerName(mesh, service, tags), SPIFFE: []string{"spiffe://" + mesh + "/" + service}}
}

// identify plans what a proxy proves, where its mesh asks for it. An ingress passes others' connections on.
func (o *own) identify(p *index.Proxy) {
	a := p.Mesh.Authority
	if a == nil || p.Spec.GetNetworking().GetIngress() != nil {
		return
	}
	o.identity = &Identity{
		Mesh: p.Key.Scope, Services: proxyServices(p.Spec), Authority: a,
		Sources: append([]Source{source(p.Mesh.Object)}, sources(a.Secrets...)...),
	}
	if !a.Usable() {
		o.problems = append(o.problems, Problem{
			Part: "mtls", Text: "no certificate, and so no traffic: " + a.Problem, Sources: []Source{source(p.Mesh.Object)},
		})
	}
}

// proxyServices are the services of the inbounds, or of the gateway, sorted.
func proxyServices(spec *meshv1.Dataplane) []string {
	return resource.DataplaneTags(spec)[index.TagService]
}
