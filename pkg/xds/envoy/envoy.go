// Package envoy translates plans to Envoy's resources.
package envoy

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"weak"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// The types of the resources of a Set.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
)

// Resource is one Envoy resource: immutable, validated (ValidateAll) and marshalled once, interned by content
// and shared by all proxies that use it. Two Resources of one Translator with the same type, name and content
// are the same pointer.
type Resource struct {
	TypeURL string
	Name    string
	// Version is a hash of the content.
	Version string
	// Wire is what is sent; shared, not to be changed.
	Wire *discoveryv3.Resource
	// Refs names the resources that this one needs: an EDS cluster its endpoints, a listener its route
	// configuration and clusters, a route configuration its clusters.
	Refs []Ref
}

// Ref names a resource.
type Ref struct{ TypeURL, Name string }

// Set is the whole configuration of one proxy. It is immutable.
type Set struct {
	// Resources in a fixed order: clusters, endpoints, listeners, routes, secrets, each sorted by name, no two with the
	// same type and name.
	Resources []*Resource
	// Origin finds the sources of a resource, which are not its own, since equal content can come from different
	// objects. They are seldom asked for. It knows those of what is invalid too.
	Origin Origin
	// Identity is what the proxy has to prove; nil: nothing. The secret for it is not among the resources.
	Identity *plan.Identity
	// Invalid are the resources that would not pass Envoy's own validation: they are left out.
	Invalid []Invalid
	// Withheld names what is left out of a mended set, as it is invalid, or leads to what is withheld, and no good
	// version of it is known. The proxy may still have one.
	Withheld map[Ref]struct{}
}

// Invalid is a resource that would not pass Envoy's own validation.
type Invalid struct {
	Ref Ref
	// Err is what the validation said.
	Err error
}

// Origin finds the sources of the resources of one proxy: those of its plan.
type Origin interface {
	Sources(Ref) []plan.Source
}

// origin is a plan, which has the sources at hand with its parts.
type origin plan.Proxy

// Sources implements Origin.
func (o *origin) Sources(r Ref) []plan.Source {
	switch r.TypeURL {
	case ClusterType:
		for _, c := range o.Clusters {
			switch {
			case c.Name != r.Name:
			case c.TLS != nil && o.Identity != nil:
				return slices.Concat(c.Sources, o.Identity.Sources[:1]) // the mesh, which asks for TLS
			default:
				return c.Sources
			}
		}
	case EndpointType:
		for _, e := range o.Endpoints {
			if e.Cluster == r.Name {
				return e.Sources
			}
		}
	case ListenerType:
		for _, l := range o.Inbounds {
			if l.Name == r.Name {
				return l.Sources
			}
		}
		if l := o.Ingress; l != nil && l.Name == r.Name {
			return l.Sources
		}
		for _, l := range o.Outbounds {
			if l.Name == r.Name {
				return slices.Concat(o.Frame.Sources, l.Sources)
			}
		}
		for _, l := range o.Forwarders {
			if l.Name == r.Name {
				return l.Sources
			}
		}
	case RouteType:
		for _, x := range o.Routes {
			if x.Name == r.Name {
				return x.Sources
			}
		}
	case SecretType:
		if o.Identity != nil {
			return o.Identity.Sources
		}
	}
	return nil
}

// Translator turns plans into resources and remembers what it made. A part of a plan remembers its resource;
// equal content that comes from different parts is found by its hash, for as long as anybody uses it. So
// memory follows what is in use, and a part that many proxies share is translated once.
//
// It is safe for concurrent use.
type Translator struct {
	mu       sync.Mutex
	interned map[identity]weak.Pointer[Resource]
}

// identity is the type, name and content of a resource.
type identity struct {
	typeURL, name string
	content       [sha256.Size]byte
}

// NewTranslator makes an empty one.
func NewTranslator() *Translator {
	return &Translator{interned: map[identity]weak.Pointer[Resource]{}}
}

// Translate gives the resources of a plan. One that would not pass Envoy's own validation is left out and named in
// Invalid; it costs the others nothing. The same plan gives the same set, and one that has only other endpoints
// costs what differs.
func (t *Translator) Translate(p *plan.Proxy) *Set {
	last, ok := p.Memo.Load().(*translated)
	if ok && last.by == t && slices.Equal(last.endpoints, p.Endpoints) {
		return last.set
	}
	var next *translated
	if ok && last.by == t && len(last.endpoints) == len(p.Endpoints) {
		next = last.with(p)
	}
	if next == nil {
		next = t.whole(p)
	}
	p.Memo.Store(next)
	return next.set
}

// translated is what the frame of a plan remembers: its last set. The endpoints' resources follow the clusters'.
type translated struct {
	by        *Translator
	clusters  int
	endpoints []*plan.Endpoints
	set       *Set
}

