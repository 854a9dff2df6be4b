package api

import (
	"iter"
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// overlay is a view with what is to be written laid over it: the state after a write, as far as the write names it.
// What follows from it (the rest of a deleted mesh, the defaults of a new one) is not in it.
type overlay struct {
	store.View
	// laid is sorted by key, each once.
	laid []laid
}

// laid is what one key is to become: nothing, where there is no object. The revision of an object is 0.
type laid struct {
	key    resource.Key
	object *resource.Object
	// before says whether the key is there now.
	before bool
}

// over lays changes over a view. No two of them have the same key.
func over(base store.View, changes []change) *overlay {
	o := &overlay{View: base, laid: make([]laid, 0, len(changes))}
	for _, c := range changes {
		old, before := base.Get(c.target())
		o.laid = append(o.laid, laid{key: c.target(), object: c.becomes(old), before: before})
	}
	slices.SortFunc(o.laid, func(a, b laid) int { return a.key.Compare(b.key) })
	return o
}

// find gives the place of a key among what is laid.
func (o *overlay) find(k resource.Key) (int, bool) {
	return slices.BinarySearchFunc(o.laid, k, func(l laid, k resource.Key) int { return l.key.Compare(k) })
}

// touches says whether a key is itself among what is written.
func (o *overlay) touches(k resource.Key) bool {
	_, ok := o.find(k)
	return ok
}

// leads says whether a key is the first of its kind among what is written.
func (o *overlay) leads(k resource.Key) bool {
	i, ok := o.find(k)
	return ok && (i == 0 || o.laid[i-1].key.Kind != k.Kind)
}

// within is what is laid over a range.
func (o *overlay) within(r store.Range) iter.Seq[laid] {
	return func(yield func(laid) bool) {
		i := 0
		if r.Kind != "" {
			from := resource.Key{Kind: r.Kind}
			if !r.AnyScope {
				from.Scope = r.Scope
			}
			i, _ = o.find(from)
		}
		for _, l := range o.laid[i:] {
			if r.Kind != "" && (l.key.Kind != r.Kind || !r.AnyScope && l.key.Scope != r.Scope) {
				return
			}
			if r.Contains(l.key) && !yield(l) {
				return
			}
		}
	}
}

// Get implements store.View.
func (o *overlay) Get(k resource.Key) (*resource.Object, bool) {
	if i, ok := o.find(k); ok {
		return o.laid[i].object, o.laid[i].object != nil
	}
	return o.View.Get(k)
}

// Scan implements store.View.
func (o *overlay) Scan(r store.Range) iter.Seq[*resource.Object] {
	return func(yield func(*resource.Object) bool) {
		rest := slices.Collect(o.within(r))
		for old := range o.View.Scan(r) {
			for len(rest) > 0 && rest[0].key.Compare(old.Key) < 0 {
				if rest[0].object != nil && !yield(rest[0].object) {
					return
				}
				rest = rest[1:]
			}
			if len(rest) > 0 && rest[0].key == old.Key {
				continue // what is laid over it comes with the next one, or at the end
			}
			if !yield(old) {
				return
			}
		}
		for _, l := range rest {
			if l.object != nil && !yield(l.object) {
				return
			}
		}
	}
}

// Count implements store.View.
func (o *overlay) Count(r store.Range) int {
	n := o.View.Count(r)
	for l := range o.within(r) {
		switch now := l.object != nil; {
		case now && !l.before:
			n++
		case l.before && !now:
			n--
		}
	}
	return n
}
