// Package model is the read model that all backends of a store share: the state of one log as copy-on-write
// trees, the rules by which a batch changes it, and the writer that commits batches in groups.
package model

import (
	"iter"
	"strings"

	"github.com/tidwall/btree"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Tomb remembers that a key was deleted.
type Tomb = store.Tombstone

// peerCursor is how far this store has taken in one peer's log.
type peerCursor struct {
	peer   string
	cursor store.Cursor
}

// tally counts the objects of a kind in a scope, or, with all, of a kind in all scopes.
type tally struct {
	kind  resource.Kind
	all   bool
	scope string
	n     int
}

// State is one state of a log. It is immutable once it is published, and implements store.View.
type State struct {
	id       string
	revision resource.Revision
	// compacted is the highest revision of a tombstone that was dropped: a cursor before it cannot go on.
	compacted resource.Revision
	epochs    []store.Epoch

	// Live objects and tombstones are each held twice: by key for reading, by (revision, key) for following.
	objects   *btree.BTreeG[*resource.Object]
	changed   *btree.BTreeG[*resource.Object]
	tombs     *btree.BTreeG[*Tomb]
	tombsTime *btree.BTreeG[*Tomb]
	tallies   *btree.BTreeG[tally]
	cursors   *btree.BTreeG[peerCursor]
}

var _ store.View = (*State)(nil)

func lessKey(a, b *resource.Key) bool {
	switch {
	case a.Kind != b.Kind:
		return a.Kind < b.Kind
	case a.Scope != b.Scope:
		return a.Scope < b.Scope
	default:
		return a.Name < b.Name
	}
}

func lessTally(a, b tally) bool {
	switch {
	case a.kind != b.kind:
		return a.kind < b.kind
	case a.all != b.all:
		return a.all
	default:
		return a.scope < b.scope
	}
}

func newTree[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// newState makes the empty state of a log.
func newState(id string) *State {
	return &State{
		id:      id,
		objects: newTree(func(a, b *resource.Object) bool { return lessKey(&a.Key, &b.Key) }),
		changed: newTree(func(a, b *resource.Object) bool {
			return a.Revision < b.Revision || a.Revision == b.Revision && lessKey(&a.Key, &b.Key)
		}),
		tombs: newTree(func(a, b *Tomb) bool { return lessKey(&a.Key, &b.Key) }),
		tombsTime: newTree(func(a, b *Tomb) bool {
			return a.Revision < b.Revision || a.Revision == b.Revision && lessKey(&a.Key, &b.Key)
		}),
		tallies: newTree(lessTally),
		cursors: newTree(func(a, b peerCursor) bool { return a.peer < b.peer }),
	}
}

// fork makes a state that can be changed without s being seen to change. Only the one writer may call it.
func (s *State) fork() *State {
	f := *s
	f.objects = s.objects.Copy()
	f.changed = s.changed.Copy()
	f.tombs = s.tombs.Copy()
	f.tombsTime = s.tombsTime.Copy()
	f.tallies = s.tallies.Copy()
	f.cursors = s.cursors.Copy()
	return &f
}

// Revision implements store.View.
func (s *State) Revision() resource.Revision { return s.revision }

// At implements store.View.
func (s *State) At() store.Cursor {
	c := store.Cursor{Store: s.id, Revision: s.revision}
	if n := len(s.epochs); n > 0 {
		c.Epoch = s.epochs[n-1].ID
	}
	return c
}

// Epochs implements store.View.
func (s *State) Epochs() []store.Epoch { return append([]store.Epoch(nil), s.epochs...) }

// Cursor implements store.View.
func (s *State) Cursor(peer string) (store.Cursor, bool) {
	c, ok := s.cursors.Get(peerCursor{peer: peer})
	return c.cursor, ok
}

// Get implements store.View.
func (s *State) Get(k resource.Key) (*resource.Object, bool) {
	return s.objects.Get(&resource.Object{Key: k})
}

// Scan implements store.View.
func (s *State) Scan(r store.Range) iter.Seq[*resource.Object] {
	return func(yield func(*resource.Object) bool) {
		switch {
		case r.Kind == "" && r.AnyScope:
			s.objects.Scan(yield)
		case r.Kind == "":
			for _, k := range s.kindsIn(r.Scope) {
				if !s.ascend(store.InScope(k, r.Scope), yield) {
					return
				}
			}
		default:
			s.ascend(r, yield)
		}
	}
}

// ascend visits a range that names a kind; it is false once yield was.
func (s *State) ascend(r store.Range, yield func(*resource.Object) bool) bool {
	from := resource.Key{Kind: r.Kind}
	if !r.AnyScope {
		from.Scope = r.Scope
	}
	goOn := true
	s.objects.Ascend(&resource.Object{Key: from}, func(o *resource.Object) bool {
		if o.Key.Kind != r.Kind || !r.AnyScope && o.Key.Scope != r.Scope {
			return false
		}
		goOn = yield(o)
		return goOn
	})
	return goOn
}

// kindsIn lists the kinds that have objects in a scope, in order, by leaping from kind to kind.
func (s *State) kindsIn(scope string) []resource.Kind {
	var kinds []resource.Kind
	next := tally{all: true}
	for {
		var found *tally
		s.tallies.Ascend(next, func(t tally) bool { found = &t; return false })
		if found == nil {
			return kinds
		}
		if s.count(found.kind, false, scope) > 0 {
			kinds = append(kinds, found.kind)
		}
		next = tally{kind: found.kind + "\x00", all: true}
	}
}

func (s *State) count(k resource.Kind, all bool, scope string) int {
	t, _ := s.tallies.Get(tally{kind: k, all: all, scope: scope})
	return t.n
}

// Count implements store.View.
func (s *State) Count(r store.Range) int {
	switch {
	case r.Kind == "" && r.AnyScope:
		return s.objects.Len()
	case r.Kind == "":
		n := 0
		for _, k := range s.kindsIn(r.Scope) {
			n += s.count(k, false, r.Scope)
		}
		return n
	case r.AnyScope:
		return s.count(r.Kind, true, "")
	default:
		return s.count(r.Kind, false, r.Scope)
	}
}

// usable says whether a watch can go on from a cursor.
func (s *State) usable(c store.Cursor) bool {
	return store.ValidCursor(s.id, s.epochs, s.revision, c) && c.Revision >= s.compacted
}

// changesSince lists the newest change of each key of a range after a revision, in key order.
func (s *State) changesSince(from resource.Revision, r store.Range) []store.Change {
	var items []store.Change
	s.changed.Ascend(&resource.Object{Revision: from + 1}, func(o *resource.Object) bool {
		if r.Contains(o.Key) {
			items = append(items, changeOf(o))
		}
		return true
	})
	s.tombsTime.Ascend(&Tomb{Revision: from + 1}, func(t *Tomb) bool {
		if r.Contains(t.Key) {
			items = append(items, buriedBy(t))
		}
		return true
	})
	sortChanges(items)
	return items
}

// adjust moves the tallies of a key's kind and scope.
func (s *State) adjust(k resource.Key, by int) {
	for _, t := range []tally{{kind: k.Kind, all: true}, {kind: k.Kind, scope: k.Scope}} {
		old, _ := s.tallies.Get(t)
		t.n = old.n + by
		if t.n == 0 {
			s.tallies.Delete(t)
		} else {
			s.tallies.Set(t)
		}
	}
}

// intern gives a key that shares its strings with the state, so that no object keeps a request's buffer alive.
func (s *State) intern(k resource.Key) resource.Key {
	kind, ok := s.tallies.Get(tally{kind: k.Kind, all: true})
	if !ok {
		return resource.Key{Kind: resource.Kind(strings.Clone(string(k.Kind))), Scope: strings.Clone(k.Scope), Name: strings.Clone(k.Name)}
	}
	out := resource.Key{Kind: kind.kind, Name: strings.Clone(k.Name)}
	if scope, ok := s.tallies.Get(tally{kind: k.Kind, scope: k.Scope}); ok {
		out.Scope = scope.scope
	} else {
		out.Scope = strings.Clone(k.Scope)
	}
	return out
}

// put makes o the newest state of its key.
func (s *State) put(o *resource.Object) {
	if t, was := s.tombs.Delete(&Tomb{Key: o.Key}); was {
		s.tombsTime.Delete(t)
	}
	old, was := s.objects.Set(o)
	if was {
		s.changed.Delete(old)
	} else {
		s.adjust(o.Key, 1)
	}
	s.changed.Set(o)
}

// bury makes t the newest state of its key.
func (s *State) bury(t *Tomb) {
	if o, was := s.objects.Delete(&resource.Object{Key: t.Key}); was {
		s.changed.Delete(o)
		s.adjust(t.Key, -1)
	}
	if old, was := s.tombs.Set(t); was {
		s.tombsTime.Delete(old)
	}
	s.tombsTime.Set(t)
}
