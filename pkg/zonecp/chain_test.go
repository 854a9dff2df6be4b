package zonecp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/e2e/relay/relaytest"
	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// welcome lets in whoever comes.
type welcome struct{}

func (welcome) AuthenticateZone(context.Context) (string, kds.Hold, error) { return "", nil, nil }

func (welcome) AuthenticateProxy(context.Context, string, resource.Key, map[string][]string, bool) (xds.Hold, error) {
	return nil, nil
}

const (
	// base is the connect timeout that stands for form 0 of the Timeout "web", in milliseconds; form n has n more.
	base = 1000
	// oddity: every so many forms are refused by the proxies.
	oddity = 4
	// settling is how long a proxy or a zone may be there before its control plane, and the one above, must know.
	settling = 10 * time.Second
)

// chain is a global control plane, two zones and their proxies, all in memory, with a relay on each line.
type chain struct {
	t      *testing.T
	ctx    context.Context
	global store.Store
	server *kds.Server
	api    *api.Service
	zones  []*chainZone
	stops  []func()
	tasks  sync.WaitGroup

	mu  sync.Mutex
	log []string
	// forms of "web" in the order of their revisions, and when each was written.
	forms []written
	wrong string
}

type written struct {
	revision resource.Revision
	at       time.Time
}

type chainZone struct {
	*chain
	name    string
	store   store.Store
	line    *relay.Relay
	proxies []*chainProxy
}

// chainProxy is an Envoy that comes back with what it has.
type chainProxy struct {
	*chain
	name string
	line *relay.Relay
	conn *grpc.ClientConn

	mu     sync.Mutex
	client *xdstest.Client
	// open is since when its stream has had an answer; the zero time while there is none.
	open time.Time
	away bool
	back chan struct{}
	// hold, if not nil, is waited for before an answer.
	hold chan struct{}
	// seen are the forms that came, by the version of the cluster; newest is the newest of them.
	seen   map[string]int
	newest int
	last   *xdstest.State
}

func newChain(t *testing.T) *chain {
	ctx, cancel := context.WithCancel(context.Background())
	c := &chain{t: t, ctx: ctx, global: memory.New(memory.Options{ID: "global"})}
	c.onStop(cancel)
	quiet := slog.New(slog.DiscardHandler)
	table := resource.NewTable()
	server, err := kds.NewServer(kds.ServerOptions{
		Store: c.global, Table: table, Authenticator: welcome{}, Instance: "global-1", Logger: quiet,
		Accept: func(k resource.Key, o resource.Origin, spec []byte) error { return resource.Accept(table, k, o, spec) },
	})
	c.must(err)
	c.server = server
	c.api, err = api.New(api.Options{Store: c.global, Table: table, Mode: api.Global, Logger: quiet, Nudge: server.Nudge})
	c.must(err)
	c.yaml(c.global, `
type: Mesh
name: default
---
type: TrafficRoute
mesh: default
name: all
sources: [{match: {kuma.io/service: "*"}}]
destinations: [{match: {kuma.io/service: "*"}}]
conf: {split: [{weight: 1, destination: {kuma.io/service: "*"}}]}
`)
	c.form()
	kdsLine, rpc := c.serve(server.Register)
	c.onStop(func() { server.Close(); rpc.Stop() })
	for _, name := range []string{"a", "b"} {
		c.zones = append(c.zones, c.newZone(name, kdsLine, table, quiet))
	}
	return c
}

// serve services in memory, and say how to dial them.
func (c *chain) serve(register func(grpc.ServiceRegistrar)) (dial func(context.Context) (net.Conn, error), rpc *grpc.Server) {
	l := relay.NewMemory()
	rpc = grpc.NewServer()
	register(rpc)
	c.tasks.Go(func() { _ = rpc.Serve(l) })
	return l.Dial, rpc
}

// through puts a relay before what is dialled.
func (c *chain) through(dial func(context.Context) (net.Conn, error)) (*relay.Relay, func(context.Context, string) (net.Conn, error)) {
	front := relay.NewMemory()
	r := relay.New(front, func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }, "")
	c.onStop(r.Close)
	return r, func(ctx context.Context, _ string) (net.Conn, error) { return front.Dial(ctx) }
}

