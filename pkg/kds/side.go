package kds

import (
	"fmt"
	"strings"

	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// anyName stands for all names of a kind: in the row that names a kind left out, and in an offer.
const anyName = "*"

// side is what differs between the two ends of a stream: which keys go out, which come in, and how they are
// called here.
type side struct {
	table Table
	// zone is the zone's name at the global control plane, and empty in a zone.
	zone string
	// peer names the other end's cursors in this store. It is also the origin of what comes from there: the
	// peer's identity, by its credentials, is all that decides what it may write.
	peer resource.Origin
}

func globalSide(t Table, zone string) side {
	return side{table: t, zone: zone, peer: resource.Origin(zone)}
}
func zoneSide(t Table) side { return side{table: t, peer: resource.Global} }

func (s side) global() bool { return s.zone != "" }

// sends says whether the peer may see a key of this store. It depends on nothing that changes in the key's
// life, so that a deletion is seen by whoever saw the object.
func (s side) sends(k resource.Key, o resource.Origin) bool {
	d, ok := s.table.ByKind(k.Kind)
	if !ok {
		return false
	}
	flow := d.Flow(k)
	if !s.global() {
		return o == resource.Local && (flow == resource.FlowUp || flow == resource.FlowUpAndOn)
	}
	return flow == resource.FlowDown && o == resource.Local ||
		flow == resource.FlowUpAndOn && o != resource.Local && o != s.peer
}

// in gives the key that a key of the peer has here.
func (s side) in(k resource.Key) resource.Key {
	if s.global() {
		k.Name = s.zone + "." + k.Name
	}
	return k
}

// out is the inverse of in; false: the key is none that the peer could have sent.
func (s side) out(k resource.Key) (resource.Key, bool) {
	if !s.global() {
		return k, true
	}
	name, ok := strings.CutPrefix(k.Name, s.zone+".")
	k.Name = name
	return k, ok
}

// bears says why the peer may not write a key, named as the peer does, in a log.
func (s side) bears(d *resource.Descriptor, k resource.Key, log resource.LogID) error {
	flow := d.Flow(k)
	switch {
	case d.Log != log:
		return fmt.Errorf("%s does not belong into this log", k.Kind)
	case s.global() && flow != resource.FlowUp && flow != resource.FlowUpAndOn:
		return fmt.Errorf("a zone may not write %s", k)
	case !s.global() && flow != resource.FlowDown && flow != resource.FlowUpAndOn:
		return fmt.Errorf("the global control plane may not write %s", k)
	case k.Name == "" || k.Name == anyName:
		return fmt.Errorf("%s has no name", k.Kind)
	case (d.Scope == resource.ScopeMesh) != (k.Scope != ""):
		return fmt.Errorf("%s: scope %q is not one of its kind", k, k.Scope)
	}
	return nil
}

// rejectionKey is the key of the row that says that k was rejected. k is the key as it would be here.
func rejectionKey(k resource.Key) resource.Key {
	return resource.Key{Kind: resource.KindSyncRejection, Name: string(k.Kind) + "/" + k.Scope + "/" + k.Name}
}

// rejectedKey is the key that a row speaks of.
func rejectedKey(m *systemv1.SyncRejection) resource.Key {
	return resource.Key{Kind: resource.Kind(m.GetKind()), Scope: m.GetScope(), Name: m.GetName()}
}
