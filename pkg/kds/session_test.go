package kds_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/kds/kdstest"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// scripted opens a stream of a zone that the test speaks for.
func (g *globalCP) scripted() *kdstest.Peer {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g.t.Cleanup(cancel)
	p, err := kdstest.DialZone(ctx, g.conn())
	if err != nil {
		g.t.Fatal(err)
	}
	return p
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if st := status.Convert(err); st.Code() != code || !strings.Contains(st.Message(), text) {
		t.Errorf("ended with %v, want %s and %q", err, code, text)
	}
}

func TestOneSessionAZone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		first := g.scripted()
		must[*kdsv1.Hello](t)(first.Hello(&kdsv1.Hello{Store: "s1", Zone: "zone-1"}))
		_, err := g.scripted().Hello(&kdsv1.Hello{Store: "s2", Zone: "zone-1"})
		wantCode(t, err, codes.AlreadyExists, "s2")
		again := g.scripted()
		must[*kdsv1.Hello](t)(again.Hello(&kdsv1.Hello{Store: "s1", Zone: "zone-1"}))
		for err = nil; err == nil; {
			_, err = first.Next()
		}
		wantCode(t, err, codes.Unavailable, "replaced")
		synctest.Wait()
		subs := insightOf(t, g.store, "zone-1").GetSubscriptions()
		if len(subs) != 2 || subs[0].GetDisconnectTime() == nil || subs[1].GetDisconnectTime() != nil {
			t.Errorf("subscriptions: %v", subs)
		}
	})
}

// fixed knows tokens.
type fixed map[string]struct {
	zone    string
	expires time.Time
}

func (f fixed) AuthenticateZone(ctx context.Context) (string, kds.Hold, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, v := range md.Get("authorization") {
		if c, ok := f[strings.TrimPrefix(v, "Bearer ")]; ok {
			if c.expires.IsZero() {
				return c.zone, nil, nil
			}
			return c.zone, func(end func(error)) func() {
				t := time.AfterFunc(time.Until(c.expires), func() { end(errors.New("expired")) })
				return func() { t.Stop() }
			}, nil
		}
	}
	return "", nil, errors.New("no valid zone token")
}

func TestCredentials(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		g.stop()
		g.auth = fixed{"t1": {zone: "zone-1", expires: time.Now().Add(time.Minute)}, "t2": {zone: "zone-1"}}
		g.start()
		var token atomic.Value
		token.Store("none")
		z := g.zone("zone-1", func(o *kds.ClientOptions) {
			o.Token = func() (string, error) {
				if s := token.Load().(string); s != "" {
					return s, nil
				}
				return "", errors.New("open token: no such file")
			}
		})
		other := g.zone("zone-2", func(o *kds.ClientOptions) { o.Token = func() (string, error) { return "t2", nil } })
		synctest.Wait()
		if s := z.client.State(); !strings.Contains(s.Err, "no valid zone token") {
			t.Errorf("state %+v", s)
		}
		if s := other.client.State(); !strings.Contains(s.Err, `"zone-1"`) {
			t.Errorf("state %+v", s)
		}
		if n := g.store.Config().View().Count(store.OfKind(resource.KindZone)); n != 0 {
			t.Errorf("refused zones left %d Zone objects", n)
		}
		token.Store("")
		time.Sleep(10 * time.Second)
		if s := z.client.State(); !strings.Contains(s.Err, "no such file") {
			t.Errorf("state %+v", s)
		}
		token.Store("t1")
		time.Sleep(10 * time.Second)
		if s := z.client.State(); !s.Connected {
			t.Errorf("state %+v with a good token", s)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := z.client.State(); s.Connected || !strings.Contains(s.Err, "expired") {
			t.Errorf("state %+v after the token has expired", s)
		}
		if g.server.IsOnline("zone-1") {
			t.Error("the session outlives its token")
		}
		token.Store("t2")
		time.Sleep(10 * time.Second)
		if s := z.client.State(); !s.Connected {
			t.Errorf("state %+v with a new token", s)
		}
	})
}

