package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/relay"
)

// Faults of processes, files, disks and lines, in real time.

// Faults drawn from seeds, over TCP: after the last one the zone is there and equals the global within two seconds.
// MERIDIAN_E2E_SEEDS asks for more seeds, MERIDIAN_E2E_SEED for one alone.
func TestSeededFaults(t *testing.T) {
	first, n := 0, 2
	if s, err := strconv.Atoi(os.Getenv("MERIDIAN_E2E_SEEDS")); err == nil {
		n = s
	}
	if s, err := strconv.Atoi(os.Getenv("MERIDIAN_E2E_SEED")); err == nil {
		first, n = s, 1
	}
	global := processes{}.global(t)
	r, err := relay.Start(global.addr("kds"))
	must(t, r, err)
	t.Cleanup(r.Close)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global, address: r.Addr()})
	active(t, global, "zone-1", true, 2*time.Second)
	equal(t, global, zone, 2*time.Second)
	for seed := first; seed < first+n; seed++ {
		rnd := rand.New(rand.NewPCG(uint64(seed), 3))
		var script []string
		for i := range 6 {
			x := relay.Draw(rnd)
			script = append(script, x.String())
			r.Inject(x)
			for j := range rnd.IntN(5) {
				put(t, global, fmt.Sprintf("/meshes/default/traffic-routes/r%d", j), route(i+1, seed+1))
				put(t, zone, fmt.Sprintf("/meshes/default/dataplanes/d%d", j), dataplaneAt(1+seed%60_000))
			}
			pause(t, time.Duration(rnd.IntN(1000))*time.Millisecond)
			if rnd.IntN(3) == 0 {
				script = append(script, "heal")
				r.Heal()
			}
		}
		r.Heal()
		begun := time.Now()
		active(t, global, "zone-1", true, 2*time.Second)
		equal(t, global, zone, 2*time.Second)
		until(t, 2*time.Second, "the global knows the zone's dataplanes", func(ctx context.Context) error {
			return sameDataplanes(ctx, global, zone)
		})
		took := time.Since(begun)
		t.Logf("seed %d: whole %s after %s", seed, took.Round(time.Millisecond), strings.Join(script, ", "))
		if took > 2*time.Second {
			t.Errorf("seed %d took %s; again: MERIDIAN_E2E_SEED=%d", seed, took, seed)
		}
	}
}

// Of two zones that bear one name the second is refused, and says why; the first one goes on.
func TestTwoZonesOfOneName(t *testing.T) {
	global := processes{}.global(t)
	one := processes{}.zone(t, zoneOptions{name: "zone-1", global: global})
	active(t, global, "zone-1", true, 2*time.Second)
	two := processes{}.zone(t, zoneOptions{name: "zone-1", global: global})
	until(t, 2*time.Second, "the second one says that it is refused", func(context.Context) error {
		if body, code := readiness(t, two); code != http.StatusOK || !strings.Contains(body, "online already") {
			return fmt.Errorf("/ready: %d %s", code, body)
		}
		return nil
	})
	put(t, global, "/meshes/default/traffic-routes/web", route(1, 1))
	equal(t, global, one, 2*time.Second)
	if body, _ := readiness(t, one); strings.Contains(body, "degraded") {
		t.Errorf("the first one is cut off: %s", body)
	}
	active(t, global, "zone-1", true, time.Millisecond*200)
}

// copyStore copies the files of a store that nobody holds.
func copyStore(t *testing.T, from, to string) {
	t.Helper()
	files, err := filepath.Glob(path(from, "*.db*"))
	must(t, files, err)
	if len(files) < 2 {
		t.Fatalf("%s holds %v", from, files)
	}
	old, err := filepath.Glob(path(to, "*.db*"))
	must(t, old, err)
	for _, f := range old {
		must(t, 0, os.Remove(f))
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		must(t, raw, err)
		must(t, 0, os.WriteFile(path(to, filepath.Base(f)), raw, 0o600))
	}
}

