package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/e2e/simulated"
)

const (
	zoneName = "zone-1"
	// patience with anything.
	patience = time.Minute
	// idleTime in which the idle use of CPU is measured.
	idleTime = 10 * time.Second
	// clients of the REST API at a time.
	clients = 16
)

// bench is a global and a zone control plane with a relay between them.
type bench struct {
	global, zone *harness.ControlPlane
	relay        *relay.Relay
	roots        *x509.CertPool
	token        string
	rounds       int
	report       *report
	// profiles is where CPU profiles go; empty: nowhere.
	profiles string
	// weight makes each write differ from the one before.
	weight int
}

func start(ctx context.Context, bin, dir string, rounds int, r *report) (_ *bench, err error) {
	b := &bench{rounds: rounds, report: r}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	programs := harness.Programs{Dir: bin}
	debug := []string{"MERIDIAN_DIAGNOSTICS_DEBUG_ENDPOINTS=true"} // a heap profile collects garbage first
	ports, err := harness.Ports{}.Free()
	if err != nil {
		return nil, err
	}
	if b.global, err = programs.Global(filepath.Join(dir, "global"), ports); err != nil {
		return nil, err
	}
	b.global.Env = debug
	if err := b.global.Start(ctx); err != nil {
		return nil, err
	}
	if b.relay, err = relay.Start(b.global.Addr("kds")); err != nil {
		return nil, err
	}
	token, err := b.global.Client().ZoneToken(ctx, zoneName, time.Hour)
	if err != nil {
		return nil, err
	}
	tokenFile := filepath.Join(dir, "zone.token")
	if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
		return nil, err
	}
	if ports, err = (harness.Ports{}).Free(); err != nil {
		return nil, err
	}
	b.zone, err = programs.Zone(filepath.Join(dir, "zone"), ports, harness.ZoneOptions{
		Name: zoneName, Address: b.relay.Addr(), CAFile: b.global.CAFile(), TokenFile: tokenFile,
	})
	if err != nil {
		return nil, err
	}
	b.zone.Env = debug
	if err := b.zone.Start(ctx); err != nil {
		return nil, err
	}
	err = harness.Until(ctx, "a dataplane token", func(ctx context.Context) (err error) {
		b.token, err = b.zone.Client().DataplaneToken(ctx, "default", "")
		return err
	})
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(b.zone.CAFile())
	if err != nil {
		return nil, err
	}
	b.roots = x509.NewCertPool()
	b.roots.AppendCertsFromPEM(pem)
	for _, version := range []string{"v1", "v2"} {
		if _, err := b.backend(ctx, version); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bench) close() {
	for _, cp := range []*harness.ControlPlane{b.zone, b.global} {
		if cp != nil {
			if err := cp.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	if b.relay != nil {
		b.relay.Close()
	}
}

func (b *bench) backend(ctx context.Context, version string) (uint64, error) {
	return b.zone.Client().Put(ctx, "/meshes/default/dataplanes/backend-"+version, fmt.Sprintf(
		`{"networking":{"address":"127.0.0.1","inbound":[{"port":%d,"tags":{"kuma.io/service":"backend","kuma.io/protocol":"http","version":%q}}]}}`,
		30_000+len(version), version))
}

// another adds an endpoint of the first version of the backend.
func (b *bench) another(ctx context.Context) error {
	_, err := b.zone.Client().Put(ctx, "/meshes/default/dataplanes/another",
		`{"networking":{"address":"127.0.0.1","inbound":[{"port":30010,"tags":{"kuma.io/service":"backend","kuma.io/protocol":"http","version":"v1"}}]}}`)
	return err
}

const routePath = "/meshes/default/traffic-routes/bench"

// route writes a route that differs from the last one, on the global, and gives its first weight.
func (b *bench) route(ctx context.Context) (int, error) {
	b.weight++
	_, err := b.global.Client().Put(ctx, routePath, fmt.Sprintf(`{"sources":[{"match":{"kuma.io/service":"web"}}],
"destinations":[{"match":{"kuma.io/service":"backend"}}],"conf":{"split":[
{"weight":%d,"destination":{"kuma.io/service":"backend","version":"v1"}},
{"weight":7,"destination":{"kuma.io/service":"backend","version":"v2"}}]}}`, b.weight))
	return b.weight, err
}

// zoneStore measures from a PUT on the global to the zone's store, where a reader waits for the revision that
// the zone gives it.
func (b *bench) zoneStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := b.settled(ctx); err != nil {
		return err
	}
	var woken, answered, stored series
	for range b.rounds {
		// What the route takes is the next revision after the zone's newest, which this write takes.
		rev, err := b.backend(ctx, "v1")
		if err != nil {
			return err
		}
		rev++
		there := make(chan error, 1)
		var at time.Time
		go func() {
			err := b.zone.Client().Await(ctx, rev)
			at = time.Now()
			there <- err
		}()
		if err := pause(ctx, 20*time.Millisecond); err != nil { // so that the reader waits already
			return err
		}
		begun := time.Now()
		if _, err := b.route(ctx); err != nil {
			return err
		}
		answered = append(answered, time.Since(begun))
		if err := <-there; err != nil {
			return err
		}
		stored = append(stored, at.Sub(begun))
	}
	for range b.rounds {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		begun := time.Now()
		if _, _, err := b.global.Client().Do(ctx, "GET", "/", nil); err != nil {
			return err
		}
		woken = append(woken, time.Since(begun))
	}
	b.report.durations("GET / → answer, as idle before", woken, 0)
	b.report.durations("PUT → answer", answered, 0)
	b.report.durations("PUT → zone's store", stored, 3*time.Millisecond)
	return nil
}

// fleet is a number of simulated proxies, and tells when the last of them has something.
type fleet struct {
	proxies []*simulated.Proxy

	mu      sync.Mutex
	wanted  func(*discoveryv3.DeltaDiscoveryResponse) bool
	missing map[int]bool
	all     chan time.Time
}

// expect waits from now on for a response to each proxy; the channel gives the time of the last.
func (f *fleet) expect(wanted func(*discoveryv3.DeltaDiscoveryResponse) bool) <-chan time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted, f.missing, f.all = wanted, map[int]bool{}, make(chan time.Time, 1)
	for i := range f.proxies {
		f.missing[i] = true
	}
	return f.all
}

