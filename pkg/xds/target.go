package xds

import (
	"cmp"
	"slices"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// class is a type of Envoy resource that is served. Their order is the one in which they are sent: clusters
// before what they need and before who names them.
type class int

const (
	clusters class = iota
	endpoints
	listeners
	routes
	secrets
	classes
)

// typeURL of a class, as it stands in requests.
func (c class) typeURL() string {
	return [classes]string{
		resourcev3.ClusterType, resourcev3.EndpointType, resourcev3.ListenerType, resourcev3.RouteType, resourcev3.SecretType,
	}[c]
}

// classOf is the inverse of typeURL.
func classOf(typeURL string) (class, bool) {
	switch typeURL {
	case resourcev3.ClusterType:
		return clusters, true
	case resourcev3.EndpointType:
		return endpoints, true
	case resourcev3.ListenerType:
		return listeners, true
	case resourcev3.RouteType:
		return routes, true
	case resourcev3.SecretType:
		return secrets, true
	}
	return 0, false
}

// target is what one proxy should have. It is immutable and small: the resources themselves are shared.
type target struct {
	// all resources by class, then name; by are its parts.
	all []*envoy.Resource
	by  [classes][]*envoy.Resource
	// place of each resource of the set in all.
	place   []int32
	sources map[*envoy.Resource][]plan.Source
}

// newTarget sorts a set. Most sets have the names of the one before, in the same order.
func newTarget(set *envoy.Set, before *target) *target {
	if before != nil {
		if t := before.with(set); t != nil {
			return t
		}
	}
	t := &target{place: make([]int32, len(set.Resources)), sources: set.Sources}
	type placed struct {
		class class
		from  int32
	}
	order := make([]placed, 0, len(set.Resources))
	for i, r := range set.Resources {
		t.place[i] = -1
		if c, ok := classOf(r.TypeURL); ok {
			order = append(order, placed{c, int32(i)})
		}
	}
	slices.SortFunc(order, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(set.Resources[a.from].Name, set.Resources[b.from].Name))
	})
	t.all = make([]*envoy.Resource, len(order))
	var n [classes]int
	for i, o := range order {
		t.all[i] = set.Resources[o.from]
		t.place[o.from] = int32(i)
		n[o.class]++
	}
	from := 0
	for c := range classes {
		t.by[c] = t.all[from : from+n[c]]
		from += n[c]
	}
	return t
}

// with is a target of another set with the same names, nil where the names differ.
func (t *target) with(set *envoy.Set) *target {
	if len(set.Resources) != len(t.place) {
		return nil
	}
	to := &target{all: slices.Clone(t.all), place: t.place, sources: set.Sources}
	for i, r := range set.Resources {
		at := t.place[i]
		if at < 0 {
			return nil
		}
		if was := t.all[at]; was != r {
			if was.Name != r.Name || was.TypeURL != r.TypeURL {
				return nil
			}
			to.all[at] = r
		}
	}
	from := 0
	for c := range classes {
		to.by[c] = to.all[from : from+len(t.by[c])]
		from += len(t.by[c])
	}
	return to
}

// find returns nil where the target has no such resource.
func (t *target) find(c class, name string) *envoy.Resource {
	i, ok := slices.BinarySearchFunc(t.by[c], name, func(r *envoy.Resource, name string) int { return cmp.Compare(r.Name, name) })
	if !ok {
		return nil
	}
	return t.by[c][i]
}

// diff calls f for each resource whose content differs between two targets; a or b is nil where one has it
// not.
func (t *target) diff(to *target, f func(c class, a, b *envoy.Resource)) {
	for c := range classes {
		x, y := t.by[c], to.by[c]
		for len(x) > 0 || len(y) > 0 {
			order := 0
			switch {
			case len(x) == 0:
				order = 1
			case len(y) == 0:
				order = -1
			case x[0] != y[0]:
				order = cmp.Compare(x[0].Name, y[0].Name)
			}
			switch {
			case order < 0:
				f(c, x[0], nil)
				x = x[1:]
			case order > 0:
				f(c, nil, y[0])
				y = y[1:]
			default:
				if x[0].Version != y[0].Version {
					f(c, x[0], y[0])
				}
				x, y = x[1:], y[1:]
			}
		}
	}
}
