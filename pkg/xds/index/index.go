// Package index answers, for one version of the config log, the questions that plans ask: which policy holds,
// which endpoints a service has, which proxies a change touches.
//
// What equal proxies have in common is kept once. Proxies with the same tags on their inbounds are one
// identity, for policies can't tell them apart; a Destination is what an outbound means to an identity, and
// all its proxies share it. Two sets lead back from a change to proxies: a service knows the destinations that
// lead to it, and a destination its proxies. So a change costs what it touches, however large the mesh is.
package index

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Index is kept by one goroutine, in which plans are built too. It follows the config log change by change.
type Index struct {
	zone   string
	meshes map[string]*mesh
	hosts  map[string]*host
	// zones are the others.
	zones map[string]*otherZone
	// ingresses are those of this zone; ingress is where they lead.
	ingresses map[*proxy]struct{}
	ingress   *Ingress
	// names are the sorted keys of hosts; nil: to be put together again.
	names []string
}

// mesh holds all that the index knows of one mesh.
type mesh struct {
	name       string
	current    *Mesh
	proxies    map[string]*proxy
	identities map[string]*identity
	// bearers are the identities that bear a service's name.
	bearers   map[string]map[*identity]struct{}
	services  map[string]*service
	externals map[string]*external
	secrets   map[string]*resource.Object
	// unvouched: the mesh, or a secret that its authority lies in, has changed.
	unvouched bool
	// secretUsers are the external services that name a secret, present or not.
	secretUsers map[string]map[*external]struct{}
	// remotes are what other zones have, by the names of their objects.
	remotes map[string]*remote
	// asked are the tags that routes lead to, by service and text.
	asked    map[string]map[string]*asked
	policies [policyKinds]policies
	// permissions are chosen for each inbound: receivers by tags, and those of a service.
	permissions policies
	receivers   map[string]*receiver
	receiversOf map[string]map[*receiver]struct{}
}

// host is a DNS name that dataplanes, or ingresses of other zones, have as their address.
type host struct {
	answer    []netip.Addr
	users     map[*proxy]struct{}
	entrances map[*entrance]struct{}
}

// work is what a group of changes leaves to be done when all of them have been taken in.
type work struct {
	meshes       map[*mesh]struct{}
	services     map[*service]struct{}
	destinations map[*destination]struct{}
	receivers    map[*receiver]struct{}
	dirty        map[resource.Key]struct{}
	// hosts that may not be wanted any more.
	hosts map[string]struct{}
	// doors: the ingresses lead elsewhere now.
	doors bool
}

func newWork() *work {
	return &work{
		meshes: map[*mesh]struct{}{}, services: map[*service]struct{}{}, hosts: map[string]struct{}{},
		destinations: map[*destination]struct{}{}, receivers: map[*receiver]struct{}{}, dirty: map[resource.Key]struct{}{},
	}
}

// Mesh is one version of a mesh. It is immutable.
type Mesh struct {
	Object *resource.Object
	Spec   *meshv1.Mesh
	// Authority is nil where mTLS is off.
	Authority *Authority
}

// New makes an index of a whole view, for the proxies of the named zone. Host names start without an answer.
func New(zone string, v store.View) *Index {
	ix := &Index{zone: zone, meshes: map[string]*mesh{}, hosts: map[string]*host{}, zones: map[string]*otherZone{}, ingresses: map[*proxy]struct{}{}, ingress: &Ingress{}}
	w := newWork()
	for _, kind := range []resource.Kind{
		resource.KindMesh, resource.KindDataplane, resource.KindExternalService, resource.KindSecret,
		resource.KindTrafficRoute, resource.KindTimeout, resource.KindRetry, resource.KindTrafficPermission,
		resource.KindZone, resource.KindZoneIngress, resource.KindZoneService,
	} {
		for o := range v.Scan(store.OfKind(kind)) {
			ix.take(w, o.Key, o)
		}
	}
	ix.settle(w)
	return ix
}

// Apply takes in a group of changes and returns the proxies (keys of kind Dataplane) whose plan may differ
// now, deleted ones included, sorted. Its cost follows the changes and the proxies that they touch.
func (ix *Index) Apply(c store.Changes) (dirty []resource.Key) {
	w := newWork()
	for _, item := range c.Items {
		ix.take(w, item.Key, item.Object)
	}
	return ix.settle(w)
}

// Proxies lists all dataplanes that are configured from here (those born in this store), sorted.
func (ix *Index) Proxies() []resource.Key {
	var keys []resource.Key
	for _, m := range ix.meshes {
		for _, p := range m.proxies {
			keys = append(keys, p.current.Key)
		}
	}
	slices.SortFunc(keys, resource.Key.Compare)
	return keys
}

