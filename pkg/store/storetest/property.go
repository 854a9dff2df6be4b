package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// tombstones is the limit that the property test sets, so that compaction happens all the time.
const tombstones = 5

// entry is what the reference knows of one key.
type entry struct {
	origin                 resource.Origin
	spec                   string
	revision, specRevision resource.Revision
	deleted                bool
}

// reference is a log in its simplest form: maps, and no concern for cost.
type reference struct {
	revision, compacted resource.Revision
	entries             map[resource.Key]entry
	cursors             map[string]store.Cursor
}

func (r *reference) live(rng store.Range) []resource.Key {
	var keys []resource.Key
	for k, e := range r.entries {
		if !e.deleted && rng.Contains(k) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, resource.Key.Compare)
	return keys
}

func (r *reference) holds(g store.Guard, b store.Batch) bool {
	if g.None != nil {
		return !slices.ContainsFunc(r.live(*g.None), func(k resource.Key) bool { return !slices.Contains(b.Deletes, k) })
	}
	e, ok := r.entries[g.Key]
	ok = ok && !e.deleted
	if g.Exists || g.Revision == 0 {
		return ok == g.Exists
	}
	return ok && e.revision == g.Revision
}

// apply is false when a guard does not hold.
func (r *reference) apply(b store.Batch) bool {
	for _, g := range b.Guards {
		if !r.holds(g, b) {
			return false
		}
	}
	if b.Cursor != nil {
		if b.Cursor.From != nil && r.cursors[b.Cursor.Peer] != *b.Cursor.From {
			return false
		}
		r.cursors[b.Cursor.Peer] = b.Cursor.To
	}
	for _, peer := range b.Forget {
		r.cursors[peer] = store.Cursor{}
	}
	if len(b.Puts)+len(b.Deletes)+len(b.DeleteScopes) == 0 {
		return true
	}
	r.revision++
	gone := slices.Clone(b.Deletes)
	for _, s := range b.DeleteScopes {
		gone = append(gone, r.live(store.Range{Scope: s})...)
	}
	for _, k := range gone {
		if e, ok := r.entries[k]; ok && !e.deleted {
			r.entries[k] = entry{origin: e.origin, revision: r.revision, deleted: true}
		}
	}
	for _, p := range b.Puts {
		e := entry{origin: p.Origin, spec: string(p.Spec), revision: r.revision, specRevision: r.revision}
		if old, ok := r.entries[p.Key]; ok && !old.deleted && old.spec == e.spec && old.origin == e.origin {
			e.specRevision = old.specRevision
		}
		r.entries[p.Key] = e
	}
	var dead []resource.Key
	for k, e := range r.entries {
		if e.deleted {
			dead = append(dead, k)
		}
	}
	slices.SortFunc(dead, func(a, b resource.Key) int {
		if x, y := r.entries[a].revision, r.entries[b].revision; x != y {
			return int(x) - int(y)
		}
		return a.Compare(b)
	})
	for len(dead) > tombstones {
		r.compacted = max(r.compacted, r.entries[dead[0]].revision)
		delete(r.entries, dead[0])
		dead = dead[1:]
	}
	return true
}

// describe writes everything that a view should show.
func (r *reference) describe(rng store.Range) []string {
	var out []string
	for _, k := range r.live(rng) {
		e := r.entries[k]
		out = append(out, fmt.Sprintf("%s (%s) %q @%s/%s", k, e.origin, e.spec, e.revision, e.specRevision))
	}
	return out
}

func describe(v store.View, rng store.Range) []string {
	var out []string
	for o := range v.Scan(rng) {
		out = append(out, fmt.Sprintf("%s (%s) %q @%s/%s", o.Key, o.Origin, o.Spec, o.Revision, o.SpecRevision))
	}
	return out
}

func (r *reference) since(from resource.Revision, rng store.Range) []string {
	var items []store.Change
	for k, e := range r.entries {
		if e.revision > from && rng.Contains(k) {
			c := store.Change{Key: k, Origin: e.origin, Revision: e.revision}
			if !e.deleted {
				c.Object = &resource.Object{Spec: []byte(e.spec)}
			}
			items = append(items, c)
		}
	}
	slices.SortFunc(items, func(a, b store.Change) int { return a.Key.Compare(b.Key) })
	return brief(items)
}

var (
	genKind   = rapid.SampledFrom([]resource.Kind{mesh, policy, proxy})
	genScope  = rapid.SampledFrom([]string{"", "a", "b"})
	genName   = rapid.SampledFrom([]string{"x", "y", "z"})
	genOrigin = rapid.SampledFrom([]resource.Origin{resource.Local, resource.Global, "zone-1"})
	genSpec   = rapid.SampledFrom([]string{"", "1", "2"})
	genKey    = rapid.Custom(func(t *rapid.T) resource.Key {
		return resource.Key{Kind: genKind.Draw(t, "kind"), Scope: genScope.Draw(t, "scope"), Name: genName.Draw(t, "name")}
	})
	genRange = rapid.Custom(func(t *rapid.T) store.Range {
		return store.Range{
			Kind:  rapid.SampledFrom([]resource.Kind{"", mesh, policy, proxy}).Draw(t, "kind"),
			Scope: genScope.Draw(t, "scope"), AnyScope: rapid.Bool().Draw(t, "any"),
		}
	})
)

