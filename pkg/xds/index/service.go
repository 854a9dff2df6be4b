package index

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// Service is what callers must know of a service besides its endpoints. It is immutable: when something of it
// changes there is another one.
type Service struct {
	Name string
	// Protocol that all its endpoints have in common. Inbounds that are not ready count too: a failing
	// health check must not turn HTTP into TCP.
	Protocol Protocol
	// External services are outside of the mesh; their endpoints are part of the service.
	External bool
	// Remote services are in other zones, perhaps also here. It stays so when these can't be reached.
	Remote bool

	entry *service
	// fixed are all endpoints of an external service: they are part of it.
	fixed *Endpoints
}

// Endpoints are the healthy endpoints of a service that bear some tags. They are immutable.
type Endpoints struct {
	Service string
	// Tags that they were chosen by, without the service's.
	Tags map[string]string
	// Mesh is set for those to which the zone's ingresses lead, which are in several meshes.
	Mesh string
	// Items are sorted by address and port; no two have the same.
	Items []Endpoint
	// Objects from which they were made, sorted by key.
	Objects []*resource.Object
	// Problems with endpoints that were left out.
	Problems []Problem
	// Memo is for what plans make of them.
	Memo Memo
}

// Endpoint is one place where a service is to be found.
type Endpoint struct {
	// Host is an IP address, or, for external services, also a DNS name.
	Host string
	Port uint32
	Tags map[string]string
	// Zone is the tag's, or that of this control plane.
	Region, Zone, SubZone string
	// Weight relative to the others; 0 counts as 1.
	Weight uint32
	// Remote endpoints are ingresses of other zones. Later: they are called when there is nobody else.
	Remote, Later bool
	// TLS is how an external endpoint is spoken to; nil: without TLS.
	TLS *TLS
}

// TLS is how a connection to an external endpoint is secured. Bytes are PEM.
type TLS struct {
	// ServerName is empty when the endpoint is an IP address.
	ServerName string
	// CA that has signed the server's certificate; empty: it isn't verified.
	CA []byte
	// Cert and Key are given both or not at all.
	Cert, Key []byte
}

// Problem is something that could not be planned as an object says.
type Problem struct {
	Object *resource.Object
	Text   string
}

// service follows the versions of a service. It exists while it has endpoints or somebody asks for it.
type service struct {
	mesh      *mesh
	name      string
	offers    map[offerKey]*offer
	externals map[string]*external
	// remotes are what other zones have of it, doors what their ingresses are let in to.
	remotes map[string]*remote
	doors   map[string]*Door
	current *Service
	// places are what the offers, or external services, amount to, in the order of their addresses.
	places []*offer
	// tags by which policies are chosen for it; those of the current version.
	tags, tagsAndProtocol []map[string]string
	// askedBy are the destinations that name the service, and variants the choices that were made for them.
	askedBy  map[*destination]struct{}
	variants map[choice]*variant
	// groups are the endpoints that routes, of any service, lead to, by their tags.
	groups map[string]*Group
}

// offer is one inbound of a proxy, or one external service.
type offer struct {
	object *resource.Object
	// used are the other objects that it was made from.
	used     []*resource.Object
	tags     map[string]string
	protocol Protocol
	// endpoint has no host while it must not be called.
	endpoint Endpoint
	// problem is why there is no endpoint.
	problem string
}

type offerKey struct {
	proxy   *proxy
	inbound int
}

// external is one external service.
type external struct {
	object  *resource.Object
	spec    *meshv1.ExternalService
	service *service
	secrets []string
}

// service finds or makes the entry of a service. A new one is looked at when all changes are in.
func (m *mesh) service(w *work, name string) *service {
	s, ok := m.services[name]
	if !ok {
		s = &service{
			mesh: m, name: name, offers: map[offerKey]*offer{}, externals: map[string]*external{}, remotes: map[string]*remote{},
			askedBy: map[*destination]struct{}{}, variants: map[choice]*variant{}, groups: map[string]*Group{},
			tags: []map[string]string{{TagService: name}},
		}
		s.become(&Service{Name: name, entry: s})
		m.services[name] = s
	}
	w.services[s] = struct{}{}
	return s
}

// become makes a version of the service the current one.
func (s *service) become(next *Service) {
	s.current = next
	s.tagsAndProtocol = s.tags
	if next.Protocol != Unknown {
		s.tagsAndProtocol = []map[string]string{{TagService: s.name, TagProtocol: string(next.Protocol)}}
	}
}

// release forgets a service that nobody offers or asks for.
func (s *service) release() {
	if len(s.offers)+len(s.externals)+len(s.remotes)+len(s.askedBy)+len(s.groups) == 0 {
		delete(s.mesh.services, s.name)
	}
}

