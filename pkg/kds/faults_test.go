package kds_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/e2e/relay/relaytest"
	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
)

// What the sync promises about finding out who is there.
const (
	// silentGlobal and silentZone are how long an end may take to find out that it hears nothing any more.
	silentGlobal, silentZone = 9 * time.Second, 4 * time.Second
	// backAfter is how long it may take until both know again that they hear each other; with a slow line more.
	backAfter, backSlowly = 2 * time.Second, 10 * time.Second
)

// history holds each state that the global control plane's config log had, and holds the zones against it.
type history struct {
	mu    sync.Mutex
	views map[resource.Revision]store.View
	bad   []string
	log   *observedLog
}

func newHistory() *history { return &history{views: map[resource.Revision]store.View{}} }

func (h *history) wrong(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bad = append(h.bad, fmt.Sprintf(format, args...))
}

// global notes the states of a store.
func (h *history) global(s store.Store) store.Store {
	h.note(s.Config().View())
	o := observe(s, h.note)
	h.log = o.log
	return o
}

func (h *history) note(v store.View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.views[v.Revision()] = v
}

func (h *history) at(r resource.Revision) store.View {
	// A batch is seen by others before it is noted.
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.views[r]
}

// zone compares each state of a zone's store with the state that it says it has.
func (h *history) zone(name string, s store.Store) store.Store {
	return observe(s, func(v store.View) {
		c, ok := v.Cursor("global")
		if !ok {
			return
		}
		if gv := h.at(c.Revision); gv == nil {
			h.wrong("%s is at %s, which never was", name, c.Revision)
		} else if err := checkCopy(name, v, gv); err != nil {
			h.wrong("%s at %s: %v", name, c.Revision, err)
		}
	})
}

// faulty is a global control plane and a zone with a relay between them, and what is true of the line.
type faulty struct {
	t       *testing.T
	history *history
	global  *globalCP
	zone    *zoneCP
	relay   *relay.Relay
	log     []string
	// durable says that restarts close the stores and open them again, in these directories.
	durable            bool
	globalDir, zoneDir string

	// sound is since when nothing is broken; the zero time while something is. silent is since when nothing comes
	// through in a direction. slow: a throttle or a delay was put on since the last heal.
	sound            time.Time
	silent           [2]time.Time
	slow, refused    bool
	globalUp, zoneUp bool
}

func newFaulty(t *testing.T, durable bool) *faulty {
	f := &faulty{t: t, history: newHistory(), durable: durable, globalUp: true, zoneUp: true, sound: time.Now()}
	if durable {
		f.globalDir, f.zoneDir = t.TempDir(), t.TempDir()
	}
	f.global = newGlobal(t, func(g *globalCP) {
		_ = g.store.Close()
		g.store = f.history.global(f.open(f.globalDir, "global-store"))
	})
	front := relay.NewMemory()
	f.relay = relay.New(front, func(ctx context.Context, _ string) (net.Conn, error) { return f.global.lis.Load().Dial(ctx) }, "")
	t.Cleanup(f.relay.Close)
	f.zone = f.global.zone("zone-1", func(o *kds.ClientOptions) {
		_ = o.Store.Close()
		o.Store = f.history.zone("zone-1", f.open(f.zoneDir, "zone-store"))
		o.Dial = func(ctx context.Context, _ string) (net.Conn, error) { return front.Dial(ctx) }
	})
	f.zone.store = f.zone.opts.Store
	return f
}

func (f *faulty) open(dir, id string) store.Store {
	if !f.durable {
		return memory.New(memory.Options{ID: id})
	}
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: filepath.Join(dir, "cp.db")})
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *faulty) stopGlobal() {
	f.global.stop()
	_ = f.global.lis.Load().Close()
	f.globalUp = false
}

func (f *faulty) startGlobal() {
	if f.durable {
		_ = f.global.store.Close()
		f.global.store = f.history.global(f.open(f.globalDir, ""))
	}
	f.global.start()
	f.globalUp = true
}

func (f *faulty) stopZone() {
	f.zone.stop()
	f.zoneUp = false
}

