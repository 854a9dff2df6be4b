package plan

import (
	"slices"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// use is a cluster of the plan and the destination whose settings it has.
type use struct {
	cluster *Cluster
	service *index.Service
	by      *destination
}

// assemble puts a proxy's plan together from its own parts and those of what its outbounds lead to. A cluster
// has the settings of the outbound to its own service, or, where there is none, of the first outbound that
// leads to it.
func assemble(p *index.Proxy, own *own) *Proxy {
	n := len(own.outbounds)
	plan := &Proxy{
		Key: p.Key, Sources: own.sources, Inbounds: own.inbounds, Forwarders: own.forwarders,
		Outbounds: make([]*Outbound, 0, n), Routes: make([]*Route, 0, n), Problems: slices.Clip(own.problems),
	}
	uses := make([]use, 0, n)
	at := make(map[string]int, n)
	routes := make(map[string]struct{}, n)
	for _, l := range own.outbounds {
		of := p.Destination(l.number)
		if of == nil {
			plan.Problems = append(plan.Problems, Problem{
				Part: l.Name, Text: "left out: it names no service", Sources: own.sources,
			})
			continue
		}
		d := destinationParts(of)
		plan.Outbounds = append(plan.Outbounds, d.listener(l.Listener))
		plan.Problems = append(plan.Problems, d.problems...)
		if d.route != nil && d.protocol.IsHTTP() {
			if _, seen := routes[d.route.Name]; !seen {
				routes[d.route.Name] = struct{}{}
				plan.Routes = append(plan.Routes, d.route)
			}
		}
		for i, c := range d.clusters {
			j, seen := at[c.Name]
			if !seen {
				at[c.Name] = len(uses)
				uses = append(uses, use{cluster: c, service: d.services[i], by: d})
				continue
			}
			u := &uses[j]
			if u.by == d {
				continue
			}
			if u.by.of.Service != c.Name && d.of.Service == c.Name {
				u.cluster, u.by, c = c, d, u.cluster
			}
			if c.subsets != u.cluster.subsets {
				u.cluster = u.by.with(u.cluster, c)
			}
		}
	}
	plan.Clusters = make([]*Cluster, 0, len(own.clusters)+len(uses))
	plan.Clusters = append(plan.Clusters, own.clusters...)
	plan.Endpoints = make([]*Endpoints, 0, len(uses))
	for _, u := range uses {
		plan.Clusters = append(plan.Clusters, u.cluster)
		if u.cluster.Discovery == DiscoverMesh {
			plan.Endpoints = append(plan.Endpoints, endpointParts(u.service.Endpoints()))
		}
	}
	return plan
}
