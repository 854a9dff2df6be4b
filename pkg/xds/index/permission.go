package index

import (
	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// receiver is what inbounds with the same tags have in common: the policy that holds for them. Only the
// destinations of such a policy take part in the choice, its sources say what it does.
type receiver struct {
	mesh *mesh
	key  string
	tags []map[string]string
	// permission is nil where none holds.
	permission *resource.Object
	// users counts the inbounds of each proxy that have these tags.
	users map[*proxy]int
}

// Permission is the TrafficPermission that holds for the proxy's inbound of that number, the only one that
// does; nil: none.
func (p *Proxy) Permission(inbound int) *resource.Object { return p.receivers[inbound].permission }

// receive finds or makes the receivers of a dataplane's inbounds.
func (m *mesh) receive(w *work, p *proxy, spec *meshv1.Dataplane) []*receiver {
	inbounds := spec.GetNetworking().GetInbound()
	out := make([]*receiver, len(inbounds))
	for i, in := range inbounds {
		key := FormatTags(in.GetTags())
		r, ok := m.receivers[key]
		if !ok {
			r = &receiver{mesh: m, key: key, tags: []map[string]string{in.GetTags()}, users: map[*proxy]int{}}
			m.receivers[key] = r
			add(m.receiversOf, in.GetTags()[TagService], r)
			r.choose()
			// What else the same group of changes brings may be a better choice.
			w.receivers[r] = struct{}{}
		}
		r.users[p]++
		out[i] = r
	}
	return out
}

// drop counts one inbound of a proxy less; without any the receiver goes.
func (r *receiver) drop(p *proxy) {
	if r.users[p]--; r.users[p] == 0 {
		delete(r.users, p)
	}
	if len(r.users) == 0 {
		delete(r.mesh.receivers, r.key)
		remove(r.mesh.receiversOf, r.tags[0][TagService], r)
	}
}

// choose picks the policy anew and says whether it is another now.
func (r *receiver) choose() bool {
	was := r.permission
	r.permission = r.mesh.permissions.chooseFor(r.tags)
	return r.permission != was
}

// chooseFor finds the policy that holds for inbounds with the given tags, whoever calls; nil: none.
func (ps *policies) chooseFor(to []map[string]string) *resource.Object {
	var (
		top  *policy
		high rank
	)
	for _, service := range []string{to[0][TagService], Wildcard} {
		for p := range ps.byPair[pair{Wildcard, service}] {
			r, ok := best(p.destinations, to)
			if !ok || p == top {
				continue
			}
			if c := r.compare(high); top == nil || c > 0 || c == 0 && p.before(top) {
				top, high = p, r
			}
		}
	}
	if top == nil {
		return nil
	}
	return top.object
}

// takePermission notes a permission as it is now and has the choice made again for the inbounds where it may
// hold or did.
func (m *mesh) takePermission(w *work, k resource.Key, o *resource.Object) {
	var next *policy
	if o != nil {
		if was := m.permissions.byName[k.Name]; was != nil && sameSpec(was.object, o) {
			return
		}
		if spec, err := resource.Decode[meshv1.TrafficPermission](o); err == nil {
			next = newPolicy(o, nil, spec.GetDestinations())
			next.fromServices = []string{Wildcard}
		}
	}
	for _, p := range []*policy{m.permissions.put(k.Name, next), next} {
		if p == nil {
			continue
		}
		for _, to := range p.toServices {
			if to == Wildcard {
				for _, r := range m.receivers {
					w.receivers[r] = struct{}{}
				}
				break
			}
			addAll(w.receivers, m.receiversOf[to])
		}
	}
}

// enforces says whether permissions hold: with mTLS only, for else callers can't be told apart.
func (m *mesh) enforces() bool {
	return m.current != nil && m.current.Spec.GetMtls().GetEnabledBackend() != ""
}