// offer makes the inbounds of a proxy endpoints of their services. Those of an ingress lead elsewhere.
func (p *proxy) offer(ix *Index, w *work) {
	n := p.current.Spec.GetNetworking()
	if n.GetIngress() != nil {
		return
	}
	p.offered = make([]*service, len(n.GetInbound()))
	for i, in := range n.GetInbound() {
		name, ok := in.GetTags()[TagService]
		if !ok {
			continue
		}
		o := &offer{object: p.current.Object, tags: in.GetTags(), protocol: ParseProtocol(in.GetTags()[TagProtocol])}
		addr := p.current.Address
		if in.GetAddress() != "" {
			addr = ix.address(in.GetAddress())
		}
		if addr.IsValid() && validPort(in.GetPort()) && (in.GetHealth() == nil || in.GetHealth().GetReady()) {
			o.endpoint = newEndpoint(addr.String(), in.GetPort(), in.GetTags(), ix.zone)
		}
		s := p.mesh.service(w, name)
		s.offers[offerKey{p, i}] = o
		p.offered[i] = s
	}
}

// withdraw takes back what the proxy offered.
func (p *proxy) withdraw(w *work) {
	for i, s := range p.offered {
		if s != nil {
			delete(s.offers, offerKey{p, i})
			w.services[s] = struct{}{}
		}
	}
	p.offered = nil
}

func newEndpoint(host string, port uint32, tags map[string]string, zone string) Endpoint {
	return Endpoint{
		Host: host, Port: port, Tags: tags,
		Region: tags[TagRegion], Zone: cmp.Or(tags[TagZone], zone), SubZone: tags[TagSubZone],
	}
}

func validPort(p uint32) bool { return p >= 1 && p <= 65535 }

// refresh puts together again what there is; the groups still have to look at it.
func (s *service) refresh() {
	shape := Service{Name: s.name, entry: s, Remote: len(s.remotes) > 0 && s.mesh.enforces()}
	switch {
	case len(s.offers) > 0 || shape.Remote:
		s.places = slices.AppendSeq(s.places[:0], maps.Values(s.offers))
	case len(s.externals) > 0:
		shape.External = true
		s.places = s.places[:0]
		for _, x := range s.externals {
			s.places = append(s.places, x.offer(s.mesh))
		}
	default:
		s.places = nil
	}
	slices.SortFunc(s.places, func(a, b *offer) int {
		return cmp.Or(a.endpoint.compare(b.endpoint), a.object.Key.Compare(b.object.Key))
	})
	var spoken []Protocol
	for _, o := range s.places {
		spoken = append(spoken, o.protocol)
	}
	if shape.Remote {
		for _, r := range s.remotes {
			spoken = append(spoken, r.protocol)
		}
	}
	for i, p := range spoken {
		if i == 0 {
			shape.Protocol = p
		}
		shape.Protocol = shape.Protocol.Common(p)
	}
	if shape.External {
		shape.fixed = s.having(nil)
		if shape.fixed.tidy(); s.current.fixed != nil && shape.fixed.same(s.current.fixed) {
			shape.fixed = s.current.fixed
		}
	}
	if shape != *s.current {
		s.become(&shape)
	}
}

// offer is what an external service amounts to.
func (x *external) offer(m *mesh) *offer {
	o := &offer{object: x.object, tags: x.spec.GetTags(), protocol: ParseProtocol(x.spec.GetTags()[TagProtocol])}
	var err error
	if o.endpoint, o.used, err = x.endpoint(m); err != nil {
		o.problem = err.Error()
	}
	return o
}

// compare orders by address and port.
func (e Endpoint) compare(o Endpoint) int {
	return cmp.Or(cmp.Compare(e.Host, o.Host), cmp.Compare(e.Port, o.Port))
}

func (e *Endpoints) tidy() {
	slices.SortFunc(e.Objects, func(a, b *resource.Object) int { return a.Key.Compare(b.Key) })
	e.Objects = slices.CompactFunc(e.Objects, func(a, b *resource.Object) bool { return a.Key == b.Key })
}

// same compares endpoints by the objects that they were made from, which say it all together with the hosts,
// for these may come from DNS.
func (e *Endpoints) same(o *Endpoints) bool {
	return slices.EqualFunc(e.Objects, o.Objects, func(a, b *resource.Object) bool {
		return a.Key == b.Key && a.SpecRevision == b.SpecRevision
	}) && slices.EqualFunc(e.Items, o.Items, func(a, b Endpoint) bool {
		return a.compare(b) == 0 && a.Weight == b.Weight && a.Later == b.Later && a.Zone == b.Zone && maps.Equal(a.Tags, b.Tags)
	}) && slices.EqualFunc(e.Problems, o.Problems, func(a, b Problem) bool { return a.Text == b.Text })
}

