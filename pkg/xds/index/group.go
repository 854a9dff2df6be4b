package index

import "slices"

// Group is what of a service's endpoints bears some tags: all of them, or those that a route asks for. All who
// are led there share it, and it is the same one as long as any of them is there.
type Group struct {
	service *service
	key     string
	tags    map[string]string
	current *Endpoints
	users   map[*variant]struct{}
	// door: those in this zone alone, to which an ingress leads.
	door bool
}

// Endpoints are those of now. They are read in the goroutine that keeps the index.
func (g *Group) Endpoints() *Endpoints { return g.current }

// group finds or makes the group of the endpoints with some tags.
func (s *service) group(ix *Index, tags map[string]string) *Group {
	key := FormatTags(tags)
	g, ok := s.groups[key]
	if !ok {
		g = &Group{service: s, key: key, tags: tags, users: map[*variant]struct{}{}}
		g.refresh(ix)
		s.groups[key] = g
	}
	return g
}

// leave takes a variant off; without any the group goes.
func (g *Group) leave(w *work, v *variant) {
	delete(g.users, v)
	if len(g.users) == 0 {
		delete(g.service.groups, g.key)
		w.services[g.service] = struct{}{}
	}
}

// refresh takes what the service offers now and says whether anything is different.
func (g *Group) refresh(ix *Index) bool {
	next := g.service.having(g.tags)
	if g.door {
		next.Mesh = g.service.mesh.name
	} else {
		g.service.reach(ix, next)
	}
	next.tidy()
	if g.current != nil && next.same(g.current) {
		return false
	}
	g.current = next
	return true
}

// having puts together the endpoints with some tags.
func (s *service) having(tags map[string]string) *Endpoints {
	e := &Endpoints{Service: s.name, Tags: tags}
	for _, o := range s.places {
		switch n := len(e.Items); {
		case !bears(o.tags, tags):
			continue
		case o.problem != "":
			e.Problems = append(e.Problems, Problem{Object: o.object, Text: o.problem})
		case o.endpoint.Host == "" || n > 0 && e.Items[n-1].compare(o.endpoint) == 0:
			// Two that claim the same address: the first by name has it.
			continue
		default:
			e.Items = append(e.Items, o.endpoint)
		}
		e.Objects = append(append(e.Objects, o.object), o.used...)
	}
	return e
}

// reach adds the endpoints in other zones. Those here weigh as much as there are ways to other zones (spec 3.5).
func (s *service) reach(ix *Index, e *Endpoints) {
	far := s.far(ix, e.Tags, e)
	if len(far) == 0 {
		return
	}
	for i := range e.Items {
		e.Items[i].Weight = uint32(len(far))
	}
	e.Items = append(e.Items, far...)
	slices.SortStableFunc(e.Items, Endpoint.compare)
	e.Items = slices.CompactFunc(e.Items, func(a, b Endpoint) bool { return a.compare(b) == 0 })
}

// bears says whether all of some tags are among those that are there. The service's need not be said.
func bears(have, want map[string]string) bool {
	for k, v := range want {
		if is, ok := have[k]; !ok || is != v {
			return false
		}
	}
	return true
}
