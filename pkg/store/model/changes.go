package model

import (
	"iter"

	"github.com/tidwall/btree"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Changes implements store.History.
func (h history) Changes(r resource.Revision) iter.Seq[store.Change] {
	return func(yield func(store.Change) bool) {
		if last, ok := h.tombsTime.Max(); !ok || last.Revision <= r { // as a rule, and cheaper
			ordered(h.changed, &resource.Object{Revision: r + 1})(func(o *resource.Object) bool { return yield(changeOf(o)) })
			return
		}
		merge(ordered(h.changed, &resource.Object{Revision: r + 1}), ordered(h.tombsTime, &Tomb{Revision: r + 1}), byRevision, yield)
	}
}

// Sweep implements store.History.
func (h history) Sweep(rng store.Range, behind resource.Key, r resource.Revision, deleted bool) iter.Seq[store.Change] {
	from := resource.Key{Kind: rng.Kind}
	if !rng.AnyScope && rng.Kind != "" {
		from.Scope = rng.Scope
	}
	if lessKey(&from, &behind) {
		from = behind
	}
	// within says whether a key is to be yielded, and past whether it is behind all that are.
	within := func(k *resource.Key, changed resource.Revision) bool {
		return changed > r && *k != behind && rng.Contains(*k)
	}
	past := func(k *resource.Key) bool {
		return rng.Kind != "" && (k.Kind != rng.Kind || !rng.AnyScope && k.Scope > rng.Scope)
	}
	return func(yield func(store.Change) bool) {
		objects := func(yield func(*resource.Object) bool) {
			h.objects.Ascend(&resource.Object{Key: from}, func(o *resource.Object) bool {
				return !past(&o.Key) && (!within(&o.Key, o.Revision) || yield(o))
			})
		}
		if !deleted {
			objects(func(o *resource.Object) bool { return yield(changeOf(o)) })
			return
		}
		merge(objects, func(yield func(*Tomb) bool) {
			h.tombs.Ascend(&Tomb{Key: from}, func(t *Tomb) bool {
				return !past(&t.Key) && (!within(&t.Key, t.Revision) || yield(t))
			})
		}, byKey, yield)
	}
}

// ordered yields the items of a tree from a pivot on.
func ordered[T any](tree *btree.BTreeG[T], from T) iter.Seq[T] {
	return func(yield func(T) bool) { tree.Ascend(from, yield) }
}

func changeOf(o *resource.Object) store.Change {
	return store.Change{Key: o.Key, Object: o, Origin: o.Origin, Revision: o.Revision}
}

func buriedBy(t *Tomb) store.Change {
	return store.Change{Key: t.Key, Origin: t.Origin, Revision: t.Revision}
}

func byRevision(a, b *store.Change) bool {
	return a.Revision < b.Revision || a.Revision == b.Revision && lessKey(&a.Key, &b.Key)
}

func byKey(a, b *store.Change) bool { return lessKey(&a.Key, &b.Key) }

// merge yields objects and tombstones in their common order.
func merge(objects iter.Seq[*resource.Object], tombs iter.Seq[*Tomb], less func(a, b *store.Change) bool, yield func(store.Change) bool) {
	next, stop := iter.Pull(tombs)
	defer stop()
	t, more := next()
	for o := range objects {
		c := changeOf(o)
		for more {
			d := buriedBy(t)
			if !less(&d, &c) {
				break
			}
			if !yield(d) {
				return
			}
			t, more = next()
		}
		if !yield(c) {
			return
		}
	}
	for ; more; t, more = next() {
		if !yield(buriedBy(t)) {
			return
		}
	}
}
