// Package store is the contract of Meridian's two logs and what its backends share. A backend stores bytes
// and keys; it knows no kind.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// Errors that a Log or a Store returns, found with errors.Is.
var (
	// ErrConflict: a guard did not hold; nothing was written. errors.As gives *ConflictError.
	ErrConflict = errors.New("conflict")
	// ErrCompacted: the cursor is older than the oldest tombstone, or not of this log's history. Take the
	// present state first.
	ErrCompacted = errors.New("compacted")
	// ErrNoSpace: there is no room to make the batch durable; nothing was written, reads go on.
	ErrNoSpace = errors.New("no space left for the store")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrLocked: another process holds the store.
	ErrLocked = errors.New("store is held by another process")
	// ErrSchema: the store was written by a newer build.
	ErrSchema = errors.New("store has a newer schema")
	// ErrCorrupt: the store's file is damaged.
	ErrCorrupt = errors.New("store is damaged")
)

// ConflictError names the guard that failed.
type ConflictError struct{ Guard Guard }

// Error implements error.
func (e *ConflictError) Error() string { return fmt.Sprintf("conflict: %s does not hold", e.Guard) }

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Store is two logs with one identity. All methods are safe for concurrent use.
type Store interface {
	// ID is the store's random identity, made once.
	ID() string
	Config() Log
	Status() Log
	// Health is nil while writes can be made durable; ErrNoSpace and the like otherwise.
	Health() error
	// Close ends every watch and waits for the writer. Batches that were not yet committed fail with ErrClosed.
	Close() error
}

// Log is an ordered record of changes, of which it keeps the newest for each key.
//
// Revisions become visible in order: whoever has seen R never later sees a change ≤ R. A batch that was
// answered without an error survives the process (config: also the machine).
type Log interface {
	// View is the newest state.
	View() View
	// Await returns the first view at or after r that it sees. It fails with the context's cause or ErrClosed.
	Await(ctx context.Context, r resource.Revision) (View, error)
	// Apply commits a batch: all of it or nothing. It fails with ErrConflict, ErrNoSpace, ErrClosed.
	// Cancelling ctx stops the wait, not a batch that is already being committed.
	Apply(ctx context.Context, b Batch) (Result, error)
	// Watch follows the changes in rng after the cursor. It fails with ErrCompacted. It owns no goroutine.
	Watch(rng Range, after Cursor) (Watch, error)
}

// View is the immutable state of a log at one revision. It may be held for long and used concurrently.
type View interface {
	Revision() resource.Revision
	// At is the cursor of this view's revision in its own log.
	At() Cursor
	Get(resource.Key) (*resource.Object, bool)
	// Scan yields the objects of a range in key order.
	Scan(Range) iter.Seq[*resource.Object]
	// Count is the number of objects that Scan would yield, without visiting them where the range is a kind
	// or a kind and a scope.
	Count(Range) int
	// Cursor is how far this store had taken in the named peer's log.
	Cursor(peer string) (Cursor, bool)
	// Epochs are the epochs that this log has lived through, oldest first.
	Epochs() []Epoch
	// History is what is known of the log beside its objects.
	History() History
}

// History is what a view knows of its log beside its objects (together they are all that a backup needs), and of the
// order in which both came.
type History interface {
	// Compacted is the revision of the newest tombstone that was dropped, 0 if none was.
	Compacted() resource.Revision
	// Cursors yields how far this store had taken in each peer's log, in the order of the peers' names.
	Cursors() iter.Seq2[string, Cursor]
	// Tombstones yields the keys that were deleted, in key order.
	Tombstones() iter.Seq[*Tombstone]
	// Since is when the oldest change after r was made of those that are still the newest of their key; false:
	// there is none.
	Since(r resource.Revision) (time.Time, bool)
	// Changes yields the newest change of each key that was made after r, by revisions, and those of one by keys.
	Changes(r resource.Revision) iter.Seq[Change]
	// Sweep yields the newest change of each key of a range behind a key, of those that were made after r, in key
	// order, with or without those that were deleted. It goes through all keys there.
	Sweep(rng Range, behind resource.Key, r resource.Revision, deleted bool) iter.Seq[Change]
}

// Tombstone remembers that a key was deleted. It is immutable.
type Tombstone struct {
	Key      resource.Key
	Origin   resource.Origin
	Revision resource.Revision
	// Deleted is when, for retention.
	Deleted time.Time
}

// Watch follows a log. It is used by one goroutine at a time.
type Watch interface {
	// Next blocks until the log has moved past what was returned before, and returns everything in
	// (From, To], the newest change of each key, in key order. Changes outside of the range move To and are
	// left out, so Items may be empty. It fails with the context's cause, ErrCompacted or ErrClosed.
	Next(ctx context.Context) (Changes, error)
	// Close frees the watch and ends a Next that is under way with ErrClosed.
	Close() error
}

// Changes is what happened to a range between two revisions.
type Changes struct {
	From, To resource.Revision
	Items    []Change
	// View is the state at To.
	View View
}

