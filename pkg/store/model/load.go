package model

import (
	"slices"

	"github.com/google/uuid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Loader builds the first state of a log from what a backend has kept.
type Loader struct{ state *State }

// NewLoader starts with an empty log of the store with the given id.
func NewLoader(id string) *Loader { return &Loader{state: newState(id)} }

// Head sets the newest revision, and that of the newest tombstone that was dropped.
func (l *Loader) Head(revision, compacted resource.Revision) {
	l.state.revision, l.state.compacted = revision, compacted
}

// Add takes one stored row, in any order.
func (l *Loader) Add(r Row) {
	switch {
	case r.Object != nil:
		r.Object.Key = l.state.intern(r.Object.Key)
		l.state.put(r.Object)
	case r.Tomb != nil:
		l.state.bury(r.Tomb)
	}
}

// Cursor takes one stored cursor.
func (l *Loader) Cursor(peer string, c store.Cursor) { l.state.cursors.Set(peerCursor{peer, c}) }

// Open adds a new epoch to those that the log has lived through, oldest first, and returns it together with
// the number of oldest ones that are forgotten.
func (l *Loader) Open(epochs []store.Epoch) (opened store.Epoch, forgotten int) {
	opened = store.Epoch{ID: uuid.NewString(), First: l.state.revision + 1}
	forgotten = max(0, len(epochs)+1-maxEpochs)
	l.state.epochs = append(slices.Clone(epochs[forgotten:]), opened)
	return opened, forgotten
}
