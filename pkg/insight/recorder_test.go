package insight_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var self = resource.Key{Kind: resource.KindZonePosition, Name: "self"}

func dp(name string) resource.Key {
	return resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name}
}

func as(kind resource.Kind, k resource.Key) resource.Key {
	return resource.Key{Kind: kind, Scope: k.Scope, Name: k.Name}
}

// zone is a recorder over a store, in a bubble.
type zone struct {
	*testing.T
	*insight.Recorder
	store store.Store
	stop  func()
}

// run gives a zone with dataplanes of these names; its positions are numbered by a peer if one is named.
func run(t *testing.T, peer string, names ...string) *zone {
	t.Helper()
	return runOn(t, memory.New(memory.Options{}), peer, names...)
}

func runOn(t *testing.T, s store.Store, peer string, names ...string) *zone {
	t.Helper()
	z := &zone{T: t, store: s}
	for _, n := range names {
		z.write(dp(n), "")
	}
	z.Recorder = insight.New(insight.Options{Store: s, Instance: "cp-1", Peer: peer})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- z.Recorder.Run(ctx) }()
	stopped := false
	z.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() { z.stop(); _ = s.Close() })
	z.settle()
	return z
}

// settle lets what is urgent be written.
func (z *zone) settle() {
	z.Helper()
	synctest.Wait()
	time.Sleep(50 * time.Millisecond)
	synctest.Wait()
}

func (z *zone) write(k resource.Key, spec string) resource.Revision {
	z.Helper()
	return z.apply(store.Batch{Puts: []store.Put{{Key: k, Spec: []byte(spec)}}})
}

func (z *zone) apply(b store.Batch) resource.Revision {
	z.Helper()
	res, err := z.store.Config().Apply(context.Background(), b)
	if err != nil {
		z.Fatal(err)
	}
	return res.Revision
}

// from moves the cursor of the global, with a batch or alone.
func from(b store.Batch, to resource.Revision) store.Batch {
	b.Cursor = &store.CursorMove{Peer: "global", To: store.Cursor{Store: "g", Epoch: "e", Revision: to}}
	return b
}

func read[M any, PM interface {
	*M
	proto.Message
}](z *zone, k resource.Key) (PM, resource.Revision) {
	z.Helper()
	o, ok := z.store.Status().View().Get(k)
	if !ok {
		return nil, 0
	}
	m, err := resource.Decode[M, PM](o)
	if err != nil {
		z.Fatal(err)
	}
	return m, o.Revision
}

func (z *zone) position() *systemv1.ZonePosition {
	z.Helper()
	m, _ := read[systemv1.ZonePosition](z, self)
	return m
}

func (z *zone) equal(got, want any) {
	z.Helper()
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		z.Fatalf("(-want +got):\n%s", d)
	}
}

func (z *zone) connect(id, name string) {
	z.Connected(insight.Session{ID: id, Proxy: dp(name), Since: time.Now()})
}

func (z *zone) revision() resource.Revision { return z.store.Status().View().Revision() }

