package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/relay"
)

// Scenarios that only processes can show.

// What is wrong at the start is said in one line, and nothing is served.
func TestStartFailures(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, taken, err)
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	held := processes{}.global(t)

	config := func(t *testing.T, extra string) string {
		dir := t.TempDir()
		file := path(dir, "config.yaml")
		writeFile(t, file, harness.GlobalFile(dir, harness.Ports{})+extra)
		return file
	}
	cases := []struct {
		name string
		// args after "global-cp run"
		args func(t *testing.T) []string
		env  []string
		word string
	}{
		{name: "port in use", word: fmt.Sprint(port), args: func(t *testing.T) []string {
			dir := t.TempDir()
			file := path(dir, "config.yaml")
			writeFile(t, file, harness.GlobalFile(dir, harness.Ports{KDS: port}))
			return []string{"--config-file", file}
		}},
		{name: "unknown key", word: "apiServer.htpp", args: func(t *testing.T) []string {
			dir := t.TempDir()
			file := path(dir, "config.yaml")
			writeFile(t, file, fmt.Sprintf("general: {workDir: %q}\napiServer: {htpp: {port: 0}}\n", dir))
			return []string{"-c", file}
		}},
		{
			name: "unknown variable", word: "MERIDIAN_API_SERVER_HTPP_PORT", env: []string{"MERIDIAN_API_SERVER_HTPP_PORT=1"},
			args: func(t *testing.T) []string { return []string{"-c", config(t, "")} },
		},
		{
			name: "bad value", word: "MERIDIAN_API_SERVER_HTTP_PORT", env: []string{"MERIDIAN_API_SERVER_HTTP_PORT=many"},
			args: func(t *testing.T) []string { return []string{"-c", config(t, "")} },
		},
		{name: "bad value in the file", word: "store.type", args: func(t *testing.T) []string { return []string{"-c", config(t, "store: {type: paper}\n")} }},
		{name: "unreadable file", word: "nowhere.yaml", args: func(t *testing.T) []string { return []string{"-c", path(t.TempDir(), "nowhere.yaml")} }},
		{name: "store held", word: "held", args: func(t *testing.T) []string {
			file := path(t.TempDir(), "config.yaml")
			writeFile(t, file, harness.GlobalFile(held.dir(), harness.Ports{}))
			return []string{"-c", file}
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p, err := harness.Start(harness.Spec{
				Name: "global-cp", Path: suite.programs.Path("global-cp"),
				Args: append([]string{"run"}, c.args(t)...), Env: c.env, Dir: t.TempDir(),
			})
			must(t, p, err)
			ready, err := p.Ready(within(t, startTime))
			if !errors.Is(err, harness.ErrExited) {
				if p.Running() {
					p.Kill()
				}
				t.Fatalf("ready %v, %v; want an exit", ready, err)
			}
			if code, _ := p.Wait(t.Context()); code != 1 {
				t.Errorf("exit status %d, want 1", code)
			}
			oneLine(t, p.Stderr(), c.word)
		})
	}
}

// Every program says what it is and how to use it.
func TestVersionAndHelp(t *testing.T) {
	for _, name := range []string{"global-cp", "zone-cp", "zone-dp", "meridianctl"} {
		for _, args := range [][]string{{"-h"}, {"version"}, {"version", "--detailed"}} {
			out, err := exec.CommandContext(within(t, startTime), suite.programs.Path(name), args...).Output()
			if err != nil || len(out) == 0 {
				t.Errorf("%s %v: %v, %q", name, args, err, out)
			}
		}
	}
}

// SIGTERM flushes and ends with 0 within 5 s, also with a zone and a stream open; what was written is there.
func TestStopsAtSIGTERM(t *testing.T) {
	global := processes{}.global(t).(processCP)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global}).(processCP)
	active(t, global, "zone-1", true, 2*time.Second)
	put(t, global, "/meshes/default/traffic-routes/web", route(1, 1))
	zone.stop(t)
	active(t, global, "zone-1", false, time.Second)
	zone.start(t)
	global.stop(t)
	global.start(t)
	if _, _, err := global.client().Do(t.Context(), http.MethodGet, "/meshes/default/traffic-routes/web", nil); err != nil {
		t.Error(err)
	}
	active(t, global, "zone-1", true, 2*time.Second)
}

