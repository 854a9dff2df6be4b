package model

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// maxEpochs is how many openings a log remembers; cursors of older ones are no longer valid.
const maxEpochs = 1024

// Row is what one key becomes: an object, a tombstone, or, with neither, nothing at all.
type Row struct {
	Key    resource.Key
	Object *resource.Object
	Tomb   *Tomb
}

// Group is what a committer must make durable, all of it or nothing.
type Group struct {
	// Revision and Compacted are the log's after the group.
	Revision, Compacted resource.Revision
	// Rows hold the newest state of each key that changed, each key once.
	Rows []Row
	// Cursors hold the newest cursor of each peer that moved.
	Cursors map[string]store.Cursor
}

// txn is a state being changed by a group of batches.
type txn struct {
	*State
	now       time.Time
	retention store.Retention
	group     Group
	rowOf     map[resource.Key]int
}

func (s *State) begin(now time.Time, r store.Retention) *txn {
	return &txn{State: s.fork(), now: now, retention: r, rowOf: map[resource.Key]int{}}
}

// done gives what is to be committed.
func (t *txn) done() *Group {
	t.group.Revision, t.group.Compacted = t.revision, t.compacted
	return &t.group
}

func (t *txn) record(r Row) {
	if i, ok := t.rowOf[r.Key]; ok {
		t.group.Rows[i] = r
		return
	}
	t.rowOf[r.Key] = len(t.group.Rows)
	t.group.Rows = append(t.group.Rows, r)
}

// apply checks a batch against the state, in which the earlier batches of the group already are, and changes
// it. On an error nothing is changed.
func (t *txn) apply(b *store.Batch) (resource.Revision, error) {
	if err := check(b); err != nil {
		return 0, err
	}
	for _, g := range b.Guards {
		if !t.holds(g, b) {
			return 0, &store.ConflictError{Guard: g}
		}
	}
	if b.Cursor != nil && b.Cursor.From != nil {
		if now, _ := t.Cursor(b.Cursor.Peer); now != *b.Cursor.From {
			return 0, &store.ConflictError{Guard: store.Guard{Peer: b.Cursor.Peer}}
		}
	}

	if b.Cursor != nil {
		t.cursors.Set(peerCursor{b.Cursor.Peer, b.Cursor.To})
		if t.group.Cursors == nil {
			t.group.Cursors = map[string]store.Cursor{}
		}
		t.group.Cursors[b.Cursor.Peer] = b.Cursor.To
	}
	for _, peer := range b.Forget {
		t.cursors.Set(peerCursor{peer: peer})
		if t.group.Cursors == nil {
			t.group.Cursors = map[string]store.Cursor{}
		}
		t.group.Cursors[peer] = store.Cursor{}
	}
	if !takesRevision(b) {
		return t.revision, nil
	}
	t.revision++
	buried := 0
	for _, scope := range b.DeleteScopes {
		for _, kind := range t.kindsIn(scope) {
			for _, o := range slices.Collect(t.Scan(store.InScope(kind, scope))) {
				t.delete(o)
				buried++
			}
		}
	}
	for _, k := range b.Deletes {
		if o, ok := t.Get(k); ok {
			t.delete(o)
			buried++
		}
	}
	for i := range b.Puts {
		t.write(&b.Puts[i])
	}
	t.compact(buried)
	return t.revision, nil
}

func takesRevision(b *store.Batch) bool {
	return len(b.Puts)+len(b.Deletes)+len(b.DeleteScopes) > 0
}

// check refuses what no state could take.
func check(b *store.Batch) error {
	for i := range b.Puts {
		p := &b.Puts[i]
		if p.Key.Kind == "" || p.Key.Name == "" {
			return fmt.Errorf("puts[%d].key: kind and name must not be empty", i)
		}
		// Beyond these years a time has no RFC 3339 form.
		for _, at := range []time.Time{p.Created, p.Modified} {
			if y := at.UTC().Year(); y < 0 || y > 9999 {
				return fmt.Errorf("puts[%d]: %s: a time lies in the year %d", i, p.Key, y)
			}
		}
	}
	for i, s := range b.DeleteScopes {
		if s == "" {
			return fmt.Errorf("deleteScopes[%d]: must not be empty", i)
		}
	}
	for i, peer := range b.Forget {
		if peer == "" {
			return fmt.Errorf("forget[%d]: must not be empty", i)
		}
	}
	if b.Cursor != nil && b.Cursor.Peer == "" {
		return fmt.Errorf("cursor.peer: must not be empty")
	}
	return nil
}

func (t *txn) holds(g store.Guard, b *store.Batch) bool {
	if g.None != nil {
		left := t.Count(*g.None)
		if left == 0 || left > len(b.Deletes) {
			return left == 0
		}
		gone := map[resource.Key]bool{}
		for _, k := range b.Deletes {
			if _, ok := t.Get(k); ok && g.None.Contains(k) {
				gone[k] = true
			}
		}
		return len(gone) == left
	}
	o, ok := t.Get(g.Key)
	switch {
	case g.Exists:
		return ok
	case g.Revision == 0:
		return !ok
	default:
		return ok && o.Revision == g.Revision
	}
}

func (t *txn) delete(o *resource.Object) {
	tomb := &Tomb{Key: o.Key, Origin: o.Origin, Revision: t.revision, Deleted: t.now}
	t.bury(tomb)
	t.record(Row{Key: tomb.Key, Tomb: tomb})
}

func (t *txn) write(p *store.Put) {
	o := &resource.Object{
		Origin: p.Origin, Revision: t.revision, SpecRevision: t.revision,
		Created: stamp(p.Created), Modified: stamp(p.Modified),
	}
	if o.Modified.IsZero() {
		o.Modified = t.now
	}
	old, was := t.Get(p.Key)
	if was {
		o.Key = old.Key
		if o.Created.IsZero() {
			o.Created = old.Created
		}
	} else {
		o.Key = t.intern(p.Key)
		if o.Created.IsZero() {
			o.Created = t.now
		}
	}
	if was && old.Origin == o.Origin && bytes.Equal(old.Spec, p.Spec) {
		o.Spec, o.SpecRevision = old.Spec, old.SpecRevision
	} else {
		o.Spec = append([]byte{}, p.Spec...)
	}
	t.put(o)
	t.record(Row{Key: o.Key, Object: o})
}

// stamp strips what a log does not keep of a time.
func stamp(at time.Time) time.Time {
	if at.IsZero() {
		return time.Time{}
	}
	return at.UTC().Round(0)
}

// compact drops the oldest tombstones that are beyond a limit. How many is bounded by what the batch buried,
// so that no write pays for a long backlog at once.
func (t *txn) compact(buried int) {
	for range buried + 256 {
		oldest, ok := t.tombsTime.Min()
		if !ok || t.tombs.Len() <= t.retention.Count && t.now.Sub(oldest.Deleted) <= t.retention.Age {
			return
		}
		t.tombsTime.Delete(oldest)
		t.tombs.Delete(oldest)
		t.compacted = max(t.compacted, oldest.Revision)
		t.record(Row{Key: oldest.Key})
	}
}

func sortChanges(items []store.Change) {
	slices.SortFunc(items, func(a, b store.Change) int { return a.Key.Compare(b.Key) })
}