func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a")
		since := time.Now()
		z.Connected(insight.Session{
			ID: "s1", Proxy: dp("a"), Since: since,
			DataplaneVersion: insight.VersionInfo{Version: "1", GitTag: "v1", GitCommit: "c", BuildDate: "d"},
			EnvoyVersion:     insight.VersionInfo{Version: "1.40.0", Build: "b"},
		})
		z.settle()
		got, rev := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("a")))
		none := &meshv1.DiscoveryServiceStats{}
		want := &meshv1.DataplaneInsight{Subscriptions: []*meshv1.DiscoverySubscription{{
			Id: "s1", ControlPlaneInstanceId: "cp-1", ConnectTime: timestamppb.New(since),
			Status: &meshv1.DiscoverySubscriptionStatus{Total: none, Cds: none, Eds: none, Lds: none, Rds: none},
			Version: &meshv1.Version{
				KumaDp: &meshv1.KumaDpVersion{Version: "1", GitTag: "v1", GitCommit: "c", BuildDate: "d"},
				Envoy:  &meshv1.EnvoyVersion{Version: "1.40.0", Build: "b"},
			},
		}}}
		z.equal(got, want)
		// Nobody may take the proxy for live before it is known to be.
		row, rowRev := read[systemv1.ProxyPosition](z, as(resource.KindProxyPosition, dp("a")))
		z.equal(row, &systemv1.ProxyPosition{Joining: true})
		_, zoneRev := read[systemv1.ZonePosition](z, self)
		if rowRev != rev || zoneRev != rev {
			t.Fatalf("insight at %s, row at %s, zone at %s: not one batch", rev, rowRev, zoneRev)
		}
		z.Progress(insight.Progress{Processed: 1})
		z.settle()
		if row, _ := read[systemv1.ProxyPosition](z, as(resource.KindProxyPosition, dp("a"))); row != nil {
			t.Fatalf("the row is still there: %v", row)
		}
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 1, Processed: 1, Live: 1})

		end := time.Now()
		z.Counted("s1", insight.Counters{CDS: insight.Counter{Sent: 2, Acked: 1}, SDS: insight.Counter{Sent: 1}})
		z.Disconnected("s1", end)
		z.settle()
		got, _ = read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("a")))
		sub := want.Subscriptions[0]
		sub.DisconnectTime, sub.Status.LastUpdateTime = timestamppb.New(end), timestamppb.New(end)
		sub.Status.Total = &meshv1.DiscoveryServiceStats{ResponsesSent: 3, ResponsesAcknowledged: 1}
		sub.Status.Cds = &meshv1.DiscoveryServiceStats{ResponsesSent: 2, ResponsesAcknowledged: 1}
		z.equal(got, want)
	})
}

func TestCounters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b")
		z.connect("s1", "a")
		z.connect("s2", "b")
		z.settle()
		total := func(name string) uint64 {
			m, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp(name)))
			return m.Subscriptions[0].Status.Total.ResponsesSent
		}
		_, before := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("b")))
		for i := range 100 {
			z.Counted("s1", insight.Counters{EDS: insight.Counter{Sent: uint64(i + 1)}})
			time.Sleep(90 * time.Millisecond)
		}
		synctest.Wait()
		if total("a") != 0 {
			t.Fatal("counters are written before their time")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if total("a") != 100 {
			t.Fatalf("the counter is %d", total("a"))
		}
		if _, rev := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("b"))); rev != before {
			t.Fatal("an insight was written though nothing moved")
		}
		z.Counted("s1", insight.Counters{EDS: insight.Counter{Sent: 101, Rejected: 1}})
		z.settle()
		if total("a") != 101 {
			t.Fatal("the first NACK is not written at once")
		}
		z.Counted("unknown", insight.Counters{})
	})
}

func TestLastSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a")
		z.connect("open", "a")
		for i := range 25 {
			id := fmt.Sprint(i)
			z.connect(id, "a")
			if i%3 == 0 {
				z.settle()
			}
			z.Disconnected(id, time.Now())
		}
		z.settle()
		m, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("a")))
		var ids []string
		for _, s := range m.Subscriptions {
			ids = append(ids, s.Id)
			if (s.Id == "open") == (s.DisconnectTime != nil) {
				t.Errorf("%s ended at %v", s.Id, s.DisconnectTime)
			}
		}
		z.equal(ids, []string{"open", "16", "17", "18", "19", "20", "21", "22", "23", "24"})
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b")
		z.connect("s1", "a")
		z.Counted("s1", insight.Counters{CDS: insight.Counter{Sent: 1}})
		z.Progress(insight.Progress{Processed: 2})
		time.Sleep(time.Minute)
		synctest.Wait()
		before := z.revision()
		z.Counted("s1", insight.Counters{CDS: insight.Counter{Sent: 1}})
		z.Progress(insight.Progress{Processed: 2})
		z.CursorMoved()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if z.revision() != before {
			t.Fatalf("an idle recorder wrote %d times", z.revision()-before)
		}
	})
}

