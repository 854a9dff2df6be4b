package api

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// world writes what control planes would.
type world struct {
	testing.TB
	s *Service
}

func newWorld(t testing.TB, mode Mode) *world {
	t.Helper()
	mem := memory.New(memory.Options{})
	t.Cleanup(func() { _ = mem.Close() })
	o := Options{Store: mem, Table: resource.NewTable(), Logger: slog.New(slog.DiscardHandler), Mode: mode}
	if mode != Global {
		o.Zone = "z"
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, s}
}

func (w *world) apply(log store.Log, b store.Batch) resource.Revision {
	w.Helper()
	res, err := log.Apply(w.Context(), b)
	if err != nil {
		w.Fatal(err)
	}
	return res.Revision
}

func (w *world) put(k resource.Key, origin resource.Origin, m proto.Message) store.Put {
	w.Helper()
	spec, err := resource.Encode(m)
	if err != nil {
		w.Fatal(err)
	}
	return store.Put{Key: k, Origin: origin, Spec: spec}
}

func (w *world) config(p ...store.Put) resource.Revision {
	return w.apply(w.s.Store.Config(), store.Batch{Puts: p})
}

func (w *world) status(p ...store.Put) { w.apply(w.s.Store.Status(), store.Batch{Puts: p}) }

// policy writes a new form of an object.
func (w *world) policy(name string) resource.Revision {
	return w.config(store.Put{Key: policy(name), Spec: []byte{8, byte(w.s.Store.Config().View().Revision() & 0x7f)}})
}

func policy(name string) resource.Key {
	return resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: name}
}

func (w *world) zone(name string, enabled bool) {
	w.config(w.put(resource.Key{Kind: resource.KindZone, Name: name}, resource.Local, &systemv1.Zone{Enabled: wrapperspb.Bool(enabled)}))
}

// online opens the session with that id; "" ends all.
func (w *world) online(zone, id string) {
	in := &systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{{Id: "before", ConnectTime: timestamppb.New(time.Unix(1, 0)), DisconnectTime: timestamppb.New(time.Unix(2, 0))}}}
	if id != "" {
		in.Subscriptions = append(in.Subscriptions, &systemv1.KDSSubscription{Id: id, ConnectTime: timestamppb.New(time.Unix(3, 0))})
	}
	w.status(w.put(resource.Key{Kind: resource.KindZoneInsight, Name: zone}, resource.Local, in))
}

// row of a zone; its epoch is that of this log, unless it names another one.
func (w *world) row(zone string, p *systemv1.ZonePosition) store.Put {
	k, origin := resource.Key{Kind: resource.KindZonePosition, Name: zone + ".self"}, resource.Origin(zone)
	if w.s.Mode != Global {
		k.Name, origin = "self", resource.Local
	}
	if p.Epoch == "" {
		p.Epoch = w.s.Store.Config().View().At().Epoch
	}
	return w.put(k, origin, p)
}

func (w *world) proxy(zone, name string, p *systemv1.ProxyPosition) store.Put {
	origin := resource.Origin(zone)
	if w.s.Mode != Global {
		origin = resource.Local
	}
	return w.put(resource.Key{Kind: resource.KindProxyPosition, Scope: "default", Name: name}, origin, p)
}

func (w *world) ask(r resource.Revision) string {
	w.Helper()
	res, err := w.s.GetPositions(w.Context(), &apiv1.GetPositionsRequest{Revision: r.String()})
	if err != nil {
		w.Fatal(err)
	}
	return summary(res)
}

func summary(res *apiv1.GetPositionsResponse) string {
	out := []string{res.GetState()}
	for _, z := range res.GetZones() {
		out = append(out, fmt.Sprintf("%s:%s(%d)", z.GetName(), z.GetState(), z.GetMissing()))
	}
	for _, p := range res.GetProxies() {
		state := "lags"
		if p.GetJoining() {
			state = "joins"
		}
		out = append(out, p.GetZone()+"/"+p.GetName()+" "+state)
	}
	for _, r := range res.GetRejections() {
		out = append(out, fmt.Sprintf("%s refuses %s/%s@%d", r.GetZone(), r.GetKind(), r.GetName(), r.GetRevision()))
	}
	return strings.Join(out, ", ")
}

