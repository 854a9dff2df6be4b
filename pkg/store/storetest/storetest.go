// Package storetest is the conformance suite of store.Store: one test for each sentence of the contract, which
// every backend passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Options that a test opens a store with.
type Options struct {
	Retention store.Retention
}

// Backend is what the suite is run on.
type Backend struct {
	// Open opens the store that lives in dir, and makes it if it is not there.
	Open func(t testing.TB, dir string, o Options) store.Store
	// Durable: what was closed opens again as it was.
	Durable bool
	// Rounds of the concurrent tests, and a tenth of the items in the largest batch; 0: 10,000.
	Rounds int
}

// The kinds that the suite writes. A backend knows none.
const (
	mesh    resource.Kind = "Mesh"
	policy  resource.Kind = "Timeout"
	proxy   resource.Kind = "Dataplane"
	another resource.Kind = "Another"
)

func key(kind resource.Kind, scope, name string) resource.Key {
	return resource.Key{Kind: kind, Scope: scope, Name: name}
}

func put(k resource.Key, spec string) store.Put { return store.Put{Key: k, Spec: []byte(spec)} }

func puts(p ...store.Put) store.Batch { return store.Batch{Puts: p} }

func deletes(k ...resource.Key) store.Batch { return store.Batch{Deletes: k} }

// Run runs the suite, for each of the two logs.
func Run(t *testing.T, b Backend) {
	if b.Rounds == 0 {
		b.Rounds = 10_000
	}
	logs := map[string]func(store.Store) store.Log{"config": store.Store.Config, "status": store.Store.Status}
	for name, of := range logs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { c.run(newFixture(t, b, of, Options{})) })
			}
		})
	}
	t.Run("the two logs are separate", func(t *testing.T) { testSeparate(newFixture(t, b, store.Store.Config, Options{})) })
}

var cases = []struct {
	name string
	run  func(*fixture)
}{
	{"an empty log is at revision 0 of its first epoch", testEmpty},
	{"revisions count from 1 without gaps", testDense},
	{"a batch is one revision for all its changes", testOneRevision},
	{"a batch is all or nothing, and names the guard that failed", testGuards},
	{"guards hold before the batch's own changes", testGuardsBefore},
	{"times are kept, and set where they are missing", testTimes},
	{"an equal spec keeps its revision", testSpecRevision},
	{"a spec belongs to the store", testOwnSpec},
	{"a deletion leaves a tombstone with the origin", testDelete},
	{"deleting what is not there takes a revision", testDeleteAbsent},
	{"deleting a scope takes every kind and origin", testDeleteScopes},
	{"in one batch deletions come before puts", testDeleteThenPut},
	{"scan yields a range in key order, and count counts it", testScan},
	{"a view never changes", testImmutable},
	{"a result's view includes the batch", testResultView},
	{"a cursor alone takes no revision and wakes no watch", testCursorOnly},
	{"a cursor moves with its batch or not at all", testCursorWithBatch},
	{"a cursor's From is a guard", testCursorFrom},
	{"a cursor is valid within its epoch", testValidCursor},
	{"an opening adds an epoch and takes no revision", testEpochs},
	{"everything opens again as it was", testReopen},
	{"a restored backup is found out", testBackup},
	{"a watch takes up where its cursor is", testWatchFrom},
	{"a watch gives the newest change of each key", testCoalesce},
	{"changes out of the range only move a watch", testOutOfRange},
	{"a key that came back is no deletion", testComeBack},
	{"tombstones beyond the count are compacted", testCompactCount},
	{"tombstones beyond the age are compacted", testCompactAge},
	{"a watch that fell behind the compaction says so", testCompactWatch},
	{"changes come by revision, and a sweep's by key", testChanges},
	{"await returns the first view that is far enough", testAwait},
	{"await and next end with the context's cause", testCause},
	{"a closed watch ends its next", testCloseWatch},
	{"a closed store ends all waiting", testCloseStore},
	{"a cancelled apply writes nothing", testCancelled},
	{"a batch that no store could take is refused", testBadBatch},
	{"thousands of items are one revision", testLarge},
	{"concurrent batches get revisions of their own, visible in order", testConcurrent},
	{"a policy never outlives its mesh", testOrphans},
	{"a thousand watches see the same", testManyWatches},
}

// fixture is one store under test.
type fixture struct {
	testing.TB
	backend Backend
	dir     string
	of      func(store.Store) store.Log
	store   store.Store
	log     store.Log
}

func newFixture(t testing.TB, b Backend, of func(store.Store) store.Log, o Options) *fixture {
	f := &fixture{TB: t, backend: b, dir: t.TempDir(), of: of}
	f.open(o)
	t.Cleanup(func() { _ = f.store.Close() })
	return f
}

func (f *fixture) open(o Options) {
	f.Helper()
	f.store = f.backend.Open(f.TB, f.dir, o)
	f.log = f.of(f.store)
}

// reopen closes the store and opens it again, with other limits where they are given.
func (f *fixture) reopen(o Options) {
	f.Helper()
	if err := f.store.Close(); err != nil {
		f.Fatal(err)
	}
	f.open(o)
}

// with starts a new store with other limits.
func (f *fixture) with(o Options) *fixture {
	f.Helper()
	return newFixture(f.TB, f.backend, f.of, o)
}

func (f *fixture) durable() {
	if !f.backend.Durable {
		f.Skip("the backend keeps nothing")
	}
}

func (f *fixture) apply(b store.Batch) store.Result {
	f.Helper()
	res, err := f.log.Apply(f.Context(), b)
	if err != nil {
		f.Fatal(err)
	}
	return res
}

