package xds

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// services is a changing configuration: clusters a, b, c… with endpoints, routes and listeners. Its history says
// what a proxy must have at a revision.
type services struct {
	mu sync.Mutex
	// history of the versions of each resource, "" where it is not there; from each revision on.
	history map[envoy.Ref][]step
	sets    []revised
}

type step struct {
	from    resource.Revision
	version string
}

type revised struct {
	from resource.Revision
	set  *envoy.Set
}

func newServices() *services { return &services{history: map[envoy.Ref][]step{}} }

func (s *services) at(r resource.Revision) *envoy.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last *envoy.Set
	for _, x := range s.sets {
		if x.from <= r {
			last = x.set
		}
	}
	return last
}

func (s *services) set(from resource.Revision, set *envoy.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sets = append(s.sets, revised{from, set})
	now := map[envoy.Ref]string{}
	for _, r := range set.Resources {
		now[envoy.Ref{TypeURL: r.TypeURL, Name: r.Name}] = r.Version
	}
	for ref, v := range now {
		if h := s.history[ref]; len(h) == 0 || h[len(h)-1].version != v {
			s.history[ref] = append(h, step{from, v})
		}
	}
	for ref, h := range s.history {
		if _, ok := now[ref]; !ok && h[len(h)-1].version != "" {
			s.history[ref] = append(h, step{from, ""})
		}
	}
}

// check that a proxy that is said to be live at r has each resource in the version of r, or of later.
func (s *services) check(r resource.Revision, has *xdstest.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, h := range s.history {
		c, _ := classOf(ref.TypeURL)
		got := has.Versions[ref.TypeURL][ref.Name]
		ok, wanted := false, ""
		for i, x := range h {
			if i+1 == len(h) || h[i+1].from > r { // what holds at r, and whatever came later
				if x.from <= r {
					wanted = x.version
				}
				ok = ok || got == x.version
			}
		}
		if h[0].from > r {
			ok = true
		}
		if !ok && wanted == "" && c != clusters && c != listeners {
			ok = true // endpoints and routes go with who named them
		}
		if !ok {
			return fmt.Errorf("%s %s: has %q, wants %q or later at %v: %v", ref.TypeURL, ref.Name, got, wanted, r, h)
		}
	}
	return nil
}

// random makes a configuration of up to six services.
func random(rnd *rand.Rand) *envoy.Set {
	var all []*envoy.Resource
	for i := range 6 {
		name := string(rune('a' + i))
		if rnd.IntN(3) == 0 {
			continue
		}
		all = append(all, xdstest.Cluster(name, time.Duration(1+rnd.IntN(2))), xdstest.Endpoints(name, uint32(1+rnd.IntN(3))))
		switch rnd.IntN(3) {
		case 0:
			all = append(all, xdstest.TCPListener("l-"+name, uint32(100+i), name))
		case 1:
			all = append(all, xdstest.Listener("l-"+name, uint32(100+i), "r-"+name), xdstest.Route("r-"+name, time.Duration(1+rnd.IntN(2)), name))
		}
	}
	return xdstest.Set(all...)
}

// Whatever changes, whoever stalls, is cut off or refuses: no proxy is said to be live at a revision that it
// does not have, each becomes live when all is said, and none is left with a warming cluster.
func TestNeverFalselyLive(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	for seed := range rounds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		refuses := seed%5 == 4
		bubble(t, func(t *testing.T) {
			w := newWorld(t, Limits{})
			s := newServices()
			w.hand.make = func(_ resource.Key, r resource.Revision) *envoy.Set { return s.at(r) }
			k := dataplane("web")
			s.set(w.store.Config().View().Revision()+1, random(rnd))
			w.put(k, nil)

			o := node("web")
			if refuses {
				o.Refuse = func(typeURL string, r *discoveryv3.Resource) string {
					if typeURL == listeners.typeURL() && r.GetName() == "l-b" {
						return "b is bad"
					}
					return ""
				}
			}
			var mu sync.Mutex
			var client *xdstest.Client
			var stale *xdstest.State
			w.seen.mu.Lock()
			w.seen.onReport = func(p Progress) {
				mu.Lock()
				defer mu.Unlock()
				lag, lags := p.Lagging[k]
				if client == nil || p.Connected == 0 || lag.Joining || refuses {
					return
				}
				live := p.Processed
				if lags {
					live = lag.Live
				}
				state := client.State()
				if state.Done {
					return
				}
				if err := s.check(live, &state); err != nil {
					t.Errorf("seed %d: %v; %+v; %v", seed, err, p, short(state.Log))
				}
			}
			w.seen.mu.Unlock()

			connect := func(stalled ...string) {
				o.Before, o.Stalled = stale, stalled
				c, err := xdstest.Connect(w.ctx, w.conn, o)
				if err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				client = c
				mu.Unlock()
			}
			var stalled string
			connect()
			for range 12 {
				switch rnd.IntN(6) {
				case 0, 1, 2:
					s.set(w.store.Config().View().Revision()+1, random(rnd))
					w.touch("web")
				case 3:
					w.touch("")
				case 4:
					if stalled != "" {
						if err := client.Resume(w.ctx, stalled); err != nil {
							t.Fatal(err)
						}
						stalled = ""
					}
				case 5:
					if rnd.IntN(2) == 0 {
						mu.Lock()
						c := client
						client = nil
						mu.Unlock()
						c.Close()
						stale = ptr(c.State())
						if rnd.IntN(2) == 0 {
							synctest.Wait()
						}
						stalled = class(rnd.IntN(int(secrets))).typeURL()
						connect(stalled)
					}
				}
				if rnd.IntN(2) == 0 {
					synctest.Wait()
				}
			}
			if stalled != "" {
				if err := client.Resume(w.ctx, stalled); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			state := client.State()
			if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
				t.Errorf("seed %d: live at %v, %v of %v: %v", seed, live, ok, w.store.Config().View().Revision(), short(state.Log))
			}
			if len(state.Warming) > 0 {
				t.Errorf("seed %d: still warming: %v: %v", seed, keys(state.Warming), short(state.Log))
			}
			if state.Done {
				t.Errorf("seed %d: ended: %v", seed, state.Err)
			}
			if !refuses {
				if err := s.check(w.store.Config().View().Revision(), &state); err != nil {
					t.Errorf("seed %d: in the end: %v: %v", seed, err, short(state.Log))
				}
			}
			client.Close()
		})
		if t.Failed() {
			return
		}
	}
}

// slow is an observer to which telling takes its time.
type slow struct {
	Observer
	told []Progress
}

func (s *slow) Progress(p Progress) {
	time.Sleep(200 * time.Microsecond)
	s.told = append(s.told, p)
}

// Many proxies that move in a short time are told in few reports, the last of which has them all.
func TestFewReportsOfMany(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g, o := newProgress(), &slow{}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { g.run(ctx, o) })
		const n = 500
		for i := range n {
			g.opened(dataplane(fmt.Sprint(i)), true)
		}
		for i := range n {
			g.set(dataplane(fmt.Sprint(i)), Lag{}, false, 0)
			time.Sleep(100 * time.Microsecond) // all together 50 ms
		}
		time.Sleep(maxReportPause)
		synctest.Wait()
		cancel()
		wg.Wait()
		if len(o.told) > 20 {
			t.Errorf("%d reports", len(o.told))
		}
		if last := o.told[len(o.told)-1]; len(last.Lagging) != 0 || last.Connected != n {
			t.Errorf("%d lag of %d in the last report", len(last.Lagging), last.Connected)
		}
	})
}