func (f *fleet) got(i int, r *discoveryv3.DeltaDiscoveryResponse) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wanted == nil || !f.missing[i] || !f.wanted(r) {
		return
	}
	delete(f.missing, i)
	if len(f.missing) == 0 {
		f.all <- now
	}
}

func (f *fleet) close() {
	var g errgroup.Group
	for _, p := range f.proxies {
		if p != nil {
			g.Go(func() error { p.Close(); return nil })
		}
	}
	_ = g.Wait()
}

// connect starts n proxies at once and waits until each has its first complete configuration.
func (b *bench) connect(ctx context.Context, n int) (*fleet, time.Duration, error) {
	f := &fleet{proxies: make([]*simulated.Proxy, n)}
	begun := time.Now()
	for i := range n {
		p, err := simulated.Start(simulated.Options{
			Address: b.zone.Addr("dpServer"), Roots: b.roots, Token: b.token, Node: fmt.Sprintf("default.web-%d", i),
			Dataplane: fmt.Sprintf(`{"type":"Dataplane","mesh":"default","name":"web-%d","networking":{"address":"127.0.0.1",
"inbound":[{"port":8080,"servicePort":8081,"tags":{"kuma.io/service":"web","kuma.io/protocol":"http"}}],
"outbound":[{"port":8082,"tags":{"kuma.io/service":"backend"}}]}}`, i),
			OnResponse: func(r *discoveryv3.DeltaDiscoveryResponse) { f.got(i, r) },
		})
		if err != nil {
			return f, 0, err
		}
		f.proxies[i] = p
	}
	for i, p := range f.proxies {
		select {
		case <-p.Ready():
		case <-ctx.Done():
			return f, 0, fmt.Errorf("proxy %d is not ready: %w (%w)", i, ctx.Err(), p.Err())
		}
	}
	return f, time.Since(begun), nil
}