// TestUntouched: a thousand writes that touch no proxy move the zone's position and write no insight.
func TestUntouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a")
		z.connect("s1", "a")
		z.Progress(insight.Progress{Processed: 1})
		z.settle()
		_, insightRev := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("a")))
		before := z.revision()
		var last resource.Revision
		for i := range 1000 {
			last = z.write(resource.Key{Kind: resource.KindTimeout, Scope: "other", Name: "t"}, fmt.Sprint(i))
			z.Progress(insight.Progress{Processed: last})
			time.Sleep(time.Millisecond)
		}
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: uint64(last), Processed: uint64(last), Live: uint64(last)})
		if _, rev := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("a"))); rev != insightRev {
			t.Fatal("an insight was written")
		}
		if n := z.revision() - before; n > 150 {
			t.Fatalf("%d status writes for 1000 config writes in a second", n)
		}
	})
}

// TestLag: proxies that answer soon get no rows; those that do not get them, together with the zone's.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b", "c")
		for _, n := range []string{"a", "b", "c"} {
			z.connect(n, n)
		}
		z.Progress(insight.Progress{Processed: 3})
		z.settle()
		w, err := z.store.Status().Watch(store.OfKind(resource.KindProxyPosition), z.store.Status().View().At())
		if err != nil {
			t.Fatal(err)
		}
		rev := z.write(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, "")
		z.Progress(insight.Progress{Processed: rev, Lagging: map[resource.Key]insight.Lag{dp("a"): {Live: 3}, dp("b"): {Live: 3}}})
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 4, Processed: 3, Live: 3})
		z.Progress(insight.Progress{Processed: rev})
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 4, Processed: 4, Live: 4})
		if c, err := w.Next(t.Context()); err != nil || len(c.Items) != 0 {
			t.Fatalf("rows were written: %v %v", c.Items, err)
		}

		rev = z.write(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, "1")
		z.Progress(insight.Progress{Processed: rev, Lagging: map[resource.Key]insight.Lag{dp("a"): {Live: 4}, dp("b"): {Live: 4}}})
		z.Progress(insight.Progress{
			Processed: rev, Lagging: map[resource.Key]insight.Lag{dp("b"): {Live: 4}}, Rejected: map[resource.Key]uint32{dp("b"): 2, dp("a"): 1},
		})
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 5, Processed: 5, Live: 4, Lagging: 1, Rejected: 3})
		row, rowRev := read[systemv1.ProxyPosition](z, as(resource.KindProxyPosition, dp("b")))
		z.equal(row, &systemv1.ProxyPosition{Live: 4, Rejected: 2})
		if _, zoneRev := read[systemv1.ZonePosition](z, self); zoneRev != rowRev {
			t.Fatal("the rows are not of one batch")
		}
		z.Disconnected("b", time.Now())
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 5, Processed: 5, Live: 5, Rejected: 1})
		if row, _ := read[systemv1.ProxyPosition](z, as(resource.KindProxyPosition, dp("b"))); row != nil {
			t.Fatal("a proxy that is gone has a row")
		}
	})
}

// TestFallBack: what shows that a claim is no longer true is never held back.
func TestFallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b")
		z.connect("s1", "a")
		z.Progress(insight.Progress{Processed: 2})
		z.settle()
		z.Progress(insight.Progress{Processed: 2, Lagging: map[resource.Key]insight.Lag{dp("a"): {Joining: true}}})
		z.settle()
		row, _ := read[systemv1.ProxyPosition](z, as(resource.KindProxyPosition, dp("a")))
		z.equal(row, &systemv1.ProxyPosition{Joining: true})
	})
}

