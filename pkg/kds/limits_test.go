package kds_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// TestZoneQuota: a zone that makes too much is told so, and is taken again when it has less.
func TestZoneQuota(t *testing.T) {
	const bytes = 5 * int64(len("Dataplane"+"default"+"zone-1.dp-0"+"spec"))
	for name, c := range map[string]struct {
		limit func(*kds.ServerOptions)
		// more is one more than what is just allowed, and says what is said of it.
		more store.Put
		says [2]string
	}{
		"objects": {
			limit: func(o *kds.ServerOptions) { o.MaxZoneObjects = 5 },
			more:  put(dataplane("default", "dp-6"), "spec"),
			says:  [2]string{"may keep 5 objects (limits.zoneObjects)", "would have 6 objects"},
		},
		"bytes": {
			limit: func(o *kds.ServerOptions) { o.MaxZoneBytes = bytes },
			more:  put(dataplane("default", "dp-1"), "spec!"),
			says:  [2]string{fmt.Sprintf("%d bytes (limits.zoneBytes)", bytes), fmt.Sprintf("would have 5 objects and %d bytes", bytes+1)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGlobal(t, func(g *globalCP) { g.options = c.limit })
				write(t, g.store.Config(), put(mesh("default"), "m"))
				z := g.zone("zone-1")
				synctest.Wait()
				for i := range 4 {
					write(t, z.store.Config(), put(dataplane("default", fmt.Sprintf("dp-%d", i)), "spec"))
				}
				synctest.Wait()
				count := func() int { return g.store.Config().View().Count(store.OfKind(resource.KindDataplane)) }
				if count() != 4 {
					t.Fatalf("%d dataplanes below the limit", count())
				}
				write(t, z.store.Config(), put(dataplane("default", "dp-4"), "spec"), put(dataplane("default", "dp-5"), "spec"))
				synctest.Wait()
				if s := z.client.State(); s.Connected || !strings.Contains(s.Err, "may keep") || count() != 4 {
					t.Errorf("above the limit: %+v, with %d dataplanes", s, count())
				}
				// Others are not concerned, and what goes down still comes.
				write(t, g.store.Config(), put(timeout("default", "t"), "x"))
				commit(t, z.store.Config(), store.Batch{Deletes: []resource.Key{dataplane("default", "dp-0")}})
				time.Sleep(10 * time.Second)
				synctest.Wait()
				if s := z.client.State(); !s.Connected || count() != 5 {
					t.Errorf("with less: %+v, with %d dataplanes", s, count())
				}
				if _, ok := z.store.Config().View().Get(timeout("default", "t")); !ok {
					t.Error("the zone did not get what was written meanwhile")
				}
				write(t, z.store.Config(), c.more)
				synctest.Wait()
				if s := z.client.State(); s.Connected || !strings.Contains(s.Err, c.says[0]) || !strings.Contains(s.Err, c.says[1]) || count() != 5 {
					t.Errorf("one more than allowed: %+v, with %d dataplanes", s, count())
				}
			})
		})
	}
}

// TestZoneRate: what a zone has saved up is taken at once, one more is taken too but paid for by those behind it, and
// then as many a second as allowed. Who has to wait keeps the session, and nothing is lost.
func TestZoneRate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t, func(g *globalCP) { g.options = func(o *kds.ServerOptions) { o.ZoneRate = 10 } })
		write(t, g.store.Config(), put(mesh("default"), "m"))
		z := g.zone("zone-1")
		synctest.Wait()
		made := 0
		add := func(n int) {
			puts := make([]store.Put, n)
			for i := range puts {
				puts[i] = put(dataplane("default", fmt.Sprintf("dp-%d", made)), "spec")
				made++
			}
			write(t, z.store.Config(), puts...)
			synctest.Wait()
		}
		want := func(n int, when string) {
			t.Helper()
			synctest.Wait()
			if got := g.store.Config().View().Count(store.OfKind(resource.KindDataplane)); got != n || !z.client.State().Connected {
				t.Errorf("%s: %d dataplanes, want %d; %+v", when, got, n, z.client.State())
			}
		}
		add(100) // ten seconds' worth
		want(100, "what was saved up")
		add(1)
		want(101, "one more")
		for range 10 {
			add(1)
		}
		want(101, "and behind it")
		time.Sleep(100*time.Millisecond - 1)
		want(101, "before its time")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := g.store.Config().View().Count(store.OfKind(resource.KindDataplane)); n <= 101 {
			t.Errorf("at its time: %d dataplanes", n)
		}
		time.Sleep(time.Second)
		want(111, "a second later")
	})
}

// TestUnknownKindsAskedFor: what a zone asks for makes no counters of kinds that there are not.
func TestUnknownKindsAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s1", Zone: "zone-1"}))
		offer := &kdsv1.Offer{Log: kdsv1.Log_LOG_CONFIG, Keys: []*kdsv1.Key{{Kind: "Nonsense", Name: "x"}, {Kind: "Nonsense-2", Name: "*"}}}
		if err := p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Offer{Offer: offer}}); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			time.Sleep(time.Second)
			if err := p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{}}}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		for _, s := range insightOf(t, g.store, "zone-1").GetSubscriptions() {
			for kind := range s.GetStatus().GetStat() {
				if strings.HasPrefix(kind, "Nonsense") {
					t.Errorf("counted: %s", kind)
				}
			}
		}
		err := p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: &kdsv1.Hello{}}})
		for err == nil {
			_, err = p.Next()
		}
		wantCode(t, err, codes.InvalidArgument, "second Hello")
	})
}

// full is a store whose status log has no room for a while.
type full struct {
	store.Store
	now atomic.Bool
}

type fullLog struct {
	store.Log
	of *full
}

func (f *full) Status() store.Log { return fullLog{f.Store.Status(), f} }

func (l fullLog) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	if l.of.now.Load() {
		return store.Result{}, store.ErrNoSpace
	}
	return l.Log.Apply(ctx, b)
}

// TestSessionsWithoutSpace: beginnings and ends that could not be written are written when there is room again.
func TestSessionsWithoutSpace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := &full{Store: memory.New(memory.Options{ID: "global-store"})}
		spec := must[[]byte](t)(resource.Encode(&systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{{Id: "old"}}}))
		write(t, f.Status(), put(key(resource.KindZoneInsight, "", "zone-0"), string(spec)))
		g := newGlobal(t, func(g *globalCP) { _ = g.store.Close(); g.store = f })
		open := func(zone string) (n, all int) {
			for _, s := range insightOf(t, f, zone).GetSubscriptions() {
				all++
				if s.GetDisconnectTime() == nil {
					n++
				}
			}
			return n, all
		}
		first := g.zone("zone-1")
		synctest.Wait()
		f.now.Store(true)
		if err := g.server.CloseLeftovers(t.Context()); err != nil {
			t.Fatalf("leftovers without room: %v", err)
		}
		first.stop()
		g.zone("zone-2")
		third := g.zone("zone-3")
		synctest.Wait()
		third.stop()
		time.Sleep(30 * time.Second)
		f.now.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for zone, want := range map[string][2]int{"zone-0": {0, 1}, "zone-1": {0, 1}, "zone-2": {1, 1}, "zone-3": {0, 0}} {
			if n, all := open(zone); n != want[0] || all != want[1] {
				t.Errorf("%s: %d sessions, %d open, want %v", zone, all, n, want)
			}
		}
	})
}
