package model

import (
	"iter"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// history implements store.History of a state.
type history struct{ *State }

// History implements store.View.
func (s *State) History() store.History { return history{s} }

// Compacted implements store.History.
func (h history) Compacted() resource.Revision { return h.compacted }

// Cursors implements store.History.
func (h history) Cursors() iter.Seq2[string, store.Cursor] {
	return func(yield func(string, store.Cursor) bool) {
		h.cursors.Scan(func(c peerCursor) bool { return yield(c.peer, c.cursor) })
	}
}

// Tombstones implements store.History.
func (h history) Tombstones() iter.Seq[*store.Tombstone] {
	return func(yield func(*store.Tombstone) bool) { h.tombs.Scan(yield) }
}

// Since implements store.History.
func (h history) Since(r resource.Revision) (at time.Time, found bool) {
	oldest := resource.Revision(0)
	h.changed.Ascend(&resource.Object{Revision: r + 1}, func(o *resource.Object) bool {
		oldest, at, found = o.Revision, o.Modified, true
		return false
	})
	h.tombsTime.Ascend(&Tomb{Revision: r + 1}, func(t *Tomb) bool {
		if !found || t.Revision < oldest {
			at, found = t.Deleted, true
		}
		return false
	})
	return at, found
}
