package index

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	"google.golang.org/protobuf/proto"
)

// The policies that are chosen for each destination.
const (
	policyRoute = iota
	policyTimeout
	policyRetry
	policyKinds
)

// rank says how closely a selector matches: tags with an exact value and tags with any value.
type rank struct{ exact, any int }

func (r rank) plus(o rank) rank { return rank{r.exact + o.exact, r.any + o.any} }

// compare: the more tags the better, and of equally many, the more exact ones.
func (r rank) compare(o rank) int {
	return cmp.Or(cmp.Compare(r.exact+r.any, o.exact+o.any), cmp.Compare(r.exact, o.exact))
}

// policy is one version of a policy for connections from sources to destinations.
type policy struct {
	object                   *resource.Object
	sources, destinations    []map[string]string
	fromServices, toServices []string
}

// policies are all policies of one kind in one mesh.
type policies struct {
	byName map[string]*policy
	// byPair finds those that may hold between two services; Wildcard stands for any.
	byPair map[pair]map[*policy]struct{}
}

type pair struct{ from, to string }

func newPolicies() policies {
	return policies{byName: map[string]*policy{}, byPair: map[pair]map[*policy]struct{}{}}
}

// maxListed bounds the services by which a policy is listed on its source side: with many on both sides the
// pairs would outgrow the object. Beyond it, it is listed under any.
const maxListed = 16

// newPolicy is nil for what isn't there or can't be read.
func newPolicy(o *resource.Object, sources, destinations []*meshv1.Selector) *policy {
	p := &policy{object: o, sources: matches(sources), destinations: matches(destinations)}
	p.fromServices, p.toServices = services(p.sources), services(p.destinations)
	if len(p.fromServices) > maxListed {
		p.fromServices = []string{Wildcard}
	}
	return p
}

func matches(selectors []*meshv1.Selector) []map[string]string {
	out := make([]map[string]string, 0, len(selectors))
	for _, s := range selectors {
		out = append(out, s.GetMatch())
	}
	return out
}

// services lists the services that selectors name, or only Wildcard if one of them takes any.
func services(selectors []map[string]string) []string {
	set := map[string]struct{}{}
	for _, s := range selectors {
		name, ok := s[TagService]
		if !ok || name == Wildcard {
			return []string{Wildcard}
		}
		set[name] = struct{}{}
	}
	return slices.Sorted(maps.Keys(set))
}

// match ranks a selector against tags.
func match(selector, tags map[string]string) (rank, bool) {
	var r rank
	for k, want := range selector {
		switch have, ok := tags[k]; {
		case !ok:
			return rank{}, false
		case want == Wildcard:
			r.any++
		case want == have:
			r.exact++
		default:
			return rank{}, false
		}
	}
	return r, true
}

// best is the highest rank of any selector against any tags.
func best(selectors, tagSets []map[string]string) (top rank, ok bool) {
	for _, tags := range tagSets {
		for _, s := range selectors {
			if r, hit := match(s, tags); hit && (!ok || r.compare(top) > 0) {
				top, ok = r, true
			}
		}
	}
	return top, ok
}

// rank ranks the policy for connections of an identity to a destination.
func (p *policy) rank(from, to []map[string]string) (rank, bool) {
	f, ok := best(p.sources, from)
	if !ok {
		return rank{}, false
	}
	t, ok := best(p.destinations, to)
	return f.plus(t), ok
}

// before breaks a tie: the newest first, then by name.
func (p *policy) before(o *policy) bool {
	return cmp.Or(o.object.Created.Compare(p.object.Created), cmp.Compare(p.object.Key.Name, o.object.Key.Name)) < 0
}

// choose finds the policy that holds between an identity and a destination, which has the given tags; nil: none.
func (ps *policies) choose(id *identity, service string, to []map[string]string) *resource.Object {
	var (
		top  *policy
		high rank
	)
	consider := func(k pair) {
		for p := range ps.byPair[k] {
			r, ok := p.rank(id.tagSets, to)
			if !ok || p == top {
				continue
			}
			if c := r.compare(high); top == nil || c > 0 || c == 0 && p.before(top) {
				top, high = p, r
			}
		}
	}
	for _, from := range id.services {
		consider(pair{from, service})
		consider(pair{from, Wildcard})
	}
	consider(pair{Wildcard, service})
	consider(pair{Wildcard, Wildcard})
	if top == nil {
		return nil
	}
	return top.object
}

// put replaces the policy of a name, nil takes it away, and returns the one before.
func (ps *policies) put(name string, p *policy) *policy {
	old := ps.byName[name]
	if old != nil {
		old.pairs(func(k pair) { remove(ps.byPair, k, old) })
		delete(ps.byName, name)
	}
	if p != nil {
		p.pairs(func(k pair) { add(ps.byPair, k, p) })
		ps.byName[name] = p
	}
	return old
}

func (p *policy) pairs(visit func(pair)) {
	for _, from := range p.fromServices {
		for _, to := range p.toServices {
			visit(pair{from, to})
		}
	}
}

// selected is a message of a policy kind.
type selected[M any] interface {
	*M
	proto.Message
	GetSources() []*meshv1.Selector
	GetDestinations() []*meshv1.Selector
}

// takePolicy notes a policy as it is now and has the choice made again wherever it may hold or did.
func takePolicy[M any, PM selected[M]](w *work, m *mesh, kind int, k resource.Key, o *resource.Object) {
	ps := &m.policies[kind]
	var next *policy
	if o != nil {
		if was := ps.byName[k.Name]; was != nil && sameSpec(was.object, o) {
			return
		}
		if spec, err := resource.Decode[M, PM](o); err == nil {
			next = newPolicy(o, spec.GetSources(), spec.GetDestinations())
		}
	}
	for _, p := range []*policy{ps.put(k.Name, next), next} {
		if p != nil {
			m.reach(w, p)
		}
	}
}

// reach has the choice made again for every destination where the policy may hold.
func (m *mesh) reach(w *work, p *policy) {
	switch {
	case !slices.Contains(p.toServices, Wildcard):
		for _, name := range p.toServices {
			if s, ok := m.services[name]; ok {
				addAll(w.destinations, s.askedBy)
			}
		}
	case !slices.Contains(p.fromServices, Wildcard):
		for _, name := range p.fromServices {
			for id := range m.bearers[name] {
				id.reach(w)
			}
		}
	default:
		for _, id := range m.identities {
			id.reach(w)
		}
	}
}

func (id *identity) reach(w *work) {
	for _, d := range id.destinations {
		w.destinations[d] = struct{}{}
	}
}