// TestSequence: a progress that was taken before a session says nothing of it, whenever it comes.
func TestSequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a")
		z.Connected(insight.Session{ID: "s1", Proxy: dp("a"), Since: time.Now(), Sequence: 7})
		z.Progress(insight.Progress{Processed: 1, Sequence: 6})
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 1, Processed: 1, Live: 1, Lagging: 1})
		z.Progress(insight.Progress{Processed: 1, Sequence: 7})
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 1, Processed: 1, Live: 1})
	})
}

// TestNumbering: positions are in the global's numbering, and advance with the cursor alone.
func TestNumbering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "global", "a")
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{})
		policy := store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, Origin: resource.Global}}}
		z.apply(from(policy, 100)) // own revision 2
		z.connect("s1", "a")
		z.Progress(insight.Progress{Processed: 2})
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Epoch: "e", Applied: 100, Processed: 100, Live: 100})
		z.apply(from(store.Batch{}, 150))
		z.CursorMoved()
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Epoch: "e", Applied: 150, Processed: 150, Live: 150})
		z.apply(from(policy, 200)) // 3
		z.write(dp("b"), "")       // 4
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Epoch: "e", Applied: 200, Processed: 150, Live: 150})
		z.Progress(insight.Progress{Processed: 4, Lagging: map[resource.Key]insight.Lag{dp("a"): {Live: 2}}})
		time.Sleep(time.Second)
		synctest.Wait()
		z.equal(z.position(), &systemv1.ZonePosition{Epoch: "e", Applied: 200, Processed: 200, Live: 150, Lagging: 1})
		// Another history begins: nothing of the old one is claimed in it.
		b := from(policy, 30)
		b.Cursor.To.Store = "another"
		z.apply(b) // 5
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Epoch: "e", Applied: 30, Lagging: 1})
		z.Progress(insight.Progress{Processed: 5})
		z.settle()
		z.equal(z.position(), &systemv1.ZonePosition{Epoch: "e", Applied: 30, Processed: 30, Live: 30})
	})
}

func TestDataplaneDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b")
		for _, n := range []string{"a", "b"} {
			z.connect(n, n)
			z.Refused(insight.Refusal{Proxy: dp(n), TypeURL: "t", Name: "n", Text: "no", At: time.Now()})
		}
		z.settle()
		z.apply(store.Batch{Deletes: []resource.Key{dp("a")}})
		z.Disconnected("a", time.Now())
		z.settle()
		var left []string
		for o := range z.store.Status().View().Scan(store.Everything()) {
			left = append(left, o.Key.String())
		}
		z.equal(left, []string{"DataplaneInsight default/b", "ProxyPosition default/b", "ProxyRejection Dataplane/default/b", "ZonePosition self"})
		// What goes while nobody looks goes at the next start.
		z.stop()
		z.apply(store.Batch{DeleteScopes: []string{"default"}})
		if err := insight.CloseLeftovers(t.Context(), z.store, "cp-2", time.Now()); err != nil {
			t.Fatal(err)
		}
		if n := z.store.Status().View().Count(store.OfKind(resource.KindDataplaneInsight)); n != 0 {
			t.Fatalf("%d insights have no dataplane", n)
		}
	})
}