// The revision asked for is 5 of 5.
func TestPositionStates(t *testing.T) {
	at := func(applied, processed, live uint64, session string) *systemv1.ZonePosition {
		return &systemv1.ZonePosition{Applied: applied, Processed: processed, Live: live, Session: session}
	}
	refused := func(w *world, revision uint64, name string) store.Put {
		return w.put(resource.Key{Kind: resource.KindProxyRejection, Name: "Timeout/default/" + name}, "a",
			&systemv1.ProxyRejection{Kind: "Timeout", Scope: "default", Name: name, Revision: revision})
	}
	sync := func(w *world, revision uint64, name string) store.Put {
		return w.put(resource.Key{Kind: resource.KindSyncRejection, Name: "a.Timeout/default/" + name}, "a",
			&systemv1.SyncRejection{Kind: "Timeout", Scope: "default", Name: name, Revision: revision})
	}
	for name, tt := range map[string]struct {
		disabled, offline bool
		write             func(w *world)
		want              string
	}{
		"live":             {write: func(w *world) { w.status(w.row("a", at(5, 5, 5, "now"))) }, want: "live, a:live(0)"},
		"further":          {write: func(w *world) { w.policy("more"); w.status(w.row("a", at(6, 6, 5, "now"))) }, want: "live, a:live(0)"},
		"no row":           {write: func(*world) {}, want: "pending, a:joining(0)"},
		"earlier session":  {write: func(w *world) { w.status(w.row("a", at(5, 5, 5, "before"))) }, want: "pending, a:joining(0)"},
		"no session":       {write: func(w *world) { w.status(w.row("a", at(5, 5, 5, ""))) }, want: "pending, a:joining(0)"},
		"beyond the head":  {write: func(w *world) { w.status(w.row("a", at(9, 9, 9, "now"))) }, want: "pending, a:joining(0)"},
		"not applied":      {write: func(w *world) { w.status(w.row("a", at(4, 4, 4, "now"))) }, want: "pending, a:lagging(0)"},
		"not processed":    {write: func(w *world) { w.status(w.row("a", at(5, 4, 4, "now"))) }, want: "pending, a:lagging(0)"},
		"not live":         {write: func(w *world) { w.status(w.row("a", at(5, 5, 4, "now"))) }, want: "pending, a:lagging(0)"},
		"a row is missing": {write: func(w *world) { p := at(5, 5, 5, "now"); p.Lagging = 1; w.status(w.row("a", p)) }, want: "pending, a:lagging(0)"},
		"offline":          {offline: true, write: func(w *world) { w.status(w.row("a", at(3, 3, 3, "before"))) }, want: "live, a:offline(0)"},
		"disabled":         {disabled: true, write: func(w *world) { w.status(w.row("a", at(3, 3, 3, "now"))) }, want: "live, a:disabled(0)"},
		"of another zone": {write: func(w *world) {
			w.status(w.row("a", at(5, 5, 5, "now")), w.proxy("b", "b.x", &systemv1.ProxyPosition{}))
		}, want: "live, a:live(0)"},
		"another history":  {write: func(w *world) { p := at(5, 5, 5, "now"); p.Epoch = "lost"; w.status(w.row("a", p)) }, want: "pending, a:joining(0)"},
		"refused by proxy": {write: func(w *world) { w.status(w.row("a", at(5, 5, 5, "now")), refused(w, 4, "gone")) }, want: "rejected, a:live(0), a refuses Timeout/gone@4"},
		"refused later": {write: func(w *world) {
			w.status(w.row("a", at(6, 6, 6, "now")), refused(w, uint64(w.policy("later")), "later"))
		}, want: "live, a:live(0)"},
		"an older zone without a kind that no user writes": {write: func(w *world) {
			r := w.config(w.put(resource.Key{Kind: resource.KindSyncRejection, Name: "a.GlobalPublicKey//*"}, "a",
				&systemv1.SyncRejection{Kind: "GlobalPublicKey", Name: "*", Revision: 5}))
			p := at(uint64(r), uint64(r), uint64(r), "now")
			w.status(w.row("a", p))
		}, want: "live, a:live(0)"},
		"an older zone without a user's kind": {write: func(w *world) {
			r := w.config(w.put(resource.Key{Kind: resource.KindSyncRejection, Name: "a.Timeout//*"}, "a",
				&systemv1.SyncRejection{Kind: "Timeout", Name: "*", Revision: 5}))
			p := at(uint64(r), uint64(r), uint64(r), "now")
			w.status(w.row("a", p))
		}, want: "rejected, a:live(0), a refuses Timeout/*@5"},
		"refused now and before": {write: func(w *world) {
			later := uint64(w.policy("later"))
			w.status(w.row("a", at(6, 6, 6, "now")), w.put(resource.Key{Kind: resource.KindProxyRejection, Name: "Timeout/default/later"}, "a",
				&systemv1.ProxyRejection{Kind: "Timeout", Scope: "default", Name: "later", Revision: later, Since: 5}))
		}, want: "rejected, a:live(0), a refuses Timeout/later@6"},
		"refused in a form that is no more": {write: func(w *world) { w.status(w.row("a", at(5, 5, 5, "now")), refused(w, 6, "gone")) }, want: "rejected, a:live(0), a refuses Timeout/gone@6"},
		"refused in a heap":                 {write: func(w *world) { w.status(w.row("a", at(5, 5, 5, "now")), refused(w, 6, "p")) }, want: "rejected, a:live(0), a refuses Timeout/p@5"},
		"proxies": {write: func(w *world) {
			p := at(5, 5, 3, "now")
			p.Lagging = 3
			w.status(w.row("a", p), w.proxy("a", "a.1", &systemv1.ProxyPosition{Live: 5}), w.proxy("a", "a.2", &systemv1.ProxyPosition{Live: 3}), w.proxy("a", "a.3", &systemv1.ProxyPosition{Joining: true}))
		}, want: "pending, a:lagging(2), a/a.2 lags, a/a.3 joins"},
		"refused by zone": {write: func(w *world) {
			r := w.config(sync(w, 5, "p"))
			w.apply(w.s.Store.Config(), store.Batch{Cursor: &store.CursorMove{Peer: "a", To: store.Cursor{Store: "za", Revision: 7}}})
			w.apply(w.s.Store.Status(), store.Batch{Cursor: &store.CursorMove{Peer: "a", To: store.Cursor{Store: "za", Revision: 1}}})
			p := at(uint64(r), uint64(r), uint64(r), "now")
			p.Refused = 7
			w.status(w.row("a", p))
		}, want: "rejected, a:live(0), a refuses Timeout/p@5"},
		"refused by zone, not yet told": {write: func(w *world) { p := at(5, 5, 5, "now"); p.Refused = 7; w.status(w.row("a", p)) }, want: "pending, a:lagging(0)"},
		"refused by zone and mended": {write: func(w *world) {
			w.config(sync(w, 3, "p"))
			w.status(w.row("a", at(6, 6, 6, "now")))
		}, want: "live, a:live(0)"},
		"refused by zone and deleted": {write: func(w *world) {
			w.config(sync(w, 3, "gone"))
			w.status(w.row("a", at(6, 6, 6, "now")))
		}, want: "live, a:live(0)"},
		"refused by the global": {write: func(w *world) {
			w.config(w.put(resource.Key{Kind: resource.KindSyncRejection, Name: "Dataplane/default/a.x"}, resource.Local, &systemv1.SyncRejection{Kind: "Dataplane", Scope: "default", Name: "a.x", Revision: 1}))
			w.status(w.row("a", at(6, 6, 6, "now")))
		}, want: "live, a:live(0)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Global)
			w.zone("a", !tt.disabled)
			for range 3 {
				w.policy("q")
			}
			w.policy("p") // 5
			if !tt.offline {
				w.online("a", "now")
			}
			tt.write(w)
			if diff := cmp.Diff(tt.want, w.ask(5)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOwnPositions(t *testing.T) {
	for _, mode := range []Mode{Zone, Standalone} {
		w := newWorld(t, mode)
		w.policy("p")
		if mode == Zone {
			w.apply(w.s.Store.Config(), store.Batch{Cursor: &store.CursorMove{Peer: "global", To: store.Cursor{Store: "g", Epoch: "e", Revision: 1}}})
		}
		if got := w.ask(1); got != "pending, z:joining(0)" {
			t.Error(mode, got)
		}
		w.status(w.row("z", &systemv1.ZonePosition{Applied: 1, Processed: 1, Live: 1, Lagging: 1}), w.proxy("z", "x", &systemv1.ProxyPosition{Joining: true}))
		if got := w.ask(1); got != "pending, z:lagging(1), z/x joins" {
			t.Error(mode, got)
		}
		w.apply(w.s.Store.Status(), store.Batch{
			Puts:    []store.Put{w.row("z", &systemv1.ZonePosition{Applied: 1, Processed: 1, Live: 1})},
			Deletes: []resource.Key{{Kind: resource.KindProxyPosition, Scope: "default", Name: "x"}},
		})
		if got := w.ask(1); got != "live, z:live(0)" {
			t.Error(mode, got)
		}
	}
}

func TestBadPositions(t *testing.T) {
	w := newWorld(t, Global)
	w.policy("p")
	for _, tt := range []struct{ revision, wait, field string }{
		{"", "", "revision"},
		{"-1", "", "revision"},
		{"x", "1s", "revision"},
		{"2", "1s", "revision"},
		{"1", "x", "wait"},
		{"1", "30", "wait"},
		{"1", "-1s", "wait"},
		{"1", "5m1ns", "wait"},
	} {
		_, err := w.s.GetPositions(t.Context(), &apiv1.GetPositionsRequest{Revision: tt.revision, Wait: tt.wait})
		st := status.Convert(err)
		if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
			t.Errorf("%+v: %v", tt, err)
			continue
		}
		if e, ok := st.Details()[0].(*apiv1.Error); !ok || len(e.GetCauses()) != 1 || e.GetCauses()[0].GetField() != tt.field {
			t.Errorf("%+v: %v", tt, st.Details())
		}
	}
}

func TestManyMissing(t *testing.T) {
	w := newWorld(t, Standalone)
	w.policy("p")
	puts := []store.Put{w.row("z", &systemv1.ZonePosition{Applied: 1, Lagging: 150})}
	for i := range 150 {
		puts = append(puts, w.proxy("z", fmt.Sprintf("x%03d", i), &systemv1.ProxyPosition{}))
	}
	w.status(puts...)
	res, err := w.s.GetPositions(t.Context(), &apiv1.GetPositionsRequest{Revision: "1"})
	if err != nil || len(res.GetProxies()) != 100 || res.GetZones()[0].GetMissing() != 150 {
		t.Fatal(err, summary(res))
	}
	if !slices.IsSortedFunc(res.GetProxies(), func(a, b *apiv1.PositionProxy) int { return strings.Compare(a.GetName(), b.GetName()) }) {
		t.Error("the proxies are not in order")
	}
}

// The wait ends with the last row that is missing, or at its time, and leaves nothing behind.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Global)
		w.zone("a", true)
		w.zone("b", true)
		w.online("a", "1")
		w.online("b", "1")
		r := w.policy("p")
		answer := func(wait string) func() string {
			got := make(chan string, 1)
			go func() {
				res, err := w.s.GetPositions(t.Context(), &apiv1.GetPositionsRequest{Revision: r.String(), Wait: wait})
				if err != nil {
					got <- err.Error()
					return
				}
				got <- summary(res)
			}()
			synctest.Wait()
			return func() string {
				synctest.Wait()
				select {
				case s := <-got:
					return s
				default:
					return ""
				}
			}
		}
		all := func(n resource.Revision) *systemv1.ZonePosition {
			return &systemv1.ZonePosition{Applied: uint64(n), Processed: uint64(n), Live: uint64(n), Session: "1"}
		}
		short, long, deleted := answer("1s"), answer("5m"), answer("5m")
		w.status(w.row("a", all(r)))
		if s := short() + long(); s != "" {
			t.Fatal("too early:", s)
		}
		time.Sleep(time.Second)
		if s := short(); s != "pending, a:live(0), b:joining(0)" {
			t.Error(s)
		}
		w.status(w.row("b", all(r-1)))
		if s := long(); s != "" {
			t.Fatal("too early:", s)
		}
		w.status(w.row("b", all(r)))
		if s := long(); s != "live, a:live(0), b:live(0)" {
			t.Error(s)
		}
		if s := deleted(); s != "live, a:live(0), b:live(0)" {
			t.Error(s)
		}
		// A zone that goes, by its session or by the user, is not waited for any longer.
		r = w.policy("p")
		w.status(w.row("a", all(r)))
		offline := answer("1m")
		w.online("b", "")
		if s := offline(); s != "live, a:live(0), b:offline(0)" {
			t.Error(s)
		}
		w.online("b", "2")
		gone := answer("1m")
		w.apply(w.s.Store.Config(), store.Batch{Deletes: []resource.Key{{Kind: resource.KindZone, Name: "b"}}})
		if s := gone(); s != "live, a:live(0)" {
			t.Error(s)
		}
		w.zone("b", true)
		stopped := answer("1m")
		_ = w.s.Store.Close()
		if s := stopped(); !strings.Contains(s, "The control plane is stopping") {
			t.Error(s)
		}
	})
}
