package index

import (
	"cmp"
	"maps"
	"slices"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Ingress is what the ingresses of this zone lead to, all of them to the same. It is immutable.
type Ingress struct {
	// Doors are sorted by mesh, service and tags.
	Doors []*Door
}

// Door leads from outside of the zone to the endpoints in it that have some tags.
type Door struct {
	Mesh, Service string
	// Tags are without the service's.
	Tags  map[string]string
	Group *Group
	// Memo is for what plans make of it.
	Memo Memo
}

// asked are the tags that routes ask for of a service, with wildcards, and how many routes do.
type asked struct {
	tags   map[string]string
	routes int
}

// splits are those of the route of that name.
func (m *mesh) splits(name string) []*meshv1.TrafficRoute_Split {
	if p := m.policies[policyRoute].byName[name]; p != nil {
		return splits(p.object)
	}
	return nil
}

// ask counts what a route asks for, once more or less. It says which services, or Wildcard, are asked for
// anything new, or for something no more.
func (m *mesh) ask(splits []*meshv1.TrafficRoute_Split, by int, toggled map[string]struct{}) {
	for _, split := range splits {
		service, ok := split.GetDestination()[TagService]
		if !ok || split.GetWeight() == 0 {
			continue
		}
		rest := maps.Clone(split.GetDestination())
		delete(rest, TagService)
		key := FormatTags(rest)
		a, ok := m.asked[service][key]
		if !ok {
			a = &asked{tags: rest}
			if m.asked[service] == nil {
				m.asked[service] = map[string]*asked{}
			}
			m.asked[service][key] = a
			toggled[service] = struct{}{}
		}
		if a.routes += by; a.routes == 0 {
			toggled[service] = struct{}{}
			if delete(m.asked[service], key); len(m.asked[service]) == 0 {
				delete(m.asked, service)
			}
		}
	}
}

// reopen has the doors of services looked at again; Wildcard: of all that are here.
func (m *mesh) reopen(w *work, toggled map[string]struct{}) {
	if _, all := toggled[Wildcard]; all {
		for _, s := range m.services {
			w.services[s] = struct{}{}
		}
		return
	}
	for name := range toggled {
		if s, ok := m.services[name]; ok {
			w.services[s] = struct{}{}
		}
	}
}

// maxWildcards bounds how many tags of one split may have any value: each of them doubles the doors.
const maxWildcards = 4

// wantedDoors are the sets of tags by which callers in other zones may ask for what is here.
func (s *service) wantedDoors() map[string]map[string]string {
	want := map[string]map[string]string{}
	for _, name := range []string{s.name, Wildcard} {
		for _, a := range s.mesh.asked[name] {
			var fixed, open []string
			for k, v := range a.tags {
				if v == Wildcard {
					open = append(open, k)
				} else {
					fixed = append(fixed, k)
				}
			}
			if len(open) > maxWildcards {
				continue
			}
			for _, o := range s.offers {
				// A caller puts its own value for a wildcard, or leaves it out: either leads to those that bear it.
				for set := range 1 << len(open) {
					tags := make(map[string]string, len(a.tags))
					for _, k := range fixed {
						tags[k] = a.tags[k]
					}
					complete := true
					for i, k := range open {
						if set&(1<<i) != 0 {
							v, ok := o.tags[k]
							complete = complete && ok
							tags[k] = v
						}
					}
					if complete && bears(o.tags, tags) {
						want[FormatTags(tags)] = tags
					}
				}
			}
		}
	}
	return want
}

// open sees to it that the service has the doors that it should have.
func (s *service) open(ix *Index, w *work) {
	var want map[string]map[string]string
	if len(ix.ingresses) > 0 && len(s.offers) > 0 && s.mesh.enforces() {
		want = s.wantedDoors()
	}
	for key := range s.doors {
		if _, ok := want[key]; !ok {
			delete(s.doors, key)
			w.doors = true
		}
	}
	for key, tags := range want {
		if _, ok := s.doors[key]; ok {
			continue
		}
		g := &Group{service: s, key: key, tags: tags, door: true}
		g.refresh(ix)
		if s.doors == nil {
			s.doors = map[string]*Door{}
		}
		s.doors[key] = &Door{Mesh: s.mesh.name, Service: s.name, Tags: tags, Group: g}
		w.doors = true
	}
}

// rebuild gives the ingresses another version of where they lead.
func (ix *Index) rebuild(w *work) {
	ix.ingress = &Ingress{}
	for _, m := range ix.meshes {
		for _, s := range m.services {
			ix.ingress.Doors = slices.AppendSeq(ix.ingress.Doors, maps.Values(s.doors))
		}
	}
	slices.SortFunc(ix.ingress.Doors, func(a, b *Door) int {
		return cmp.Or(cmp.Compare(a.Mesh, b.Mesh), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Group.key, b.Group.key))
	})
	for p := range ix.ingresses {
		ix.renew(w, p)
	}
}

// entrance notes whether a proxy is an ingress. With the first one all doors are made, with the last they go.
func (ix *Index) entrance(w *work, p *proxy, is bool) {
	if _, was := ix.ingresses[p]; was == is {
		return
	}
	before := len(ix.ingresses) > 0
	if is {
		ix.ingresses[p] = struct{}{}
	} else {
		delete(ix.ingresses, p)
	}
	w.doors = true
	if before == (len(ix.ingresses) > 0) {
		return
	}
	for _, m := range ix.meshes {
		m.reopen(w, map[string]struct{}{Wildcard: {}})
	}
}
