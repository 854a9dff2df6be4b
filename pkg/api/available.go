package api

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// available puts the services together that ingresses lead to: they are not stored with the ingresses. It works
// on one view, and once for each zone.
type available struct {
	config store.View
	zones  map[resource.Origin][]*meshv1.Dataplane_Networking_Ingress_AvailableService
}

func newAvailable(config store.View) *available {
	return &available{config: config}
}

// complete returns an ingress with all that its zone has; what is no ingress as it is.
func (a *available) complete(o *resource.Object) (*resource.Object, error) {
	if o.Key.Kind != resource.KindDataplane {
		return o, nil
	}
	dp, err := resource.Decode[meshv1.Dataplane](o)
	if err != nil || dp.GetNetworking().GetIngress() == nil {
		return o, err
	}
	services, err := a.of(o.Origin)
	if err != nil {
		return nil, err
	}
	dp = proto.CloneOf(dp)
	dp.Networking.Ingress.AvailableServices = services
	spec, err := resource.Encode(dp)
	if err != nil {
		return nil, err
	}
	return &resource.Object{
		Key: o.Key, Origin: o.Origin, Revision: o.Revision, SpecRevision: o.SpecRevision,
		Created: o.Created, Modified: o.Modified, Spec: spec,
	}, nil
}

// of lists what the zone has from which an object came, sorted by mesh and canonical tags (spec 8 #23).
func (a *available) of(zone resource.Origin) ([]*meshv1.Dataplane_Networking_Ingress_AvailableService, error) {
	if known, ok := a.zones[zone]; ok {
		return known, nil
	}
	type sorted struct {
		tags    string
		service *meshv1.Dataplane_Networking_Ingress_AvailableService
	}
	var all []sorted
	for o := range a.config.Scan(store.OfKind(resource.KindZoneService)) {
		if o.Origin != zone {
			continue
		}
		s, err := resource.Decode[systemv1.ZoneService](o)
		if err != nil {
			return nil, err
		}
		all = append(all, sorted{resource.CanonicalTags(s.GetTags()), &meshv1.Dataplane_Networking_Ingress_AvailableService{
			Tags: s.GetTags(), Instances: s.GetInstances(), Mesh: o.Key.Scope,
		}})
	}
	slices.SortFunc(all, func(x, y sorted) int {
		return cmp.Or(cmp.Compare(x.service.GetMesh(), y.service.GetMesh()), cmp.Compare(x.tags, y.tags))
	})
	services := make([]*meshv1.Dataplane_Networking_Ingress_AvailableService, len(all))
	for i, s := range all {
		services[i] = s.service
	}
	if a.zones == nil {
		a.zones = map[resource.Origin][]*meshv1.Dataplane_Networking_Ingress_AvailableService{}
	}
	a.zones[zone] = services
	return services, nil
}