func TestRejections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a")
		policy := resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}
		key := resource.Key{Kind: resource.KindProxyRejection, Name: "Timeout/default/t"}
		at := time.Now()
		refuse := func(rev resource.Revision, proxy, text string) {
			z.Refused(insight.Refusal{
				Proxy: dp(proxy), TypeURL: "cds", Name: "backend", Text: text, At: at,
				Sources: []insight.Source{{Key: policy, Revision: rev}},
			})
		}
		var names []string
		for i := range 12 {
			n := fmt.Sprintf("p%02d", i)
			refuse(3, n, "\n"+strings.Repeat("é\xff", 4000))
			if i < 10 {
				names = append(names, "default."+n)
			}
		}
		z.settle()
		got, _ := read[systemv1.ProxyRejection](z, key)
		if len(got.Reason) > 3*2048 || !strings.HasPrefix(got.Reason, "é\uFFFDé") {
			t.Fatalf("the reason has %d bytes: %.20q", len(got.Reason), got.Reason)
		}
		got = proto.CloneOf(got)
		got.Reason = ""
		z.equal(got, &systemv1.ProxyRejection{
			Kind: "Timeout", Scope: "default", Name: "t", Revision: 3, Count: 12, Proxies: names,
			ResourceType: "cds", ResourceName: "backend", Last: timestamppb.New(at),
		})
		// A new version counts anew, and the row stays until nobody holds anything back.
		refuse(5, "p00", "again")
		z.settle()
		got, _ = read[systemv1.ProxyRejection](z, key)
		z.equal(got, &systemv1.ProxyRejection{
			Kind: "Timeout", Scope: "default", Name: "t", Revision: 5, Count: 1, Proxies: names[:1], Reason: "again",
			ResourceType: "cds", ResourceName: "backend", Last: timestamppb.New(at),
		})
		for i := range 12 {
			if got, _ := read[systemv1.ProxyRejection](z, key); got == nil {
				t.Fatalf("gone after %d", i)
			}
			z.Cleared(dp(fmt.Sprintf("p%02d", i)), "cds", "backend")
			z.settle()
		}
		if got, _ := read[systemv1.ProxyRejection](z, key); got != nil {
			t.Fatalf("still there: %v", got)
		}
		z.Cleared(dp("p00"), "cds", "backend")
	})
}

func TestCloseLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a", "b")
		z.connect("s1", "a")
		z.connect("s2", "b")
		z.Progress(insight.Progress{Processed: 2, Lagging: map[resource.Key]insight.Lag{dp("a"): {Joining: true}}, Rejected: map[resource.Key]uint32{dp("b"): 1}})
		z.settle()
		crashed := map[resource.Key][]byte{}
		for o := range z.store.Status().View().Scan(store.Everything()) {
			crashed[o.Key] = o.Spec
		}
		z.stop()

		s := memory.New(memory.Options{})
		defer s.Close()
		open, err := resource.Encode(&systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{{Id: "k1", GlobalInstanceId: "old"}}})
		if err != nil {
			t.Fatal(err)
		}
		b := store.Batch{Puts: []store.Put{
			{Key: resource.Key{Kind: resource.KindZoneInsight, Name: "zone-1"}, Spec: open},
			{Key: resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "zone-1.a"}, Origin: "zone-1", Spec: crashed[as(resource.KindDataplaneInsight, dp("a"))]},
			{Key: resource.Key{Kind: resource.KindProxyPosition, Scope: "default", Name: "zone-1.a"}, Origin: "zone-1"},
		}}
		for k, spec := range crashed {
			b.Puts = append(b.Puts, store.Put{Key: k, Spec: spec})
		}
		if _, err := s.Status().Apply(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Config().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: dp("a")}, {Key: dp("b")}}}); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		for range 2 {
			if err := insight.CloseLeftovers(t.Context(), s, "cp-2", now); err != nil {
				t.Fatal(err)
			}
		}
		if s.Status().View().Revision() != 2 {
			t.Fatal("it writes where nothing is left over")
		}
		z.store = s
		for _, n := range []string{"a", "b"} {
			m, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp(n)))
			z.equal(m.Subscriptions[0].DisconnectTime, timestamppb.New(now))
		}
		zi, _ := read[systemv1.ZoneInsight](z, resource.Key{Kind: resource.KindZoneInsight, Name: "zone-1"})
		z.equal(zi.Subscriptions[0].DisconnectTime, timestamppb.New(now))
		theirs, _ := read[meshv1.DataplaneInsight](z, resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "zone-1.a"})
		if theirs.Subscriptions[0].DisconnectTime != nil {
			t.Fatal("a session of another store was ended")
		}
		z.equal(s.Status().View().Count(store.OfKind(resource.KindProxyPosition)), 1)
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 2, Processed: 2, Live: 2})
	})
}

// failing is a store whose status log takes nothing for a while.
type failing struct {
	store.Store
	broken atomic.Bool
	tries  atomic.Int32
}