func TestRefusedHellos(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		for _, c := range []struct {
			hello *kdsv1.Hello
			code  codes.Code
			text  string
		}{
			{&kdsv1.Hello{Store: "s", Zone: "global"}, codes.InvalidArgument, "reserved"},
			{&kdsv1.Hello{Store: "s", Zone: "a.b"}, codes.InvalidArgument, "DNS label"},
			{&kdsv1.Hello{Zone: "zone-1"}, codes.InvalidArgument, "store"},
			{&kdsv1.Hello{Store: "global-store", Zone: "zone-1"}, codes.FailedPrecondition, "store of the global"},
			{&kdsv1.Hello{Store: "s", Zone: "zone-1", Config: &kdsv1.Cursor{Store: "elsewhere", Revision: 7}}, codes.FailedPrecondition, "elsewhere"},
		} {
			_, err := g.scripted().Hello(c.hello)
			wantCode(t, err, c.code, c.text)
		}
		p := g.scripted()
		_ = p.Heartbeat()
		_, err := p.Next()
		wantCode(t, err, codes.InvalidArgument, "Hello")
		_, err = g.scripted().Next()
		wantCode(t, err, codes.DeadlineExceeded, "Hello")
		if n := g.store.Config().View().Count(store.Everything()); n != 0 {
			t.Errorf("%d objects were left", n)
		}
	})
}

func TestSilentZone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
		start := time.Now()
		time.Sleep(5 * time.Second)
		_ = p.Heartbeat()
		var err error
		for err == nil {
			_, err = p.Next()
		}
		wantCode(t, err, codes.Unavailable, "silent")
		if d := time.Since(start); d != 13*time.Second {
			t.Errorf("the session ended after %s", d)
		}
		if p.Heartbeats < 11 || p.Heartbeats > 13 {
			t.Errorf("%d heartbeats came in 13 s", p.Heartbeats)
		}
		synctest.Wait()
		if s := insightOf(t, g.store, "zone-1").GetSubscriptions(); len(s) != 1 || s[0].GetDisconnectTime() == nil {
			t.Errorf("subscriptions: %v", s)
		}
	})
}

// scriptedGlobal serves a global control plane that the test speaks for.
func scriptedGlobal(t *testing.T) (*kdstest.Global, func(context.Context, string) (net.Conn, error)) {
	g, lis, srv := kdstest.NewGlobal(), bufconn.Listen(1<<20), grpc.NewServer()
	g.Register(srv)
	go func() { _ = srv.Serve(lis) }()
	t.Cleanup(srv.Stop)
	return g, func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }
}

func TestSilentGlobal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g, dial := scriptedGlobal(t)
		z := (&globalCP{t: t}).zone("zone-1", func(o *kds.ClientOptions) { o.Dial = dial })
		ctx := context.Background()
		// One that does not answer the Hello, one that falls silent later.
		_, _, err := g.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		p, _, err := g.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("the next attempt came after %s", d)
		}
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s"}))
		synctest.Wait()
		if !z.client.State().Connected {
			t.Errorf("state %+v", z.client.State())
		}
		start = time.Now()
		p, end, err := g.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("the next attempt came after %s", d)
		}
		// A fault is met by one attempt a second, a refusal by one in ten at least.
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s"}))
		end(status.Error(codes.Unavailable, "going"))
		start = time.Now()
		_, end, err = g.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("the next attempt came after %s", d)
		}
		end(status.Error(codes.PermissionDenied, "no"))
		start = time.Now()
		if _, _, err = g.Accept(ctx); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < 4*time.Second || d > 10*time.Second {
			t.Errorf("the attempt after a refusal came after %s", d)
		}
	})
}

// Attempts that hang do not hold up the one that would be answered.
func TestDialing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		begin, attempts := time.Now(), make(chan time.Duration, 100)
		z := g.zone("zone-1", func(o *kds.ClientOptions) {
			o.Dial = func(ctx context.Context, a string) (net.Conn, error) {
				attempts <- time.Since(begin)
				if time.Since(begin) < 3500*time.Millisecond {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return g.dial(ctx, a)
			}
		})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if !z.client.State().Connected {
			t.Errorf("state %+v", z.client.State())
		}
		for i := range 5 {
			if at := <-attempts; at != time.Duration(i)*time.Second {
				t.Errorf("attempt %d came after %s", i, at)
			}
		}
		if len(attempts) > 0 {
			t.Errorf("%d more attempts", len(attempts))
		}
	})
}

func TestFramesAndWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		big := strings.Repeat("x", 500<<10)
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
		if first := must[*kdstest.Group](t)(p.NextGroup(kdsv1.Log_LOG_CONFIG)); len(first.Replaces) != 1 || len(first.Changes) != 2 {
			t.Errorf("the first group is %v", first)
		}
		var puts []store.Put
		for i := range 20 {
			puts = append(puts, put(timeout("m", fmt.Sprint(i)), big))
		}
		write(t, g.store.Config(), puts...)
		// This zone gives no credit: it gets a window, and then only heartbeats. Others do not wait for it.
		other := g.zone("zone-2")
		synctest.Wait()
		if n := other.store.Config().View().Count(store.OfKind(resource.KindTimeout)); n != 20 {
			t.Errorf("%d of 20 objects have come to the other zone", n)
		}
		got, heartbeats := 0, 0
		for heartbeats < 3 {
			f, err := p.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if n := proto.Size(f); n > 32<<10 {
				t.Errorf("a frame of %d bytes", n)
			}
			if f.GetHeartbeat() != nil {
				_ = p.Heartbeat()
				heartbeats++
			}
			got += len(f.GetGroup().GetChanges()) + 64
		}
		if got > 4<<20+100<<10 || got < 4<<20-100<<10 {
			t.Errorf("%d bytes came into the window", got)
		}
		if r, _ := g.server.Applied("zone-1"); r >= g.store.Config().View().Revision() {
			t.Errorf("applied is %s with nothing ACKed", r)
		}
		if err := p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Credit{Credit: &kdsv1.Credit{Bytes: 4<<20 - 100<<10}}}); err != nil {
			t.Fatal(err)
		}
		for more := 0; more < 3<<20; {
			f, err := p.Recv()
			if err != nil {
				t.Fatal(err)
			}
			more += len(f.GetGroup().GetChanges())
		}
	})
}

func TestProtocolViolations(t *testing.T) {
	config := kdsv1.Log_LOG_CONFIG
	group := func(g *kdsv1.Group) *kdsv1.Frame { return &kdsv1.Frame{Kind: &kdsv1.Frame_Group{Group: g}} }
	everything := []*kdsv1.Range{{}}
	for name, frames := range map[string][]*kdsv1.Frame{
		"no snapshot first":  {group(&kdsv1.Group{Log: config, From: 0, To: 1, Last: true})},
		"no such log":        {group(&kdsv1.Group{Log: 9, Last: true})},
		"backward":           {group(&kdsv1.Group{Log: config, From: 2, To: 1, Last: true})},
		"within a change":    {group(&kdsv1.Group{Log: config, Replaces: everything, Changes: []byte{5, 1}, Last: true})},
		"mixed groups":       {group(&kdsv1.Group{Log: config, Replaces: everything}), group(&kdsv1.Group{Log: config, To: 3})},
		"endless change":     {group(&kdsv1.Group{Log: config, Replaces: everything, Changes: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 1}})},
		"no change":          {group(&kdsv1.Group{Log: config, Replaces: everything, Changes: []byte{1, 0xff}})},
		"large frame":        {group(&kdsv1.Group{Log: config, Replaces: everything, Changes: make([]byte, 40<<10)})},
		"ack of nothing":     {{Kind: &kdsv1.Frame_Ack{Ack: &kdsv1.Ack{Log: config, To: 77}}}},
		"ack of no log":      {{Kind: &kdsv1.Frame_Ack{Ack: &kdsv1.Ack{To: 1}}}},
		"credit for nothing": {{Kind: &kdsv1.Frame_Credit{Credit: &kdsv1.Credit{Bytes: 1 << 62}}}},
		"offer of no log":    {{Kind: &kdsv1.Frame_Offer{Offer: &kdsv1.Offer{}}}},
		"two Hellos":         {{Kind: &kdsv1.Frame_Hello{Hello: &kdsv1.Hello{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				g := newGlobal(t)
				p := g.scripted()
				must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
				for _, f := range frames {
					if err := p.Send(f); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				for err == nil {
					_, err = p.Next()
				}
				wantCode(t, err, codes.InvalidArgument, "protocol violation")
			})
		})
	}
}

