package xds

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

func inline(name string, port int) string {
	return fmt.Sprintf(`{"type":"Dataplane","mesh":"default","name":%q,"networking":{"address":"127.0.0.1","inbound":[{"port":%d,"servicePort":8080,"tags":{"kuma.io/service":"web"}}]}}`, name, port)
}

func (w *world) get(k resource.Key) (*resource.Object, bool) { return w.store.Config().View().Get(k) }

func TestInlineDataplaneLivesAndGoes(t *testing.T) {
	for name, end := range map[string]struct {
		leave func(*xdstest.Client)
		after time.Duration
	}{
		"broken":      {(*xdstest.Client).Close, 2 * time.Second},
		"half-closed": {(*xdstest.Client).Leave, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, Limits{})
				k := dataplane("web")
				c := w.connect(xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 80)), Token: "good"})
				o, ok := w.get(k)
				if !ok {
					t.Fatalf("not registered; %v", c.State().Err)
				}
				dp, err := resource.Decode[meshv1.Dataplane](o)
				if err != nil {
					t.Fatal(err)
				}
				if got := dp.GetNetworking().GetInbound()[0].GetTags()["kuma.io/zone"]; got != "zone-1" || o.Origin != resource.Local {
					t.Errorf("zone %q, origin %q", got, o.Origin)
				}
				end.leave(c)
				synctest.Wait()
				if end.after > 0 {
					time.Sleep(end.after - time.Nanosecond)
					synctest.Wait()
					if _, ok := w.get(k); !ok {
						t.Error("gone before its grace")
					}
					time.Sleep(time.Nanosecond)
					synctest.Wait()
				}
				if _, ok := w.get(k); ok {
					t.Error("still there")
				}
				if _, ok := w.get(mark(k)); ok {
					t.Error("its mark is still there")
				}
				if p := w.seen.now(); p.Connected != 0 || len(p.Lagging) != 0 || len(w.seen.open) != 0 {
					t.Errorf("still connected: %+v", p)
				}
				if n := len(w.server.proxies); n != 0 {
					t.Errorf("%d proxies are remembered", n)
				}
			})
		})
	}
}

// A new stream before the end of the grace keeps the dataplane, and writes nothing.
func TestInlineDataplaneComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		o := xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 80))}
		c := w.connect(o)
		at := w.store.Config().View().Revision()
		for range 5 {
			c.Close()
			time.Sleep(time.Second)
			c = w.connect(o)
		}
		// An old stream that is seen closed late takes nothing with it.
		again := w.connect(o)
		c.Close()
		time.Sleep(time.Minute)
		synctest.Wait()
		if now := w.store.Config().View().Revision(); now != at {
			t.Errorf("%d writes", now-at)
		}
		again.Close()
	})
}

// A restart of the control plane removes no dataplane whose proxy comes back within a minute.
func TestInlineDataplaneOverARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		w.register("registered")
		for _, name := range []string{"a", "b"} {
			w.connect(xdstest.Options{Node: xdstest.Node("default", name, inline(name, 80))})
		}
		w.shutdown()
		w.start(Limits{})
		time.Sleep(50 * time.Second)
		w.connect(xdstest.Options{Node: xdstest.Node("default", "a", inline("a", 80))})
		time.Sleep(9 * time.Second)
		synctest.Wait()
		for _, name := range []string{"a", "b", "registered"} {
			if _, ok := w.get(dataplane(name)); !ok {
				t.Errorf("%s is gone too early", name)
			}
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for name, want := range map[string]bool{"a": true, "b": false, "registered": true} {
			if _, ok := w.get(dataplane(name)); ok != want {
				t.Errorf("%s: there %v, want %v", name, ok, want)
			}
		}
	})
}

// A goodbye takes the dataplane out at once, and leaves the stream, which goes on draining.
func TestGoodbye(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := dataplane("web")
		c := w.connect(xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 80))})
		w.register("registered")
		if err := w.server.Goodbye(w.ctx, k); err != nil {
			t.Fatal(err)
		}
		if err := w.server.Goodbye(w.ctx, dataplane("registered")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := w.get(k); ok {
			t.Error("still there")
		}
		if _, ok := w.get(dataplane("registered")); !ok {
			t.Error("a registered dataplane went with its proxy's goodbye")
		}
		if s := c.State(); s.Done {
			t.Errorf("the stream has ended: %v", s.Err)
		}
		c.Close()
		time.Sleep(time.Minute)
		c = w.connect(xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 81))})
		if _, ok := w.get(k); !ok {
			t.Errorf("it can't come back: %v", c.State().Err)
		}
	})
}