// proxies measures with n proxies; what only makes sense with many is measured with the most.
func (b *bench) proxies(ctx context.Context, n int, most bool) error {
	goals := map[int]time.Duration{1: 5 * time.Millisecond, 100: 25 * time.Millisecond, 500: 120 * time.Millisecond, 1000: 250 * time.Millisecond}
	ctx, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	before, err := memory(ctx, b.zone)
	if err != nil {
		return err
	}
	f, took, err := b.connect(ctx, n)
	defer f.close()
	if err != nil {
		return err
	}
	goal := time.Duration(0)
	if n == 1000 {
		goal = 4 * time.Second
	}
	b.report.durations(fmt.Sprintf("connect storm, %d proxies", n), series{took}, goal)
	if err := b.settled(ctx); err != nil {
		return err
	}

	profiled := b.profile(ctx, most)
	var routes series
	for range b.rounds {
		want := b.weight + 1
		all := f.expect(func(r *discoveryv3.DeltaDiscoveryResponse) bool { return r.TypeUrl == simulated.RDS })
		begun := time.Now()
		if _, err := b.route(ctx); err != nil {
			return err
		}
		last, err := await(ctx, all)
		if err != nil {
			return fmt.Errorf("write %d: %w", want, err)
		}
		routes = append(routes, last.Sub(begun))
	}
	b.report.durations(fmt.Sprintf("PUT of a route → last of %d proxies", n), routes, goals[n])
	if err := profiled(); err != nil {
		return err
	}

	if most || n == 500 {
		if err := b.endpoints(ctx, f, n); err != nil {
			return err
		}
	}
	if most {
		return b.idle(ctx, n, before)
	}
	return nil
}

// profile takes CPU profiles of both control planes from now on; the function that it returns waits for them.
func (b *bench) profile(ctx context.Context, wanted bool) func() error {
	g := new(errgroup.Group)
	if wanted && b.profiles != "" {
		for _, cp := range []*harness.ControlPlane{b.global, b.zone} {
			g.Go(func() error {
				return profile(ctx, cp.Addr("diagnostics"), 5, filepath.Join(b.profiles, cp.Name+".pprof"))
			})
		}
	}
	return g.Wait
}

// profile writes what a control plane uses its CPU for in the next seconds.
func profile(ctx context.Context, diagnostics string, seconds int, path string) error {
	c := harness.NewClient(diagnostics)
	defer c.Close()
	raw, _, err := c.Do(ctx, "GET", fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), nil)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

func await(ctx context.Context, all <-chan time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case at := <-all:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	}
}

// settled waits until every proxy is live at the head.
func (b *bench) settled(ctx context.Context) error {
	return harness.Until(ctx, "every proxy is live", func(ctx context.Context) error {
		p, err := b.global.Client().ZonePosition(ctx, zoneName)
		if err == nil && p.Live < p.Head {
			err = fmt.Errorf("position %+v", p)
		}
		return err
	})
}

// endpoints measures an endpoint that comes and goes in the zone.
func (b *bench) endpoints(ctx context.Context, f *fleet, n int) error {
	var added, removed series
	eds := func(r *discoveryv3.DeltaDiscoveryResponse) bool { return r.TypeUrl == simulated.EDS }
	for range b.rounds {
		all := f.expect(eds)
		begun := time.Now()
		if err := b.another(ctx); err != nil {
			return err
		}
		last, err := await(ctx, all)
		if err != nil {
			return fmt.Errorf("endpoint added: %w", err)
		}
		added = append(added, last.Sub(begun))
		all = f.expect(eds)
		begun = time.Now()
		if _, err := b.zone.Client().Delete(ctx, "/meshes/default/dataplanes/another"); err != nil {
			return err
		}
		if last, err = await(ctx, all); err != nil {
			return fmt.Errorf("endpoint removed: %w", err)
		}
		removed = append(removed, last.Sub(begun))
	}
	goal := time.Duration(0)
	if n == 500 {
		goal = 50 * time.Millisecond
	}
	b.report.durations(fmt.Sprintf("endpoint added → last of %d proxies", n), added, goal)
	b.report.durations(fmt.Sprintf("endpoint removed → last of %d proxies", n), removed, goal)
	return nil
}