func (f *fixture) watch(r store.Range, after store.Cursor) store.Watch {
	f.Helper()
	w, err := f.log.Watch(r, after)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = w.Close() })
	return w
}

func (f *fixture) next(w store.Watch) store.Changes {
	f.Helper()
	c, err := w.Next(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return c
}

func (f *fixture) equal(what string, got, want any, opts ...cmp.Option) {
	f.Helper()
	if d := cmp.Diff(want, got, append(opts, cmpopts.EquateEmpty())...); d != "" {
		f.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func (f *fixture) fails(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("got error %v, want %v", err, want)
	}
}

// brief writes changes as "+Timeout a/x=spec@3" and "-Timeout a/x@4 (origin)".
func brief(items []store.Change) []string {
	out := make([]string, 0, len(items))
	for _, c := range items {
		s := fmt.Sprintf("-%s@%s", c.Key, c.Revision)
		if c.Object != nil {
			s = fmt.Sprintf("+%s=%s@%s", c.Key, c.Object.Spec, c.Revision)
		}
		if c.Origin != resource.Local {
			s += fmt.Sprintf(" (%s)", c.Origin)
		}
		out = append(out, s)
	}
	return out
}

// content writes a view's objects like brief.
func content(v store.View, r store.Range) []string {
	var out []string
	for o := range v.Scan(r) {
		out = append(out, brief([]store.Change{{Key: o.Key, Object: o, Origin: o.Origin, Revision: o.Revision}})...)
	}
	return out
}

func testEmpty(f *fixture) {
	v := f.log.View()
	f.equal("revision", v.Revision(), resource.Revision(0))
	f.equal("content", content(v, store.Everything()), []string(nil))
	e := v.Epochs()
	if len(e) != 1 || e[0].ID == "" || e[0].First != 1 {
		f.Fatalf("epochs are %v", e)
	}
	f.equal("cursor", v.At(), store.Cursor{Store: f.store.ID(), Epoch: e[0].ID})
	if f.store.ID() == "" || f.with(Options{}).store.ID() == f.store.ID() {
		f.Fatal("the store's id is not its own")
	}
	if err := f.store.Health(); err != nil {
		f.Fatal(err)
	}
}

func testDense(f *fixture) {
	for i := range 5 {
		res := f.apply(puts(put(key(mesh, "", "m"), fmt.Sprint(i))))
		f.equal("revision", res.Revision, resource.Revision(i+1))
	}
}

func testOneRevision(f *fixture) {
	f.apply(puts(put(key(mesh, "", "old"), "")))
	f.apply(store.Batch{Puts: []store.Put{put(key(mesh, "", "a"), "1"), put(key(mesh, "", "b"), "2")}, Deletes: []resource.Key{key(mesh, "", "old")}})
	f.equal("content", content(f.log.View(), store.Everything()), []string{"+Mesh a=1@2", "+Mesh b=2@2"})
}

func testGuards(f *fixture) {
	a, b := key(mesh, "", "a"), key(mesh, "", "b")
	f.apply(puts(put(a, "1"), put(key(policy, "a", "p"), "")))
	f.apply(puts(put(a, "2")))
	for _, c := range []struct {
		guard store.Guard
		holds bool
	}{
		{store.AtRevision(a, 2), true},
		{store.AtRevision(a, 1), false},
		{store.AtRevision(a, 0), false},
		{store.AtRevision(b, 0), true},
		{store.AtRevision(b, 1), false},
		{store.Exists(a), true},
		{store.Exists(b), false},
		{store.NoneIn(store.InScope(policy, "b")), true},
		{store.NoneIn(store.InScope(policy, "a")), false},
		{store.NoneIn(store.OfKind(proxy)), true},
		{store.NoneIn(store.OfKind(policy)), false},
		{store.NoneIn(store.InScope(policy, "")), true},
		{store.NoneIn(store.InScope(mesh, "")), false},
		{store.NoneIn(store.Everything()), false},
		{store.NoneIn(store.Range{Scope: "a"}), false},
		{store.NoneIn(store.Range{Scope: "b"}), true},
	} {
		before := f.log.View()
		_, err := f.log.Apply(f.Context(), store.Batch{
			Puts: []store.Put{put(key(another, "", "x"), "")}, Deletes: []resource.Key{key(another, "", "y")},
			Guards: []store.Guard{store.Exists(key(policy, "a", "p")), c.guard},
			Cursor: &store.CursorMove{Peer: "p", To: store.Cursor{Revision: 7}},
		})
		if c.holds {
			if err != nil {
				f.Fatalf("%s: %v", c.guard, err)
			}
			f.apply(deletes(key(another, "", "x")))
			f.apply(store.Batch{Cursor: &store.CursorMove{Peer: "p"}})
			continue
		}
		f.fails(err, store.ErrConflict)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			f.Fatalf("%v is no ConflictError", err)
		}
		f.equal("guard", conflict.Guard, c.guard)
		f.equal("revision", f.log.View().Revision(), before.Revision())
		f.equal("content", content(f.log.View(), store.Everything()), content(before, store.Everything()))
		if c, _ := f.log.View().Cursor("p"); c != (store.Cursor{}) {
			f.Fatalf("the cursor moved to %v", c)
		}
	}
}

func testGuardsBefore(f *fixture) {
	a, b := key(mesh, "", "a"), key(mesh, "", "b")
	f.apply(store.Batch{Puts: []store.Put{put(a, "")}, Guards: []store.Guard{store.AtRevision(a, 0), store.NoneIn(store.OfKind(mesh))}})
	f.apply(store.Batch{Deletes: []resource.Key{a}, Guards: []store.Guard{store.Exists(a)}})
	_, err := f.log.Apply(f.Context(), store.Batch{Puts: []store.Put{put(b, "")}, Guards: []store.Guard{store.Exists(b)}})
	f.fails(err, store.ErrConflict)
}

func testTimes(f *fixture) {
	get := func(k resource.Key) *resource.Object {
		o, ok := f.log.View().Get(k)
		if !ok {
			f.Fatalf("%s is not there", k)
		}
		return o
	}
	a, b := key(mesh, "", "a"), key(mesh, "", "b")
	start := time.Now()
	f.apply(puts(put(a, "1")))
	first := get(a)
	if first.Created.Before(start.Round(0)) || !first.Created.Equal(first.Modified) || first.Created.Location() != time.UTC {
		f.Fatalf("created %v, modified %v", first.Created, first.Modified)
	}
	f.apply(puts(put(a, "1")))
	second := get(a)
	if !second.Created.Equal(first.Created) || second.Modified.Before(first.Modified) {
		f.Fatalf("created %v, modified %v", second.Created, second.Modified)
	}
	created := time.Date(2020, 2, 3, 4, 5, 6, 123456789, time.FixedZone("", 3600))
	modified := time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)
	f.apply(puts(store.Put{Key: b, Created: created, Modified: modified}))
	check := func() {
		f.Helper()
		o := get(b)
		if !o.Created.Equal(created) || !o.Modified.Equal(modified) || o.Created.Location() != time.UTC {
			f.Fatalf("created %v, modified %v", o.Created, o.Modified)
		}
	}
	check()
	f.apply(puts(store.Put{Key: b, Modified: modified}))
	check()
	if f.backend.Durable {
		f.reopen(Options{})
		check()
	}
}