func TestSessionsThatAreRefused(t *testing.T) {
	badMetadata := xdstest.Node("default", "web", "")
	badMetadata.Metadata.Fields[MetadataDataplane] = structpb.NewNumberValue(1)
	for name, c := range map[string]struct {
		o    xdstest.Options
		code codes.Code
		text string
	}{
		"no node":       {xdstest.Options{}, codes.InvalidArgument, "node.id"},
		"bad id":        {xdstest.Options{Node: xdstest.Node("default", "", "")}, codes.InvalidArgument, "node.id"},
		"token":         {xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 80)), Token: "bad"}, codes.Unauthenticated, "authentication failed: the token is for another proxy"},
		"no mesh":       {xdstest.Options{Node: xdstest.Node("other", "web", "")}, codes.NotFound, `mesh "other" does not exist`},
		"no dataplane":  {xdstest.Options{Node: xdstest.Node("default", "web", "")}, codes.NotFound, "Dataplane default/web is not registered"},
		"another name":  {xdstest.Options{Node: xdstest.Node("default", "web", inline("web2", 80))}, codes.InvalidArgument, "name"},
		"invalid":       {xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 0))}, codes.InvalidArgument, "networking.inbound[0].port"},
		"no JSON":       {xdstest.Options{Node: xdstest.Node("default", "web", "{")}, codes.InvalidArgument, MetadataDataplane},
		"unknown field": {xdstest.Options{Node: xdstest.Node("default", "web", `{"networking":{"adress":"1"}}`)}, codes.InvalidArgument, "networking.adress"},
		"no string":     {xdstest.Options{Node: badMetadata}, codes.InvalidArgument, "must be a string"},
		"large":         {xdstest.Options{Node: xdstest.Node("default", "web", strings.Repeat(" ", 256<<10))}, codes.InvalidArgument, "node.metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, Limits{})
				at := w.store.Config().View().Revision()
				s := w.connect(c.o).State()
				if !s.Done || status.Code(s.Err) != c.code || !strings.Contains(status.Convert(s.Err).Message(), c.text) {
					t.Errorf("ended %v with %v", s.Done, s.Err)
				}
				if w.store.Config().View().Revision() != at || w.seen.connected != 0 {
					t.Error("it left something behind")
				}
			})
		})
	}
}

func TestStreamsAreLimited(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{Streams: 2, Subscriptions: 3})
		w.register("web")
		a, b := w.connect(node("web")), w.connect(node("web"))
		if s := w.connect(node("web")).State(); status.Code(s.Err) != codes.ResourceExhausted || !strings.Contains(s.Err.Error(), "2 streams are open, more are not served (limits.adsStreams)") {
			t.Errorf("third stream: %v", s.Err)
		}
		a.Close()
		synctest.Wait()
		if s := w.connect(node("web")).State(); s.Done {
			t.Errorf("a stream in place of a closed one: %v", s.Err)
		}
		b.Close()
	})
}

// TestMetadataIsLimited: as large as allowed is taken, one byte more is refused by the key's name.
func TestMetadataIsLimited(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const most = 4096
		w := newWorld(t, Limits{NodeMetadata: most})
		w.register("web")
		sized := func(size int) xdstest.Options {
			o := node("web")
			m := o.Node.GetMetadata()
			m.Fields["padding"] = structpb.NewStringValue(strings.Repeat("x", size-64))
			m.Fields["padding"] = structpb.NewStringValue(strings.Repeat("x", size-64+size-proto.Size(m)))
			if n := proto.Size(m); n != size {
				t.Fatalf("made %d bytes, not %d", n, size)
			}
			return o
		}
		if s := w.connect(sized(most)).State(); s.Done {
			t.Errorf("as large as allowed: %v", s.Err)
		}
		if s := w.connect(sized(most + 1)).State(); status.Code(s.Err) != codes.InvalidArgument || !strings.Contains(s.Err.Error(), "node.metadata: 4097 bytes, at most 4096 (limits.nodeMetadataBytes)") {
			t.Errorf("one byte more: %v", s.Err)
		}
	})
}

func TestTokenExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		c := w.connect(xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 80)), Token: "good"})
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		if c.State().Done {
			t.Fatal("ended too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if s := c.State(); status.Code(s.Err) != codes.Unauthenticated || !strings.HasPrefix(status.Convert(s.Err).Message(), "authentication failed:") {
			t.Errorf("got %v", s.Err)
		}
	})
}

func TestDeletionEndsStreams(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("a")
		w.register("b")
		a, b := w.connect(node("a")), w.connect(node("b"))
		if _, err := w.store.Config().Apply(w.ctx, store.Batch{Deletes: []resource.Key{k}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := a.State(); status.Convert(s.Err).Message() != "Dataplane default/a was deleted" {
			t.Errorf("got %v", s.Err)
		}
		if b.State().Done {
			t.Error("another stream has ended")
		}
		if _, err := w.store.Config().Apply(w.ctx, store.Batch{
			DeleteScopes: []string{"default"}, Deletes: []resource.Key{{Kind: resource.KindMesh, Name: "default"}},
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := b.State(); status.Convert(s.Err).Message() != `mesh "default" was deleted` {
			t.Errorf("got %v", s.Err)
		}
	})
}

func TestShutdownEndsStreamsAndKeepsDataplanes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		c := w.connect(xdstest.Options{Node: xdstest.Node("default", "web", inline("web", 80))})
		w.shutdown()
		if s := c.State(); status.Code(s.Err) != codes.Unavailable {
			t.Errorf("got %v", s.Err)
		}
		if _, ok := w.get(dataplane("web")); !ok {
			t.Error("the dataplane is gone")
		}
		if len(w.seen.open) != 0 {
			t.Error("its session is still open")
		}
	})
}

func TestConnectStorm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const n = 300
		w := newWorld(t, Limits{})
		var all []*xdstest.Client
		for i := range n {
			name := fmt.Sprintf("dp-%d", i)
			k := dataplane(name)
			w.hand.mu.Lock()
			w.hand.sets[k] = xdstest.Set(xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a"))
			w.hand.mu.Unlock()
			c, err := xdstest.Connect(w.ctx, w.conn, xdstest.Options{Node: xdstest.Node("default", name, inline(name, 80))})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		synctest.Wait()
		if p := w.seen.now(); p.Connected != n || len(p.Lagging) != 0 {
			t.Errorf("%d connected, %d lag", p.Connected, len(p.Lagging))
		}
		for _, c := range all {
			c.Close()
		}
		synctest.Wait()
		at := w.store.Config().View().Revision()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if left := w.store.Config().View().Count(store.OfKind(resource.KindDataplane)); left != 0 {
			t.Errorf("%d dataplanes are left", left)
		}
		// Those that went together are taken out together.
		if writes := w.store.Config().View().Revision() - at; writes > 3 {
			t.Errorf("%d writes", writes)
		}
	})
}

// A plan that can not be made leaves what the proxy has, and is shown.
func TestFailedPlanKeepsTheLastGoodOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		a := xdstest.Cluster("a", 1)
		k := w.register("web", a, xdstest.Endpoints("a", 1))
		c := w.connect(node("web"))
		before := c.State()
		w.hand.mu.Lock()
		w.hand.errs[k] = fmt.Errorf("no way to make it")
		w.hand.mu.Unlock()
		w.touch("web")
		w.touch("web")
		synctest.Wait()
		expect(t, c, before)
		if len(w.seen.refused) != 1 || w.seen.refused[0].Text != "no way to make it" || w.seen.refused[0].Sources[0].Key != k {
			t.Errorf("refused: %+v", w.seen.refused)
		}
		if p := w.seen.now(); p.Rejected[k] != 1 {
			t.Errorf("rejected: %v", p.Rejected)
		}
		w.hand.mu.Lock()
		delete(w.hand.errs, k)
		w.hand.mu.Unlock()
		w.publish("web", a, xdstest.Endpoints("a", 2))
		synctest.Wait()
		expect(t, c, before, "EDS a")
		if p := w.seen.now(); len(p.Rejected) != 0 || len(w.seen.cleared) != 1 {
			t.Errorf("rejected: %v", p.Rejected)
		}
	})
}
