package xds

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

func expect(t *testing.T, c *xdstest.Client, before xdstest.State, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, since(c, before)); diff != "" {
		t.Errorf("what came (-want +got):\n%s", diff)
	}
}

func TestFirstConfiguration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("web", xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a"))
		c := w.connect(node("web"))
		expect(t, c, xdstest.State{}, "CDS a", "EDS a", "LDS l", "RDS r")
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
		var got Counters
		for _, got = range w.seen.counters {
		}
		one := Counter{Sent: 1, Acked: 1}
		if want := (Counters{CDS: one, EDS: one, LDS: one, RDS: one}); got != want {
			t.Errorf("counters are %+v", got)
		}
	})
}

// An empty configuration is one too: the proxy must not wait for it.
func TestEmptyConfiguration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("web")
		c := w.connect(node("web"))
		expect(t, c, xdstest.State{}, "CDS", "LDS")
		if _, ok := w.live(k); !ok {
			t.Error("still joining")
		}
	})
}

func TestChangedClusterBringsItsEndpoints(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		ea, eb, l, r := xdstest.Endpoints("a", 1), xdstest.Endpoints("b", 2), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a")
		k := w.register("web", xdstest.Cluster("a", 1), xdstest.Cluster("b", 1), ea, eb, l, r)
		c := w.connect(node("web"))
		before, began := c.State(), time.Now()
		at := w.publish("web", xdstest.Cluster("a", 2), xdstest.Cluster("b", 1), ea, eb, l, r)
		synctest.Wait()
		expect(t, c, before, "CDS a", "EDS a")
		if s := c.State(); len(s.Warming) > 0 {
			t.Errorf("still warming: %v", keys(s.Warming))
		}
		if live, _ := w.live(k); live != at {
			t.Errorf("live at %v, want %v", live, at)
		}
		if time.Since(began) > 0 {
			t.Errorf("took %v", time.Since(began))
		}
	})
}

// While an earlier EDS response is not ACKed, the endpoints of a changed cluster go again behind it.
func TestEndpointsAgainBehindOnesUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		e := xdstest.Endpoints("a", 1)
		w.register("web", xdstest.Cluster("a", 1), e)
		o := node("web")
		c := w.connect(o)
		c2, err := xdstest.Connect(w.ctx, w.conn, xdstest.Options{Node: o.Node, Before: ptr(c.State()), Stalled: []string{endpoints.typeURL()}})
		if err != nil {
			t.Fatal(err)
		}
		defer c2.Close()
		synctest.Wait()
		before := c2.State()
		e = xdstest.Endpoints("a", 1, 2)
		w.publish("web", xdstest.Cluster("a", 1), e)
		synctest.Wait()
		w.publish("web", xdstest.Cluster("a", 2), e)
		synctest.Wait()
		expect(t, c2, before, "EDS a", "CDS a")
		if err := c2.Resume(w.ctx, endpoints.typeURL()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, c2, before, "EDS a", "CDS a", "EDS a")
	})
}

func ptr[T any](v T) *T { return &v }

// A route to an added cluster waits for its ACK, which Envoy withholds while the cluster is warming; another
// route does not; what is gone goes last.
func TestOrderOfAddedAndRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		l, l2 := xdstest.Listener("l", 80, "r"), xdstest.Listener("l2", 81, "r2")
		ea, eb := xdstest.Endpoints("a", 1), xdstest.Endpoints("b", 1)
		k := w.register("web", xdstest.Cluster("a", 1), ea, xdstest.Cluster("x", 1), xdstest.Endpoints("x"), l, l2,
			xdstest.Route("r", 1, "x"), xdstest.Route("r2", 1, "a"), xdstest.TCPListener("old", 82, "x"))
		o := node("web")
		c := w.connect(o)
		state := c.State()
		c.Close()
		c = w.connect(xdstest.Options{Node: o.Node, Before: &state, Stalled: []string{clusters.typeURL()}})
		before := c.State()

		at := w.publish("web", xdstest.Cluster("a", 1), ea, xdstest.Cluster("b", 1), eb, l, l2,
			xdstest.Route("r", 1, "b"), xdstest.Route("r2", 2, "a"))
		synctest.Wait()
		// Nothing has been ACKed: the clusters, right behind them the endpoints, and who needs no new cluster.
		expect(t, c, before, "CDS b", "EDS b", "RDS r2")
		if live, ok := w.live(k); !ok || live >= at {
			t.Errorf("live at %v while clusters are not ACKed, the change is %v", live, at)
		}
		before = c.State()
		if err := c.Resume(w.ctx, clusters.typeURL()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, c, before, "RDS r", "LDS -old", "CDS -x")
		if live, _ := w.live(k); live != at {
			t.Errorf("live at %v, want %v", live, at)
		}
	})
}

func TestAddedClusterGetsItsEndpointsOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		a, ea := xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1)
		w.register("web", a, ea)
		c := w.connect(node("web"))
		before := c.State()
		w.publish("web", a, ea, xdstest.Cluster("b", 1), xdstest.Endpoints("b", 2))
		synctest.Wait()
		expect(t, c, before, "CDS b", "EDS b")
		w.publish("web", a, ea)
		synctest.Wait()
		w.publish("web", a, ea, xdstest.Cluster("b", 1), xdstest.Endpoints("b", 2))
		synctest.Wait()
		expect(t, c, before, "CDS b", "EDS b", "CDS -b", "CDS b", "EDS b")
	})
}

func TestEqualContentSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		full := func() []*envoy.Resource {
			return []*envoy.Resource{xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1), xdstest.TCPListener("l", 80, "a")}
		}
		k := w.register("web", full()...)
		c := w.connect(node("web"))
		before := c.State()
		at := w.publish("web", full()...)
		synctest.Wait()
		expect(t, c, before)
		if live, _ := w.live(k); live != at {
			t.Errorf("live at %v, want %v", live, at)
		}
	})
}

// Reconnecting with what it has, a proxy is sent nothing, and is live at once.
func TestReconnectSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("web", xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a"))
		o := node("web")
		c := w.connect(o)
		o.Before = ptr(c.State())
		c.Close()
		synctest.Wait()
		w.shutdown() // also over a restart
		w.start(Limits{})
		c = w.connect(o)
		expect(t, c, xdstest.State{})
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
		// What changes while it is away comes, and no more.
		o.Before = ptr(c.State())
		c.Close()
		w.publish("web", xdstest.Cluster("a", 1), xdstest.Endpoints("a", 2), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a"))
		c = w.connect(o)
		expect(t, c, xdstest.State{}, "EDS a")
	})
}

// Endpoints that a broken stream still owed to a changed cluster come on the next one, though they are equal.
func TestReconnectWhileWarming(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		e := xdstest.Endpoints("a", 1)
		l := xdstest.TCPListener("l", 80, "a")
		w.register("web", xdstest.Cluster("a", 1), e, l)
		o := node("web")
		c := w.connect(o)
		o.Before, o.Lost = ptr(c.State()), []string{endpoints.typeURL()}
		c.Close()
		c = w.connect(o)
		w.publish("web", xdstest.Cluster("a", 2), e, l)
		synctest.Wait()
		o.Before, o.Lost = ptr(c.State()), nil
		if len(o.Before.Warming) != 1 {
			t.Fatalf("warming: %v", o.Before.Warming)
		}
		c.Close()
		c = w.connect(o)
		expect(t, c, xdstest.State{}, "EDS a")
		if s := c.State(); len(s.Warming) > 0 {
			t.Errorf("still warming: %v", keys(s.Warming))
		}
	})
}

