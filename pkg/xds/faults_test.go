package xds

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/e2e/relay/relaytest"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// An Envoy behind a faulty line tries again after at most half a second, and keeps what it has.
const proxyRetry = 500 * time.Millisecond

// faulty is a proxy and its control plane with a relay between them.
type faulty struct {
	*world
	services *services
	relay    *relay.Relay
	log      []string
	stop     func()

	mu     sync.Mutex
	client *xdstest.Client
	last   *xdstest.State
}

func newFaulty(t *testing.T) *faulty {
	f := &faulty{world: newWorld(t, Limits{}), services: newServices()}
	f.hand.make = func(_ resource.Key, r resource.Revision) *envoy.Set { return f.services.at(r) }

	front, back := relay.NewMemory(), relay.NewMemory()
	// As zones serve their proxies.
	gs := grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	f.server.Register(gs)
	var running sync.WaitGroup
	running.Go(func() { _ = gs.Serve(back) })
	f.relay = relay.New(front, func(ctx context.Context, _ string) (net.Conn, error) { return back.Dial(ctx) }, "")

	// As bootstraps tell Envoys to look after their connections.
	conn, err := grpc.NewClient("passthrough:///cp", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return front.Dial(ctx) }),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: proxyRetry, MaxDelay: proxyRetry}, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	running.Go(func() { f.run(ctx, conn) })
	f.stop = func() {
		cancel()
		f.relay.Close()
		_ = conn.Close()
		f.shutdown()
		gs.Stop()
		running.Wait()
	}
	return f
}

// run is the proxy: it connects again whenever its stream ends, with what it has.
func (f *faulty) run(ctx context.Context, conn *grpc.ClientConn) {
	o := node("web")
	for ctx.Err() == nil {
		// A bubble's time stands while anybody waits for a lock: none is held over what takes time.
		c, err := xdstest.Connect(ctx, conn, o)
		if err == nil {
			f.mu.Lock()
			f.client = c
			f.mu.Unlock()
			_ = c.Wait(ctx, func(s *xdstest.State) bool { return s.Done })
			c.Close()
			o.Before = ptr(c.State())
			f.mu.Lock()
			f.last, f.client = o.Before, nil
			f.mu.Unlock()
		}
		select {
		case <-time.After(proxyRetry):
		case <-ctx.Done():
		}
	}
}

// state of the proxy, whether its stream is open or not.
func (f *faulty) state() (s xdstest.State, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.client != nil:
		return f.client.State(), true
	case f.last != nil:
		return *f.last, false
	}
	return xdstest.State{}, false
}

// TestProxyFaults: whatever changes and whatever happens to the line between a proxy and its control plane, the proxy
// is never said to be live at what it does not have, and within two seconds of the end of all faults it has all, by
// one session.
func TestProxyFaults(t *testing.T) {
	relaytest.Seeds(t, 80, func(t *testing.T, _ uint64, rnd *rand.Rand) {
		f := newFaulty(t)
		defer f.stop()
		k := dataplane("web")
		wrong := func(format string, args ...any) {
			t.Errorf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(f.log, "\n"))
		}
		check := func() {
			f.seen.mu.Lock()
			p := f.seen.progress
			f.seen.mu.Unlock()
			lag, lags := p.Lagging[k]
			if p.Connected == 0 || lag.Joining {
				return
			}
			live := p.Processed
			if lags {
				live = lag.Live
			}
			// What was said before is compared with what is so now: a proxy loses nothing.
			state, _ := f.state()
			if err := f.services.check(live, &state); err != nil {
				wrong("said to be live at %v: %v; %v", live, err, short(state.Log))
			}
		}
		wait := func(d time.Duration) {
			f.log = append(f.log, fmt.Sprint("wait ", d))
			for d > 0 && !t.Failed() {
				step := min(d, time.Second)
				time.Sleep(step)
				d -= step
				check()
				synctest.Wait()
				check()
			}
		}
		write := func() {
			f.services.set(f.store.Config().View().Revision()+1, random(rnd))
			f.touch("web")
		}
		f.services.set(f.store.Config().View().Revision()+1, random(rnd))
		f.put(k, nil)
		for range 5 {
			for range rnd.IntN(4) {
				write()
				if rnd.IntN(2) == 0 {
					synctest.Wait()
					check()
				}
			}
			switch rnd.IntN(5) {
			case 0, 1, 2:
				x := relay.Draw(rnd)
				f.log = append(f.log, x.String())
				f.relay.Inject(x)
			case 3:
				f.log = append(f.log, "heal")
				f.relay.Heal()
			case 4:
				f.touch("")
			}
			wait(time.Duration(rnd.IntN([]int{1, 1, 100, 100, 2500, 2500, 60_000}[rnd.IntN(7)])) * time.Millisecond)
		}
		f.log = append(f.log, "heal")
		f.relay.Heal()
		wait(2 * time.Second)
		head := f.store.Config().View().Revision()
		state, open := f.state()
		if live, ok := f.live(k); !ok || live != head || !open {
			wrong("live at %v, %v of %v, open: %v; %v", live, ok, head, open, short(state.Log))
		}
		if err := f.services.check(head, &state); err != nil {
			wrong("in the end: %v; %v", err, short(state.Log))
		}
		if len(state.Warming) > 0 {
			wrong("still warming: %v", keys(state.Warming))
		}
		f.seen.mu.Lock()
		sessions := len(f.seen.open)
		f.seen.mu.Unlock()
		// One whose connection broke without a word is found by its ping.
		if sessions != 1 {
			wait(45 * time.Second)
			f.seen.mu.Lock()
			sessions = len(f.seen.open)
			f.seen.mu.Unlock()
		}
		if sessions != 1 {
			wrong("%d sessions", sessions)
		}
	})
}
