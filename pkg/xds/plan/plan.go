// Package plan decides what one proxy does: a small model that knows no Envoy type and validates itself.
package plan

import (
	"errors"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// ErrUnknownProxy: the index has no such dataplane.
var ErrUnknownProxy = errors.New("unknown proxy")

// Source is an object that a part of a plan was made from.
type Source struct {
	Key      resource.Key
	Revision resource.Revision
}

// Proxy is the plan of one proxy.
type Proxy struct{}

// Build plans one proxy. The plan shares what is equal for many proxies (the endpoints of a service) by
// pointer, so that translation can work on it once.
func Build(ix *index.Index, proxy resource.Key) (*Proxy, error) { return nil, ErrUnknownProxy }
