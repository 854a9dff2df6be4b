package index

import (
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Destination is what an outbound with some tags means to all proxies of one identity. It is immutable: when a
// choice changes there is another one. That endpoints come and go does not change it.
type Destination struct {
	// Service that the outbound names.
	Service string
	// Tags of the outbound, the service's among them.
	Tags map[string]string
	// Route, Timeout and Retry are the policies that hold; nil: none.
	Route, Timeout, Retry *resource.Object
	// Targets are where the route leads to, without those that get no traffic.
	Targets []Target
	// Memo is for what plans make of it.
	Memo Memo
}

// Target is one share of a destination's traffic.
type Target struct {
	Service *Service
	// Tags that its endpoints must have, without the service's; wildcards have been filled in or left out.
	Tags map[string]string
	// Weight relative to the sum of all, not 0.
	Weight uint32
}

// destination follows the versions of a Destination.
type destination struct {
	identity *identity
	key      string
	current  *Destination
	// service that the outbound names: its protocol takes part in the choice of policies.
	service *service
	// targets are the services to which the route leads.
	targets map[*service]struct{}
	// users counts the outbounds of each proxy that lead here; nil when it is gone.
	users map[*proxy]int
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
		d = &destination{
			identity: id, key: key, current: &Destination{Service: name, Tags: tags},
			service: id.mesh.service(w, name), users: map[*proxy]int{},
		}
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
	d.aim(w, nil)
}

// aim makes the services of a route lead back to the destination, instead of those before.
func (d *destination) aim(w *work, targets map[*service]struct{}) {
	for s := range d.targets {
		if _, stays := targets[s]; !stays {
			delete(s.targetedBy, d)
			w.services[s] = struct{}{}
		}
	}
	for s := range targets {
		s.targetedBy[d] = struct{}{}
	}
	d.targets = targets
}

// choose picks the policies anew and says whether anything is different now.
func (d *destination) choose(w *work) bool {
	m := d.identity.mesh
	tags := map[string]string{TagService: d.current.Service}
	next := &Destination{
		Service: d.current.Service, Tags: d.current.Tags,
		Route:   m.policies[policyRoute].choose(d.identity, d.current.Service, tags),
		Timeout: m.policies[policyTimeout].choose(d.identity, d.current.Service, tags),
	}
	if p := d.service.current.Protocol; p != Unknown {
		tags[TagProtocol] = string(p)
	}
	next.Retry = m.policies[policyRetry].choose(d.identity, d.current.Service, tags)
	targets := map[*service]struct{}{}
	for _, split := range splits(next.Route) {
		if split.GetWeight() == 0 {
			continue
		}
		rest := fill(split.GetDestination(), d.current.Tags)
		name, ok := rest[TagService]
		if !ok {
			continue
		}
		delete(rest, TagService)
		s := m.service(w, name)
		targets[s] = struct{}{}
		next.Targets = append(next.Targets, Target{Service: s.current, Tags: rest, Weight: split.GetWeight()})
	}
	d.aim(w, targets)
	if next.same(d.current) {
		return false
	}
	d.current = next
	return true
}

// same compares what choose decides. Equal routes have equal splits, so only the services are left to look at.
func (a *Destination) same(b *Destination) bool {
	return a.Route == b.Route && a.Timeout == b.Timeout && a.Retry == b.Retry &&
		slices.EqualFunc(a.Targets, b.Targets, func(x, y Target) bool { return x.Service == y.Service })
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
