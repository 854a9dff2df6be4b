package index

import (
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Destination is what an outbound with some tags means to the proxies for which the same policies hold. It is
// immutable: when a choice changes they have another one. That endpoints come and go does not change it.
type Destination struct {
	// Service that the outbound names.
	Service string
	// Tags of the outbound, the service's among them.
	Tags map[string]string
	// Route, Timeout and Retry are the policies that hold; nil: none.
	Route, Timeout, Retry *resource.Object
	// Targets are where the route leads to, without those that get no traffic.
	Targets []Target
	// MTLS is the mesh if connections to its services are secured by its certificates, else empty.
	MTLS string
	// Memo is for what plans make of it.
	Memo Memo
}

// Target is one share of a destination's traffic.
type Target struct {
	Service *Service
	// Tags that its endpoints must have, without the service's; wildcards have been filled in or left out.
	Tags map[string]string
	// Group is the endpoints that have them.
	Group *Group
	// Weight relative to the sum of all, not 0.
	Weight uint32
}

// destination is what an outbound means to one identity: it follows the choice of policies.
type destination struct {
	identity *identity
	key      string
	tags     map[string]string
	// service that the outbound names: its protocol takes part in the choice.
	service *service
	// chosen is nil until the first choice, which is made with the change that brought the destination.
	chosen *variant
	// users counts the outbounds of each proxy that lead here; nil when it is gone.
	users map[*proxy]int
}

// variant is what destinations with the same tags and policies have in common, whatever their identities.
type variant struct {
	is      choice
	service *service
	current *Destination
	// targets are what the route leads to, each once.
	targets []*Group
	users   map[*destination]struct{}
}

// choice names a variant among those of its service.
type choice struct {
	tags                  string
	route, timeout, retry *resource.Object
	mtls                  bool
}

// ask finds or makes the destination for an outbound of a proxy; nil when the tags name no service.
func (id *identity) ask(w *work, tags map[string]string, p *proxy) *destination {
	name, ok := tags[TagService]
	if !ok {
		return nil
	}
	key := FormatTags(tags)
	d, ok := id.destinations[key]
	if !ok {
		d = &destination{identity: id, key: key, tags: tags, service: id.mesh.service(w, name), users: map[*proxy]int{}}
		d.service.askedBy[d] = struct{}{}
		id.destinations[key] = d
		w.destinations[d] = struct{}{}
	}
	d.users[p]++
	return d
}

// drop counts one outbound of a proxy less; without any the destination goes.
func (d *destination) drop(w *work, p *proxy) {
	if d == nil {
		return
	}
	if d.users[p]--; d.users[p] == 0 {
		delete(d.users, p)
	}
	if len(d.users) > 0 {
		return
	}
	d.users = nil
	delete(d.identity.destinations, d.key)
	delete(d.service.askedBy, d)
	w.services[d.service] = struct{}{}
	d.chosen.leave(w, d)
}

// choose picks the policies anew and says whether anything is different now.
func (d *destination) choose(ix *Index, w *work) bool {
	m, name := d.identity.mesh, d.service.name
	is := choice{
		tags:    d.key,
		route:   m.policies[policyRoute].choose(d.identity, name, d.service.tags),
		timeout: m.policies[policyTimeout].choose(d.identity, name, d.service.tags),
		retry:   m.policies[policyRetry].choose(d.identity, name, d.service.tagsAndProtocol),
		mtls:    m.enforces(),
	}
	v, ok := d.service.variants[is]
	if !ok || v.stale() {
		v = d.variant(ix, w, is)
	}
	if v == d.chosen {
		return false
	}
	v.users[d] = struct{}{}
	d.chosen.leave(w, d)
	d.chosen = v
	return true
}

// variant makes the variant of a choice.
func (d *destination) variant(ix *Index, w *work, is choice) *variant {
	v := &variant{
		is: is, service: d.service, users: map[*destination]struct{}{},
		current: &Destination{Service: d.service.name, Tags: d.tags, Route: is.route, Timeout: is.timeout, Retry: is.retry},
	}
	if is.mtls {
		v.current.MTLS = d.identity.mesh.name
	}
	for _, split := range splits(is.route) {
		if split.GetWeight() == 0 {
			continue
		}
		rest := fill(split.GetDestination(), d.tags)
		name, ok := rest[TagService]
		if !ok {
			continue
		}
		delete(rest, TagService)
		s := d.identity.mesh.service(w, name)
		g := s.group(ix, rest)
		v.current.Targets = append(v.current.Targets, Target{Service: s.current, Tags: g.tags, Group: g, Weight: split.GetWeight()})
		if _, known := g.users[v]; !known {
			g.users[v] = struct{}{}
			v.targets = append(v.targets, g)
		}
	}
	d.service.variants[is] = v
	return v
}

// stale says whether a service to which the route leads is another now.
func (v *variant) stale() bool {
	return slices.ContainsFunc(v.current.Targets, func(t Target) bool { return t.Service != t.Service.entry.current })
}

// leave takes a destination off; without any the variant goes.
func (v *variant) leave(w *work, d *destination) {
	if v == nil {
		return
	}
	if delete(v.users, d); len(v.users) > 0 {
		return
	}
	if v.service.variants[v.is] == v {
		delete(v.service.variants, v.is)
	}
	for _, g := range v.targets {
		g.leave(w, v)
	}
}

func splits(route *resource.Object) []*meshv1.TrafficRoute_Split {
	if route == nil {
		return nil
	}
	spec, err := resource.Decode[meshv1.TrafficRoute](route)
	if err != nil {
		return nil
	}
	return spec.GetConf().GetSplit()
}

// fill copies tags, wildcards replaced by the outbound's own value, or left out where it has none.
func fill(tags, own map[string]string) map[string]string {
	filled := make(map[string]string, len(tags))
	for k, v := range tags {
		if v == Wildcard {
			var ok bool
			if v, ok = own[k]; !ok {
				continue
			}
		}
		filled[k] = v
	}
	return filled
}