func testSpecRevision(f *fixture) {
	a := key(mesh, "", "a")
	want := func(rev, spec resource.Revision) {
		f.Helper()
		o, _ := f.log.View().Get(a)
		if o == nil || o.Revision != rev || o.SpecRevision != spec {
			f.Fatalf("got %+v, want revision %s, spec revision %s", o, rev, spec)
		}
	}
	f.apply(puts(put(a, "1")))
	want(1, 1)
	f.apply(puts(put(a, "1")))
	want(2, 1)
	if f.backend.Durable {
		f.reopen(Options{})
		want(2, 1)
	}
	f.apply(puts(put(a, "2")))
	want(3, 3)
	f.apply(store.Batch{Deletes: []resource.Key{a}, Puts: []store.Put{put(a, "2")}})
	want(4, 4)
}

func testOwnSpec(f *fixture) {
	a := key(mesh, "", "a")
	spec := []byte("abc")
	f.apply(puts(store.Put{Key: a, Spec: spec}))
	spec[0] = 'x'
	o, _ := f.log.View().Get(a)
	f.equal("spec", string(o.Spec), "abc")
}

func testDelete(f *fixture) {
	a := key(proxy, "m", "a")
	f.apply(puts(store.Put{Key: a, Origin: "zone-1", Spec: []byte("1")}))
	at := f.log.View().At()
	f.apply(deletes(a))
	check := func() {
		f.Helper()
		if _, ok := f.log.View().Get(a); ok {
			f.Fatal("it is still there")
		}
		c := f.next(f.watch(store.Everything(), at))
		f.equal("items", brief(c.Items), []string{"-Dataplane m/a@2 (zone-1)"})
		f.equal("count", f.log.View().Count(store.OfKind(proxy)), 0)
	}
	check()
	if f.backend.Durable {
		f.reopen(Options{})
		check()
	}
}

func testDeleteAbsent(f *fixture) {
	w := f.watch(store.Everything(), f.log.View().At())
	f.equal("revision", f.apply(deletes(key(mesh, "", "a"))).Revision, resource.Revision(1))
	f.equal("revision", f.apply(store.Batch{DeleteScopes: []string{"none"}}).Revision, resource.Revision(2))
	c := f.next(w)
	f.equal("to", c.To, resource.Revision(2))
	f.equal("items", brief(c.Items), []string(nil))
	if f.backend.Durable {
		f.reopen(Options{})
		f.equal("revision", f.log.View().Revision(), resource.Revision(2))
	}
}

func testDeleteScopes(f *fixture) {
	f.apply(puts(put(key(mesh, "", "a"), ""), put(key(policy, "a", "x"), ""), put(key(policy, "b", "x"), ""),
		store.Put{Key: key(proxy, "a", "x"), Origin: "zone-1"}, put(key(another, "a", "x"), ""), put(key(another, "aa", "x"), "")))
	at := f.log.View().At()
	f.apply(store.Batch{DeleteScopes: []string{"a"}, Puts: []store.Put{put(key(policy, "a", "new"), "")}})
	f.equal("content", content(f.log.View(), store.Everything()), []string{"+Another aa/x=@1", "+Mesh a=@1", "+Timeout a/new=@2", "+Timeout b/x=@1"})
	f.equal("items", brief(f.next(f.watch(store.Everything(), at)).Items),
		[]string{"-Another a/x@2", "-Dataplane a/x@2 (zone-1)", "+Timeout a/new=@2", "-Timeout a/x@2"})
}

func testDeleteThenPut(f *fixture) {
	a := key(mesh, "", "a")
	f.apply(puts(store.Put{Key: a, Origin: "zone-1", Spec: []byte("1"), Created: time.Unix(5, 0)}))
	f.apply(store.Batch{Deletes: []resource.Key{a}, Puts: []store.Put{put(a, "1")}})
	o, ok := f.log.View().Get(a)
	if !ok || o.Origin != resource.Local || o.Created.Equal(time.Unix(5, 0)) {
		f.Fatalf("got %+v: it has not begun a new life", o)
	}
}

