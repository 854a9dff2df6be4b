package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// land is a global control plane with two zones and an ingress in each; web is in zone-1.
type land struct {
	global    processCP
	here      processCP
	there     processCP
	web       *envoyProxy
	outbound  int
	ingresses map[string]*ingress
	tokens    map[string]string
}

// ingress is an ingress and the way to it from other zones.
type ingress struct {
	proxy *envoyProxy
	way   *relay.Relay
}

// open is the default mesh with mTLS; local asks for those of the own zone first.
func open(local bool) string {
	return fmt.Sprintf(`{"type": "Mesh", "name": "default", "routing": {"localityAwareLoadBalancing": %v},
"mtls": {"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "builtin"}]}}`, local)
}

func newLand(t *testing.T) *land {
	t.Helper()
	envoy(t)
	l := &land{global: processes{}.global(t).(processCP), ingresses: map[string]*ingress{}, tokens: map[string]string{}}
	put(t, l.global, "/meshes/default", open(false))
	l.here = processes{}.zone(t, zoneOptions{name: "zone-1", global: l.global}).(processCP)
	l.there = processes{}.zone(t, zoneOptions{name: "zone-2", global: l.global}).(processCP)
	for _, zone := range []processCP{l.here, l.there} {
		l.tokens[zone.Addr("dpServer")] = dataplaneToken(t, zone, "")
	}
	l.ingresses["zone-1"] = l.ingress(t, l.here)
	l.ingresses["zone-2"] = l.ingress(t, l.there)
	l.outbound = freePort(t)
	l.web = l.proxy(t, l.here, web(t, "web", l.outbound))
	return l
}

func (l *land) proxy(t *testing.T, zone processCP, dataplane string) *envoyProxy {
	t.Helper()
	return processes{}.proxy(t, zone, proxyOptions{token: l.tokens[zone.Addr("dpServer")], dataplane: dataplane}).(*envoyProxy)
}

// ingress starts the ingress of a zone, which others reach through a relay.
func (l *land) ingress(t *testing.T, zone processCP) *ingress {
	t.Helper()
	port := freePort(t)
	way, err := relay.Start(fmt.Sprintf("127.0.0.1:%d", port))
	must(t, way, err)
	t.Cleanup(way.Close)
	public := way.Addr()[strings.LastIndexByte(way.Addr(), ':')+1:]
	raw, _, err := zone.client().Do(within(t, 5*time.Second), http.MethodPost, "/tokens",
		map[string]string{"mesh": "default", "name": "ingress", "type": "ingress"})
	must(t, raw, err)
	return &ingress{way: way, proxy: processes{}.proxy(t, zone, proxyOptions{token: string(raw), dataplane: fmt.Sprintf(`type: Dataplane
mesh: default
name: ingress
networking:
  address: 127.0.0.1
  ingress: {publicAddress: 127.0.0.1, publicPort: %s}
  inbound: [{port: %d, tags: {kuma.io/service: ingress}}]
`, public, port)}).(*envoyProxy)}
}

// call asks the backend as web's workload does.
func (l *land) call(ctx context.Context) (sample.Answer, error) {
	return sample.Call(ctx, l.web.client, fmt.Sprintf("http://127.0.0.1:%d/", l.outbound))
}

// answers waits until n calls in a row are answered by these versions, and by all of them.
func (l *land) answers(t *testing.T, d time.Duration, n int, versions ...string) map[string]int {
	t.Helper()
	var got map[string]int
	until(t, d, fmt.Sprintf("answers from %v", versions), func(ctx context.Context) (err error) {
		if got, err = l.web.shares(ctx, l.outbound, n); err != nil {
			return err
		}
		for _, v := range versions {
			if got[v] == 0 {
				return fmt.Errorf("answers: %v", got)
			}
		}
		if len(got) != len(versions) {
			return fmt.Errorf("answers: %v", got)
		}
		return nil
	})
	return got
}

// load calls the backend all the time, from several workers.
type load struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu       sync.Mutex
	calls    int
	failures []failure
}

type failure struct {
	at  time.Time
	err error
}

func (l *land) load(t *testing.T) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &load{cancel: cancel}
	t.Cleanup(func() { p.end() })
	for range 4 {
		p.workers.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-pace.C:
				case <-ctx.Done():
					return
				}
				_, err := l.call(ctx)
				p.mu.Lock()
				p.calls++
				if err != nil && ctx.Err() == nil {
					p.failures = append(p.failures, failure{time.Now(), err})
				}
				p.mu.Unlock()
			}
		})
	}
	return p
}

// end stops the load and says how many calls there were, and which failed.
func (p *load) end() (int, []failure) {
	p.cancel()
	p.workers.Wait()
	return p.calls, p.failures
}

