package plan

import (
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Permission says who may call an inbound: the one TrafficPermission that holds for it.
type Permission struct {
	// Name of the TrafficPermission.
	Name string
	// Any service of the mesh may call, else only Services, which are sorted. Neither: none may.
	Any      bool
	Services []string
	Sources  []Source
}

// permit notes what holds for an inbound. Without mTLS callers can't be told apart, and no permission holds.
func (l *Inbound) permit(o *resource.Object, mesh *index.Mesh) {
	if mesh.Spec.GetMtls().GetEnabledBackend() == "" {
		return
	}
	if l.Permission = permission(o); l.Permission != nil {
		l.Sources = slices.Concat(l.Sources, l.Permission.Sources)
	}
}

// permission reads a TrafficPermission; nil where there is none. One that can't be read lets nobody in.
func permission(o *resource.Object) *Permission {
	if o == nil {
		return nil
	}
	p := &Permission{Name: o.Key.Name, Sources: sources(o)}
	spec, err := resource.Decode[meshv1.TrafficPermission](o)
	if err != nil {
		return p
	}
	for _, s := range spec.GetSources() {
		switch service := s.GetMatch()[index.TagService]; service {
		case "":
		case index.Wildcard:
			p.Any = true
		default:
			p.Services = append(p.Services, service)
		}
	}
	slices.Sort(p.Services)
	p.Services = slices.Compact(p.Services)
	if p.Any {
		p.Services = nil
	}
	return p
}