// A global that comes back with the files of yesterday is found out: its zones give up what it does not have, and
// take what is written from then on, though the revisions were there before.
func TestRestoredFiles(t *testing.T) {
	global := processes{}.global(t)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global})
	put(t, global, "/meshes/default/traffic-routes/kept", route(1, 1))
	active(t, global, "zone-1", true, 2*time.Second)
	equal(t, global, zone, 2*time.Second)
	put(t, zone, "/meshes/default/dataplanes/old", dataplaneAt(80))
	until(t, 2*time.Second, "the dataplane is known", func(ctx context.Context) error { return sameDataplanes(ctx, global, zone) })
	global.stop(t)
	backup := t.TempDir()
	copyStore(t, global.dir(), backup)
	global.start(t)
	for i := range 5 {
		put(t, global, fmt.Sprintf("/meshes/default/traffic-routes/lost-%d", i), route(1, 2))
	}
	put(t, global, "/meshes/default/traffic-routes/kept", route(9, 9))
	put(t, zone, "/meshes/default/dataplanes/new", dataplaneAt(81))
	active(t, global, "zone-1", true, 2*time.Second)
	equal(t, global, zone, 2*time.Second)

	global.kill(t)
	copyStore(t, backup, global.dir())
	global.start(t)
	active(t, global, "zone-1", true, 3*time.Second)
	equal(t, global, zone, 2*time.Second)
	for i := range 8 {
		put(t, global, fmt.Sprintf("/meshes/default/traffic-routes/again-%d", i), route(1, 3))
	}
	equal(t, global, zone, 2*time.Second)
	until(t, 2*time.Second, "the zone's dataplanes are known again", func(ctx context.Context) error { return sameDataplanes(ctx, global, zone) })
	if _, _, err := zone.client().Do(t.Context(), http.MethodGet, "/meshes/default/traffic-routes/lost-0", nil); status(err) != http.StatusNotFound {
		t.Errorf("what the backup did not have: %v", err)
	}
}

// spoil overwrites the beginning of a file.
func spoil(t *testing.T, file string) {
	t.Helper()
	must(t, 0, os.WriteFile(file, []byte(strings.Repeat("no database", 1000)), 0o600))
}

// failsToStart starts a control plane that must not come up, and gives the one line that it says.
func failsToStart(t *testing.T, cp processCP) string {
	t.Helper()
	err := cp.Start(within(t, startTime))
	if !errors.Is(err, harness.ErrExited) || !strings.Contains(err.Error(), "exit status 1") {
		t.Fatalf("start: %v", err)
	}
	_, said, _ := strings.Cut(err.Error(), "it said:\n")
	return said
}