// A NACK is halved down to the bad resource, with at most 2 log2(n) further responses, and nothing loops.
func TestRefusedResourceIsFound(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 7, 8, 16, 33, 100} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			for bad := range n {
				if n > 8 && bad%7 != 0 {
					continue
				}
				bubble(t, func(t *testing.T) {
					w := newWorld(t, Limits{})
					var all []*envoy.Resource
					for i := range n {
						all = append(all, xdstest.TCPListener(fmt.Sprintf("l%03d", i), uint32(1000+i), "static"))
					}
					all = append(all, xdstest.Cluster("static", 1), xdstest.Endpoints("static", 1))
					k := w.register("web", all...)
					o := node("web")
					version := all[bad].Version
					o.Refuse = func(_ string, r *discoveryv3.Resource) string {
						if r.GetVersion() == version {
							return "no such thing as " + r.GetName()
						}
						return ""
					}
					c := w.connect(o)
					responses := len(c.State().Log) - 3 // CDS, EDS, and the first LDS
					if most := 2 * (bits.Len(uint(n*n)) - 1) / 2; n > 1 && responses > max(most, 2) {
						t.Errorf("%d: %d further responses for %d resources, at most %d: %v", bad, responses, n, most, short(c.State().Log))
					}
					if got := len(c.State().Versions[listeners.typeURL()]); got != n-1 {
						t.Errorf("%d of %d were accepted", got, n-1)
					}
					if len(w.seen.refused) != 1 || w.seen.refused[0].Name != all[bad].Name || w.seen.refused[0].Text != "no such thing as "+all[bad].Name ||
						len(w.seen.refused[0].Sources) != 1 {
						t.Errorf("refused: %+v", w.seen.refused)
					}
					// It holds no position, and counts as rejected.
					if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
						t.Errorf("live at %v, %v", live, ok)
					}
					if p := w.seen.now(); p.Rejected[k] != 1 {
						t.Errorf("rejected: %v", p.Rejected)
					}

					// Not again, also not on another stream, until it changes.
					before := c.State()
					w.publish("web", all...)
					synctest.Wait()
					expect(t, c, before)
					c.Close()
					o.Before = &before
					c = w.connect(o)
					greeted := c.State() // with nothing, where it has no listener at all
					if n > 1 {
						expect(t, c, xdstest.State{})
					}
					all[bad] = xdstest.TCPListener(all[bad].Name, 9000, "static")
					w.publish("web", all...)
					synctest.Wait()
					expect(t, c, greeted, "LDS "+all[bad].Name)
					if p := w.seen.now(); len(p.Rejected) != 0 || len(w.seen.cleared) != 1 {
						t.Errorf("rejected: %v, cleared %v", p.Rejected, w.seen.cleared)
					}
				})
			}
		})
	}
}

// What an Envoy refused is tried again with the next one: a port that was taken may be free by now.
func TestRefusedIsTriedWithAnotherEnvoy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("web", xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1), xdstest.TCPListener("l", 80, "a"))
		o := node("web")
		o.Refuse = func(typeURL string, _ *discoveryv3.Resource) string {
			if typeURL == listeners.typeURL() {
				return "address already in use"
			}
			return ""
		}
		c := w.connect(o)
		if p := w.seen.now(); p.Rejected[k] != 1 {
			t.Fatalf("rejected: %v", p.Rejected)
		}
		c.Close()
		c = w.connect(node("web"))
		if s := c.State(); !s.Has(listeners.typeURL(), "l") {
			t.Errorf("another Envoy got %v", short(s.Log))
		}
		if p := w.seen.now(); len(p.Rejected) != 0 || len(w.seen.cleared) != 1 {
			t.Errorf("rejected: %v, cleared %v", p.Rejected, w.seen.cleared)
		}
	})
}