func testScan(f *fixture) {
	var all []store.Put
	for _, k := range []resource.Key{
		key(mesh, "", "b"), key(mesh, "", "a"), key(policy, "b", "x"), key(policy, "a", "y"), key(policy, "a", "x"),
		key(policy, "a.b", "x"), key(proxy, "a", "x"), key(another, "", "x"), key(another, "a", "x"), key("Mes", "", "x"), key("Meshes", "", "x"),
	} {
		all = append(all, put(k, ""))
	}
	f.apply(puts(all...))
	f.apply(deletes(key(another, "a", "x")))
	for _, r := range []store.Range{
		store.Everything(), store.OfKind(mesh), store.OfKind(policy), store.OfKind("none"), store.InScope(policy, "a"), store.InScope(policy, "c"),
		store.InScope(policy, ""), store.InScope(mesh, ""), store.InScope(another, "a"),
		{Scope: "a"},
		{Scope: "none"},
		{},
	} {
		var want []resource.Key
		for _, p := range all {
			if r.Contains(p.Key) && p.Key != key(another, "a", "x") {
				want = append(want, p.Key)
			}
		}
		slices.SortFunc(want, resource.Key.Compare)
		var got []resource.Key
		for o := range f.log.View().Scan(r) {
			got = append(got, o.Key)
		}
		f.equal(fmt.Sprintf("scan of %+v", r), got, want)
		f.equal(fmt.Sprintf("count of %+v", r), f.log.View().Count(r), len(want))
		for range f.log.View().Scan(r) {
			break
		}
	}
}

func testImmutable(f *fixture) {
	f.apply(puts(put(key(mesh, "", "a"), "1"), put(key(mesh, "", "b"), "1")))
	v := f.log.View()
	before := content(v, store.Everything())
	for i := range 200 {
		f.apply(puts(put(key(mesh, "", fmt.Sprint(i)), "2"), put(key(mesh, "", "a"), fmt.Sprint(i))))
	}
	f.apply(deletes(key(mesh, "", "b")))
	f.apply(store.Batch{Cursor: &store.CursorMove{Peer: "p", To: store.Cursor{Revision: 3}}})
	f.equal("content", content(v, store.Everything()), before)
	f.equal("revision", v.Revision(), resource.Revision(1))
	f.equal("count", v.Count(store.OfKind(mesh)), 2)
	if _, ok := v.Cursor("p"); ok {
		f.Fatal("the cursor is in the older view")
	}
}

func testResultView(f *fixture) {
	a := key(mesh, "", "a")
	res := f.apply(puts(put(a, "1")))
	if o, ok := res.View.Get(a); !ok || o.Revision != res.Revision || f.log.View().Revision() < res.Revision {
		f.Fatalf("got %+v", o)
	}
}

func testCursorOnly(f *fixture) {
	w := f.watch(store.Everything(), f.log.View().At())
	got := make(chan store.Changes, 1)
	go func() {
		c, _ := w.Next(f.Context())
		got <- c
	}()
	to := store.Cursor{Store: "s", Epoch: "e", Revision: 9}
	res := f.apply(store.Batch{Cursor: &store.CursorMove{Peer: "p", To: to}})
	f.equal("revision", res.Revision, resource.Revision(0))
	for _, v := range []store.View{res.View, f.log.View()} {
		c, ok := v.Cursor("p")
		if !ok || c != to {
			f.Fatalf("the cursor is %v", c)
		}
	}
	if _, ok := f.log.View().Cursor("q"); ok {
		f.Fatal("there is a cursor that nobody set")
	}
	f.apply(puts(put(key(mesh, "", "a"), "")))
	f.equal("items", brief((<-got).Items), []string{"+Mesh a=@1"})
	if f.backend.Durable {
		f.reopen(Options{})
		c, _ := f.log.View().Cursor("p")
		f.equal("cursor", c, to)
	}
}

func testCursorWithBatch(f *fixture) {
	move := &store.CursorMove{Peer: "p", To: store.Cursor{Store: "s", Revision: 1}}
	b := puts(put(key(mesh, "", "a"), ""))
	b.Cursor = move
	f.apply(b)
	b.Guards = []store.Guard{store.AtRevision(key(mesh, "", "a"), 0)}
	b.Cursor = &store.CursorMove{Peer: "p", To: store.Cursor{Store: "s", Revision: 2}}
	_, err := f.log.Apply(f.Context(), b)
	f.fails(err, store.ErrConflict)
	c, _ := f.log.View().Cursor("p")
	f.equal("cursor", c, move.To)
}

func testCursorFrom(f *fixture) {
	one, two := store.Cursor{Store: "s", Epoch: "e", Revision: 1}, store.Cursor{Store: "s", Epoch: "e", Revision: 2}
	move := func(from, to store.Cursor) error {
		_, err := f.log.Apply(f.Context(), store.Batch{Cursor: &store.CursorMove{Peer: "p", From: &from, To: to}})
		return err
	}
	if err := move(store.Cursor{}, one); err != nil {
		f.Fatal(err)
	}
	for _, from := range []store.Cursor{{}, two, {Store: "s", Epoch: "other", Revision: 1}, {Store: "other", Epoch: "e", Revision: 1}} {
		err := move(from, two)
		f.fails(err, store.ErrConflict)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) || conflict.Guard.Peer != "p" {
			f.Fatalf("%v does not name the peer", err)
		}
	}
	if err := move(one, two); err != nil {
		f.Fatal(err)
	}
}