// A damaged store ends the start with one line that names the file. A zone begins anew when it is told to, with what
// the global has; what was registered in it alone is lost, and that is said. A damaged status file is made anew.
func TestDamagedFiles(t *testing.T) {
	global := processes{}.global(t).(processCP)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global}).(processCP)
	active(t, global, "zone-1", true, 2*time.Second)
	put(t, global, "/meshes/default/traffic-routes/web", route(1, 1))
	equal(t, global, zone, 2*time.Second)
	put(t, zone, "/meshes/default/dataplanes/registered", dataplaneAt(80))
	until(t, 2*time.Second, "the dataplane is known", func(ctx context.Context) error { return sameDataplanes(ctx, global, zone) })

	zone.stop(t)
	db := path(zone.dir(), "zone-cp.db")
	spoil(t, db)
	said := failsToStart(t, zone)
	oneLine(t, said, db)
	oneLine(t, said, "--resync")
	if raw, err := os.ReadFile(db); err != nil || !strings.HasPrefix(string(raw), "no database") {
		t.Fatalf("the damaged file was touched: %v", err)
	}
	zone.Args = []string{"--resync"}
	zone.start(t)
	active(t, global, "zone-1", true, 2*time.Second)
	equal(t, global, zone, 2*time.Second)
	if aside, _ := filepath.Glob(db + ".damaged-*"); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	if log := zone.Process().Stderr(); !strings.Contains(log, "set aside") || !strings.Contains(log, "are lost") {
		t.Errorf("the zone does not say what it has lost: %s", log)
	}
	until(t, 2*time.Second, "the global says what was lost", func(context.Context) error {
		if log := global.Process().Stderr(); !strings.Contains(log, "zone-1.registered") {
			return errors.New(log)
		}
		return nil
	})
	if items, err := list(t.Context(), global, "/dataplanes"); err != nil || len(items) != 0 {
		t.Errorf("the global has %v, %v", items, err)
	}

	zone.Args = nil
	zone.stop(t)
	spoil(t, path(zone.dir(), "zone-cp-status.db"))
	zone.start(t)
	active(t, global, "zone-1", true, 2*time.Second)
	rev := put(t, global, "/meshes/default/traffic-routes/web", route(1, 2))
	live(t, global, "zone-1", rev, 2*time.Second)

	global.stop(t)
	db = path(global.dir(), "global-cp.db")
	kept, err := os.ReadFile(db)
	must(t, kept, err)
	spoil(t, db)
	oneLine(t, failsToStart(t, global), db)
	must(t, 0, os.WriteFile(db, kept, 0o600))
	spoil(t, path(global.dir(), "global-cp-status.db"))
	global.start(t)
	active(t, global, "zone-1", true, 2*time.Second)
	equal(t, global, zone, 2*time.Second)
	live(t, global, "zone-1", put(t, global, "/meshes/default/traffic-routes/web", route(1, 3)), 2*time.Second)
}

