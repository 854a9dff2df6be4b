package index

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Proxy is one version of one data plane proxy. It is immutable.
type Proxy struct {
	Key    resource.Key
	Object *resource.Object
	// Spec is nil when the object can't be read.
	Spec *meshv1.Dataplane
	// Mesh is nil when there is none of that name.
	Mesh *Mesh
	// Address is networking.address, or what the name there stands for; not valid while that is not known.
	Address netip.Addr
	// Ingress is where an ingress leads; nil for other proxies.
	Ingress *Ingress
	// Memo is for what plans keep of this version.
	Memo Memo

	destinations []*destination
	receivers    []*receiver
}

// Destination is what the proxy's outbound of that number leads to; nil where it names no service.
func (p *Proxy) Destination(outbound int) *Destination {
	if d := p.destinations[outbound]; d != nil {
		return d.chosen.current
	}
	return nil
}

// proxy follows the versions of a proxy.
type proxy struct {
	mesh     *mesh
	current  *Proxy
	identity *identity
	// offered are the services of the inbounds, by number; nil where one was not offered.
	offered []*service
	host    string
}

// identity is what policies can tell proxies apart by: the tags of their inbounds, or of their gateway.
type identity struct {
	mesh    *mesh
	key     string
	tagSets []map[string]string
	// services that the tags name.
	services     []string
	proxies      int
	destinations map[string]*destination
}

func (ix *Index) takeDataplane(w *work, m *mesh, k resource.Key, o *resource.Object) {
	p, known := m.proxies[k.Name]
	switch {
	case o == nil && !known:
	case o == nil:
		delete(m.proxies, k.Name)
		w.dirty[k] = struct{}{}
		ix.follow(w, p, "")
		ix.entrance(w, p, false)
		p.withdraw(w)
		p.leave(w)
	case !known:
		p = &proxy{mesh: m}
		m.proxies[k.Name] = p
		ix.replace(w, p, o)
	case p.current.Object.SpecRevision != o.SpecRevision:
		ix.replace(w, p, o)
	}
}

// replace gives a proxy another object.
func (ix *Index) replace(w *work, p *proxy, o *resource.Object) {
	spec, err := resource.Decode[meshv1.Dataplane](o)
	if err != nil {
		spec = nil
	}
	was := p.current
	p.current = &Proxy{Key: o.Key, Object: o, Spec: spec}
	ix.follow(w, p, hostName(spec.GetNetworking().GetAddress()))

	// The new identity and destinations are taken before the old ones are left: what stays the same keeps
	// what plans remember of it.
	id, old := p.mesh.join(tagSets(spec)), p.identity
	p.identity = id
	p.current.destinations = make([]*destination, len(spec.GetNetworking().GetOutbound()))
	for i, out := range spec.GetNetworking().GetOutbound() {
		p.current.destinations[i] = id.ask(w, outboundTags(out), p)
	}
	p.current.receivers = p.mesh.receive(w, p, spec)
	if was != nil {
		for _, d := range was.destinations {
			d.drop(w, p)
		}
		for _, r := range was.receivers {
			r.drop(p)
		}
		old.release()
	}
	ix.entrance(w, p, spec.GetNetworking().GetIngress() != nil)
	ix.renew(w, p)
	p.withdraw(w)
	p.offer(ix, w)
}

// renew gives a proxy a new version, of the same object, after what it sees of its surroundings changed.
func (ix *Index) renew(w *work, p *proxy) {
	c := p.current
	p.current = &Proxy{
		Key: c.Key, Object: c.Object, Spec: c.Spec, Mesh: p.mesh.current, destinations: c.destinations, receivers: c.receivers,
		Address: ix.address(c.Spec.GetNetworking().GetAddress()),
	}
	if _, is := ix.ingresses[p]; is {
		p.current.Ingress = ix.ingress
	}
	w.dirty[c.Key] = struct{}{}
}

// leave takes a proxy that is gone out of its identity and destinations.
func (p *proxy) leave(w *work) {
	for _, d := range p.current.destinations {
		d.drop(w, p)
	}
	for _, r := range p.current.receivers {
		r.drop(p)
	}
	p.identity.release()
}

// address reads an IP address, or finds what a name stands for: the first of its sorted addresses.
func (ix *Index) address(s string) netip.Addr {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone("")
	}
	if h, ok := ix.hosts[s]; ok && len(h.answer) > 0 {
		return h.answer[0]
	}
	return netip.Addr{}
}

// hostName is s if it is to be resolved, else empty.
func hostName(s string) string {
	if _, err := netip.ParseAddr(s); err == nil || len(s) > 253 || strings.ContainsAny(s, " /:%") {
		return ""
	}
	return s
}

// follow has the addresses of a name wanted for a proxy, instead of the name before. A name that nobody wants
// goes when all changes are in: an answer must not get lost on the way from one proxy to another.
func (ix *Index) follow(w *work, p *proxy, name string) {
	if p.host == name {
		return
	}
	if h, ok := ix.hosts[p.host]; ok {
		delete(h.users, p)
		w.hosts[p.host] = struct{}{}
	}
	if p.host = name; name == "" {
		return
	}
	ix.wanted(name).users[p] = struct{}{}
}

// wanted finds or makes the entry of a name.
func (ix *Index) wanted(name string) *host {
	h, ok := ix.hosts[name]
	if !ok {
		h = &host{users: map[*proxy]struct{}{}, entrances: map[*entrance]struct{}{}}
		ix.hosts[name] = h
		ix.names = nil
	}
	return h
}

// tagSets are the tags by which a dataplane is known to policies.
func tagSets(spec *meshv1.Dataplane) []map[string]string {
	n := spec.GetNetworking()
	if n.GetGateway() != nil {
		return []map[string]string{n.GetGateway().GetTags()}
	}
	sets := make([]map[string]string, len(n.GetInbound()))
	for i, in := range n.GetInbound() {
		sets[i] = in.GetTags()
	}
	return sets
}

// outboundTags are the tags of an outbound, also of one that names its service in the older way.
func outboundTags(out *meshv1.Dataplane_Networking_Outbound) map[string]string {
	if len(out.GetTags()) == 0 && out.GetService() != "" {
		return map[string]string{TagService: out.GetService()}
	}
	return out.GetTags()
}

// join finds or makes the identity of proxies with these tags and counts one more of them.
func (m *mesh) join(sets []map[string]string) *identity {
	texts := make([]string, len(sets))
	for i, tags := range sets {
		texts[i] = FormatTags(tags)
	}
	slices.Sort(texts)
	key := strings.Join(slices.Compact(texts), ";")
	id, ok := m.identities[key]
	if !ok {
		id = &identity{mesh: m, key: key, tagSets: sets, destinations: map[string]*destination{}}
		for _, tags := range sets {
			if s, named := tags[TagService]; named && !slices.Contains(id.services, s) {
				id.services = append(id.services, s)
				add(m.bearers, s, id)
			}
		}
		m.identities[key] = id
	}
	id.proxies++
	return id
}

// release counts one proxy less; without any the identity goes.
func (id *identity) release() {
	if id.proxies--; id.proxies > 0 {
		return
	}
	delete(id.mesh.identities, id.key)
	for _, s := range id.services {
		remove(id.mesh.bearers, s, id)
	}
}