func testValidCursor(f *fixture) {
	f.apply(puts(put(key(mesh, "", "a"), "")))
	v := f.log.View()
	at := v.At()
	for _, c := range []struct {
		change func(*store.Cursor)
		valid  bool
	}{
		{func(*store.Cursor) {}, true},
		{func(c *store.Cursor) { c.Revision = 0 }, true},
		{func(c *store.Cursor) { c.Revision = 2 }, false},
		{func(c *store.Cursor) { c.Epoch = "other" }, false},
		{func(c *store.Cursor) { c.Store = "other" }, false},
		{func(c *store.Cursor) { *c = store.Cursor{} }, false},
	} {
		cursor := at
		c.change(&cursor)
		f.equal("valid", store.ValidCursor(f.store.ID(), v.Epochs(), v.Revision(), cursor), c.valid)
		w, err := f.log.Watch(store.Everything(), cursor)
		if c.valid {
			if err != nil {
				f.Fatalf("%+v: %v", cursor, err)
			}
			_ = w.Close()
			continue
		}
		f.fails(err, store.ErrCompacted)
	}
}

func testEpochs(f *fixture) {
	f.durable()
	id := f.store.ID()
	f.apply(puts(put(key(mesh, "", "a"), "1")))
	first := f.log.View().At()
	f.reopen(Options{})
	f.equal("id", f.store.ID(), id)
	v := f.log.View()
	f.equal("revision", v.Revision(), resource.Revision(1))
	e := v.Epochs()
	if len(e) != 2 || e[0].ID != first.Epoch || e[1].ID == e[0].ID || e[1].First != 2 {
		f.Fatalf("epochs are %v", e)
	}
	f.equal("cursor", v.At(), store.Cursor{Store: id, Epoch: e[1].ID, Revision: 1})
	w := f.watch(store.Everything(), first)
	f.apply(puts(put(key(mesh, "", "b"), "2")))
	f.equal("items", brief(f.next(w).Items), []string{"+Mesh b=2@2"})
	beyond := first
	beyond.Revision = 2
	if store.ValidCursor(id, f.log.View().Epochs(), f.log.View().Revision(), beyond) {
		f.Fatal("a revision of the second epoch is valid in the first")
	}
}

func testReopen(f *fixture) {
	f.durable()
	for i := range 3 {
		f.apply(puts(put(key(mesh, "", fmt.Sprintf("m%d", i)), "1"), put(key(policy, "m0", fmt.Sprintf("p%d", i)), "")))
		f.apply(deletes(key(policy, "m0", "p0")))
	}
	f.apply(store.Batch{Cursor: &store.CursorMove{Peer: "p", To: store.Cursor{Store: "s", Epoch: "e", Revision: 4}}})
	start := f.log.View().Epochs()[0]
	want := content(f.log.View(), store.Everything())
	changes := brief(f.next(f.watch(store.Everything(), store.Cursor{Store: f.store.ID(), Epoch: start.ID})).Items)
	for range 2 {
		f.reopen(Options{})
		f.equal("content", content(f.log.View(), store.Everything()), want)
		f.equal("revision", f.log.View().Revision(), resource.Revision(6))
		f.equal("changes", brief(f.next(f.watch(store.Everything(), store.Cursor{Store: f.store.ID(), Epoch: start.ID})).Items), changes)
		f.equal("count", f.log.View().Count(store.InScope(policy, "m0")), 2)
	}
	f.equal("revision", f.apply(deletes(key(mesh, "", "m0"))).Revision, resource.Revision(7))
}

