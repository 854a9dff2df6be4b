package envoy

import (
	"cmp"
	"slices"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// Over mends a set of which something is invalid with the last set of the same proxy, nil if there is none:
//
//   - An invalid resource stays in its last version, with all that this one needs.
//   - Without a last version it is withheld. Who leads to what is withheld stays in its last version too, or is
//     withheld as well: a proxy must not wait for a route that doesn't come, or lead requests to a cluster that
//     there is not.
//
// All other resources are those of the set. A set of which nothing is invalid is its own mended one.
func (s *Set) Over(last *Set) *Set {
	if len(s.Invalid) == 0 {
		return s
	}
	m := mending{
		now: make(map[Ref]*Resource, len(s.Resources)), before: map[Ref]*Resource{}, last: last,
		kept: map[Ref][]plan.Source{}, withheld: map[Ref]struct{}{},
	}
	for _, r := range s.Resources {
		m.now[r.ref()] = r
	}
	if last != nil {
		for _, r := range last.Resources {
			m.before[r.ref()] = r
		}
	}
	for _, x := range s.Invalid {
		m.keep(x.Ref)
	}
	for again := len(m.withheld) > 0; again; {
		again = false
		for _, r := range s.Resources {
			ref := r.ref()
			if m.now[ref] == r && slices.ContainsFunc(r.Refs, m.lacks) {
				delete(m.now, ref)
				m.keep(ref)
				again = true
			}
		}
	}
	mended := *s
	mended.Resources, mended.Withheld = make([]*Resource, 0, len(m.now)), m.withheld
	mended.Origin = mendedOrigin{s.Origin, m.kept}
	for _, r := range m.now {
		mended.Resources = append(mended.Resources, r)
	}
	slices.SortFunc(mended.Resources, func(a, b *Resource) int {
		return cmp.Or(cmp.Compare(order(a.TypeURL), order(b.TypeURL)), cmp.Compare(a.Name, b.Name))
	})
	return &mended
}

// mending is a set that is being mended.
type mending struct {
	// now is what the mended set has, before what the last one had.
	now, before map[Ref]*Resource
	last        *Set
	// kept are the sources of what stays in its last version.
	kept     map[Ref][]plan.Source
	withheld map[Ref]struct{}
}

// keep has a resource that is not there stay in its last version, with what that needs, or withholds it.
func (m *mending) keep(ref Ref) {
	r := m.before[ref]
	if r == nil {
		m.withheld[ref] = struct{}{}
		return
	}
	m.now[ref], m.kept[ref] = r, m.last.Origin.Sources(ref)
	for _, needed := range r.Refs {
		if m.now[needed] == nil && m.before[needed] != nil {
			m.keep(needed)
		}
	}
}

func (m *mending) lacks(ref Ref) bool {
	_, ok := m.withheld[ref]
	return ok
}

// mendedOrigin knows the sources of what stayed in its last version.
type mendedOrigin struct {
	Origin
	kept map[Ref][]plan.Source
}

// Sources implements Origin.
func (o mendedOrigin) Sources(r Ref) []plan.Source {
	if s, ok := o.kept[r]; ok {
		return s
	}
	return o.Origin.Sources(r)
}

func (r *Resource) ref() Ref { return Ref{TypeURL: r.TypeURL, Name: r.Name} }

// order of a type in a set.
func order(typeURL string) int {
	return slices.Index([]string{ClusterType, EndpointType, ListenerType, RouteType, SecretType}, typeURL)
}