func (r *reference) draw(t *rapid.T) store.Batch {
	var b store.Batch
	for range rapid.IntRange(0, 3).Draw(t, "puts") {
		b.Puts = append(b.Puts, store.Put{Key: genKey.Draw(t, "put"), Origin: genOrigin.Draw(t, "origin"), Spec: []byte(genSpec.Draw(t, "spec"))})
	}
	b.Deletes = rapid.SliceOfN(genKey, 0, 2).Draw(t, "deletes")
	if rapid.IntRange(0, 5).Draw(t, "cascade") == 0 {
		b.DeleteScopes = []string{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "scope")}
	}
	for range rapid.IntRange(0, 2).Draw(t, "guards") {
		k := genKey.Draw(t, "guarded")
		switch rapid.IntRange(0, 3).Draw(t, "guard") {
		case 0:
			b.Guards = append(b.Guards, store.Exists(k))
		case 1:
			b.Guards = append(b.Guards, store.NoneIn(genRange.Draw(t, "none")))
		case 2:
			b.Guards = append(b.Guards, store.AtRevision(k, r.entries[k].revision))
		default:
			b.Guards = append(b.Guards, store.AtRevision(k, resource.Revision(rapid.IntRange(0, int(r.revision)).Draw(t, "revision"))))
		}
	}
	if rapid.IntRange(0, 5).Draw(t, "forget") == 0 {
		b.Forget = []string{genName.Draw(t, "forgotten")}
	}
	if rapid.IntRange(0, 3).Draw(t, "cursor") == 0 {
		b.Cursor = &store.CursorMove{Peer: genName.Draw(t, "peer"), To: store.Cursor{Revision: resource.Revision(rapid.IntRange(0, 5).Draw(t, "to"))}}
		if rapid.Bool().Draw(t, "from") {
			b.Cursor.From = &store.Cursor{Revision: resource.Revision(rapid.IntRange(0, 5).Draw(t, "from"))}
		}
	}
	return b
}

// Property lets a log and the simplest thinkable one do the same, and compares them after every step: present
// state, counts, cursors, views that were kept, watches at any distance, openings.
func Property(t *testing.T, b Backend) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "") //nolint:usetesting // one a run of the property, not one a test
		if err != nil {
			rt.Fatal(err)
		}
		ctx := context.Background()
		opts := Options{Retention: store.Retention{Count: tombstones}}
		s := b.Open(t, dir, opts)
		defer func() { _ = s.Close() }()
		ref := &reference{entries: map[resource.Key]entry{}, cursors: map[string]store.Cursor{}}

		type kept struct {
			view store.View
			want []string
		}
		type watching struct {
			watch store.Watch
			rng   store.Range
			at    resource.Revision
		}
		var views []kept
		var watches []*watching
		cursors := []store.Cursor{s.Config().View().At()}
		equal := func(what string, got, want any) {
			if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
				rt.Fatalf("%s (-want +got):\n%s", what, d)
			}
		}

		actions := map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				v := s.Config().View()
				equal("revision", v.Revision(), ref.revision)
				rng := genRange.Draw(rt, "range")
				equal("content", describe(v, rng), ref.describe(rng))
				equal("count", v.Count(rng), len(ref.live(rng)))
				for _, peer := range []string{"x", "y", "z"} {
					c, _ := v.Cursor(peer)
					equal("cursor of "+peer, c, ref.cursors[peer])
				}
				k := genKey.Draw(rt, "get")
				_, ok := v.Get(k)
				equal("get", ok, slices.Contains(ref.live(store.Everything()), k))
			},
			"apply": func(rt *rapid.T) {
				batch := ref.draw(rt)
				res, err := s.Config().Apply(ctx, batch)
				if !ref.apply(batch) {
					if !errors.Is(err, store.ErrConflict) {
						rt.Fatalf("got error %v, want a conflict", err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				equal("result", res.Revision, ref.revision)
				cursors = append(cursors, s.Config().View().At())
			},
			"keep a view": func(*rapid.T) {
				views = append(views, kept{s.Config().View(), ref.describe(store.Everything())})
			},
			"look at kept views": func(*rapid.T) {
				for _, k := range views {
					equal("a kept view", describe(k.view, store.Everything()), k.want)
				}
			},
			"watch": func(rt *rapid.T) {
				c := rapid.SampledFrom(cursors).Draw(rt, "cursor")
				rng := genRange.Draw(rt, "range")
				w, err := s.Config().Watch(rng, c)
				if c.Revision < ref.compacted {
					if !errors.Is(err, store.ErrCompacted) {
						rt.Fatalf("got error %v, want compacted", err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				watches = append(watches, &watching{w, rng, c.Revision})
			},
			"next": func(rt *rapid.T) {
				if len(watches) == 0 {
					rt.Skip("no watch")
				}
				w := rapid.SampledFrom(watches).Draw(rt, "watch")
				if w.at == ref.revision {
					rt.Skip("nothing new")
				}
				c, err := w.watch.Next(ctx)
				if w.at < ref.compacted {
					if !errors.Is(err, store.ErrCompacted) {
						rt.Fatalf("got error %v, want compacted", err)
					}
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				equal("from, to", []resource.Revision{c.From, c.To}, []resource.Revision{w.at, ref.revision})
				equal("changes", brief(c.Items), ref.since(w.at, w.rng))
				equal("view", describe(c.View, store.Everything()), ref.describe(store.Everything()))
				w.at = c.To
			},
		}
		if b.Durable {
			actions["reopen"] = func(*rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = b.Open(t, dir, opts)
				watches = nil
				cursors = append(cursors, s.Config().View().At())
			}
		}
		rt.Repeat(actions)
	})
}
