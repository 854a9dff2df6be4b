package plan

import (
	"cmp"
	"slices"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// assembled is what a proxy's last plan was made of. While the destinations are the same, so is the frame; and
// while the endpoints are too, so is the plan.
type assembled struct {
	destinations []*index.Destination
	// groups of the plan's Endpoints, in their order.
	groups []*index.Group
	plan   *Proxy
}

// use is a cluster of the plan and the destination whose settings it has.
type use struct {
	cluster *Cluster
	group   *index.Group
	by      *destination
}

// build plans a proxy from its own parts and those of what its outbounds lead to, going on from its last plan.
func build(p *index.Proxy, own *own) *Proxy {
	last := own.last
	if last == nil || !last.holds(p, own) {
		last = assemble(p, own)
	}
	own.last = last
	if !last.current() {
		endpoints := make([]*Endpoints, len(last.groups))
		for i, g := range last.groups {
			endpoints[i] = endpointParts(g.Endpoints())
		}
		last.plan = &Proxy{Frame: last.plan.Frame, Endpoints: endpoints}
	}
	return last.plan
}

// current says whether the last plan's endpoints are those of now.
func (a *assembled) current() bool {
	if len(a.plan.Endpoints) != len(a.groups) {
		return false
	}
	for i, g := range a.groups {
		if endpointParts(g.Endpoints()) != a.plan.Endpoints[i] {
			return false
		}
	}
	return true
}

// holds says whether the proxy's outbounds lead to the same destinations as before.
func (a *assembled) holds(p *index.Proxy, own *own) bool {
	for i, l := range own.outbounds {
		if p.Destination(l.number) != a.destinations[i] {
			return false
		}
	}
	return true
}

// assemble puts together what of a plan doesn't depend on endpoints. A cluster has the settings of the outbound
// to its own service, or, where there is none, of the first outbound that leads to it.
func assemble(p *index.Proxy, own *own) *assembled {
	n := len(own.outbounds)
	frame := &Frame{
		Key: p.Key, Identity: own.identity, Sources: own.sources, Inbounds: own.inbounds, Forwarders: own.forwarders, Ingress: own.entrance,
		Outbounds: make([]*Outbound, 0, n), Routes: make([]*Route, 0, n), Problems: slices.Clip(own.problems),
	}
	a := &assembled{destinations: make([]*index.Destination, n), plan: &Proxy{Frame: frame}}
	uses := make([]use, 0, n+len(own.doors))
	for _, d := range own.doors {
		uses = append(uses, use{cluster: d.cluster, group: d.group})
	}
	at := make(map[string]int, n)
	routes := make(map[string]struct{}, n)
	for i, l := range own.outbounds {
		of := p.Destination(l.number)
		a.destinations[i] = of
		if of == nil {
			frame.Problems = append(frame.Problems, Problem{
				Part: l.Name, Text: "left out: it names no service", Sources: own.sources,
			})
			continue
		}
		d := destinationParts(of)
		frame.Outbounds = append(frame.Outbounds, d.listener(l.Listener))
		frame.Problems = append(frame.Problems, d.problems...)
		if d.route != nil && d.protocol.IsHTTP() {
			if _, seen := routes[d.route.Name]; !seen {
				routes[d.route.Name] = struct{}{}
				frame.Routes = append(frame.Routes, d.route)
			}
		}
		for i, c := range d.clusters {
			j, seen := at[c.Name]
			if !seen {
				at[c.Name] = len(uses)
				uses = append(uses, use{cluster: c, group: d.groups[i], by: d})
			} else if u := &uses[j]; u.by.of.Service != c.Service && d.of.Service == c.Service {
				u.cluster, u.by = c, d
			}
		}
	}
	slices.SortFunc(uses, func(a, b use) int { return cmp.Compare(a.cluster.Name, b.cluster.Name) })
	frame.Clusters = make([]*Cluster, 0, len(own.clusters)+len(uses))
	frame.Clusters = append(frame.Clusters, own.clusters...)
	for _, u := range uses {
		frame.Clusters = append(frame.Clusters, u.cluster)
		if u.cluster.Discovery == DiscoverMesh {
			a.groups = append(a.groups, u.group)
		}
	}
	return a
}
