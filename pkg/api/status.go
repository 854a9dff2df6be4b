package api

import (
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// parseStatus says whether a resource is asked for with its status.
func parseStatus(given string) (bool, error) {
	switch strings.ToLower(given) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalid(titleGet, "Invalid request", resource.Violations{{Field: "status", Message: "shall be a boolean"}})
}

// status says what became of an object: whether it is live, and who refuses it.
func (x *observations) status(d *resource.Descriptor, o *resource.Object) (*apiv1.ResourceStatus, error) {
	res := &apiv1.ResourceStatus{}
	for _, k := range x.rejectionKeys(o) {
		for _, v := range []store.View{x.observed, x.config} {
			row, ok := v.Get(k)
			if !ok {
				continue
			}
			r, err := x.service.rejection(row)
			if err != nil {
				return nil, err
			}
			res.Rejections = append(res.Rejections, r)
		}
	}
	// Positions are of what flows down, in the numbering of the log in which it was written.
	if d.Log != resource.ConfigLog || x.service.Mode == Zone || o.Origin != resource.Local {
		return res, nil
	}
	res.Revision = uint64(o.SpecRevision)
	if len(res.Rejections) > 0 {
		res.State = stateRejected
		return res, nil
	}
	p, err := x.positions(o.SpecRevision)
	if err != nil {
		return nil, err
	}
	// What else is rejected is another object's.
	if res.State = stateLive; p.GetState() == statePending {
		res.State = statePending
	}
	return res, nil
}

// rejectionKeys are the keys under which rejections of an object stand. On the global control plane they are
// those of each zone, which knows its own objects by a name without the zone's.
func (x *observations) rejectionKeys(o *resource.Object) []resource.Key {
	var keys []resource.Key
	of := func(prefix, name string) {
		name = prefix + string(o.Key.Kind) + "/" + o.Key.Scope + "/" + name
		keys = append(keys, resource.Key{Kind: resource.KindProxyRejection, Name: name}, resource.Key{Kind: resource.KindSyncRejection, Name: name})
	}
	if x.service.Mode != Global {
		of("", o.Key.Name)
		return keys
	}
	for z := range x.config.Scan(store.OfKind(resource.KindZone)) {
		zone := z.Key.Name + "."
		if name, own := strings.CutPrefix(o.Key.Name, zone); own && o.Origin == resource.Origin(z.Key.Name) {
			of(zone, name)
		} else {
			of(zone, o.Key.Name)
		}
	}
	return keys
}