func (m *mesh) takeExternal(w *work, k resource.Key, o *resource.Object) {
	old := m.externals[k.Name]
	if o != nil && old != nil && sameSpec(old.object, o) {
		return
	}
	if old != nil {
		delete(m.externals, k.Name)
		delete(old.service.externals, k.Name)
		w.services[old.service] = struct{}{}
		for _, name := range old.secrets {
			remove(m.secretUsers, name, old)
		}
	}
	if o == nil {
		return
	}
	spec, err := resource.Decode[meshv1.ExternalService](o)
	if err != nil {
		return
	}
	name, ok := spec.GetTags()[TagService]
	if !ok {
		return
	}
	x := &external{object: o, spec: spec, service: m.service(w, name)}
	x.service.externals[k.Name] = x
	m.externals[k.Name] = x
	conf := spec.GetNetworking().GetTls()
	for _, source := range []*meshv1.DataSource{conf.GetCaCert(), conf.GetClientCert(), conf.GetClientKey()} {
		if name := source.GetSecret(); name != "" {
			x.secrets = append(x.secrets, name)
			add(m.secretUsers, name, x)
		}
	}
}

func (m *mesh) takeSecret(w *work, k resource.Key, o *resource.Object) {
	if sameSpec(m.secrets[k.Name], o) {
		return
	}
	if o == nil {
		delete(m.secrets, k.Name)
	} else {
		m.secrets[k.Name] = o
	}
	m.unvouched = m.unvouched || m.rests(k.Name)
	for x := range m.secretUsers[k.Name] {
		w.services[x.service] = struct{}{}
	}
}

// endpoint reads an external service, and lists the secrets that it took. What can't be read is an error and
// not left out: a connection must not be less secure than it was meant to be.
func (x *external) endpoint(m *mesh) (Endpoint, []*resource.Object, error) {
	host, number, err := net.SplitHostPort(x.spec.GetNetworking().GetAddress())
	if err != nil {
		return Endpoint{}, nil, fmt.Errorf("networking.address: %w", err)
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 || host == "" {
		return Endpoint{}, nil, fmt.Errorf("networking.address: %q is not HOST:PORT", x.spec.GetNetworking().GetAddress())
	}
	tags := make(map[string]string, len(x.spec.GetTags())+1)
	maps.Copy(tags, x.spec.GetTags())
	tags[TagExternal] = x.object.Key.Name
	e := newEndpoint(host, uint32(port), tags, "")
	conf := x.spec.GetNetworking().GetTls()
	if !conf.GetEnabled() {
		return e, nil, nil
	}
	e.TLS = &TLS{}
	if _, err := netip.ParseAddr(host); err != nil {
		e.TLS.ServerName = host
	}
	var used []*resource.Object
	for _, part := range []struct {
		field  string
		source *meshv1.DataSource
		to     *[]byte
	}{
		{"caCert", conf.GetCaCert(), &e.TLS.CA},
		{"clientCert", conf.GetClientCert(), &e.TLS.Cert},
		{"clientKey", conf.GetClientKey(), &e.TLS.Key},
	} {
		secret, err := m.read(part.source, part.to)
		if secret != nil {
			used = append(used, secret)
		}
		if err != nil {
			return Endpoint{}, used, fmt.Errorf("networking.tls.%s: %w", part.field, err)
		}
	}
	if len(e.TLS.CA) > 0 && !x509.NewCertPool().AppendCertsFromPEM(e.TLS.CA) {
		return Endpoint{}, used, errors.New("networking.tls.caCert: not a certificate in PEM")
	}
	if len(e.TLS.Cert) == 0 || len(e.TLS.Key) == 0 {
		e.TLS.Cert, e.TLS.Key = nil, nil
	} else if _, err := tls.X509KeyPair(e.TLS.Cert, e.TLS.Key); err != nil {
		return Endpoint{}, used, fmt.Errorf("networking.tls.clientCert: %w", err)
	}
	return e, used, nil
}

// read loads a data source, and returns the secret if it is one.
func (m *mesh) read(source *meshv1.DataSource, to *[]byte) (*resource.Object, error) {
	switch t := source.GetType().(type) {
	case nil:
		return nil, nil
	case *meshv1.DataSource_Inline:
		*to = t.Inline.GetValue()
		return nil, nil
	case *meshv1.DataSource_InlineString:
		*to = []byte(t.InlineString)
		return nil, nil
	case *meshv1.DataSource_Secret:
		// Who may write an external service, and is a proxy too, must not come by the keys of the mesh.
		var of *meshv1.Mesh
		if m.current != nil {
			of = m.current.Spec
		}
		if resource.KeepsKey(m.name, of, t.Secret) {
			return nil, fmt.Errorf("secret %q holds a key of the mesh's own, which no proxy is given", t.Secret)
		}
		o, ok := m.secrets[t.Secret]
		if !ok {
			return nil, fmt.Errorf("there is no secret %q in this mesh", t.Secret)
		}
		spec, err := resource.Decode[systemv1.Secret](o)
		if err != nil {
			return o, err
		}
		*to = spec.GetData().GetValue()
		return o, nil
	default:
		return nil, errors.New("files are not read: give the bytes inline, or name a secret")
	}
}