// Several bad ones are all found, good ones all delivered.
func TestSeveralRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		var all []*envoy.Resource
		for i := range 64 {
			all = append(all, xdstest.Cluster(fmt.Sprintf("c%02d", i), time.Duration(i+1)), xdstest.Endpoints(fmt.Sprintf("c%02d", i), 1))
		}
		k := w.register("web", all...)
		o := node("web")
		o.Refuse = func(typeURL string, r *discoveryv3.Resource) string {
			if typeURL == clusters.typeURL() && (r.GetName() == "c03" || r.GetName() == "c04" || r.GetName() == "c60") {
				return "bad " + r.GetName()
			}
			return ""
		}
		c := w.connect(o)
		if got := len(c.State().Versions[clusters.typeURL()]); got != 61 {
			t.Errorf("%d of 61 were accepted", got)
		}
		if n := len(c.State().Log); n > 3*2*6*2+10 {
			t.Errorf("%d responses", n)
		}
		if len(w.seen.refused) != 3 {
			t.Errorf("refused: %v", w.seen.refused)
		}
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
		// The endpoints of refused clusters, which nobody asks for, hold no position either.
		at := w.publish("web", append(slices.Clone(all[:7]), append([]*envoy.Resource{xdstest.Endpoints("c03", 9)}, all[8:]...)...)...)
		synctest.Wait()
		if live, _ := w.live(k); live != at {
			t.Errorf("live at %v, want %v", live, at)
		}
	})
}

// Everything is refused: it ends, and the stream stays.
func TestEverythingRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		var all []*envoy.Resource
		for i := range 32 {
			all = append(all, xdstest.TCPListener(fmt.Sprintf("l%02d", i), uint32(i+1), "s"))
		}
		w.register("web", all...)
		o := node("web")
		o.Refuse = func(typeURL string, _ *discoveryv3.Resource) string {
			return strings.Repeat("x", map[bool]int{true: 1}[typeURL == listeners.typeURL()])
		}
		c := w.connect(o)
		s := c.State()
		if s.Done || len(w.seen.refused) != 32 || len(s.Log) > 1+2*32+32 {
			t.Errorf("done %v, %d refused after %d responses", s.Done, len(w.seen.refused), len(s.Log))
		}
	})
}

// What can't be sent stays owed, and only its newest content goes.
func TestOwedWhileStalled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		a := xdstest.Cluster("a", 1)
		k := w.register("web", a, xdstest.Endpoints("a", 1))
		o := node("web")
		c := w.connect(o)
		state := c.State()
		c.Close()
		c = w.connect(xdstest.Options{Node: o.Node, Before: &state, Stalled: []string{endpoints.typeURL()}})
		first := w.publish("web", a, xdstest.Endpoints("a", 2))
		synctest.Wait()
		last := first
		for i := range 50 {
			last = w.publish("web", a, xdstest.Endpoints("a", uint32(i+3)))
			synctest.Wait()
		}
		expect(t, c, xdstest.State{}, "LDS", "EDS a")
		if live, ok := w.live(k); !ok || live != first-1 {
			t.Errorf("live at %v, want %v", live, first-1)
		}
		if err := c.Resume(w.ctx, endpoints.typeURL()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, c, xdstest.State{}, "LDS", "EDS a", "EDS a")
		if live, _ := w.live(k); live != last {
			t.Errorf("live at %v, want %v", live, last)
		}
	})
}

func TestStateOfTheWorldIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(w.conn).StreamAggregatedResources(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v", err)
		}
	})
}

// A thousand revisions that touch no proxy move every position, and plan nothing.
func TestRevisionsThatTouchNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("web", xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1))
		c := w.connect(node("web"))
		before := c.State()
		planned := w.hand.planned
		for range 1000 {
			w.touch("")
		}
		synctest.Wait()
		expect(t, c, before)
		if w.hand.planned != planned {
			t.Errorf("%d plans", w.hand.planned-planned)
		}
		if live, _ := w.live(k); live != w.store.Config().View().Revision() {
			t.Errorf("live at %v of %v", live, w.store.Config().View().Revision())
		}
		reports := w.seen.reports
		time.Sleep(time.Hour / 2) // of the bubble's time: idle is idle
		synctest.Wait()
		if w.seen.reports != reports {
			t.Errorf("%d reports while idle", w.seen.reports-reports)
		}
	})
}