// pass waits until some more calls were made.
func (p *load) pass(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.calls
	}
	want := count() + n
	until(t, 30*time.Second, "more calls", func(context.Context) error {
		if got := count(); got < want {
			return fmt.Errorf("%d, want %d", got, want)
		}
		return nil
	})
}

func TestAcrossZones(t *testing.T) {
	l := newLand(t)
	l.proxy(t, l.there, backend(t, "zone-2", "v2"))
	l.answers(t, 10*time.Second, 10, "v2")

	t.Run("what the ingress leads to can be read", func(t *testing.T) {
		for where, cp := range map[string]processCP{"dataplanes/ingress": l.there, "dataplanes/zone-2.ingress": l.global} {
			until(t, 2*time.Second, "available services", func(ctx context.Context) error {
				raw, _, err := cp.client().Do(ctx, http.MethodGet, "/meshes/default/"+where, nil)
				if err != nil || !strings.Contains(string(raw), `"kuma.io/service": "backend"`) {
					return fmt.Errorf("%s: %s, %w", where, raw, err)
				}
				return nil
			})
		}
	})
	t.Run("a change elsewhere cuts nothing", func(t *testing.T) {
		slow := make(chan error, 1)
		go func() {
			// Longer than what is replaced may take to end: zone-dp gives it 4 s.
			client := &http.Client{Timeout: 10 * time.Second}
			_, err := sample.Call(t.Context(), client, fmt.Sprintf("http://127.0.0.1:%d/slow?for=6s", l.outbound))
			slow <- err
		}()
		admin := l.ingresses["zone-2"].proxy.admin
		changed := func() string {
			raw, _, err := admin.Do(within(t, 5*time.Second), http.MethodGet, "/stats?filter=listener_in_place_updated|listener_modified", nil)
			return string(must(t, raw, err))
		}
		before := changed()
		l.proxy(t, l.there, fmt.Sprintf(`type: Dataplane
mesh: default
name: another
networking:
  address: 127.0.0.1
  inbound: [{port: %d, servicePort: %d, tags: {kuma.io/service: another, kuma.io/protocol: http}}]
`, freePort(t), serve(t, sample.Service{Service: "another"})))
		until(t, 5*time.Second, "another way in", func(context.Context) error {
			if changed() == before {
				return fmt.Errorf("the ingress has not changed: %s", before)
			}
			return nil
		})
		t.Logf("the listener: %s -> %s", strings.TrimSpace(before), strings.TrimSpace(changed()))
		if err := <-slow; err != nil {
			t.Error(err)
		}
	})
	t.Run("connections that are not HTTP", func(t *testing.T) {
		out := freePort(t)
		l.proxy(t, l.there, fmt.Sprintf(`type: Dataplane
mesh: default
name: echo
networking:
  address: 127.0.0.1
  inbound: [{port: %d, servicePort: %d, tags: {kuma.io/service: echo, kuma.io/protocol: tcp}}]
`, freePort(t), echo(t)))
		l.proxy(t, l.here, fmt.Sprintf(`type: Dataplane
mesh: default
name: caller
networking:
  address: 127.0.0.1
  gateway: {tags: {kuma.io/service: caller}}
  outbound: [{port: %d, tags: {kuma.io/service: echo}}]
`, out))
		until(t, 5*time.Second, "an echo", func(ctx context.Context) error { return hello(ctx, fmt.Sprintf("127.0.0.1:%d", out)) })
	})
	t.Run("a zone that is switched off is left at once", func(t *testing.T) {
		put(t, l.global, "/zones/zone-2", `{"type": "Zone", "name": "zone-2", "enabled": false}`)
		from := time.Now()
		until(t, 2*time.Second, "no answers", func(ctx context.Context) error {
			if a, err := l.call(ctx); err == nil {
				return fmt.Errorf("answer: %v", a)
			}
			return nil
		})
		t.Logf("left after %s", time.Since(from).Round(time.Millisecond))
		put(t, l.global, "/zones/zone-2", `{"type": "Zone", "name": "zone-2", "enabled": true}`)
		l.answers(t, 2*time.Second, 10, "v2")
	})
	near := l.proxy(t, l.here, backend(t, "zone-1", "v1"))
	t.Run("instances weigh", func(t *testing.T) {
		l.answers(t, 5*time.Second, 20, "v1", "v2")
		l.proxy(t, l.there, strings.Replace(backend(t, "zone-2", "v2"), "name: backend-v2", "name: backend-v2-2", 1))
		until(t, 10*time.Second, "one in three from here", func(ctx context.Context) error {
			got, err := l.web.shares(ctx, l.outbound, 90)
			if err == nil && (got["v1"] < 24 || got["v1"] > 36) {
				err = fmt.Errorf("answers: %v", got)
			}
			return err
		})
	})
	t.Run("those here first", func(t *testing.T) {
		put(t, l.global, "/meshes/default", open(true))
		l.answers(t, 5*time.Second, 30, "v1")
		traffic := l.load(t)
		traffic.pass(t, 50)
		near.stop(t)
		l.answers(t, 5*time.Second, 30, "v2")
		l.proxy(t, l.here, backend(t, "zone-1", "v1"))
		l.answers(t, 5*time.Second, 30, "v1")
		traffic.pass(t, 50)
		if n, failed := traffic.end(); len(failed) > 0 {
			t.Errorf("%d of %d calls failed while the service went and came back, first: %v", len(failed), n, failed[0].err)
		}
	})
	t.Run("a deleted zone is left at once", func(t *testing.T) {
		put(t, l.global, "/meshes/default", open(false))
		l.proxy(t, l.here, backend(t, "zone-1", "v1"))
		l.answers(t, 5*time.Second, 20, "v1", "v2")
		l.there.kill(t)
		active(t, l.global, "zone-2", false, 10*time.Second)
		if _, err := l.global.client().Delete(within(t, 5*time.Second), "/zones/zone-2"); err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		l.answers(t, 2*time.Second, 20, "v1")
		t.Logf("left after %s", time.Since(from).Round(time.Millisecond))
		l.there.start(t)
		l.answers(t, 10*time.Second, 20, "v1", "v2")
	})
}

