package kds_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// line puts a relay before a global control plane.
func (g *globalCP) line(t *testing.T) (*relay.Relay, func(*kds.ClientOptions)) {
	front := relay.NewMemory()
	r := relay.New(front, func(ctx context.Context, _ string) (net.Conn, error) { return g.lis.Load().Dial(ctx) }, "")
	t.Cleanup(r.Close)
	return r, func(o *kds.ClientOptions) {
		o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return front.Dial(ctx) }
	}
}

// fill writes n objects of a size into a log.
func fill(t *testing.T, l store.Log, kind resource.Kind, n, size int) {
	t.Helper()
	for i := range n {
		write(t, l, store.Put{Key: key(kind, "default", fmt.Sprint("o-", i)), Spec: bytes.Repeat([]byte{'x'}, size)})
	}
}

// TestSlowSnapshot: a snapshot that takes long over 256 kbit/s cuts nobody off, whatever else is to be sent, and
// only as much of it as the window takes is under way. 100 MiB with MERIDIAN_FAULT_SEEDS (make faults), else 4.
func TestSlowSnapshot(t *testing.T) {
	const rate = 256_000 / 8
	mib := 4
	if os.Getenv("MERIDIAN_FAULT_SEEDS") != "" {
		mib = 100
	}
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("default"), "m"))
		fill(t, g.store.Config(), resource.KindTimeout, mib*4, 256<<10)
		r, through := g.line(t)
		r.Throttle(relay.Down, rate)
		r.Throttle(relay.Up, rate)
		begun := time.Now()
		z := g.zone("zone-1", through)
		synctest.Wait()
		before, last := heap(), time.Duration(mib<<20/rate)*time.Second
		var most uint64
		for {
			time.Sleep(time.Second)
			synctest.Wait()
			since := time.Since(begun)
			if since > 5*time.Second && (!g.server.IsOnline("zone-1") || !z.client.State().Connected) {
				t.Fatalf("after %s: online %v, in the zone %+v", since, g.server.IsOnline("zone-1"), z.client.State())
			}
			if applied, _ := g.server.Applied("zone-1"); applied == g.store.Config().View().Revision() {
				break
			}
			if n := z.store.Config().View().Count(store.Everything()); n > 0 {
				t.Fatalf("%d objects of an unfinished snapshot", n)
			}
			if since > last+last/5+30*time.Second {
				t.Fatalf("not there after %s; %d bytes have come", since, r.Bytes(relay.Down))
			}
			// Writes go on, and status goes up.
			if int(since/time.Second)%20 == 0 {
				write(t, z.store.Status(), put(key(resource.KindDataplaneInsight, "default", "dp"), since.String()))
				most = max(most, heap())
			}
		}
		took := time.Since(begun)
		t.Logf("%d MiB took %s; %d MiB more heap at most", mib, took, (int64(most)-int64(before))>>20)
		if z.store.Config().View().Count(store.OfKind(resource.KindTimeout)) != mib*4 {
			t.Error("the copy is not whole")
		}
		if took < last*9/10 {
			t.Errorf("took %s: the line was not as slow as it should be", took)
		}
		// What is under way is the window, what has come is staged: once, not more often.
		if grown := int64(most) - int64(before); grown > int64(mib)<<20+64<<20 {
			t.Errorf("%d MiB more for %d MiB", grown>>20, mib)
		}
		synctest.Wait()
		if err := checkUp("zone-1", z.store.Status().View(), g.store.Status().View()); err != nil {
			t.Error(err)
		}
	})
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// clogged is a store that takes nothing from its peer for a while.
type clogged struct {
	store.Store
	now atomic.Bool
}

type cloggedLog struct {
	store.Log
	of *clogged
}

func (c *clogged) Config() store.Log { return cloggedLog{c.Store.Config(), c} }

func (l cloggedLog) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	if b.Cursor != nil && l.of.now.Load() {
		return store.Result{}, store.ErrNoSpace
	}
	return l.Log.Apply(ctx, b)
}

// TestBothDirectionsFull: with much more than a window to send each way at once, over a slow line and to stores that
// take nothing for a minute, nothing locks up and nobody is cut off.
func TestBothDirectionsFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		above, below := &clogged{}, &clogged{}
		g := newGlobal(t, func(g *globalCP) { above.Store, g.store = g.store, above })
		write(t, g.store.Config(), put(mesh("default"), "m"))
		r, through := g.line(t)
		z := g.zone("zone-1", through, func(o *kds.ClientOptions) { below.Store, o.Store = o.Store, below })
		synctest.Wait()
		r.Throttle(relay.Down, 1<<20)
		r.Throttle(relay.Up, 1<<20)
		above.now.Store(true)
		below.now.Store(true)
		// There are several groups, and each is larger than the window.
		for range 2 {
			fill(t, g.store.Config(), resource.KindTimeout, 12, 512<<10)
			fill(t, z.store.Config(), resource.KindDataplane, 12, 512<<10)
			fill(t, z.store.Status(), resource.KindDataplaneInsight, 2, 512<<10)
		}
		watch := func(seconds int) {
			t.Helper()
			for range seconds {
				time.Sleep(time.Second)
				synctest.Wait()
				if !g.server.IsOnline("zone-1") || !z.client.State().Connected {
					t.Fatalf("online %v, in the zone %+v", g.server.IsOnline("zone-1"), z.client.State())
				}
			}
		}
		watch(60)
		const most = 16 << 20 // two windows, and a group that was begun
		if up, down := r.Bytes(relay.Up), r.Bytes(relay.Down); up < 4<<20 || down < 4<<20 || up > most || down > most {
			t.Errorf("%d bytes up and %d down to who takes nothing, with windows of 4 MiB", up, down)
		}
		above.now.Store(false)
		below.now.Store(false)
		watch(60)
		gv, zv := g.store.Config().View(), z.store.Config().View()
		if err := checkCopy("zone-1", zv, gv); err != nil {
			t.Error(err)
		}
		if err := checkUp("zone-1", zv, gv); err != nil {
			t.Error(err)
		}
	})
}
