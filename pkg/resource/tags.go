package resource

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Well-known tags.
const (
	TagService  = "kuma.io/service"
	TagProtocol = "kuma.io/protocol"
	TagZone     = "kuma.io/zone"
	TagRegion   = "kuma.io/region"
	TagSubZone  = "kuma.io/sub-zone"
	TagInstance = "kuma.io/instance"
	// TagExternalServiceName tells apart the external services of one service; the control plane adds it.
	TagExternalServiceName = "kuma.io/external-service-name"
)

// isTags says whether a map of the schema holds tags or a selector of tags.
func isTags(fd protoreflect.FieldDescriptor) bool {
	if fd.MapValue().Kind() != protoreflect.StringKind {
		return false
	}
	switch fd.Name() {
	case "tags", "match", "destination":
		return true
	}
	return false
}

// WellKnownTag gives the present name of a tag that older documents write without its prefix.
func WellKnownTag(name string) string {
	switch name {
	case "service":
		return TagService
	case "protocol":
		return TagProtocol
	case "zone":
		return TagZone
	}
	return name
}

// SetZoneTag writes the zone's name into the tags of every inbound and of the gateway, over whatever a user
// gave there. An empty zone changes nothing.
func SetZoneTag(dp *meshv1.Dataplane, zone string) {
	if zone == "" {
		return
	}
	set := func(tags *map[string]string) {
		if *tags == nil {
			*tags = map[string]string{}
		}
		(*tags)[TagZone] = zone
	}
	for _, in := range dp.GetNetworking().GetInbound() {
		if in != nil {
			set(&in.Tags)
		}
	}
	if g := dp.GetNetworking().GetGateway(); g != nil {
		set(&g.Tags)
	}
}

// DataplaneTags collects the tags of all inbounds and of the gateway: to each key its distinct values, sorted.
func DataplaneTags(dp *meshv1.Dataplane) map[string][]string {
	sets := map[string]map[string]bool{}
	add := func(tags map[string]string) {
		for k, v := range tags {
			if sets[k] == nil {
				sets[k] = map[string]bool{}
			}
			sets[k][v] = true
		}
	}
	for _, in := range dp.GetNetworking().GetInbound() {
		add(in.GetTags())
	}
	add(dp.GetNetworking().GetGateway().GetTags())
	all := make(map[string][]string, len(sets))
	for k, values := range sets {
		all[k] = slices.Sorted(maps.Keys(values))
	}
	return all
}