// Several control planes run on one machine with nothing but their work directories told apart.
func TestSeveralOnOneMachine(t *testing.T) {
	for range 2 {
		global := processes{}.global(t)
		for _, name := range []string{"zone-1", "zone-2"} {
			zone := processes{}.zone(t, zoneOptions{name: name, global: global})
			active(t, global, name, true, 2*time.Second)
			equal(t, global, zone, 2*time.Second)
		}
	}
	standalone := processes{}.zone(t, zoneOptions{})
	put(t, standalone, "/meshes/default/traffic-routes/web", route(1, 1))
}

// A zone that is stopped in its tracks, or cut off without a word, is inactive within 10 s, and back within 2 s
// of the end of the fault, equal to the global.
func TestSilentZones(t *testing.T) {
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		global := processes{}.global(t)
		zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global}).(processCP)
		active(t, global, "zone-1", true, 2*time.Second)
		zone.signal(syscall.SIGSTOP)
		t.Logf("inactive after %s", active(t, global, "zone-1", false, 10*time.Second).Round(time.Millisecond))
		put(t, global, "/meshes/default/traffic-routes/web", route(1, 1))
		zone.signal(syscall.SIGCONT)
		t.Logf("active after %s", active(t, global, "zone-1", true, 2*time.Second).Round(time.Millisecond))
		equal(t, global, zone, 2*time.Second)
	})
	for name, ways := range map[string][]relay.Direction{
		"cut both ways": {relay.Up, relay.Down}, "cut up": {relay.Up}, "cut down": {relay.Down},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			global := processes{}.global(t)
			r, err := relay.Start(global.addr("kds"))
			must(t, r, err)
			t.Cleanup(r.Close)
			zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global, address: r.Addr()})
			active(t, global, "zone-1", true, 2*time.Second)
			for _, d := range ways {
				r.Stall(d, true)
			}
			t.Logf("inactive after %s", active(t, global, "zone-1", false, 10*time.Second).Round(time.Millisecond))
			put(t, global, "/meshes/default/traffic-routes/web", route(1, 1))
			for _, d := range ways {
				r.Stall(d, false)
			}
			t.Logf("active after %s", active(t, global, "zone-1", true, 2*time.Second).Round(time.Millisecond))
			equal(t, global, zone, 2*time.Second)
		})
	}
}

// A cut connection is made anew at once, and what was missed is caught up with.
func TestCutsUnderLoad(t *testing.T) {
	global := processes{}.global(t)
	r, err := relay.Start(global.addr("kds"))
	must(t, r, err)
	t.Cleanup(r.Close)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global, address: r.Addr()})
	active(t, global, "zone-1", true, 2*time.Second)
	for i := range 20 {
		for j := range 10 {
			put(t, global, fmt.Sprintf("/meshes/default/traffic-routes/r%d", j), route(i+1, j))
		}
		switch i % 3 {
		case 0:
			r.Cut()
		case 1:
			r.HalfClose(relay.Up)
		case 2:
			r.HalfClose(relay.Down)
		}
	}
	active(t, global, "zone-1", true, 3*time.Second)
	equal(t, global, zone, 2*time.Second)
}

