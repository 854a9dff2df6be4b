package kds

import (
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// group is a complete group, ready to be applied.
type group struct {
	log      kdsv1.Log
	from, to resource.Revision
	epoch    string
	// replaces is not empty for a snapshot.
	replaces []store.Range
	changes  []*kdsv1.Change
	// bytes is what the group took of the window.
	bytes int64
}

// whole says whether the group is a snapshot of everything, which needs no cursor to go on from.
func (g *group) whole() bool {
	for _, r := range g.replaces {
		if r.Kind == "" {
			return true
		}
	}
	return false
}

// contains says whether a snapshot replaces a key.
func (g *group) contains(k resource.Key) bool {
	for _, r := range g.replaces {
		if r.Contains(k) {
			return true
		}
	}
	return false
}

// stage gathers the frames of one log's groups. It is used by the receiving loop alone.
type stage struct {
	log kdsv1.Log
	// maxObjects bounds a group.
	maxObjects int
	now        *group
	// rest is the beginning of a change that is not yet complete.
	rest []byte
}

// add takes one frame. It gives the group when that was its last one.
func (s *stage) add(f *kdsv1.Group) (*group, error) {
	if len(f.GetChanges()) > maxFrame {
		return nil, violation("a frame of %d bytes", len(f.GetChanges()))
	}
	if s.now == nil {
		s.now = &group{log: s.log, from: resource.Revision(f.GetFrom()), to: resource.Revision(f.GetTo())}
		for _, r := range f.GetReplaces() {
			s.now.replaces = append(s.now.replaces, store.Range{
				Kind: resource.Kind(r.GetKind()), Scope: r.GetScope(), AnyScope: r.GetAnyScope() || r.GetKind() == "",
			})
		}
		if s.now.from > s.now.to {
			return nil, violation("a group from %s to %s", s.now.from, s.now.to)
		}
	}
	g := s.now
	if uint64(g.from) != f.GetFrom() || uint64(g.to) != f.GetTo() {
		return nil, violation("a frame of the group (%d, %d] within (%s, %s]", f.GetFrom(), f.GetTo(), g.from, g.to)
	}
	if g.bytes += cost(f); g.bytes > maxStagedBytes {
		return nil, violation("a group of more than %d bytes", maxStagedBytes)
	}
	if err := s.decode(f.GetChanges()); err != nil {
		return nil, err
	}
	if !f.GetLast() {
		return nil, nil
	}
	if len(s.rest) > 0 {
		return nil, violation("the group (%s, %s] ends within a change", g.from, g.to)
	}
	g.epoch = f.GetEpoch()
	s.now, s.rest = nil, nil
	return g, nil
}

// decode takes the next piece of the group's changes.
func (s *stage) decode(piece []byte) error {
	buf := piece
	if len(s.rest) > 0 {
		s.rest = append(s.rest, piece...)
		buf = s.rest
	}
	used := 0
	for used < len(buf) {
		size, n := binary.Uvarint(buf[used:])
		if n < 0 || size > maxChange {
			return violation("a change of more than %d bytes", maxChange)
		}
		end := used + n + int(size)
		if n == 0 || end > len(buf) {
			break
		}
		if len(s.now.changes) == s.maxObjects {
			return violation("a group of more than %d objects", s.maxObjects)
		}
		c := &kdsv1.Change{}
		if err := proto.Unmarshal(buf[used+n:end], c); err != nil {
			return violation("a change can't be read: %v", err)
		}
		s.now.changes = append(s.now.changes, c)
		used = end
	}
	// What belongs to an unfinished change is kept; a long one is not copied again with each of its frames.
	if used > 0 || len(s.rest) == 0 {
		s.rest = append([]byte(nil), buf[used:]...)
	}
	return nil
}

// encode gives the form that a change has in a group.
func encode(c *kdsv1.Change) ([]byte, error) {
	size := proto.Size(c)
	b := binary.AppendUvarint(make([]byte, 0, size+binary.MaxVarintLen64), uint64(size))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, c)
}