func (c *chain) newZone(name string, dial func(context.Context) (net.Conn, error), table *resource.Table, quiet *slog.Logger) *chainZone {
	z := &chainZone{chain: c, name: name, store: memory.New(memory.Options{ID: name})}
	recorder := insight.New(insight.Options{Store: z.store, Instance: name + "-1", Peer: string(resource.Global), Logger: quiet})
	line, upward := c.through(dial)
	z.line = line
	client, err := kds.NewClient(kds.ClientOptions{
		Store: z.store, Table: table, Zone: name, Address: "global:5685", Logger: quiet, Dial: upward,
		OnCursor: recorder.CursorMoved, OnSession: recorder.SessionBegun,
		Accept: func(k resource.Key, o resource.Origin, spec []byte) error {
			if strings.HasPrefix(k.Name, "nasty") {
				return errors.New("name: is nasty")
			}
			return resource.Accept(table, k, o, spec)
		},
	})
	c.must(err)
	proxies, err := xds.NewServer(xds.Options{
		Store: z.store, Table: table, Zone: name, Instance: name + "-1", Authenticator: welcome{}, Observer: observer{recorder}, Logger: quiet,
	})
	c.must(err)
	down, rpc := c.serve(proxies.Register)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	for _, run := range []func(context.Context) error{recorder.Run, client.Run, proxies.Run} {
		tasks.Go(func() { _ = run(ctx) })
	}
	c.onStop(func() { cancel(); tasks.Wait(); rpc.Stop() })
	z.yaml(z.store, strings.ReplaceAll(`
type: Dataplane
mesh: default
name: backend-ZONE
networking: {address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: backend, kuma.io/protocol: http}}]}
---
type: Dataplane
mesh: default
name: web-ZONE
networking: {address: 10.0.0.2, inbound: [{port: 80, tags: {kuma.io/service: web}}], outbound: [{port: 1000, tags: {kuma.io/service: backend}}]}
`, "ZONE", name))
	for _, p := range []string{"backend-" + name, "web-" + name} {
		z.proxies = append(z.proxies, c.newProxy(p, down))
	}
	return z
}

func (c *chain) newProxy(name string, dial func(context.Context) (net.Conn, error)) *chainProxy {
	p := &chainProxy{chain: c, name: name, seen: map[string]int{}, newest: -1, back: make(chan struct{}, 1)}
	line, to := c.through(dial)
	p.line = line
	conn, err := grpc.NewClient("passthrough:///zone", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(to),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}))
	c.must(err)
	p.conn = conn
	c.onStop(func() { _ = conn.Close() })
	c.tasks.Go(p.run)
	return p
}

// run connects again and again, unless the proxy is to be away.
func (p *chainProxy) run() {
	o := xdstest.Options{Node: xdstest.Node("default", p.name, ""), Refuse: p.take}
	for p.ctx.Err() == nil {
		p.mu.Lock()
		o.Before = p.last
		away := p.away
		p.mu.Unlock()
		if away {
			select {
			case <-p.back:
				continue
			case <-p.ctx.Done():
				return
			}
		}
		client, err := xdstest.Connect(p.ctx, p.conn, o)
		if err == nil {
			p.mu.Lock()
			p.client = client
			p.mu.Unlock()
			if client.Wait(p.ctx, func(s *xdstest.State) bool { return len(s.Log) > 0 }) == nil {
				p.mu.Lock()
				p.open = time.Now()
				p.mu.Unlock()
				_ = client.Wait(p.ctx, func(s *xdstest.State) bool { return s.Done })
			}
			p.mu.Lock()
			p.open = time.Time{}
			client.Close()
			state := client.State()
			state.Log = nil
			p.last, p.client = &state, nil
			p.mu.Unlock()
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-p.ctx.Done():
		}
	}
}

// take looks at what comes, and refuses what is odd.
func (p *chainProxy) take(typeURL string, r *discoveryv3.Resource) string {
	if typeURL != resourcev3.ClusterType || r.GetName() != "backend" {
		return ""
	}
	var cluster clusterv3.Cluster
	if err := r.GetResource().UnmarshalTo(&cluster); err != nil {
		return err.Error()
	}
	form := int(cluster.GetConnectTimeout().AsDuration()/time.Millisecond) - base
	p.mu.Lock()
	hold := p.hold
	p.mu.Unlock()
	if hold != nil {
		<-hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest = max(p.newest, form)
	if odd(form) {
		return "its connect timeout is odd"
	}
	p.seen[r.GetVersion()] = form
	return ""
}

func odd(form int) bool { return form%oddity == oddity-1 }

// leave takes the proxy away, or brings it back.
func (p *chainProxy) leave(away bool) {
	p.mu.Lock()
	p.away = away
	client := p.client
	p.mu.Unlock()
	if !away {
		select {
		case p.back <- struct{}{}:
		default:
		}
	} else if client != nil {
		p.inject(relay.Fault{Kind: relay.Cut})
	}
}

// inject a fault into the proxy's line. Its zone may know of a break before the proxy does.
func (p *chainProxy) inject(x relay.Fault) {
	if x.Breaks() {
		p.mu.Lock()
		p.open = time.Time{}
		p.mu.Unlock()
	}
	p.line.Inject(x)
}

// has says what the proxy has of "web", what the newest form is that it has been given, and since when it is there.
func (p *chainProxy) has() (accepted, newest int, open time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	accepted, newest, open = -1, p.newest, p.open
	var state xdstest.State
	switch {
	case p.client != nil:
		state = p.client.State()
	case p.last != nil:
		state = *p.last
	}
	if form, ok := p.seen[state.Versions[resourcev3.ClusterType]["backend"]]; ok {
		accepted = form
	}
	return accepted, newest, open
}

func (c *chain) onStop(f func()) { c.stops = append(c.stops, f) }

func (c *chain) stop() {
	for _, f := range slices.Backward(c.stops) {
		f()
	}
	c.tasks.Wait()
	for _, z := range c.zones {
		_ = z.store.Close()
	}
	_ = c.global.Close()
}

func (c *chain) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *chain) apply(l store.Log, b store.Batch) resource.Revision {
	c.t.Helper()
	r, err := l.Apply(context.Background(), b)
	c.must(err)
	return r.Revision
}