// Change is the newest change of one key.
type Change struct {
	Key resource.Key
	// Object is nil when the key was deleted.
	Object *resource.Object
	// Origin of the object, also of one that was deleted.
	Origin resource.Origin
	// Revision of the change.
	Revision resource.Revision
}

// Range selects keys. An empty Kind selects every kind. Scope is looked at unless AnyScope is set; empty, it
// selects the global scope only.
type Range struct {
	Kind     resource.Kind
	Scope    string
	AnyScope bool
}

// Everything is the range of all keys.
func Everything() Range { return Range{AnyScope: true} }

// OfKind is the range of one kind in all scopes.
func OfKind(k resource.Kind) Range { return Range{Kind: k, AnyScope: true} }

// InScope is the range of one kind in one scope.
func InScope(k resource.Kind, scope string) Range { return Range{Kind: k, Scope: scope} }

// Contains says whether a key is in the range.
func (r Range) Contains(k resource.Key) bool {
	return (r.Kind == "" || r.Kind == k.Kind) && (r.AnyScope || r.Scope == k.Scope)
}

// Epoch is one opening of a log for writing.
type Epoch struct {
	// ID is random.
	ID string
	// First is the first revision that the epoch may hold.
	First resource.Revision
}

// Cursor is a place in one log's history.
type Cursor struct {
	// Store is the store's ID.
	Store string
	// Epoch is the epoch in which Revision was seen.
	Epoch    string
	Revision resource.Revision
}

// Batch is a set of changes that take one revision together: first the scopes are deleted, then the keys, then
// the puts are written, the last one of a key wins. Deleting what is not there is no error. A batch without
// Puts, Deletes and DeleteScopes takes no revision and wakes no watch.
type Batch struct {
	Puts    []Put
	Deletes []resource.Key
	// DeleteScopes deletes every object of a scope, of any kind and origin (a mesh goes with all it holds).
	DeleteScopes []string
	// Guards must all hold at the time of the commit, before the batch's own changes.
	Guards []Guard
	// Author goes to the audit line of the log output.
	Author Author
	// Cursor, if not nil, is stored with the batch.
	Cursor *CursorMove
	// Forget names peers whose cursors become the zero Cursor: what came from them is taken anew.
	Forget []string
}

// Put writes one object.
type Put struct {
	Key    resource.Key
	Origin resource.Origin
	Spec   []byte
	// Created is kept from the present object if zero and there is one, else it is the time of the commit.
	Created time.Time
	// Modified is the time of the commit if zero.
	Modified time.Time
}

// CursorMove records how far this store has taken in a peer's log.
type CursorMove struct {
	Peer string
	To   Cursor
	// From, if not nil, is a guard: the peer's stored cursor must equal it (the zero Cursor: there is none).
	From *Cursor
}

// Author is who wrote a batch.
type Author struct {
	// Who is the credential's subject, or the component.
	Who string
	// Request is a request id.
	Request string
}

// Guard is something that the writer read in order to decide. Exactly one of its forms is used.
type Guard struct {
	// Key at Revision (0: absent), or, with Exists, Key at any revision.
	Key      resource.Key
	Revision resource.Revision
	Exists   bool
	// None, if not nil: no object is in this range but those that the batch's Deletes name.
	None *Range
	// Peer, if set by CursorMove.From, names the peer whose cursor was expected (in a ConflictError only).
	Peer string
}

// AtRevision guards that a key still has the revision that was read (0: absent).
func AtRevision(k resource.Key, r resource.Revision) Guard { return Guard{Key: k, Revision: r} }

// Exists guards that a key is there.
func Exists(k resource.Key) Guard { return Guard{Key: k, Exists: true} }

// NoneIn guards that a range is empty, or becomes so by the batch's Deletes.
func NoneIn(r Range) Guard { return Guard{None: &r} }

// String says what the guard wants.
func (g Guard) String() string {
	switch {
	case g.Peer != "":
		return "the expected cursor of " + g.Peer
	case g.None != nil:
		return fmt.Sprintf("no %s in %q", g.None.Kind, g.None.Scope)
	case g.Exists:
		return fmt.Sprintf("%s exists", g.Key)
	case g.Revision == 0:
		return fmt.Sprintf("%s is absent", g.Key)
	default:
		return fmt.Sprintf("%s is at revision %s", g.Key, g.Revision)
	}
}

// Result is what a batch did.
type Result struct {
	// Revision that the batch took, or the present one if it took none.
	Revision resource.Revision
	// View is a state that includes the batch.
	View View
}

// ValidCursor says whether a log with this history (epochs, and head as its newest revision) can go on from a
// cursor: its epoch must be known, and its revision must lie inside it. first-1 counts as inside: it is the
// state that the epoch began with.
func ValidCursor(id string, epochs []Epoch, head resource.Revision, c Cursor) bool {
	if c.Store != id {
		return false
	}
	for i, e := range epochs {
		if e.ID != c.Epoch {
			continue
		}
		last := head
		if i+1 < len(epochs) {
			last = epochs[i+1].First - 1
		}
		return c.Revision+1 >= e.First && c.Revision <= last
	}
	return false
}