// whole translates a plan from its parts.
func (t *Translator) whole(p *plan.Proxy) *translated {
	n := len(p.Clusters) + len(p.Endpoints) + len(p.Inbounds) + len(p.Outbounds) + len(p.Forwarders) + len(p.Routes)
	b := setBuilder{t: t, set: &Set{Resources: make([]*Resource, 0, n), Origin: (*origin)(p)}}
	for _, c := range p.Clusters {
		add(&b, Ref{ClusterType, c.Name}, c, &c.Memo, cluster)
	}
	b.sort()
	for _, e := range p.Endpoints {
		add(&b, Ref{EndpointType, e.Cluster}, e, &e.Memo, loadAssignment)
	}
	b.sorted = len(b.set.Resources)
	for _, l := range p.Inbounds {
		add(&b, Ref{ListenerType, l.Name}, l, &l.Memo, inbound)
	}
	if l := p.Ingress; l != nil {
		add(&b, Ref{ListenerType, l.Name}, l, &l.Memo, ingress)
	}
	for _, l := range p.Outbounds {
		add(&b, Ref{ListenerType, l.Name}, l, &l.Memo, outbound)
	}
	for _, l := range p.Forwarders {
		add(&b, Ref{ListenerType, l.Name}, l, &l.Memo, forwarder)
	}
	b.sort()
	for _, r := range p.Routes {
		add(&b, Ref{RouteType, r.Name}, r, &r.Memo, routeConfiguration)
	}
	b.sort()
	if id := p.Identity; id != nil {
		b.set.Identity = id
		if id.Authority.Usable() {
			add(&b, Ref{SecretType, MeshCA}, id, &id.Authority.Memo, meshCA)
		}
	}
	return &translated{by: t, clusters: len(p.Clusters), endpoints: p.Endpoints, set: b.set}
}

// with is the same with the endpoints of another plan, of the same clusters; nil where something is left out, so
// that places have moved.
func (last *translated) with(p *plan.Proxy) *translated {
	if len(last.set.Invalid) > 0 {
		return nil
	}
	set := &Set{Resources: slices.Clone(last.set.Resources), Origin: (*origin)(p), Identity: p.Identity}
	for i, e := range p.Endpoints {
		if e == last.endpoints[i] {
			continue
		}
		r, err := resourceOf(last.by, Ref{EndpointType, e.Cluster}, e, &e.Memo, loadAssignment)
		if err != nil {
			return nil
		}
		set.Resources[last.clusters+i] = r
	}
	return &translated{by: last.by, clusters: last.clusters, endpoints: p.Endpoints, set: set}
}

// message is any of the resources' types.
type message interface {
	proto.Message
	ValidateAll() error
}

// made is what a part of a plan remembers.
type made struct {
	by       *Translator
	resource *Resource
	err      error
}

// setBuilder collects the resources of a plan.
type setBuilder struct {
	t   *Translator
	set *Set
	// sorted is the number of resources that are in order.
	sorted int
}

// sort brings the resources of a type, which are the newest, into the order of their names.
func (b *setBuilder) sort() {
	slices.SortFunc(b.set.Resources[b.sorted:], func(x, y *Resource) int { return cmp.Compare(x.Name, y.Name) })
	b.sorted = len(b.set.Resources)
}

// add puts the resource of a part into the set, or names it as invalid.
func add[P any](b *setBuilder, ref Ref, part P, memo *index.Memo, make func(P) (message, []Ref, error)) {
	r, err := resourceOf(b.t, ref, part, memo, make)
	if err != nil {
		b.set.Invalid = append(b.set.Invalid, Invalid{Ref: ref, Err: err})
		return
	}
	b.set.Resources = append(b.set.Resources, r)
}

// resourceOf returns the resource of a part, or what is wrong with it, making it if the part does not remember it.
func resourceOf[P any](t *Translator, ref Ref, part P, memo *index.Memo, make func(P) (message, []Ref, error)) (*Resource, error) {
	if m, ok := memo.Load().(*made); ok && m.by == t {
		return m.resource, m.err
	}
	msg, refs, err := make(part)
	if err == nil {
		err = msg.ValidateAll()
	}
	var r *Resource
	if err == nil {
		r, err = t.intern(ref, msg, refs)
	}
	memo.Store(&made{by: t, resource: r, err: err})
	return r, err
}

// intern finds the resource with this content, or makes it. Refs follow from the content.
func (t *Translator) intern(ref Ref, m message, refs []Ref) (*Resource, error) {
	typeURL, name := ref.TypeURL, ref.Name
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshal: %w", err)
	}
	id := identity{typeURL: typeURL, name: name, content: sha256.Sum256(content)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.interned[id].Value(); r != nil {
		return r, nil
	}
	version := base64.RawURLEncoding.EncodeToString(id.content[:16])
	r := &Resource{
		TypeURL: typeURL, Name: name, Version: version, Refs: refs,
		Wire: &discoveryv3.Resource{Name: name, Version: version, Resource: &anypb.Any{TypeUrl: typeURL, Value: content}},
	}
	t.interned[id] = weak.Make(r)
	runtime.AddCleanup(r, t.forget, id)
	return r, nil
}

// forget drops a resource that nobody uses any more, if it was not made again meanwhile.
func (t *Translator) forget(id identity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.interned[id].Value() == nil {
		delete(t.interned, id)
	}
}