type failingLog struct {
	store.Log
	of *failing
}

func (f *failing) Status() store.Log { return failingLog{f.Store.Status(), f} }

func (l failingLog) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	if l.of.broken.Load() {
		l.of.tries.Add(1)
		return store.Result{}, store.ErrNoSpace
	}
	return l.Log.Apply(ctx, b)
}

func TestNoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{Store: memory.New(memory.Options{})}
		z := runOn(t, f, "", "a", "b")
		f.broken.Store(true)
		z.connect("s1", "a")
		z.Refused(insight.Refusal{Proxy: dp("a"), Text: "no", At: time.Now()})
		for i := range 100 {
			z.connect(fmt.Sprint(i), "b")
			z.Disconnected(fmt.Sprint(i), time.Now())
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := f.tries.Load(); n < 9 || n > 12 {
			t.Fatalf("%d tries in ten seconds", n)
		}
		f.broken.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for n, want := range map[string]int{"a": 1, "b": 10} {
			m, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp(n)))
			z.equal(len(m.GetSubscriptions()), want)
		}
		z.equal(z.position(), &systemv1.ZonePosition{Applied: 2, Lagging: 1})
		z.equal(z.store.Status().View().Count(store.OfKind(resource.KindProxyRejection)), 1)
	})
}

// TestStop: the end of the recorder ends what is open.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "a")
		z.connect("s1", "a")
		z.Counted("s1", insight.Counters{CDS: insight.Counter{Sent: 5}})
		z.stop()
		m, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("a")))
		if m == nil || m.Subscriptions[0].DisconnectTime == nil || m.Subscriptions[0].Status.Cds.ResponsesSent != 5 {
			t.Fatalf("got %v", m)
		}
		z.equal(z.store.Status().View().Count(store.OfKind(resource.KindProxyPosition)), 0)
	})
}

func TestStoreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(memory.Options{})
		r := insight.New(insight.Options{Store: s, Instance: "cp-1"})
		done := make(chan error, 1)
		go func() { done <- r.Run(context.Background()) }()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r.Connected(insight.Session{ID: "s1", Proxy: dp("a")})
		if err := <-done; err != nil && !errors.Is(err, store.ErrClosed) {
			t.Fatal(err)
		}
	})
}

// TestLeftoversWithoutSpace: what an earlier instance left open is closed as soon as there is room.
func TestLeftoversWithoutSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &failing{Store: memory.New(memory.Options{})}
		row := as(resource.KindDataplaneInsight, dp("a"))
		left, err := resource.Encode(&meshv1.DataplaneInsight{Subscriptions: []*meshv1.DiscoverySubscription{{Id: "old"}}})
		if err != nil {
			t.Fatal(err)
		}
		for k, log := range map[resource.Key]store.Log{row: f.Status(), dp("a"): f.Config()} {
			if _, err := log.Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: k, Spec: left}}}); err != nil {
				t.Fatal(err)
			}
		}
		f.broken.Store(true)
		if err := insight.CloseLeftovers(t.Context(), f, "cp-1", time.Now()); !errors.Is(err, store.ErrNoSpace) {
			t.Fatal(err)
		}
		r := insight.New(insight.Options{Store: f, Instance: "cp-1", Leftovers: true})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.Connected(insight.Session{ID: "new", Proxy: dp("a"), Since: time.Now()})
		time.Sleep(5 * time.Second)
		f.broken.Store(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		o, _ := f.Status().View().Get(row)
		m, err := resource.Decode[meshv1.DataplaneInsight](o)
		if err != nil {
			t.Fatal(err)
		}
		if s := m.GetSubscriptions(); len(s) != 2 || s[0].GetDisconnectTime() == nil || s[1].GetDisconnectTime() != nil {
			t.Errorf("subscriptions: %v", s)
		}
		cancel()
		if err := errors.Join(<-done, f.Close()); err != nil {
			t.Error(err)
		}
	})
}