func testBackup(f *fixture) {
	f.durable()
	f.apply(puts(put(key(mesh, "", "a"), "1")))
	before := f.log.View().At()
	if err := f.store.Close(); err != nil {
		f.Fatal(err)
	}
	backup := f.TempDir()
	copyDir(f.TB, f.dir, backup)
	f.open(Options{})
	f.apply(puts(put(key(mesh, "", "lost"), "1")))
	lost := f.log.View().At()
	if err := f.store.Close(); err != nil {
		f.Fatal(err)
	}
	f.dir = backup
	f.open(Options{})
	for i := range 3 {
		_, err := f.log.Watch(store.Everything(), lost)
		f.fails(err, store.ErrCompacted)
		f.watch(store.Everything(), before)
		f.apply(puts(put(key(mesh, "", "new"), fmt.Sprint(i))))
	}
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(filepath.Join(to, strings.TrimPrefix(path, from)), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testWatchFrom(f *fixture) {
	f.apply(puts(put(key(mesh, "", "a"), "1")))
	at := f.log.View().At()
	f.apply(puts(put(key(mesh, "", "b"), "1")))
	f.apply(puts(put(key(mesh, "", "c"), "1")))
	w := f.watch(store.Everything(), at)
	c := f.next(w)
	f.equal("from, to", []resource.Revision{c.From, c.To}, []resource.Revision{1, 3})
	f.equal("items", brief(c.Items), []string{"+Mesh b=1@2", "+Mesh c=1@3"})
	f.equal("view", c.View.Revision(), c.To)
	f.apply(puts(put(key(mesh, "", "b"), "2")))
	c = f.next(w)
	f.equal("from, to", []resource.Revision{c.From, c.To}, []resource.Revision{3, 4})
	f.equal("items", brief(c.Items), []string{"+Mesh b=2@4"})
}

func testCoalesce(f *fixture) {
	w := f.watch(store.Everything(), f.log.View().At())
	a, b := key(mesh, "", "a"), key(mesh, "", "b")
	f.apply(puts(put(b, "1"), put(a, "1")))
	f.apply(puts(put(b, "2")))
	f.apply(deletes(a))
	f.apply(puts(put(b, "3")))
	c := f.next(w)
	f.equal("items", brief(c.Items), []string{"-Mesh a@3", "+Mesh b=3@4"})
}

func testOutOfRange(f *fixture) {
	w := f.watch(store.InScope(policy, "a"), f.log.View().At())
	f.apply(puts(put(key(policy, "b", "x"), ""), put(key(mesh, "", "x"), "")))
	c := f.next(w)
	f.equal("to", c.To, resource.Revision(1))
	f.equal("items", brief(c.Items), []string(nil))
	f.apply(puts(put(key(policy, "a", "x"), "")))
	f.equal("items", brief(f.next(w).Items), []string{"+Timeout a/x=@2"})
	f.apply(store.Batch{DeleteScopes: []string{"a", "b"}})
	f.equal("items", brief(f.next(w).Items), []string{"-Timeout a/x@3"})
}

func testComeBack(f *fixture) {
	a := key(mesh, "", "a")
	f.apply(puts(put(a, "1")))
	w := f.watch(store.Everything(), f.log.View().At())
	f.apply(deletes(a))
	f.apply(puts(put(a, "1")))
	f.equal("items", brief(f.next(w).Items), []string{"+Mesh a=1@3"})
	if f.backend.Durable {
		at := store.Cursor{Store: f.store.ID(), Epoch: f.log.View().Epochs()[0].ID}
		f.reopen(Options{})
		f.equal("items", brief(f.next(f.watch(store.Everything(), at)).Items), []string{"+Mesh a=1@3"})
	}
}

func testCompactCount(f *fixture) {
	g := f.with(Options{Retention: store.Retention{Count: 3}})
	var cursors []store.Cursor
	for i := range 10 {
		k := key(mesh, "", fmt.Sprint(i))
		g.apply(puts(put(k, "")))
		cursors = append(cursors, g.log.View().At())
		g.apply(deletes(k))
	}
	check := func() {
		f.Helper()
		for i, c := range cursors {
			w, err := g.log.Watch(store.Everything(), c)
			// The tombstones of 0 to 6 are gone; cursor i was taken just before the deletion of i.
			if i < 7 {
				f.fails(err, store.ErrCompacted)
				continue
			}
			if err != nil {
				f.Fatalf("cursor %d: %v", i, err)
			}
			f.equal("number of items", len(g.next(w).Items), 10-i)
			_ = w.Close()
		}
	}
	check()
	if f.backend.Durable {
		g.reopen(Options{Retention: store.Retention{Count: 3}})
		check()
	}
}

func testCompactAge(f *fixture) {
	g := f.with(Options{Retention: store.Retention{Age: time.Nanosecond}})
	k := key(mesh, "", "a")
	g.apply(puts(put(k, "")))
	at := g.log.View().At()
	g.apply(deletes(k))
	later := g.log.View().At()
	for g.log.View().Revision() < 1000 {
		g.apply(puts(put(key(mesh, "", "b"), "")))
		if _, err := g.log.Watch(store.Everything(), at); err != nil {
			f.fails(err, store.ErrCompacted)
			g.watch(store.Everything(), later)
			return
		}
	}
	f.Fatal("the tombstone stays for ever")
}

func testCompactWatch(f *fixture) {
	g := f.with(Options{Retention: store.Retention{Count: 1}})
	w := g.watch(store.Everything(), g.log.View().At())
	for i := range 3 {
		g.apply(puts(put(key(mesh, "", fmt.Sprint(i)), "")))
		g.apply(deletes(key(mesh, "", fmt.Sprint(i))))
	}
	_, err := w.Next(f.Context())
	f.fails(err, store.ErrCompacted)
}

func testChanges(f *fixture) {
	f.apply(puts(put(key(mesh, "", "a"), ""), put(key(mesh, "", "b"), ""), put(key(mesh, "", "c"), "")))
	f.apply(puts(put(key(policy, "a", "x"), ""), put(key(policy, "b", "x"), ""), put(key(policy, "b", "y"), "")))
	f.apply(deletes(key(mesh, "", "b")))
	f.apply(store.Batch{Puts: []store.Put{put(key(mesh, "", "a"), "2"), put(key(mesh, "", "d"), "")}, Deletes: []resource.Key{key(policy, "b", "x")}})
	f.apply(deletes(key(mesh, "", "none")))
	h := f.log.View().History()
	all := []string{
		"+Mesh c=@1", "+Timeout a/x=@2", "+Timeout b/y=@2", "-Mesh b@3", "+Mesh a=2@4", "+Mesh d=@4", "-Timeout b/x@4",
	}
	for r, n := range []int{0, 1, 3, 4, 7, 7} {
		f.equal(fmt.Sprintf("changes after %d", r), strings.Join(brief(slices.Collect(h.Changes(resource.Revision(r)))), " "), strings.Join(all[n:], " "))
	}
	for c := range h.Changes(2) { // also a part of them
		f.equal("first change", c.Key.Name, "b")
		break
	}
	for _, tc := range []struct {
		rng    store.Range
		behind resource.Key
		after  resource.Revision
		want   string
	}{
		{store.Everything(), resource.Key{}, 0, "+Mesh a=2@4 +Mesh c=@1 +Mesh d=@4 +Timeout a/x=@2 +Timeout b/y=@2"},
		{store.Everything(), resource.Key{}, 1, "+Mesh a=2@4 -Mesh b@3 +Mesh d=@4 +Timeout a/x=@2 -Timeout b/x@4 +Timeout b/y=@2"},
		{store.Everything(), key(mesh, "", "b"), 1, "+Mesh d=@4 +Timeout a/x=@2 -Timeout b/x@4 +Timeout b/y=@2"},
		{store.Everything(), key(mesh, "", "d"), 2, "-Timeout b/x@4"},
		{store.OfKind(mesh), resource.Key{}, 1, "+Mesh a=2@4 -Mesh b@3 +Mesh d=@4"},
		{store.OfKind(mesh), key(mesh, "", "bb"), 0, "+Mesh c=@1 +Mesh d=@4"},
		{store.OfKind(mesh), key(policy, "", ""), 0, ""},
		{store.OfKind(policy), key(mesh, "", "b"), 0, "+Timeout a/x=@2 +Timeout b/y=@2"},
		{store.OfKind(policy), key(policy, "a", "x"), 1, "-Timeout b/x@4 +Timeout b/y=@2"},
		{store.InScope(policy, "b"), key(policy, "a", "x"), 1, "-Timeout b/x@4 +Timeout b/y=@2"},
		{store.InScope(policy, "a"), resource.Key{}, 1, "+Timeout a/x=@2"},
		{store.InScope(policy, "b"), key(policy, "b", "x"), 1, "+Timeout b/y=@2"},
		{store.Range{Scope: "a"}, resource.Key{}, 0, "+Timeout a/x=@2"},
		{store.Everything(), resource.Key{}, 4, ""},
	} {
		got := strings.Join(brief(slices.Collect(h.Sweep(tc.rng, tc.behind, tc.after, tc.after > 0))), " ")
		f.equal(fmt.Sprintf("sweep of %+v behind %s after %d", tc.rng, tc.behind, tc.after), got, tc.want)
	}
}

func testAwait(f *fixture) {
	v, err := f.log.Await(f.Context(), 0)
	if err != nil || v.Revision() != 0 {
		f.Fatal(v, err)
	}
	got := make(chan store.View, 1)
	go func() {
		v, _ := f.log.Await(f.Context(), 2)
		got <- v
	}()
	f.apply(puts(put(key(mesh, "", "a"), "")))
	f.apply(puts(put(key(mesh, "", "b"), "")))
	if v := <-got; v == nil || v.Revision() < 2 {
		f.Fatalf("got %v", v)
	}
}

func testCause(f *fixture) {
	cause := errors.New("the cause")
	ctx, cancel := context.WithCancelCause(f.Context())
	w := f.watch(store.Everything(), f.log.View().At())
	errs := make(chan error, 2)
	go func() {
		_, err := f.log.Await(ctx, 1)
		errs <- err
	}()
	go func() {
		_, err := w.Next(ctx)
		errs <- err
	}()
	cancel(cause)
	f.fails(<-errs, cause)
	f.fails(<-errs, cause)
	_, err := w.Next(ctx)
	f.fails(err, cause)
	f.apply(puts(put(key(mesh, "", "a"), "")))
	f.equal("items", brief(f.next(w).Items), []string{"+Mesh a=@1"})
}

func testCloseWatch(f *fixture) {
	w := f.watch(store.Everything(), f.log.View().At())
	errs := make(chan error, 1)
	go func() {
		_, err := w.Next(f.Context())
		errs <- err
	}()
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.fails(<-errs, store.ErrClosed)
	f.apply(puts(put(key(mesh, "", "a"), "")))
	_, err := w.Next(f.Context())
	f.fails(err, store.ErrClosed)
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
}

func testCloseStore(f *fixture) {
	f.apply(puts(put(key(mesh, "", "a"), "")))
	w := f.watch(store.Everything(), f.log.View().At())
	errs := make(chan error, 2)
	go func() {
		_, err := w.Next(f.Context())
		errs <- err
	}()
	go func() {
		_, err := f.log.Await(f.Context(), 100)
		errs <- err
	}()
	for range 2 {
		if err := f.store.Close(); err != nil {
			f.Fatal(err)
		}
	}
	f.fails(<-errs, store.ErrClosed)
	f.fails(<-errs, store.ErrClosed)
	_, err := w.Next(f.Context())
	f.fails(err, store.ErrClosed)
	_, err = f.log.Apply(f.Context(), puts(put(key(mesh, "", "b"), "")))
	f.fails(err, store.ErrClosed)
	_, err = f.log.Watch(store.Everything(), f.log.View().At())
	f.fails(err, store.ErrClosed)
	f.equal("content", content(f.log.View(), store.Everything()), []string{"+Mesh a=@1"})
}

func testCancelled(f *fixture) {
	ctx, cancel := context.WithCancelCause(f.Context())
	cause := errors.New("the cause")
	cancel(cause)
	_, err := f.log.Apply(ctx, puts(put(key(mesh, "", "a"), "")))
	f.fails(err, cause)
	f.equal("revision", f.apply(puts(put(key(mesh, "", "b"), ""))).Revision, resource.Revision(1))
}

func testBadBatch(f *fixture) {
	good := put(key(mesh, "", "a"), "")
	for want, b := range map[string]store.Batch{
		"puts[1].key":     puts(good, put(key("", "", "x"), "")),
		"puts[0].key":     puts(put(key(mesh, "", ""), "")),
		"puts[1]: Mesh x": puts(good, store.Put{Key: key(mesh, "", "x"), Created: time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)}),
		"deleteScopes[0]": {DeleteScopes: []string{""}},
		"cursor.peer":     {Cursor: &store.CursorMove{}},
	} {
		if _, err := f.log.Apply(f.Context(), b); err == nil || !strings.Contains(err.Error(), want) {
			f.Fatalf("got error %v, want one with %q", err, want)
		}
	}
	f.equal("revision", f.log.View().Revision(), resource.Revision(0))
}

func testLarge(f *fixture) {
	var b store.Batch
	n := min(10_000, 10*f.backend.Rounds)
	for i := range n {
		b.Puts = append(b.Puts, put(key(policy, "m", fmt.Sprintf("p%05d", i)), "spec"))
	}
	w := f.watch(store.Everything(), f.log.View().At())
	f.equal("revision", f.apply(b).Revision, resource.Revision(1))
	f.equal("count", f.log.View().Count(store.InScope(policy, "m")), n)
	c := f.next(w)
	if len(c.Items) != n || !slices.IsSortedFunc(c.Items, func(a, b store.Change) int { return a.Key.Compare(b.Key) }) {
		f.Fatal("the changes are not complete or not in order")
	}
	f.apply(store.Batch{DeleteScopes: []string{"m"}})
	f.equal("count", f.log.View().Count(store.Everything()), 0)
}

func testConcurrent(f *fixture) {
	const writers = 8
	each := max(10, f.backend.Rounds/100)
	var wg, readers sync.WaitGroup
	var mu sync.Mutex
	seen := map[resource.Revision]bool{}
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				res, err := f.log.Apply(f.Context(), puts(put(key(mesh, "", fmt.Sprintf("%d-%d", w, i%7)), fmt.Sprint(i))))
				if err != nil {
					f.Error(err)
					return
				}
				if now := f.log.View().Revision(); now < res.Revision {
					f.Errorf("answered %s, but the view is at %s", res.Revision, now)
				}
				mu.Lock()
				if seen[res.Revision] {
					f.Errorf("revision %s was given twice", res.Revision)
				}
				seen[res.Revision] = true
				mu.Unlock()
			}
		})
	}
	last := resource.Revision(writers * each)
	for range 4 {
		w := f.watch(store.Everything(), store.Cursor{Store: f.store.ID(), Epoch: f.log.View().At().Epoch})
		readers.Go(func() {
			model := map[resource.Key]resource.Revision{}
			for at := resource.Revision(0); at < last; {
				c, err := w.Next(f.Context())
				if err != nil {
					f.Error(err)
					return
				}
				if c.From != at || c.To <= c.From || c.View.Revision() != c.To {
					f.Errorf("after %s came (%s, %s], view %s", at, c.From, c.To, c.View.Revision())
					return
				}
				for _, i := range c.Items {
					if i.Revision <= c.From || i.Revision > c.To {
						f.Errorf("revision %s is not in (%s, %s]", i.Revision, c.From, c.To)
					}
					model[i.Key] = i.Revision
				}
				at = c.To
				n := 0
				for o := range c.View.Scan(store.Everything()) {
					if model[o.Key] != o.Revision {
						f.Errorf("at %s: %s is at %s in the view, %s by the changes", at, o.Key, o.Revision, model[o.Key])
						return
					}
					n++
				}
				if n != len(model) {
					f.Errorf("at %s: %d objects in the view, %d by the changes", at, n, len(model))
					return
				}
			}
		})
	}
	wg.Wait()
	if f.Failed() {
		f.FailNow()
	}
	readers.Wait()
	f.equal("revisions", len(seen), int(last))
}

