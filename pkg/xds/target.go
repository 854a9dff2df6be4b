package xds

import (
	"cmp"
	"slices"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
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

// target is what one proxy should have. It is immutable and small: it is the translator's set, and the resources
// themselves are shared, but for the proxy's certificate.
type target struct {
	set *envoy.Set
	// by are the resources by class, then name: parts of the set's, which have that order.
	by [classes][]*envoy.Resource
}

// newTarget adds a proxy's certificate to a set; nil: there is none.
func newTarget(set *envoy.Set, cert *envoy.Resource) *target {
	t := &target{set: set}
	rest := set.Resources
	for c := range classes {
		n := 0
		for n < len(rest) && rest[n].TypeURL == c.typeURL() {
			n++
		}
		t.by[c], rest = rest[:n], rest[n:]
	}
	if cert != nil { // by its name it comes first
		t.by[secrets] = append([]*envoy.Resource{cert}, t.by[secrets]...)
	}
	return t
}

// find returns nil where the target has no such resource.
func (t *target) find(c class, name string) *envoy.Resource {
	i, ok := slices.BinarySearchFunc(t.by[c], name, func(r *envoy.Resource, name string) int { return cmp.Compare(r.Name, name) })
	if !ok {
		return nil
	}
	return t.by[c][i]
}

// withholds says whether the target has no version of a resource that there should be.
func (t *target) withholds(c class, name string) bool {
	_, ok := t.set.Withheld[envoy.Ref{TypeURL: c.typeURL(), Name: name}]
	return ok
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