// The control planes of zones, and the global, may die: no call fails.
func TestControlPlanesDieUnderTraffic(t *testing.T) {
	l := newLand(t)
	l.proxy(t, l.there, backend(t, "zone-2", "v2"))
	l.answers(t, 10*time.Second, 10, "v2")
	traffic := l.load(t)
	traffic.pass(t, 50)
	for _, cp := range []processCP{l.there, l.here, l.global} {
		cp.kill(t)
		traffic.pass(t, 100)
		cp.start(t)
		traffic.pass(t, 100)
	}
	n, failed := traffic.end()
	if len(failed) > 0 {
		t.Errorf("%d of %d calls failed, first: %v", len(failed), n, failed[0].err)
	}
	t.Logf("%d calls, none failed", n)
	l.answers(t, 10*time.Second, 10, "v2")
}

// A zone whose ingress is dead, stands still or can't be reached is left within 3 s by the proxies alone.
func TestDeadZones(t *testing.T) {
	l := newLand(t)
	l.proxy(t, l.here, backend(t, "zone-1", "v1"))
	l.proxy(t, l.there, backend(t, "zone-2", "v2"))
	l.answers(t, 10*time.Second, 20, "v1", "v2")
	in := l.ingresses["zone-2"]
	pid := childOf(t, in.proxy.process.Pid())
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	// The control planes must not help.
	l.there.kill(t)
	for _, fault := range []struct {
		name       string
		retries    bool
		begin, end func()
	}{
		{"stands still", true, func() { signal(syscall.SIGSTOP) }, func() { signal(syscall.SIGCONT) }},
		{"can't be reached, without retries", false, func() { in.way.Stall(relay.Up, true); in.way.Stall(relay.Down, true) }, func() {
			in.way.Stall(relay.Up, false)
			in.way.Stall(relay.Down, false)
		}},
		{"dead, without retries", false, func() { signal(syscall.SIGKILL) }, func() {}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			const retries = "/meshes/default/retries/retry-all-default"
			if !fault.retries {
				if _, err := l.global.client().Delete(within(t, 5*time.Second), retries); err != nil && status(err) != http.StatusNotFound {
					t.Fatal(err)
				}
			}
			l.answers(t, 20*time.Second, 20, "v1", "v2")
			traffic := l.load(t)
			traffic.pass(t, 50)
			from := time.Now()
			fault.begin()
			l.answers(t, 10*time.Second, 20, "v1")
			left := time.Since(from)
			traffic.pass(t, 300)
			fault.end()
			n, failed := traffic.end()
			var last time.Duration
			for _, f := range failed {
				last = max(last, f.at.Sub(from))
			}
			t.Logf("answered from here alone after %s; %d of %d calls failed, the last %s after the fault",
				left.Round(time.Millisecond), len(failed), n, last.Round(time.Millisecond))
			if last > 3*time.Second {
				t.Errorf("a call failed %s after the fault: %v", last, failed[len(failed)-1].err)
			}
			if fault.retries && len(failed) > 0 {
				t.Errorf("a call failed though it could have been tried again: %v", failed[0].err)
			}
		})
	}
}