func (f *faulty) startZone() {
	if f.durable {
		_ = f.zone.store.Close()
		f.zone.store = f.history.zone("zone-1", f.open(f.zoneDir, ""))
		f.zone.opts.Store = f.zone.store
	}
	f.zone.start()
	f.zoneUp = true
}

// changed brings what is known of the line up to date after a fault or a heal. broke: connections were ended.
func (f *faulty) changed(broke bool) {
	now := time.Now()
	if up := f.globalUp && f.zoneUp && !f.refused && f.silent[0].IsZero() && f.silent[1].IsZero(); !up {
		f.sound = time.Time{}
	} else if broke || f.sound.IsZero() {
		f.sound = now
	}
}

func (f *faulty) inject(x relay.Fault) {
	f.log = append(f.log, x.String())
	f.relay.Inject(x)
	for d := range f.silent {
		if x.Silences(relay.Direction(d)) && f.silent[d].IsZero() {
			f.silent[d] = time.Now()
		}
	}
	f.slow = f.slow || x.Kind == relay.Throttle || x.Kind == relay.Delay
	f.refused = f.refused || x.Kind == relay.Refuse
	f.changed(x.Breaks())
}

func (f *faulty) heal() {
	f.log = append(f.log, "heal")
	f.relay.Heal()
	broke := !f.silent[0].IsZero() || !f.silent[1].IsZero() || f.refused || f.slow
	f.silent, f.slow, f.refused = [2]time.Time{}, false, false
	f.changed(broke)
}

// check holds what is said against what is so. Nothing moves meanwhile but time.
func (f *faulty) check() {
	f.t.Helper()
	now := time.Now()
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return 0
		}
		return now.Sub(t)
	}
	online, connected := f.globalUp && f.global.server.IsOnline("zone-1"), f.zoneUp && f.zone.client.State().Connected
	back := backAfter
	if f.slow {
		back = backSlowly
	}
	switch sound := since(f.sound); {
	case sound >= back && !online:
		f.history.wrong("the zone is said to be offline, though nothing has been wrong for %s", sound)
	case sound >= back && !connected:
		f.history.wrong("the zone says that it is cut off (%s), though nothing has been wrong for %s", f.zone.client.State().Err, sound)
	case online && (since(f.silent[relay.Up]) > silentGlobal):
		f.history.wrong("the zone is said to be online, though it has not been heard for %s", since(f.silent[relay.Up]))
	case connected && (since(f.silent[relay.Down]) > silentZone):
		f.history.wrong("the zone says that it is connected, though it has heard nothing for %s", since(f.silent[relay.Down]))
	}
	if f.globalUp {
		open := false
		for _, s := range insightOf(f.t, f.global.store, "zone-1").GetSubscriptions() {
			open = open || s.GetDisconnectTime() == nil
		}
		if open != online {
			f.history.wrong("online is %v, and in the insight %v", online, open)
		}
		if r, ok := f.global.server.Applied("zone-1"); ok {
			zv := f.zone.store.Config().View()
			if c, _ := zv.Cursor("global"); c.Revision < r {
				if err := checkCopy("zone-1", zv, f.history.at(r)); err != nil {
					f.history.wrong("the zone is said to be in sync at %s, and is at %s: %v", r, c.Revision, err)
				}
			}
		}
	}
	f.history.mu.Lock()
	defer f.history.mu.Unlock()
	if len(f.history.bad) > 0 {
		f.t.Fatalf("%s\n%s", strings.Join(f.history.bad, "\n"), strings.Join(f.log, "\n"))
	}
}

// wait lets time pass, and looks all the while.
func (f *faulty) wait(d time.Duration) {
	f.t.Helper()
	f.log = append(f.log, fmt.Sprint("wait ", d))
	for d > 0 {
		step := min(d, 500*time.Millisecond)
		time.Sleep(step)
		d -= step
		synctest.Wait()
		f.check()
	}
}