// testOrphans lets policies be written while their mesh is deleted, as the api does both, and looks for a
// policy without a mesh.
func testOrphans(f *fixture) {
	ctx := f.Context()
	m := key(mesh, "", "m")
	for round := range f.backend.Rounds {
		f.apply(puts(put(m, "")))
		var wg sync.WaitGroup
		var putErr, deleteErr error
		p := key(policy, "m", fmt.Sprint(round%5))
		write := func() {
			_, putErr = f.log.Apply(ctx, store.Batch{Puts: []store.Put{put(p, "")}, Guards: []store.Guard{store.Exists(m)}})
		}
		if round%2 == 0 {
			wg.Go(write)
		}
		wg.Go(func() {
			o, _ := f.log.View().Get(m)
			_, deleteErr = f.log.Apply(ctx, store.Batch{
				Deletes: []resource.Key{m}, DeleteScopes: []string{"m"},
				Guards: []store.Guard{store.AtRevision(m, o.Revision), store.NoneIn(store.InScope(proxy, "m"))},
			})
		})
		if round%2 == 1 {
			wg.Go(write)
		}
		wg.Wait()
		if deleteErr != nil || putErr != nil && !errors.Is(putErr, store.ErrConflict) {
			f.Fatalf("round %d: put: %v, delete: %v", round, putErr, deleteErr)
		}
		if n := f.log.View().Count(store.OfKind(policy)); n != 0 {
			f.Fatalf("round %d: %d policies have no mesh", round, n)
		}
	}
}

