package xds

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// refusing NACKs every response that holds one of the versions.
func refusing(bad map[string]bool) func(string, *discoveryv3.Resource) string {
	return func(_ string, r *discoveryv3.Resource) string {
		if bad[r.GetVersion()] {
			return "bad " + r.GetName()
		}
		return ""
	}
}

// refusedNames are the resources that were shown as refused, and must be shown once each.
func refusedNames(t *testing.T, w *world) []string {
	t.Helper()
	var names []string
	for _, f := range w.seen.refused {
		names = append(names, f.Name)
		if f.Text != "bad "+f.Name {
			t.Errorf("of %s it is said %q", f.Name, f.Text)
		}
	}
	slices.Sort(names)
	if once := slices.Compact(slices.Clone(names)); len(once) != len(names) {
		t.Errorf("%d were shown %d times", len(once), len(names))
	}
	return names
}

// A hundred bad ones among ten thousand: the others are live, and each bad one costs at most 2·log2(n) responses
// more, however they lie.
func TestCostOfRefusals(t *testing.T) {
	const n, count = 3000, 50
	rnd := rand.New(rand.NewPCG(1, 2))
	for name, at := range map[string]func(i int) int{
		"spread":    func(i int) int { return i * n / count },
		"one block": func(i int) int { return n/3 + i },
		"by chance": func(int) int { return rnd.IntN(n) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, Limits{})
				var all []*envoy.Resource
				for i := range n {
					all = append(all, xdstest.TCPListener(fmt.Sprintf("l%05d", i), uint32(i+1), "a"))
				}
				bad, want := map[string]bool{}, []string{}
				for i := range count {
					r := all[at(i)]
					if !bad[r.Version] {
						bad[r.Version] = true
						want = append(want, r.Name)
					}
				}
				slices.Sort(want)
				k := w.register("web", append(slices.Clone(all), xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1))...)
				o := node("web")
				o.Refuse = refusing(bad)
				c := w.connect(o)
				s := c.State()
				if diff := cmp.Diff(want, refusedNames(t, w)); diff != "" {
					t.Errorf("refused (-want +got):\n%s", diff)
				}
				for _, r := range all {
					if got := s.Versions[listeners.typeURL()][r.Name]; (got == r.Version) == bad[r.Version] {
						t.Fatalf("%s: %q is there, bad %v", r.Name, got, bad[r.Version])
					}
				}
				further := len(s.Log) - 3 // clusters, endpoints, and the first listeners
				if most := len(want) * int(2*math.Log2(n)); further > most {
					t.Errorf("%d further responses for %d bad ones, at most %d", further, len(want), most)
				}
				t.Logf("%d further responses for %d bad ones: %.1f each", further, len(want), float64(further)/float64(len(want)))
				if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
					t.Errorf("live at %v, %v", live, ok)
				}
				if p := w.seen.now(); p.Rejected[k] != uint32(len(want)) {
					t.Errorf("%d count as rejected, want %d", p.Rejected[k], len(want))
				}
			})
		})
	}
}

// What came before its cluster and was passed over holds no position once nobody is to have it: it would for ever.
func TestPassedOverAndGone(t *testing.T) {
	b := &books{target: &target{}}
	item := xdstest.Endpoints("a", 1)
	b.feeds[endpoints].add(item.Name, &change{sent: item, since: 1})
	b.acked(&response{class: endpoints, items: []*envoy.Resource{item}, msg: &discoveryv3.DeltaDiscoveryResponse{}})
	if at := b.oldest(); at != 0 {
		t.Errorf("something is owed since %d", at)
	}
}

// Whatever is bad and whenever it changes, in the end exactly the bad resources of the newest set are held back, and
// the proxy has all others.
func TestExactlyTheBadAreHeldBack(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				w := newWorld(t, Limits{})
				share := []float64{0.02, 0.3, 1}[rnd.IntN(3)]
				n := 1 + rnd.IntN(60)
				bad := map[string]bool{}
				// sets are drawn before the proxy connects: what is bad is known to it by version.
				var sets [][]*envoy.Resource
				for range 1 + rnd.IntN(4) {
					var all []*envoy.Resource
					add := func(r *envoy.Resource) {
						all = append(all, r)
						if rnd.Float64() < share {
							bad[r.Version] = true
						}
					}
					for i := range n {
						if rnd.IntN(10) == 0 {
							continue
						}
						version := 1 + rnd.IntN(3)
						name := fmt.Sprintf("c%02d", i)
						add(xdstest.Cluster(name, time.Duration(version)))
						all = append(all, xdstest.Endpoints(name, 1))
						add(xdstest.TCPListener(fmt.Sprintf("l%02d", i), uint32(100*version+i), "none"))
					}
					sets = append(sets, all)
				}
				k := w.register("web", sets[0]...)
				o := node("web")
				o.Refuse = refusing(bad)
				if rnd.IntN(2) == 0 {
					o.Stalled = []string{listeners.typeURL()}
				}
				c := w.connect(o)
				for _, set := range sets[1:] {
					w.publish("web", set...)
					if rnd.IntN(2) == 0 {
						synctest.Wait()
					}
				}
				synctest.Wait()
				if len(o.Stalled) > 0 {
					if err := c.Resume(w.ctx, listeners.typeURL()); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				s := c.State()
				held := 0
				for _, r := range sets[len(sets)-1] {
					if r.TypeURL == endpoints.typeURL() {
						continue
					}
					if bad[r.Version] {
						held++
					}
					if has := s.Versions[r.TypeURL][r.Name] == r.Version; has == bad[r.Version] {
						t.Errorf("%s: there %v, bad %v", r.Name, has, bad[r.Version])
					}
				}
				if got := w.seen.now().Rejected[k]; got != uint32(held) {
					t.Errorf("%d are held back, want %d", got, held)
				}
				if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
					t.Errorf("live at %v, %v", live, ok)
				}
			})
		})
	}
}