// smallDisk puts a control plane's store on a file system of its own of 12 MiB. It gives where that is seen from here
// once the control plane runs.
func smallDisk(t *testing.T, c *harness.ControlPlane, db string) func() string {
	t.Helper()
	tool(t, "unshare", "Debian: apt-get install util-linux")
	if os.Getuid() != 0 {
		missing(t, "only root may mount a tmpfs")
	}
	disk := path(c.Dir, "disk")
	must(t, 0, os.MkdirAll(disk, 0o700))
	c.Before = []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=12m tmpfs "$0" && exec "$@"`, disk}
	c.Env = append(c.Env, "MERIDIAN_STORE_SQLITE_PATH="+path(disk, db))
	return func() string { return path("/proc", strconv.Itoa(c.Process().Pid()), "root", disk) }
}

// fillDisk writes until nothing more goes in, and gives what to remove.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	name := path(dir, "ballast")
	f, err := os.Create(name)
	must(t, f, err)
	defer f.Close()
	for _, size := range []int{64 << 10, 512} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return name
}

// With a full disk writes are refused with 503 and the reason, and all else goes on: reading, zones, what is served
// to proxies. With room again everything is taken again, by itself.
func TestDiskFull(t *testing.T) {
	c, err := suite.programs.Global(path(t.TempDir(), "global"), freePorts(t))
	must(t, c, err)
	globalDisk := smallDisk(t, c, "global-cp.db")
	global := launch(t, c)
	z, err := suite.programs.Zone(path(t.TempDir(), "zone"), freePorts(t), joining(t, zoneOptions{name: "zone-1", global: global}))
	must(t, z, err)
	zoneDisk := smallDisk(t, z, "zone-cp.db")
	zone := launch(t, z)
	active(t, global, "zone-1", true, 2*time.Second)
	s := newStage(t, processes{}, zone, "zone-1")
	degraded := func(cp controlPlane, want bool) {
		t.Helper()
		until(t, 3*time.Second, fmt.Sprintf("degraded: %v", want), func(context.Context) error {
			if body, code := readiness(t, cp); code != http.StatusOK || strings.Contains(body, "degraded: store") != want {
				return fmt.Errorf("/ready: %d %s", code, body)
			}
			return nil
		})
	}

	ballast := fillDisk(t, globalDisk())
	var last error
	until(t, 5*time.Second, "a write is refused", func(ctx context.Context) error {
		_, last = global.client().Put(ctx, "/meshes/default/traffic-routes/web", route(1, 1))
		if status(last) != http.StatusServiceUnavailable {
			return fmt.Errorf("it gave %w", last)
		}
		return nil
	})
	if !strings.Contains(last.Error(), "space") {
		t.Errorf("the refusal does not say why: %v", last)
	}
	degraded(global, true)
	equal(t, global, zone, time.Second)
	active(t, global, "zone-1", true, time.Second)
	s.reaches(t, 2*time.Second, "v1", "v2")
	must(t, 0, os.Remove(ballast))
	until(t, 3*time.Second, "a write is taken again", func(ctx context.Context) error {
		_, err := global.client().Put(ctx, "/meshes/default/traffic-routes/web", route(1, 1))
		return err
	})
	degraded(global, false)

	ballast = fillDisk(t, zoneDisk())
	rev := put(t, global, "/meshes/default/traffic-routes/web", route(1, 0))
	degraded(zone, true)
	active(t, global, "zone-1", true, time.Second)
	s.reaches(t, 2*time.Second, "v1", "v2") // what it had
	until(t, 2*time.Second, "the global is told", func(context.Context) error {
		if log := global.Process().Stderr(); !strings.Contains(log, "takes no writes") {
			return errors.New("it says nothing")
		}
		return nil
	})
	must(t, 0, os.Remove(ballast))
	live(t, global, "zone-1", rev, 4*time.Second)
	degraded(zone, false)
	s.reaches(t, 2*time.Second, "v1")
}

// A global or an Envoy that stops for a while and goes on costs nothing but that while.
func TestStoppedAndContinued(t *testing.T) {
	envoy(t)
	global := processes{}.global(t).(processCP)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global})
	s := newStage(t, processes{}, zone, "zone-1")
	active(t, global, "zone-1", true, 2*time.Second)

	global.signal(syscall.SIGSTOP)
	until(t, 6*time.Second, "the zone says that the global is away", func(context.Context) error {
		if body, code := readiness(t, zone); code != http.StatusOK || !strings.Contains(body, "degraded: global") {
			return fmt.Errorf("/ready: %d %s", code, body)
		}
		return nil
	})
	s.reaches(t, 2*time.Second, "v1", "v2")
	global.signal(syscall.SIGCONT)
	t.Logf("active after %s", active(t, global, "zone-1", true, 2*time.Second).Round(time.Millisecond))
	equal(t, global, zone, 2*time.Second)

	child := childOf(t, s.web.(*envoyProxy).process.Pid())
	must(t, 0, syscall.Kill(child, syscall.SIGSTOP))
	rev := put(t, global, "/meshes/default/traffic-routes/web", route(0, 1))
	var p struct {
		State   string
		Proxies []struct{ Name string }
	}
	wait := func(d string) {
		t.Helper()
		must(t, 0, global.client().Get(t.Context(), fmt.Sprintf("/positions?revision=%d&wait=%s", rev, d), &p))
	}
	if wait("2s"); p.State != "pending" || len(p.Proxies) != 1 || p.Proxies[0].Name != "zone-1.web" {
		t.Errorf("with a stopped Envoy: %+v", p)
	}
	must(t, 0, syscall.Kill(child, syscall.SIGCONT))
	if wait("5s"); p.State != "live" {
		t.Errorf("with Envoy going on: %+v", p)
	}
	s.reaches(t, time.Second, "v2")
}

// Each process is killed in turn under traffic and writes: no answered write is lost, no proxy is left without its
// configuration, and traffic goes on but for who goes through what was killed. Rounds as in TestKillsUnderLoad.
func TestKillsUnderTraffic(t *testing.T) {
	envoy(t)
	rounds := 1
	if n, err := strconv.Atoi(os.Getenv("MERIDIAN_E2E_ROUNDS")); err == nil {
		rounds = n
	}
	global := processes{}.global(t).(processCP)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global}).(processCP)
	s := &stage{zone: zone, outbound: freePort(t), token: dataplaneToken(t, zone, "")}
	w := processes{}
	w.proxy(t, zone, proxyOptions{dataplane: backend(t, "zone-1", "v1"), token: s.token})
	v2 := backend(t, "zone-1", "v2")
	victim := w.proxy(t, zone, proxyOptions{dataplane: v2, token: s.token}).(*envoyProxy)
	s.web = w.proxy(t, zone, proxyOptions{dataplane: web(t, "web", s.outbound), token: s.token})
	s.reaches(t, 5*time.Second, "v1", "v2")
	routes := newLedger()

	for round := range rounds {
		for _, kill := range []struct {
			name string
			// served says that no request may fail.
			served  bool
			kill    func()
			recover func()
		}{
			{"global", true, global.Kill, func() { global.start(t) }},
			{"zone", true, zone.Kill, func() { zone.start(t) }},
			{"global and zone", true, func() { global.Kill(); zone.Kill() }, func() { global.start(t); zone.start(t) }},
			{"zone-dp", false, func() { victim.process.Kill() }, nil},
			{"Envoy", false, func() { must(t, 0, syscall.Kill(childOf(t, victim.process.Pid()), syscall.SIGKILL)) }, nil},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			type result struct {
				calls int
				err   error
			}
			traffic, writes := make(chan result, 1), make(chan struct{})
			go func() {
				var r result
				for ctx.Err() == nil {
					// A call that ends with the test's context is no failure.
					if _, err := s.web.shares(context.WithoutCancel(ctx), s.outbound, 1); err != nil && r.err == nil {
						r.err = fmt.Errorf("call %d: %w", r.calls, err)
					}
					r.calls++
				}
				traffic <- r
			}()
			go func() {
				defer close(writes)
				for n := 1; ctx.Err() == nil; n++ {
					value := 1 + round*10_000 + n
					routes.write(ctx, global.client(), fmt.Sprintf("/meshes/default/traffic-routes/k%d", n%3), route(value, 1), value)
				}
			}()
			pause(t, 200*time.Millisecond)
			kill.kill()
			pause(t, 500*time.Millisecond)
			cancel()
			got := <-traffic
			<-writes
			if got.calls == 0 || kill.served && got.err != nil {
				t.Errorf("%s killed: %d calls, %v", kill.name, got.calls, got.err)
			}
			if kill.recover != nil {
				kill.recover()
			} else {
				// Without it, all goes to the other; then it comes back.
				s.reaches(t, 4*time.Second, "v1")
				victim = w.proxy(t, zone, proxyOptions{dataplane: v2, token: s.token}).(*envoyProxy)
			}
			active(t, global, "zone-1", true, 3*time.Second)
			equal(t, global, zone, 2*time.Second)
			routes.check(t, global, func(got map[string]any) int { return int(dig[float64](got, "conf", "split", 0, "weight")) })
			for name := range routes.entries {
				if _, err := global.client().Delete(t.Context(), name); err != nil && status(err) != http.StatusNotFound {
					t.Error(err)
				}
			}
			clear(routes.entries)
			rev := put(t, global, "/meshes/default/timeouts/web", timeout(fmt.Sprintf("%dms", 3000+round)))
			live(t, global, "zone-1", rev, 20*time.Second)
			s.reaches(t, 5*time.Second, "v1", "v2")
			t.Logf("%s killed: %d calls, first failure %v", kill.name, got.calls, got.err)
			if t.Failed() {
				return
			}
		}
	}
}