// Proxy finds a data plane proxy that is configured from here.
func (ix *Index) Proxy(k resource.Key) (*Proxy, bool) {
	if k.Kind != resource.KindDataplane {
		return nil, false
	}
	m, ok := ix.meshes[k.Scope]
	if !ok {
		return nil, false
	}
	p, ok := m.proxies[k.Name]
	if !ok {
		return nil, false
	}
	return p.current, true
}

// Hosts lists the DNS names whose addresses the index wants to be told, sorted. The slice is not to be changed;
// it is the same one as long as the names are the same.
func (ix *Index) Hosts() []string {
	if ix.names == nil {
		ix.names = slices.AppendSeq(make([]string, 0, len(ix.hosts)), maps.Keys(ix.hosts))
		slices.Sort(ix.names)
	}
	return ix.names
}

// Resolved takes in what DNS names stand for and returns the proxies whose plan may differ now, sorted. Names
// that are not wanted are passed over. An empty answer takes none away: the last good one is kept.
func (ix *Index) Resolved(answers map[string][]netip.Addr) (dirty []resource.Key) {
	w := newWork()
	for name, addrs := range answers {
		h, ok := ix.hosts[name]
		if !ok || len(addrs) == 0 {
			continue
		}
		addrs = slices.Clone(addrs)
		for i := range addrs {
			addrs[i] = addrs[i].Unmap().WithZone("")
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		addrs = slices.Compact(addrs)
		if slices.Equal(addrs, h.answer) {
			continue
		}
		h.answer = addrs
		for p := range h.users {
			ix.renew(w, p)
			p.withdraw(w)
			p.offer(ix, w)
		}
		for e := range h.entrances {
			e.zone.changed(w)
		}
	}
	return ix.settle(w)
}

// mesh finds or makes the entry of a mesh, and has it looked at when all changes are in: one that holds
// nothing goes again.
func (ix *Index) mesh(w *work, name string) *mesh {
	m, ok := ix.meshes[name]
	if !ok {
		m = &mesh{
			name: name, proxies: map[string]*proxy{}, identities: map[string]*identity{},
			bearers: map[string]map[*identity]struct{}{}, services: map[string]*service{},
			externals: map[string]*external{}, secrets: map[string]*resource.Object{},
			secretUsers: map[string]map[*external]struct{}{}, permissions: newPolicies(),
			receivers: map[string]*receiver{}, receiversOf: map[string]map[*receiver]struct{}{},
			remotes: map[string]*remote{}, asked: map[string]map[string]*asked{},
		}
		for i := range m.policies {
			m.policies[i] = newPolicies()
		}
		ix.meshes[name] = m
	}
	w.meshes[m] = struct{}{}
	return m
}

// take notes one object as it is now; nil: it is gone.
func (ix *Index) take(w *work, k resource.Key, o *resource.Object) {
	switch k.Kind {
	case resource.KindMesh:
		ix.takeMesh(w, ix.mesh(w, k.Name), o)
	case resource.KindDataplane:
		if o != nil && o.Origin != resource.Local {
			o = nil
		}
		ix.takeDataplane(w, ix.mesh(w, k.Scope), k, o)
	case resource.KindExternalService:
		ix.mesh(w, k.Scope).takeExternal(w, k, o)
	case resource.KindSecret:
		ix.mesh(w, k.Scope).takeSecret(w, k, o)
	case resource.KindTrafficRoute:
		m, toggled := ix.mesh(w, k.Scope), map[string]struct{}{}
		was := m.splits(k.Name)
		takePolicy[meshv1.TrafficRoute](w, m, policyRoute, k, o)
		m.ask(m.splits(k.Name), 1, toggled)
		m.ask(was, -1, toggled)
		m.reopen(w, toggled)
	case resource.KindTimeout:
		takePolicy[meshv1.Timeout](w, ix.mesh(w, k.Scope), policyTimeout, k, o)
	case resource.KindRetry:
		takePolicy[meshv1.Retry](w, ix.mesh(w, k.Scope), policyRetry, k, o)
	case resource.KindTrafficPermission:
		ix.mesh(w, k.Scope).takePermission(w, k, o)
	case resource.KindZone:
		ix.takeZone(w, k, o)
	case resource.KindZoneIngress:
		ix.takeZoneIngress(w, k, o)
	case resource.KindZoneService:
		ix.takeZoneService(w, k, o)
	}
}

func (ix *Index) takeMesh(w *work, m *mesh, o *resource.Object) {
	var next *Mesh
	if o != nil {
		if spec, err := resource.Decode[meshv1.Mesh](o); err == nil {
			next = &Mesh{Object: o, Spec: spec}
		}
	}
	if (next == nil) == (m.current == nil) && (next == nil || sameSpec(next.Object, m.current.Object)) {
		return
	}
	enforced, preferred := m.enforces(), m.prefersLocal()
	if next != nil && m.current != nil {
		next.Authority = m.current.Authority
	}
	m.current, m.unvouched = next, true
	for _, p := range m.proxies {
		ix.renew(w, p)
	}
	// The mesh says which secrets external services may not use.
	for _, users := range m.secretUsers {
		for x := range users {
			w.services[x.service] = struct{}{}
		}
	}
	if m.enforces() != enforced {
		for _, id := range m.identities {
			id.reach(w)
		}
		m.reopen(w, map[string]struct{}{Wildcard: {}})
	}
	if m.prefersLocal() != preferred {
		m.spread(w)
	}
}

// settle brings everything derived in line with what was taken in. The order matters: services first, since
// the choice of policies asks for their protocols; what a choice then adds are only services that nobody offers.
func (ix *Index) settle(w *work) []resource.Key {
	for m := range w.meshes {
		if m.unvouched && m.vouch() {
			for _, p := range m.proxies {
				ix.renew(w, p)
			}
		}
	}
	for s := range w.services {
		was := s.current
		s.refresh()
		if s.current != was {
			addAll(w.destinations, s.askedBy)
		}
		s.open(ix, w)
		for _, d := range s.doors {
			if d.Group.refresh(ix) {
				for p := range ix.ingresses {
					w.dirty[p.current.Key] = struct{}{}
				}
			}
		}
		for _, g := range s.groups {
			changed := g.refresh(ix)
			for v := range g.users {
				for d := range v.users {
					if changed {
						w.touch(d)
					}
					if s.current != was {
						w.destinations[d] = struct{}{}
					}
				}
			}
		}
	}
	for d := range w.destinations {
		if d.users != nil && d.choose(ix, w) {
			w.touch(d)
		}
	}
	for r := range w.receivers {
		// Without mTLS nobody asks; a mesh that changes renews its proxies in any case.
		if r.choose() && r.mesh.enforces() {
			for p := range r.users {
				ix.renew(w, p)
			}
		}
	}
	for s := range w.services {
		s.release()
	}
	if w.doors {
		ix.rebuild(w)
	}
	for m := range w.meshes {
		if m.idle() {
			delete(ix.meshes, m.name)
		}
	}
	for name := range w.hosts {
		if len(ix.hosts[name].users)+len(ix.hosts[name].entrances) == 0 {
			delete(ix.hosts, name)
			ix.names = nil
		}
	}
	return slices.SortedFunc(maps.Keys(w.dirty), resource.Key.Compare)
}

// touch makes all proxies of a destination dirty.
func (w *work) touch(d *destination) {
	for p := range d.users {
		w.dirty[p.current.Key] = struct{}{}
	}
}

// idle says whether nothing of the mesh is left.
func (m *mesh) idle() bool {
	if m.current != nil || len(m.proxies)+len(m.services)+len(m.externals)+len(m.secrets)+len(m.remotes) > 0 {
		return false
	}
	for i := range m.policies {
		if len(m.policies[i].byName) > 0 {
			return false
		}
	}
	return len(m.permissions.byName) == 0
}

// sameSpec says whether two versions of an object mean the same to plans. A write that changed no byte keeps
// the revision of its spec; the time of creation breaks ties between policies.
func sameSpec(a, b *resource.Object) bool {
	return a == b || a != nil && b != nil && a.SpecRevision == b.SpecRevision && a.Created.Equal(b.Created)
}

func addAll[K comparable](to, from map[K]struct{}) {
	for k := range from {
		to[k] = struct{}{}
	}
}

// add puts an element into the set of a key, which is made where there is none.
func add[K comparable, E comparable](sets map[K]map[E]struct{}, k K, e E) {
	set, ok := sets[k]
	if !ok {
		set = map[E]struct{}{}
		sets[k] = set
	}
	set[e] = struct{}{}
}

// remove takes an element out of the set of a key; an empty set goes.
func remove[K comparable, E comparable](sets map[K]map[E]struct{}, k K, e E) {
	delete(sets[k], e)
	if len(sets[k]) == 0 {
		delete(sets, k)
	}
}