func (c *chain) yaml(s store.Store, text string) {
	c.t.Helper()
	objects, err := indextest.Parse(text)
	c.must(err)
	for _, o := range objects {
		spec, err := resource.Encode(o.Spec)
		c.must(err)
		c.apply(s.Config(), store.Batch{Puts: []store.Put{{Key: o.Key, Spec: spec}}})
	}
}

func timeoutKey(name string) resource.Key {
	return resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: name}
}

// form writes the next form of the Timeout "web".
func (c *chain) form() resource.Revision {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.forms)
	match := func(service string) []*meshv1.Selector {
		return []*meshv1.Selector{{Match: map[string]string{"kuma.io/service": service}}}
	}
	spec, err := resource.Encode(&meshv1.Timeout{
		Sources: match("web"), Destinations: match("backend"),
		Conf: &meshv1.Timeout_Conf{ConnectTimeout: durationpb.New(time.Duration(base+n) * time.Millisecond)},
	})
	c.must(err)
	c.forms = append(c.forms, written{at: time.Now()})
	r := c.apply(c.global.Config(), store.Batch{Puts: []store.Put{{Key: timeoutKey("web"), Spec: spec}}})
	c.forms[n].revision = r
	c.log = append(c.log, fmt.Sprintf("form %d is %s", n, r))
	return r
}

// formAt is the form that holds at a revision.
func (c *chain) formAt(r resource.Revision) (int, written) {
	n := 0
	for i, f := range c.forms {
		if f.revision <= r {
			n = i
		}
	}
	return n, c.forms[n]
}

// check holds an answer against what the proxies have, which have not been asked by anyone else.
func (c *chain) check(res *apiv1.GetPositionsResponse) {
	r := resource.Revision(res.GetRevision())
	if res.GetState() == "pending" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	want, form := c.formAt(r)
	for _, z := range c.zones {
		i := slices.IndexFunc(res.GetZones(), func(row *apiv1.PositionZone) bool { return row.GetName() == z.name })
		if i < 0 || res.GetZones()[i].GetState() != "live" {
			continue
		}
		web := z.proxies[1]
		accepted, newest, open := web.has()
		if open.IsZero() || !open.Before(form.at) && time.Since(open) < settling {
			continue // It is not there, or has come since, and that may not be known yet.
		}
		switch {
		case accepted >= want, newest > want:
		case newest == want && odd(want):
			if res.GetState() != "rejected" || !slices.ContainsFunc(res.GetRejections(), func(x *apiv1.PositionRejection) bool {
				return x.GetZone() == z.name && x.GetName() == "web"
			}) {
				c.fail("%s refuses form %d, and revision %s is said to be %s: %v", web.name, want, r, res.GetState(), res)
			}
		default:
			c.fail("%s has form %d of %d, and revision %s is said to be %s: %v", web.name, accepted, want, r, res.GetState(), res)
		}
	}
}

func (c *chain) fail(format string, args ...any) {
	if c.wrong == "" {
		c.wrong = fmt.Sprintf(format, args...) + "\n" + strings.Join(c.log, "\n")
	}
}

func (c *chain) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, fmt.Sprintf("%s ", time.Now().Format("04:05.000"))+fmt.Sprintf(format, args...))
}

// ask for a revision now, or wait for it.
func (c *chain) ask(r resource.Revision, wait string) *apiv1.GetPositionsResponse {
	res, err := c.api.GetPositions(c.ctx, &apiv1.GetPositionsRequest{Revision: r.String(), Wait: wait})
	if err != nil {
		if c.ctx.Err() == nil {
			c.mu.Lock()
			c.fail("%v", err)
			c.mu.Unlock()
		}
		return nil
	}
	c.check(res)
	return res
}

