package index

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// otherZone is what is known of another zone. It exists while anything is.
type otherZone struct {
	name string
	// enabled: there is a Zone of that name, and it is not switched off.
	enabled   bool
	ingresses map[string]*entrance
	// services counts what the zone has of each.
	services map[*service]int
}

// entrance is an ingress of another zone.
type entrance struct {
	zone   *otherZone
	object *resource.Object
	host   string
	port   uint32
}

// remote is what another zone has of a service with some tags.
type remote struct {
	zone      *otherZone
	service   *service
	object    *resource.Object
	tags      map[string]string
	protocol  Protocol
	instances uint32
}

// maxWeight bounds the weight of an endpoint: those of a cluster have to fit into 32 bits together.
const maxWeight = 1 << 20

// another finds or makes the entry of another zone, to whose objects the name belongs; nil: it is none of another.
func (ix *Index) another(k resource.Key) *otherZone {
	name, _, found := strings.Cut(k.Name, ".")
	if k.Kind == resource.KindZone {
		name, found = k.Name, true
	}
	if !found || name == ix.zone {
		return nil
	}
	z, ok := ix.zones[name]
	if !ok {
		z = &otherZone{name: name, ingresses: map[string]*entrance{}, services: map[*service]int{}}
		ix.zones[name] = z
	}
	return z
}

// leave forgets a zone of which nothing is known any more.
func (ix *Index) leave(z *otherZone) {
	if !z.enabled && len(z.ingresses)+len(z.services) == 0 {
		delete(ix.zones, z.name)
	}
}

// changed has everything looked at again that the zone offers.
func (z *otherZone) changed(w *work) {
	for s := range z.services {
		w.services[s] = struct{}{}
	}
}

func (ix *Index) takeZone(w *work, k resource.Key, o *resource.Object) {
	z := ix.another(k)
	if z == nil {
		return
	}
	enabled := false
	if o != nil {
		if spec, err := resource.Decode[systemv1.Zone](o); err == nil {
			enabled = spec.GetEnabled() == nil || spec.GetEnabled().GetValue()
		}
	}
	if z.enabled != enabled {
		z.enabled = enabled
		z.changed(w)
	}
	ix.leave(z)
}

func (ix *Index) takeZoneIngress(w *work, k resource.Key, o *resource.Object) {
	z := ix.another(k)
	if z == nil {
		return
	}
	defer ix.leave(z)
	old := z.ingresses[k.Name]
	if o != nil && old != nil && sameSpec(old.object, o) {
		return
	}
	if old != nil {
		delete(z.ingresses, k.Name)
		ix.unwanted(w, old)
		z.changed(w)
	}
	if o == nil || o.Origin == resource.Local {
		return
	}
	spec, err := resource.Decode[systemv1.ZoneIngress](o)
	if err != nil || !validPort(spec.GetPort()) {
		return
	}
	e := &entrance{zone: z, object: o, host: spec.GetAddress(), port: spec.GetPort()}
	z.ingresses[k.Name] = e
	if name := hostName(e.host); name != "" {
		ix.wanted(name).entrances[e] = struct{}{}
	}
	z.changed(w)
}

// unwanted takes an entrance off the name that it had.
func (ix *Index) unwanted(w *work, e *entrance) {
	if h, ok := ix.hosts[e.host]; ok {
		delete(h.entrances, e)
		w.hosts[e.host] = struct{}{}
	}
}

func (ix *Index) takeZoneService(w *work, k resource.Key, o *resource.Object) {
	z := ix.another(k)
	if z == nil {
		return
	}
	defer ix.leave(z)
	m := ix.mesh(w, k.Scope)
	old := m.remotes[k.Name]
	if o != nil && old != nil && sameSpec(old.object, o) {
		return
	}
	if old != nil {
		delete(m.remotes, k.Name)
		delete(old.service.remotes, k.Name)
		if z.services[old.service]--; z.services[old.service] == 0 {
			delete(z.services, old.service)
		}
		w.services[old.service] = struct{}{}
	}
	if o == nil || o.Origin == resource.Local {
		return
	}
	spec, err := resource.Decode[systemv1.ZoneService](o)
	name := spec.GetTags()[TagService]
	if err != nil || name == "" {
		return
	}
	r := &remote{
		zone: z, service: m.service(w, name), object: o, tags: spec.GetTags(),
		protocol: ParseProtocol(spec.GetTags()[TagProtocol]), instances: spec.GetInstances(),
	}
	m.remotes[k.Name], r.service.remotes[k.Name] = r, r
	z.services[r.service]++
}

// far are the endpoints with some tags in other zones: one for each address of an ingress, which weighs as much as
// the instances behind it. They are there only with mTLS, which says behind the ingress what is meant.
func (s *service) far(ix *Index, tags map[string]string, to *Endpoints) []Endpoint {
	if !s.current.Remote {
		return nil
	}
	found := map[netip.AddrPort]*Endpoint{}
	for _, r := range s.remotes {
		if !r.zone.enabled || !bears(r.tags, tags) {
			continue
		}
		reached := map[netip.AddrPort]bool{}
		for _, e := range r.zone.ingresses {
			addr := ix.address(e.host)
			if !addr.IsValid() {
				continue
			}
			to.Objects = append(to.Objects, e.object)
			at := netip.AddrPortFrom(addr, uint16(e.port))
			if reached[at] {
				continue
			}
			reached[at] = true
			f, ok := found[at]
			if !ok {
				f = &Endpoint{Host: addr.String(), Port: e.port, Zone: r.zone.name, Remote: true, Later: s.mesh.prefersLocal()}
				found[at] = f
			}
			f.Zone = min(f.Zone, r.zone.name)
			f.Weight = min(f.Weight+min(r.instances, maxWeight), maxWeight)
		}
		if len(reached) > 0 {
			to.Objects = append(to.Objects, r.object)
		}
	}
	out := make([]Endpoint, 0, len(found))
	for _, at := range slices.SortedFunc(maps.Keys(found), netip.AddrPort.Compare) {
		out = append(out, *found[at])
	}
	return out
}

// prefersLocal says whether other zones are called only when there is nobody in this one.
func (m *mesh) prefersLocal() bool {
	return m.current != nil && m.current.Spec.GetRouting().GetLocalityAwareLoadBalancing()
}

// spread has the services looked at again that are in other zones too.
func (m *mesh) spread(w *work) {
	for _, r := range m.remotes {
		w.services[r.service] = struct{}{}
	}
}
