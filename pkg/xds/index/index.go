// Package index answers, for one version of the config log, the questions that plans ask: which policy holds,
// which endpoints a service has, which proxies a change touches.
package index

import (
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Index is kept by one goroutine. It follows the config log change by change.
type Index struct{}

// New makes an index of a whole view.
func New(zone string, v store.View) *Index { return &Index{} }

// Apply takes in a group of changes and returns the proxies (keys of kind Dataplane) whose plan may differ
// now, deleted ones included. Its cost follows the changes and the proxies that they touch.
func (ix *Index) Apply(c store.Changes) (dirty []resource.Key) { return nil }

// Proxies lists all dataplanes that are configured from here (those born in this store).
func (ix *Index) Proxies() []resource.Key { return nil }
