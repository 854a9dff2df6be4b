package kds

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// errQuota ends the session of a zone that makes too much.
var errQuota = errors.New("limit of one zone")

// size is a number of objects and what their keys and specs take.
type size struct {
	objects int
	bytes   int64
}

func (s *size) add(o size) { s.objects, s.bytes = s.objects+o.objects, s.bytes+o.bytes }

func sizeOf(k resource.Key, spec int) size {
	return size{1, int64(len(k.Kind) + len(k.Scope) + len(k.Name) + spec)}
}

func (s size) negative() size { return size{-s.objects, -s.bytes} }

// quota bounds what one log of the global control plane holds of one zone: the zone's objects, and the rejections
// of those that could not be taken. While the zone has its session nobody else adds to that, so it is counted
// once and then booked; what others delete is found out by counting again before anything is refused. It is used
// by the log's applier alone.
type quota struct {
	maxObjects int
	maxBytes   int64

	counted bool
	held    size
}

// check says, by errQuota, that a decision adds too much to what is there, and by how much it changes it. A nil
// quota takes everything.
func (q *quota) check(a *applier, d *decision) (size, error) {
	if q == nil || d.size()+len(d.aside.Puts) == 0 {
		return size{}, nil
	}
	grown := growth(a.log.View(), d.batch)
	grown.add(growth(a.s.store.Config().View(), d.aside))
	fits := func() bool {
		return grown.objects <= 0 && grown.bytes <= 0 ||
			q.held.objects+grown.objects <= q.maxObjects && q.held.bytes+grown.bytes <= q.maxBytes
	}
	if !q.counted || !fits() {
		q.held, q.counted = a.held(), true
	}
	if !fits() {
		return size{}, fmt.Errorf("%w: zone %s may keep %d objects (limits.zoneObjects) and %d bytes (limits.zoneBytes) at the global control plane, and would have %d objects and %d bytes",
			errQuota, a.s.zone, q.maxObjects, q.maxBytes, q.held.objects+grown.objects, q.held.bytes+grown.bytes)
	}
	return grown, nil
}

// book notes what was written.
func (q *quota) book(grown size) {
	if q != nil {
		q.held.add(grown)
	}
}

// growth is what a batch adds to a view.
func growth(v store.View, b store.Batch) size {
	var g size
	gone := func(k resource.Key) {
		if o, ok := v.Get(k); ok {
			g.add(sizeOf(k, len(o.Spec)).negative())
		}
	}
	for _, k := range b.Deletes {
		gone(k)
	}
	for _, p := range b.Puts {
		gone(p.Key)
		g.add(sizeOf(p.Key, len(p.Spec)))
	}
	return g
}

// held counts what there is of the peer.
func (a *applier) held() size {
	var n size
	v := a.log.View()
	for _, d := range a.s.table.All() {
		if logID(d.Log) != a.id {
			continue
		}
		for o := range v.Scan(store.OfKind(d.Kind)) {
			if o.Origin == a.s.peer {
				n.add(sizeOf(o.Key, len(o.Spec)))
			}
		}
	}
	for k, m := range a.s.rejections(a.s.store.Config().View()) {
		n.add(sizeOf(rejectionKey(k), proto.Size(m)))
	}
	return n
}
