package model_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a committer whose every commit waits for its verdict.
type disk struct {
	commits  chan *model.Group
	verdicts chan error
	settle   error
}

func newDisk() *disk {
	return &disk{commits: make(chan *model.Group), verdicts: make(chan error)}
}

func (d *disk) Commit(g *model.Group) error {
	d.commits <- g
	return <-d.verdicts
}

func (d *disk) Settle() error { return d.settle }

func put(name string) store.Batch {
	return store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: "Mesh", Name: name}}}}
}

func start(d *disk, o model.Options) *model.Log {
	l := model.NewLoader("id")
	l.Open(nil)
	return l.Start(d, o)
}

// apply applies in the background.
func apply(ctx context.Context, l *model.Log, b store.Batch) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := l.Apply(ctx, b)
		done <- err
	}()
	synctest.Wait()
	return done
}

func answered(c <-chan error) bool { return len(c) > 0 }

func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := start(d, model.Options{})
		defer l.Close()
		w, err := l.Watch(store.Everything(), l.View().At())
		if err != nil {
			t.Fatal(err)
		}
		first := apply(t.Context(), l, put("a"))
		<-d.commits
		// What comes during a commit waits for the next one, all of it together.
		second := apply(t.Context(), l, put("b"))
		refused := put("c")
		refused.Guards = []store.Guard{store.AtRevision(resource.Key{Kind: "Mesh", Name: "b"}, 0)}
		third := apply(t.Context(), l, refused)
		again := put("b")
		again.Guards = []store.Guard{store.AtRevision(resource.Key{Kind: "Mesh", Name: "b"}, 2)}
		again.Deletes = []resource.Key{{Kind: "Mesh", Name: "a"}}
		fourth := apply(t.Context(), l, again)
		if answered(first) || l.View().Revision() != 0 {
			t.Fatal("answered or published before the commit")
		}
		d.verdicts <- nil
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		group := <-d.commits
		var rows []string
		for _, r := range group.Rows {
			rows = append(rows, fmt.Sprint(r.Key, r.Object != nil, r.Tomb != nil))
		}
		if diff := cmp.Diff([]string{"Mesh b true false", "Mesh a false true"}, rows); diff != "" {
			t.Fatal(diff)
		}
		if group.Revision != 3 || l.View().Revision() != 1 || answered(second) || answered(third) || answered(fourth) {
			t.Fatal("answered or published before the commit")
		}
		d.verdicts <- nil
		if err := errors.Join(<-second, <-fourth); err != nil {
			t.Fatal(err)
		}
		if err := <-third; !errors.Is(err, store.ErrConflict) {
			t.Fatalf("the refused one got %v", err)
		}
		c, err := w.Next(t.Context())
		if err != nil || c.To != 3 || len(c.Items) != 2 {
			t.Fatalf("%+v, %v", c, err)
		}
	})
}

func TestNoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := start(d, model.Options{OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
		defer l.Close()
		first := apply(t.Context(), l, put("a"))
		<-d.commits
		second := apply(t.Context(), l, put("a"))
		taken := put("b")
		taken.Guards = []store.Guard{store.AtRevision(resource.Key{Kind: "Mesh", Name: "a"}, 0)}
		third := apply(t.Context(), l, taken)
		for _, group := range [][]<-chan error{{first}, {second, third}} {
			d.verdicts <- fmt.Errorf("the disk: %w", store.ErrNoSpace)
			for _, c := range group {
				if err := <-c; !errors.Is(err, store.ErrNoSpace) {
					t.Fatalf("got %v", err)
				}
			}
			if !errors.Is(l.Health(), store.ErrNoSpace) || l.View().Revision() != 0 {
				t.Fatalf("health %v at %s", l.Health(), l.View().Revision())
			}
			if len(group) == 1 {
				<-d.commits
			}
		}
		fourth := apply(t.Context(), l, put("a"))
		if g := <-d.commits; g.Revision != 1 {
			t.Fatalf("a revision was lost: %s", g.Revision)
		}
		d.verdicts <- nil
		if err := errors.Join(<-fourth, l.Health()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestFatal: after a failed fsync nothing is written any more, but what is there can be read.
func TestFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		broken := errors.New("broken")
		var told []error
		l := start(d, model.Options{OnFatal: func(err error) { told = append(told, err) }})
		defer l.Close()
		first := apply(t.Context(), l, put("a"))
		<-d.commits
		second := apply(t.Context(), l, put("b"))
		d.verdicts <- broken
		third := apply(t.Context(), l, put("c"))
		for _, c := range []<-chan error{first, second, third} {
			if err := <-c; !errors.Is(err, broken) {
				t.Fatalf("got %v", err)
			}
		}
		if len(told) != 1 || !errors.Is(told[0], broken) || !errors.Is(l.Health(), broken) {
			t.Fatalf("told %v, health %v", told, l.Health())
		}
		if l.View().Count(store.Everything()) != 0 {
			t.Fatal("something was published")
		}
	})
}

func TestSettleFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		d.settle = errors.New("broken")
		told := 0
		l := start(d, model.Options{OnFatal: func(error) { told++ }})
		defer l.Close()
		first := apply(t.Context(), l, put("a"))
		<-d.commits
		d.verdicts <- nil
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if err := <-apply(t.Context(), l, put("b")); !errors.Is(err, d.settle) || told != 1 {
			t.Fatalf("got %v, told %d times", err, told)
		}
	})
}

func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk()
		l := start(d, model.Options{})
		first := apply(t.Context(), l, put("a"))
		<-d.commits
		ctx, cancel := context.WithCancel(t.Context())
		second := apply(ctx, l, put("b"))
		cancel()
		if err := <-second; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		third := apply(t.Context(), l, put("c"))
		d.verdicts <- nil
		if g := <-d.commits; len(g.Rows) != 1 || g.Rows[0].Key.Name != "c" {
			t.Fatalf("what was given up is committed: %+v", g.Rows)
		}
		// Closing lets the commit under way end, and fails what waits behind it.
		fourth := apply(t.Context(), l, put("d"))
		closed := make(chan struct{})
		go func() { l.Close(); close(closed) }()
		synctest.Wait()
		d.verdicts <- nil
		<-closed
		if err := errors.Join(<-first, <-third); err != nil {
			t.Fatal(err)
		}
		if err := <-fourth; !errors.Is(err, store.ErrClosed) {
			t.Fatal(err)
		}
	})
}

// TestEpochsAreBounded: a process that starts over and over does not grow its history.
func TestEpochsAreBounded(t *testing.T) {
	var epochs []store.Epoch
	for range 3000 {
		l := model.NewLoader("id")
		opened, forgotten := l.Open(epochs)
		epochs = append(epochs[forgotten:], opened)
	}
	if len(epochs) != 1024 {
		t.Fatalf("there are %d epochs", len(epochs))
	}
}