// write does a random write at one of the ends.
func (f *faulty) write(rnd *rand.Rand, n int) {
	m, name := string(rune('a'+rnd.IntN(3))), string(rune('x'+rnd.IntN(3)))
	spec := fmt.Sprint(n)
	switch rnd.IntN(8) {
	case 0:
		spec = "bad"
	case 1: // more than a frame
		spec = strings.Repeat(spec, 40_000)
	}
	in := func(l store.Log, b store.Batch) {
		// The clock of whoever writes jumps, by up to two days back or ahead.
		if rnd.IntN(3) == 0 {
			for i := range b.Puts {
				b.Puts[i].Modified = time.Now().Add(time.Duration(rnd.IntN(96*3600)-48*3600) * time.Second)
			}
		}
		if _, err := l.Apply(f.t.Context(), b); err != nil && !errors.Is(err, store.ErrConflict) {
			f.t.Fatal(err)
		}
	}
	g, z := f.global.store, f.zone.store
	exists := []store.Guard{store.Exists(mesh(m))}
	kind := []resource.Kind{resource.KindDataplane, relayKind}[rnd.IntN(2)]
	switch what := rnd.IntN(12); what {
	case 0, 1:
		in(g.Config(), store.Batch{Puts: []store.Put{put(mesh(m), spec)}})
	case 2:
		in(g.Config(), store.Batch{Deletes: []resource.Key{mesh(m)}, DeleteScopes: []string{m}})
	case 3, 4, 5:
		in(g.Config(), store.Batch{Guards: exists, Puts: []store.Put{put(timeout(m, name), spec), put(timeout(m, name+"2"), spec)}})
	case 6:
		in(g.Config(), store.Batch{Deletes: []resource.Key{timeout(m, name)}})
	case 7:
		in(g.Config(), store.Batch{Puts: []store.Put{put(key(resource.KindGlobalSecret, "", "s"), spec)}})
	case 8, 9:
		in(z.Config(), store.Batch{Guards: exists, Puts: []store.Put{put(key(kind, m, name), spec)}})
	case 10:
		in(z.Config(), store.Batch{Deletes: []resource.Key{key(kind, m, name)}})
	case 11:
		in(z.Status(), store.Batch{Puts: []store.Put{put(key(resource.KindDataplaneInsight, m, name), strings.ReplaceAll(spec, "bad", "good"))}})
	}
}

// TestSyncFaults: whatever is written at both ends and whatever happens to the line and the processes, no zone is
// in between, none is said to have what it does not have, or to be there or away when it is not; and within two
// seconds of the end of all faults both ends have all.
func TestSyncFaults(t *testing.T) {
	relaytest.Seeds(t, 80, func(t *testing.T, seed uint64, rnd *rand.Rand) {
		f := newFaulty(t, seed%40 == 39)
		synctest.Wait()
		for n := range 6 {
			for range rnd.IntN(6) {
				f.write(rnd, n)
			}
			switch rnd.IntN(7) {
			case 0, 1, 2, 3:
				f.inject(relay.Draw(rnd))
			case 4:
				f.heal()
			case 5:
				f.log = append(f.log, "restart the zone")
				f.stopZone()
				f.changed(true)
				f.wait(time.Duration(rnd.IntN(2000)) * time.Millisecond)
				f.startZone()
				f.changed(true)
			case 6:
				f.log = append(f.log, "restart the global")
				f.stopGlobal()
				f.changed(true)
				f.wait(time.Duration(rnd.IntN(2000)) * time.Millisecond)
				f.startGlobal()
				f.changed(true)
			}
			f.wait(time.Duration(rnd.IntN([]int{1, 1, 100, 100, 2500, 11_000}[rnd.IntN(6)])) * time.Millisecond)
		}
		f.heal()
		f.wait(backAfter)
		gv, zv := f.global.store.Config().View(), f.zone.store.Config().View()
		for what, err := range map[string]error{
			"down": checkCopy("zone-1", zv, gv), "up": checkUp("zone-1", zv, gv),
			"status": checkUp("zone-1", f.zone.store.Status().View(), f.global.store.Status().View()),
		} {
			if err != nil {
				t.Errorf("%s after the last heal, %s: %v\n%s", backAfter, what, err, strings.Join(f.log, "\n"))
			}
		}
		if r, ok := f.global.server.Applied("zone-1"); !ok || r != gv.Revision() {
			t.Errorf("applied is %v, %v of %v", r, ok, gv.Revision())
		}
	})
}