func testManyWatches(f *fixture) {
	var wg sync.WaitGroup
	errs := make(chan error, 1000)
	for range 1000 {
		w := f.watch(store.OfKind(mesh), f.log.View().At())
		wg.Go(func() {
			for at := resource.Revision(0); at < 5; {
				c, err := w.Next(f.Context())
				if err != nil {
					errs <- err
					return
				}
				at = c.To
			}
		})
	}
	for i := range 5 {
		f.apply(puts(put(key(mesh, "", fmt.Sprint(i)), "")))
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		f.Fatal(err)
	}
}

// testSeparate needs no log of its own: it looks at both.
func testSeparate(f *fixture) {
	ctx := f.Context()
	k := key(mesh, "", "a")
	if _, err := f.store.Config().Apply(ctx, puts(put(k, ""))); err != nil {
		f.Fatal(err)
	}
	if f.store.Status().View().Revision() != 0 || f.store.Status().View().Count(store.Everything()) != 0 {
		f.Fatal("a config batch is in the status log")
	}
	if c, s := f.store.Config().View().At(), f.store.Status().View().At(); c.Store != s.Store || c.Epoch == s.Epoch {
		f.Fatalf("cursors are %v and %v", c, s)
	}
	if _, err := f.store.Status().Apply(ctx, store.Batch{Cursor: &store.CursorMove{Peer: "p", To: store.Cursor{Revision: 1}}}); err != nil {
		f.Fatal(err)
	}
	if _, ok := f.store.Config().View().Cursor("p"); ok {
		f.Fatal("a status cursor is in the config log")
	}
}