// TestChainNeverFalselyLive: stores, sync, xDS, insights and API together, with proxies as the truth: whatever is
// written and refused, and whoever comes, goes and is cut off, no answer says of a revision that it is live, or that
// it is settled, while a connected proxy has an older one; and when all is well again, it is said within three seconds.
func TestChainNeverFalselyLive(t *testing.T) {
	relaytest.Seeds(t, 25, func(t *testing.T, _ uint64, rnd *rand.Rand) {
		c := newChain(t)
		defer c.stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		nasty := false
		for range 8 {
			for range 1 + rnd.IntN(3) {
				r := resource.Revision(0)
				switch rnd.IntN(6) {
				case 0, 1, 2:
					r = c.form()
				case 3: // what no zone sees
					r = c.apply(c.global.Config(), store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindGlobalSecret, Name: "s"}}}})
				case 4:
					if nasty = !nasty; nasty {
						r = c.apply(c.global.Config(), store.Batch{Puts: []store.Put{{Key: timeoutKey("nasty")}}})
					} else {
						r = c.apply(c.global.Config(), store.Batch{Deletes: []resource.Key{timeoutKey("nasty")}})
					}
				case 5:
					r = c.global.Config().View().Revision()
				}
				c.tasks.Go(func() { c.ask(r, "30s") })
			}
			z := c.zones[rnd.IntN(2)]
			p := z.proxies[rnd.IntN(2)]
			switch rnd.IntN(8) {
			case 0, 1:
				x := relay.Draw(rnd)
				c.say("line of %s: %s", z.name, x)
				z.line.Inject(x)
			case 2, 3:
				x := relay.Draw(rnd)
				c.say("line of %s: %s", p.name, x)
				p.inject(x)
			case 4:
				c.say("%s goes", p.name)
				p.leave(true)
			case 5:
				c.say("%s comes", p.name)
				p.leave(false)
			case 6:
				c.say("heal %s", z.name)
				z.line.Heal()
			case 7:
				c.say("heal %s", p.name)
				p.line.Heal()
			}
			for range 1 + rnd.IntN(4) {
				time.Sleep(time.Duration(rnd.IntN([]int{1, 50, 300, 3000}[rnd.IntN(4)])) * time.Millisecond)
				c.ask(c.global.Config().View().Revision(), "")
				c.ask(c.forms[rnd.IntN(len(c.forms))].revision, "")
			}
		}
		c.say("heal all")
		for _, z := range c.zones {
			z.line.Heal()
			for _, p := range z.proxies {
				p.line.Heal()
				p.leave(false)
			}
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		head := c.global.Config().View().Revision()
		want := "live"
		if nasty || odd(len(c.forms)-1) {
			want = "rejected"
		}
		if res := c.ask(head, ""); res.GetState() != want || slices.ContainsFunc(res.GetZones(), func(z *apiv1.PositionZone) bool { return z.GetState() != "live" }) {
			c.fail("in the end, want %s: %v", want, res)
		}
		for _, z := range c.zones {
			last := len(c.forms) - 1
			if accepted, newest, _ := z.proxies[1].has(); newest != last || accepted != last && !odd(last) {
				c.fail("in the end, %s has form %d, and was given %d, of %d", z.proxies[1].name, accepted, newest, last)
			}
		}
		if c.wrong != "" {
			t.Fatal(c.wrong)
		}
	})
}

// TestWaitEndsWithTheLastACK: a wait goes on until the last proxy has answered, says meanwhile whom it waits for, and
// ends as soon as that is known; also where nobody has anything to answer.
func TestWaitEndsWithTheLastACK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t)
		defer c.stop()
		time.Sleep(5 * time.Second)
		slow, release := c.zones[1].proxies[1], make(chan struct{})
		slow.mu.Lock()
		slow.hold = release
		slow.mu.Unlock()
		r := c.form()
		ended := make(chan *apiv1.GetPositionsResponse, 1)
		wait := func(r resource.Revision) time.Duration {
			begun := time.Now()
			ended <- c.ask(r, "30s")
			return time.Since(begun)
		}
		go wait(r)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatalf("ended too early: %v", <-ended)
		}
		res := c.ask(r, "")
		if len(res.GetProxies()) != 1 || res.GetProxies()[0].GetName() != "b.web-b" || res.GetProxies()[0].GetJoining() || res.GetZones()[1].GetState() != "lagging" {
			t.Errorf("meanwhile: %v", res)
		}
		begun := time.Now()
		close(release)
		if res, took := <-ended, time.Since(begun); res.GetState() != "live" || took > 150*time.Millisecond {
			t.Errorf("%s after the last ACK: %v", took, res)
		}
		// What no zone sees is settled without a heartbeat between.
		r = c.apply(c.global.Config(), store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindGlobalSecret, Name: "s"}}}})
		if took := wait(r); took > 150*time.Millisecond {
			t.Errorf("what nobody sees took %s", took)
		}
		if res := <-ended; res.GetState() != "live" {
			t.Errorf("what nobody sees: %v", res)
		}
		if c.wrong != "" {
			t.Fatal(c.wrong)
		}
	})
}