// When Envoy dies, zone-dp says goodbye and ends with its status; SIGTERM drains and ends with 0.
func TestZoneDPFollowsItsEnvoy(t *testing.T) {
	envoy(t)
	zone := processes{}.zone(t, zoneOptions{})
	token := dataplaneToken(t, zone, "")
	gone := func(name string) {
		t.Helper()
		until(t, 4*time.Second, name+" is gone", func(ctx context.Context) error {
			_, _, err := zone.client().Do(ctx, http.MethodGet, "/meshes/default/dataplanes/"+name, nil)
			if status(err) != http.StatusNotFound {
				return fmt.Errorf("it is there: %w", err)
			}
			return nil
		})
	}
	p := zoneDP(t, zone, proxyOptions{dataplane: backend(t, "default", "v1"), token: token})
	ready, err := p.Ready(within(t, 30*time.Second))
	must(t, ready, err)
	child := childOf(t, p.Pid())
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	code, err := p.Wait(within(t, 5*time.Second))
	if must(t, code, err); code == 0 {
		t.Error("zone-dp ends with 0 after its Envoy was killed")
	}
	gone("backend-v1")

	p = zoneDP(t, zone, proxyOptions{dataplane: backend(t, "default", "v2"), token: token})
	ready, err = p.Ready(within(t, 30*time.Second))
	must(t, ready, err)
	if err := p.Stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	gone("backend-v2")
}

// childOf is the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, tasks, err)
	for _, task := range tasks {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		must(t, raw, err)
		var child int
		if n, _ := fmt.Sscan(string(raw), &child); n == 1 {
			return child
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

// Each of 100 PUTs is answered only after an fsync or fdatasync of the config log's file has returned, which
// began after the request was read.
func TestAnswersFollowFsync(t *testing.T) {
	strace := tool(t, "strace", "Debian: apt-get install strace")
	dir := t.TempDir()
	trace := path(dir, "trace")
	c, err := suite.programs.Global(path(dir, "global"), freePorts(t))
	must(t, c, err)
	c.Before = []string{strace, "-f", "-y", "-qq", "-s", "512", "-e", "trace=read,write,fsync,fdatasync", "-o", trace}
	global := launch(t, c)
	const puts = 100
	for i := range puts {
		put(t, global, "/meshes/default/traffic-routes/traced", route(i, 1))
	}
	// strace passes no signal on to what it traces, so the control plane is told itself.
	if err := syscall.Kill(childOf(t, c.Process().Pid()), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := c.Process().Wait(within(t, 10*time.Second)); err != nil || code != 0 {
		t.Fatalf("strace: %d, %v", code, err)
	}
	file, err := os.Open(trace)
	must(t, file, err)
	defer file.Close()
	if n := answersAfterSync(t, file, path(c.Dir, "global-cp.db")); n != puts {
		t.Errorf("%d answers seen, want %d", n, puts)
	}
}

// answersAfterSync reads a trace and counts the answers to PUTs; it reports those that no sync of the file or
// of its write-ahead log came before.
func answersAfterSync(t *testing.T, trace *os.File, db string) int {
	t.Helper()
	syncCall := regexp.MustCompile(`^(\d+) +(?:fsync|fdatasync)\(\d+<` + regexp.QuoteMeta(db) + `(?:-wal)?>`)
	resumed := regexp.MustCompile(`^(\d+) +<\.\.\. (?:fsync|fdatasync) resumed>.*= 0`)
	pending := map[string]bool{} // threads in a sync that began after the request was read
	answers, asked, synced := 0, false, false
	lines := bufio.NewScanner(trace)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.Contains(line, `UT /meshes/default/traffic-routes/traced `): // the P may have been read ahead
			asked, synced = true, false
			clear(pending)
		case syncCall.MatchString(line):
			thread := syncCall.FindStringSubmatch(line)[1]
			if strings.HasSuffix(line, "= 0") {
				synced = synced || asked
			} else if strings.HasSuffix(line, "<unfinished ...>") {
				pending[thread] = asked
			}
		case resumed.MatchString(line):
			thread := resumed.FindStringSubmatch(line)[1]
			synced = synced || pending[thread]
			delete(pending, thread)
		case asked && strings.Contains(line, `"HTTP/1.1 20`):
			answers++
			if !synced {
				t.Errorf("answer %d came before a sync of %s: %s", answers, db, line)
			}
			asked = false
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return answers
}