// idle measures what connected proxies cost while nothing happens.
func (b *bench) idle(ctx context.Context, n int, before float64) error {
	if err := b.settled(ctx); err != nil {
		return err
	}
	// Counters are written about every ten seconds where they moved; let the last of them go by.
	if err := pause(ctx, 2*idleTime); err != nil {
		return err
	}
	after, err := memory(ctx, b.zone)
	if err != nil {
		return err
	}
	perProxy := (after - before) / float64(n)
	b.report.add("heap and stack of the zone per connected proxy", fmt.Sprintf("%.1f kB", perProxy/1000),
		fmt.Sprintf("%.1f MB with %d, %.1f MB without", after/1e6, n, before/1e6), fmt.Sprintf("64 kB (%.2f)", perProxy/64_000))
	for _, cp := range []*harness.ControlPlane{b.zone, b.global} {
		cpu, err := cpuTime(cp.Process().Pid())
		if err != nil {
			return err
		}
		begun := time.Now()
		if err := pause(ctx, idleTime); err != nil {
			return err
		}
		now, err := cpuTime(cp.Process().Pid())
		if err != nil {
			return err
		}
		share := 100 * (now - cpu).Seconds() / time.Since(begun).Seconds()
		b.report.add(fmt.Sprintf("idle CPU of %s, %d proxies", cp.Name, n), fmt.Sprintf("%.2f %%", share), "of one core", fmt.Sprintf("1 %% (%.2f)", share))
	}
	return nil
}

// reconnect compares the bytes of a session that is made anew with nothing to say with those of an empty
// connection.
func (b *bench) reconnect(ctx context.Context) error {
	if err := b.settled(ctx); err != nil {
		return err
	}
	return reconnect(ctx, b.report, b.global, b.relay, "reconnect with nothing changed")
}

// reconnect cuts a zone's session at the relay and counts what the next one takes.
func reconnect(ctx context.Context, to *report, global *harness.ControlPlane, r *relay.Relay, what string) error {
	empty, err := emptyConnection(ctx, global)
	if err != nil {
		return err
	}
	var counts []int64
	for range 5 {
		r.Cut()
		before := both(r)
		err := harness.Until(ctx, "the zone is back", func(context.Context) error {
			if r.Connections() == 0 || both(r) == before {
				return errors.New("not connected")
			}
			return nil
		})
		if err != nil {
			return err
		}
		// Everything that follows the handshake is there well before the first heartbeat.
		if err := pause(ctx, 800*time.Millisecond); err != nil {
			return err
		}
		counts = append(counts, both(r)-before)
	}
	least := slices.Min(counts)
	more := least - empty
	to.add(what, fmt.Sprintf("%d bytes more", more),
		fmt.Sprintf("%d in all, an empty TLS and gRPC connection %d", least, empty), fmt.Sprintf("2 kB (%.2f)", float64(more)/2000))
	return nil
}

func both(r *relay.Relay) int64 { return r.Bytes(relay.Up) + r.Bytes(relay.Down) }

// emptyConnection counts the bytes of a connection that says nothing.
func emptyConnection(ctx context.Context, global *harness.ControlPlane) (int64, error) {
	pem, err := os.ReadFile(global.CAFile())
	if err != nil {
		return 0, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	r, err := relay.Start(global.Addr("kds"))
	if err != nil {
		return 0, err
	}
	defer r.Close()
	conn, err := grpc.NewClient(r.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.Connect()
	for s := conn.GetState(); s != connectivity.Ready; s = conn.GetState() {
		if !conn.WaitForStateChange(ctx, s) {
			return 0, ctx.Err()
		}
	}
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return 0, err
	}
	return both(r), nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memory is a control plane's heap and stack in use after a garbage collection, in bytes.
func memory(ctx context.Context, cp *harness.ControlPlane) (float64, error) {
	c := harness.NewClient(cp.Addr("diagnostics"))
	defer c.Close()
	for range 2 { // what finalizers free is free after the second
		if _, _, err := c.Do(ctx, "GET", "/debug/pprof/heap?gc=1", nil); err != nil {
			return 0, err
		}
	}
	raw, _, err := c.Do(ctx, "GET", "/metrics", nil)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(raw)) {
		for _, name := range []string{"go_memstats_heap_alloc_bytes ", "go_memstats_stack_inuse_bytes "} {
			if v, ok := strings.CutPrefix(line, name); ok {
				f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
				if err != nil {
					return 0, err
				}
				sum += f
			}
		}
	}
	if sum == 0 {
		return 0, errors.New("/metrics has no memory statistics")
	}
	return sum, nil
}

// cpuTime is what a process has used.
func cpuTime(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	const utime, stime, tick = 11, 12, 10 * time.Millisecond
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, raw)
	}
	sum := 0
	for _, f := range []string{fields[utime], fields[stime]} {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}