func TestUnknownFrame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
		f := &kdsv1.Frame{}
		f.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 100, protowire.BytesType), []byte("call")))
		if err := p.Send(f); err != nil {
			t.Fatal(err)
		}
		for {
			f, err := p.Next()
			if err != nil {
				t.Fatal(err)
			}
			if u := f.GetUnsupported(); u != nil {
				if u.GetKind() != 100 {
					t.Errorf("unsupported: %d", u.GetKind())
				}
				return
			}
		}
	})
}

// A zone writes what is its own, whatever names it gives.
func TestOwnership(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		other := g.zone("zone-2")
		synctest.Wait()
		write(t, other.store.Config(), put(dataplane("m", "dp"), "1"))
		synctest.Wait()
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
		err := p.SendGroup(&kdstest.Group{Log: kdsv1.Log_LOG_CONFIG, To: 5, Epoch: "e", Replaces: []*kdsv1.Range{{}}, Changes: []*kdsv1.Change{
			{Kind: "Mesh", Name: "mine"},
			{Kind: "Mesh", Name: "m", Deleted: true},
			{Kind: "Timeout", Scope: "m", Name: "t"},
			{Kind: "Dataplane", Scope: "m", Name: "ok"},
			{Kind: "Dataplane", Scope: "m", Name: "../zone-2.dp"},
			{Kind: "Dataplane", Name: "unscoped"},
			{Kind: "DataplaneInsight", Scope: "m", Name: "wrong-log"},
			{Kind: "Novelty", Name: "n"},
			{Kind: "Zone", Name: "zone-2", Deleted: true},
			{Kind: "Dataplane", Scope: "m"},
		}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{
			"Mesh m": ":1", "Dataplane m/zone-2.dp": "zone-2:1", "Dataplane m/zone-1.ok": "zone-1:", "Dataplane m/zone-1.../zone-2.dp": "zone-1:",
		})
		var rejected []string
		for k := range rejections(t, g.store) {
			rejected = append(rejected, k)
		}
		slices.Sort(rejected)
		want := []string{":Dataplane//zone-1.unscoped", ":Dataplane/m/zone-1.", ":DataplaneInsight/m/zone-1.wrong-log", ":Mesh//zone-1.mine", ":Novelty//zone-1.*", ":Timeout/m/zone-1.t"}
		if !slices.Equal(rejected, want) {
			t.Errorf("rejected %q, want %q", rejected, want)
		}
		if !g.server.IsOnline("zone-1") {
			t.Error("the session has ended")
		}
	})
}

func TestInsightCounters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		z := g.zone("zone-1", func(o *kds.ClientOptions) { o.Version.GitCommit = "abc" })
		synctest.Wait()
		sub := insightOf(t, g.store, "zone-1").GetSubscriptions()[0]
		if sub.GetAddress() == "" || sub.GetGlobalInstanceId() != "global-1" || sub.GetId() == "" || sub.GetVersion().GetKumaCp().GetGitCommit() != "abc" || sub.GetStatus().GetTotal() == nil {
			t.Errorf("subscription %v", sub)
		}
		write(t, g.store.Config(), put(timeout("m", "a"), "1"), put(timeout("m", "b"), "bad"))
		synctest.Wait()
		write(t, g.store.Config(), put(timeout("m", "a"), "2"))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		st := insightOf(t, g.store, "zone-1").GetSubscriptions()[0].GetStatus()
		want := &systemv1.KDSServiceStats{ResponsesSent: 2, ResponsesAcknowledged: 1, ResponsesRejected: 1}
		if !proto.Equal(st.GetStat()["Timeout"], want) {
			t.Errorf("timeouts: %v, want %v", st.GetStat()["Timeout"], want)
		}
		if tot := st.GetTotal(); tot.GetResponsesSent() != tot.GetResponsesAcknowledged()+tot.GetResponsesRejected() || tot.GetResponsesRejected() != 1 {
			t.Errorf("total: %v", tot)
		}
		for range 12 {
			z.stop()
			z.start()
			synctest.Wait()
		}
		subs := insightOf(t, g.store, "zone-1").GetSubscriptions()
		open := 0
		for _, s := range subs {
			if s.GetDisconnectTime() == nil {
				open++
			}
		}
		if len(subs) != 10 || open != 1 || subs[9].GetDisconnectTime() != nil {
			t.Errorf("%d subscriptions, %d open", len(subs), open)
		}
	})
}

func TestLeftovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		m := &systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{{Id: "1"}, {Id: "2"}}}
		spec := must[[]byte](t)(resource.Encode(m))
		write(t, g.store.Status(), put(key(resource.KindZoneInsight, "", "zone-1"), string(spec)))
		if err := g.server.CloseLeftovers(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, s := range insightOf(t, g.store, "zone-1").GetSubscriptions() {
			if s.GetDisconnectTime() == nil {
				t.Errorf("left open: %v", s)
			}
		}
		r := g.store.Status().View().Revision()
		if err := g.server.CloseLeftovers(context.Background()); err != nil || g.store.Status().View().Revision() != r {
			t.Errorf("nothing to close, but err %v", err)
		}
	})
}

// A session that has been overtaken can't write.
func TestStaleCursor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
		commit(t, g.store.Config(), store.Batch{Cursor: &store.CursorMove{Peer: "zone-1", To: store.Cursor{Store: "s", Epoch: "e", Revision: 3}}})
		if err := p.SendGroup(&kdstest.Group{Log: kdsv1.Log_LOG_CONFIG, To: 5, Epoch: "e", Replaces: []*kdsv1.Range{{}}}); err != nil {
			t.Fatal(err)
		}
		var err error
		for err == nil {
			_, err = p.Next()
		}
		wantCode(t, err, codes.Unavailable, "taken over")
	})
}

// Nothing is sent to a zone that comes back and has everything.
func TestReconnectSendsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		p := g.scripted()
		must[*kdsv1.Hello](t)(p.Hello(&kdsv1.Hello{Store: "s", Zone: "zone-1"}))
		config := must[*kdstest.Group](t)(p.NextGroup(kdsv1.Log_LOG_CONFIG))
		h := &kdsv1.Hello{
			Store: "s", Zone: "zone-1", Config: &kdsv1.Cursor{Store: "global-store", Epoch: config.Epoch, Revision: config.To},
			Status: &kdsv1.Cursor{Store: "global-store", Epoch: g.store.Status().View().At().Epoch, Revision: uint64(g.store.Status().View().Revision())},
		}
		p = g.scripted()
		answer := must[*kdsv1.Hello](t)(p.Hello(h))
		size := proto.Size(answer)
		for range 3 {
			f, err := p.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if f.GetHeartbeat() == nil {
				t.Errorf("got %v", f)
			}
			size += proto.Size(f)
			_ = p.Heartbeat()
		}
		if size += proto.Size(h); size > 500 {
			t.Errorf("%d bytes of frames", size)
		}
	})
}

// A zone that comes back with nothing changed costs little more than the connection.
func TestReconnectBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var bytes atomic.Int64
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		z := g.zone("zone-1", func(o *kds.ClientOptions) {
			o.Dial = func(ctx context.Context, a string) (net.Conn, error) {
				c, err := g.dial(ctx, a)
				return counted{c, &bytes}, err
			}
		})
		time.Sleep(5 * time.Minute)
		z.stop()
		synctest.Wait()
		bytes.Store(0)
		z.start()
		synctest.Wait()
		n := bytes.Load()
		t.Logf("%d bytes to be back", n)
		if n > 2000 {
			t.Errorf("%d bytes to be back", n)
		}
		bytes.Store(0)
		time.Sleep(time.Minute)
		t.Logf("%d bytes in an idle minute", bytes.Load())
	})
}
