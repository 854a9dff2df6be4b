package xds

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// publishInvalid is publish for a set of which some resources do not validate.
func (w *world) publishInvalid(name string, invalid []envoy.Ref, resources ...*envoy.Resource) {
	set := xdstest.Set(resources...)
	for _, ref := range invalid {
		set.Invalid = append(set.Invalid, envoy.Invalid{Ref: ref, Err: errors.New("must be good")})
	}
	w.hand.mu.Lock()
	w.hand.sets[dataplane(name)] = set
	w.hand.mu.Unlock()
	w.touch(name)
	synctest.Wait()
}

// What does not validate never reaches Envoy and costs nothing else: of ten thousand resources with a hundred bad
// ones, all good ones come in one response, the bad ones stay as they were or are left out, and each is shown once.
func TestInvalidIsHeldBackAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n, every = 3000, 100
		w := newWorld(t, Limits{})
		version := func(i int) []*envoy.Resource {
			var all []*envoy.Resource
			for j := range n {
				all = append(all, xdstest.TCPListener(fmt.Sprintf("l%05d", j), uint32(i*n+j+1), "a"))
			}
			return append(all, xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1))
		}
		first := version(0)
		k := w.register("web", first...)
		c := w.connect(node("web"))
		before := c.State()
		var bad []envoy.Ref
		var good []*envoy.Resource
		for i, r := range version(1) {
			if i < n && i%every == 7 {
				bad = append(bad, envoy.Ref{TypeURL: r.TypeURL, Name: r.Name})
			} else {
				good = append(good, r)
			}
		}
		w.publishInvalid("web", bad, good...)
		w.publishInvalid("web", bad, good...)
		s := c.State()
		if got := len(s.Log) - len(before.Log); got != 1 {
			t.Errorf("%d responses, want 1", got)
		}
		want := map[string]string{}
		for _, r := range first[:n] {
			want[r.Name] = r.Version
		}
		for _, r := range good {
			if r.TypeURL == listeners.typeURL() {
				want[r.Name] = r.Version
			}
		}
		if diff := cmp.Diff(want, s.Versions[listeners.typeURL()]); diff != "" {
			t.Errorf("listeners (-want +got):\n%s", diff)
		}
		if got := len(w.seen.refused); got != len(bad) || len(w.seen.cleared) != 0 {
			t.Errorf("%d were shown, %d cleared; %d are bad", got, len(w.seen.cleared), len(bad))
		}
		if p := w.seen.now(); p.Rejected[k] != uint32(len(bad)) {
			t.Errorf("%d are counted", p.Rejected[k])
		}
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
		w.publish("web", version(1)...)
		synctest.Wait()
		if got := c.State().Log[len(s.Log):]; len(got) != 1 || len(got[0].Names) != len(bad) {
			t.Errorf("mended, %d responses came", len(got))
		}
		if p := w.seen.now(); len(w.seen.cleared) != len(bad) || len(p.Rejected) != 0 {
			t.Errorf("mended, %d are cleared, rejected %v", len(w.seen.cleared), p.Rejected)
		}
	})
}

// A control plane that knows no good version takes nothing away from an Envoy that may have one; when all is
// good again, what is not wanted goes.
func TestInvalidAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		a, ea := xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1)
		l, r := xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a")
		k := w.register("web", a, ea, l, r, xdstest.TCPListener("old", 81, "a"))
		c := w.connect(node("web"))
		state := c.State()
		c.Close()
		synctest.Wait()
		ref := envoy.Ref{TypeURL: routes.typeURL(), Name: "r"}
		w.publishInvalid("web", []envoy.Ref{ref}, a, ea, xdstest.Listener("l", 82, "r"))
		o := node("web")
		o.Before = &state
		c = w.connect(o)
		expect(t, c, xdstest.State{})
		if p := w.seen.now(); p.Rejected[k] != 1 {
			t.Errorf("rejected: %v", p.Rejected)
		}
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
		w.publish("web", a, ea, xdstest.Listener("l", 82, "r"), xdstest.Route("r", 2, "a"))
		synctest.Wait()
		if s := c.State(); s.Has(listeners.typeURL(), "old") || !s.Has(listeners.typeURL(), "l") {
			t.Errorf("it has %v after %v", s.Versions, short(s.Log))
		}
		expect(t, c, xdstest.State{}, "LDS l", "RDS r", "LDS -old")
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
	})
}

// What Envoy refuses and what does not validate in turn is shown as it is, and cleared when it is good.
func TestRefusedAndInvalidInTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		a, ea := xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1)
		refusedOne := xdstest.TCPListener("l", 81, "a")
		k := w.register("web", a, ea, refusedOne)
		o := node("web")
		o.Refuse = func(_ string, r *discoveryv3.Resource) string {
			if r.GetVersion() == refusedOne.Version {
				return "no"
			}
			return ""
		}
		w.connect(o)
		ref := envoy.Ref{TypeURL: listeners.typeURL(), Name: "l"}
		last := func(text string, count uint32, cleared int) {
			t.Helper()
			if got := w.seen.refused[len(w.seen.refused)-1].Text; got != text {
				t.Errorf("it is said %q, want %q", got, text)
			}
			if got := w.seen.now().Rejected[k]; got != count || len(w.seen.cleared) != cleared {
				t.Errorf("%d rejected, %d cleared; want %d and %d", got, len(w.seen.cleared), count, cleared)
			}
		}
		last("no", 1, 0)
		w.publishInvalid("web", []envoy.Ref{ref}, a, ea)
		last("must be good", 1, 0)
		w.publish("web", a, ea, refusedOne)
		synctest.Wait()
		last("no", 1, 0)
		w.publishInvalid("web", []envoy.Ref{ref}, a, ea)
		last("must be good", 1, 0)
		w.publish("web", a, ea, xdstest.TCPListener("l", 82, "a"))
		synctest.Wait()
		last("must be good", 0, 1)
	})
}
