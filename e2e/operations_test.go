package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// meridianctl runs it against a control plane, and gives what it prints on stdout.
func meridianctl(t *testing.T, cp controlPlane, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	if cp != nil {
		args = append([]string{"--address", "http://" + cp.addr("http")}, args...)
	}
	cmd := exec.CommandContext(within(t, 30*time.Second), suite.programs.Path("meridianctl"), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("meridianctl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// TestBackupAndRestore: a backup that was taken while others wrote is restored in place of a global control plane
// that is lost; the zones find out, and come to what it says.
func TestBackupAndRestore(t *testing.T) {
	ports := freePorts(t)
	c, err := suite.programs.Global(path(t.TempDir(), "global"), ports)
	global := launch(t, must(t, c, err))
	zones := []controlPlane{
		processes{}.zone(t, zoneOptions{name: "zone-1", global: global}),
		processes{}.zone(t, zoneOptions{name: "zone-2", global: global}),
	}
	put(t, global, "/meshes/default/secrets/s", `{"data":"aGlkZGVu"}`)
	before := put(t, global, "/meshes/default/timeouts/kept", timeout("1s"))

	// Others write while it is taken.
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	wrote := make(chan struct{}, 1)
	writers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := global.client().Put(ctx, fmt.Sprintf("/meshes/default/timeouts/w-%d", i%20), timeout(fmt.Sprintf("%ds", i+1))); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			select {
			case wrote <- struct{}{}:
			default:
			}
		}
	})
	<-wrote
	file := path(t.TempDir(), "backup")
	out, err := meridianctl(t, global, nil, "backup", "-f", file)
	must(t, out, err)
	said := regexp.MustCompile(`global control plane, revision (\d+), \d+ records`).FindStringSubmatch(out)
	if said == nil {
		t.Fatalf("it says %q", out)
	}
	stop()
	writers.Wait()
	lost := put(t, global, "/meshes/default/timeouts/lost", timeout("9s"))
	if n, _ := strconv.ParseUint(said[1], 10, 64); n < before || n >= lost {
		t.Errorf("the backup is of revision %d, written were %d before it and %d after", n, before, lost)
	}
	for i, z := range zones {
		live(t, global, fmt.Sprintf("zone-%d", i+1), lost, 5*time.Second)
		equal(t, global, z, 5*time.Second)
	}
	global.stop(t)

	if _, err := meridianctl(t, nil, nil, "restore", "--work-dir", global.dir(), file); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("restored over a store: %v", err)
	}
	dir := path(t.TempDir(), "restored")
	out, err = meridianctl(t, nil, nil, "restore", "--work-dir", dir, "--key-file", filepath.Join(global.dir(), "store.key"), file)
	must(t, out, err)
	for _, name := range []string{"ca.crt", "ca.key", "server.crt", "server.key"} {
		data, err := os.ReadFile(filepath.Join(global.dir(), name))
		writeFile(t, filepath.Join(dir, name), string(must(t, data, err)))
	}
	c, err = suite.programs.Global(dir, ports)
	restored := launch(t, must(t, c, err))
	var gone *harness.StatusError
	if err := restored.client().Get(within(t, 5*time.Second), "/meshes/default/timeouts/lost", nil); !errors.As(err, &gone) || gone.Code != http.StatusNotFound {
		t.Errorf("what was written after the backup: %v", err)
	}
	for i, z := range zones {
		name := fmt.Sprintf("zone-%d", i+1)
		active(t, restored, name, true, 10*time.Second)
		equal(t, restored, z, 5*time.Second)
		live(t, restored, name, put(t, restored, "/meshes/default/timeouts/new", timeout(fmt.Sprintf("%ds", i+1))), 5*time.Second)
	}
}

// TestExportAndApply: what one control plane exports another takes, and exports the same.
func TestExportAndApply(t *testing.T) {
	from, to := processes{}.global(t), processes{}.global(t)
	put(t, from, "/meshes/secure", `{"mtls":{"enabledBackend":"ca-1","backends":[{"name":"ca-1","type":"builtin"}]}}`)
	put(t, from, "/meshes/default/secrets/s", `{"data":"aGlkZGVu"}`)
	put(t, from, "/global-secrets/g", `{"data":"aGlkZGVu"}`)
	put(t, from, "/zones/east", `{"enabled":false}`)
	put(t, from, "/meshes/secure/timeouts/all", `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":{"connectTimeout":"1s"}}`)
	open, err := meridianctl(t, from, nil, "export")
	must(t, open, err)
	if strings.Contains(open, "aGlkZGVu") || strings.Contains(open, "Secret") {
		t.Error("secrets are exported though nobody asked for them")
	}
	for _, format := range []string{"yaml", "json"} {
		exported, err := meridianctl(t, from, nil, "export", "--include-secrets", "-o", format)
		must(t, exported, err)
		if !strings.Contains(exported, "aGlkZGVu") || !strings.Contains(exported, "secure.ca-builtin-key-ca-1") {
			t.Error("secrets are missing")
		}
		out, err := meridianctl(t, to, strings.NewReader(exported), "apply", "-f", "-")
		must(t, out, err)
		again, err := meridianctl(t, to, nil, "export", "--include-secrets", "-o", format)
		if diff := cmp.Diff(exported, must(t, again, err)); diff != "" {
			t.Errorf("%s: %s", format, diff)
		}
	}
}

// scrape reads the metrics of a control plane: name and labels to value.
func scrape(t *testing.T, cp controlPlane) map[string]float64 {
	t.Helper()
	c := harness.NewClient(cp.addr("diagnostics"))
	defer c.Close()
	text, _, err := c.Do(within(t, 5*time.Second), "GET", "/metrics", nil)
	must(t, text, err)
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "meridian_") {
			if i := strings.LastIndex(line, "}"); i >= 0 {
				name, value = line[:i+1], strings.TrimSpace(line[i+1:])
			}
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out
}

// family is the name of a metric without labels, and without what a histogram adds.
func family(name string) string {
	name, _, _ = strings.Cut(name, "{")
	for _, s := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, s); ok {
			return base
		}
	}
	return name
}

// documented lists the metrics of the manual.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	must(t, text, err)
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(meridian_[a-z_]+)`").FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestMetrics: what the manual lists is what a global and a zone with a proxy give, and it moves.
func TestMetrics(t *testing.T) {
	w := inProcess{}
	global := w.global(t)
	put(t, global, "/meshes/secure", `{"mtls":{"enabledBackend":"ca-1","backends":[{"name":"ca-1","type":"builtin"}]}}`)
	zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
	live(t, global, "zone-1", put(t, global, "/meshes/default/timeouts/first", timeout("1s")), 5*time.Second)
	newStage(t, w, zone, "web")
	before := [2]map[string]float64{scrape(t, global), scrape(t, zone)}
	live(t, global, "zone-1", put(t, global, "/meshes/default/timeouts/second", timeout("2s")), 5*time.Second)
	until(t, 5*time.Second, "no proxy joins any more, and the zone has all", func(context.Context) error {
		if n := scrape(t, zone)[`meridian_xds_proxies{state="joining"}`]; n != 0 {
			return fmt.Errorf("%v join", n)
		}
		if n := scrape(t, global)[`meridian_zone_lag_revisions{zone="zone-1"}`]; n != 0 {
			return fmt.Errorf("the zone lags by %v revisions", n)
		}
		return nil
	})
	after := [2]map[string]float64{scrape(t, global), scrape(t, zone)}

	have := map[string]bool{"meridian_degraded": true} // nothing ails
	for _, m := range after {
		for name := range m {
			have[family(name)] = true
			if n := strings.Count(name, "web"); n > 0 {
				t.Errorf("%s speaks of a proxy", name)
			}
		}
	}
	var names []string
	for name := range have {
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff(documented(t), names); diff != "" {
		t.Errorf("the manual and the control planes differ: %s", diff)
	}
	for _, x := range []struct {
		of   int
		name string
	}{
		{0, `meridian_log_head_revision{log="config"}`},
		{0, `meridian_zone_position_revision{step="live",zone="zone-1"}`},
		{0, `meridian_kds_groups_total{direction="sent"}`},
		{0, `meridian_store_sync_seconds_count{log="config"}`},
		{0, `meridian_api_requests_total{code="201",method="PUT",route="/meshes/{mesh}/timeouts/{name}"}`},
		{1, `meridian_kds_groups_total{direction="applied"}`},
		{1, `meridian_xds_plans_total`},
		{1, `meridian_xds_responses_total{result="sent",type="CDS"}`},
		{1, `meridian_xds_responses_total{result="acked",type="CDS"}`},
	} {
		if a, b := before[x.of][x.name], after[x.of][x.name]; b <= a {
			t.Errorf("%s stays at %v (then %v)", x.name, a, b)
		}
	}
	for _, x := range []struct {
		of   int
		name string
		want float64
	}{
		{0, `meridian_zone_online{zone="zone-1"}`, 1},
		{0, `meridian_zone_lag_revisions{zone="zone-1"}`, 0},
		{0, `meridian_zone_lag_seconds{zone="zone-1"}`, 0},
		{1, `meridian_kds_connected`, 1},
		{1, `meridian_xds_proxies{state="connected"}`, 3},
	} {
		if got, ok := after[x.of][x.name]; !ok || got != x.want {
			t.Errorf("%s is %v, want %v", x.name, got, x.want)
		}
	}
	for _, x := range []struct {
		of   int
		name string
	}{
		{0, `meridian_mesh_ca_expiry_timestamp_seconds{backend="ca-1",mesh="secure"}`},
		{0, `meridian_certificate_expiry_timestamp_seconds{port="kds"}`},
		{1, `meridian_certificate_expiry_timestamp_seconds{port="dpServer"}`},
		{1, `meridian_zone_token_expiry_timestamp_seconds`},
	} {
		if got := after[x.of][x.name]; got < float64(time.Now().Unix()) {
			t.Errorf("%s is %v", x.name, got)
		}
	}
}

// TestWatchingFiles: dashboards and rules speak of metrics that there are, and rules say what they should.
func TestWatchingFiles(t *testing.T) {
	names := documented(t)
	for _, file := range []string{"prometheus/alerts.yaml", "prometheus/alerts_test.yaml", "grafana/meridian.json"} {
		text, err := os.ReadFile(filepath.Join("../deploy", file))
		must(t, text, err)
		used := regexp.MustCompile(`meridian_[a-z_]+`).FindAllString(string(text), -1)
		if len(used) == 0 {
			t.Errorf("%s speaks of no metric", file)
		}
		for _, name := range used {
			if !slices.Contains(names, family(name)) {
				t.Errorf("%s speaks of %s, which there is not", file, name)
			}
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON", file)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not there: apt-get install prometheus")
	}
	for _, args := range [][]string{
		{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}, {"check", "config", "prometheus.yaml"},
	} {
		cmd := exec.CommandContext(within(t, 20*time.Second), promtool, args...)
		cmd.Dir = "../deploy/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// resident is the memory that a process holds, in bytes.
func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, text, err)
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no VmRSS")
	}
	n, err := strconv.Atoi(string(m[1]))
	return must(t, n, err) << 10
}

// endless reads n times the byte.
type endless struct {
	left int
	with byte
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	for i := range n {
		p[i] = e.with
	}
	e.left -= n
	return n, nil
}

// TestBadClients: clients that send too much, or send and read slowly, cost little, and others are served meanwhile.
func TestBadClients(t *testing.T) {
	global := processes{}.global(t)
	pid := global.(processCP).Process().Pid()
	for i := range 12 {
		put(t, global, fmt.Sprintf("/meshes/default/secrets/big-%02d", i), fmt.Sprintf(`{"data":%q}`, strings.Repeat("QUFB", 120_000)))
	}
	base := resident(t, pid)
	url := "http://" + global.addr("http")

	for what, body := range map[string]io.Reader{
		"200 MB":      &endless{200 << 20, 'x'},
		"JSON 10,000": strings.NewReader(strings.Repeat("[", 10_000)),
	} {
		req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodPut, url+"/meshes/m", body)
		must(t, req, err)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			// The connection may be ended before the answer is read.
			if what == "200 MB" && (strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "broken pipe")) {
				continue
			}
			t.Fatal(what, err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if what == "200 MB" && (resp.StatusCode != 413 || !strings.Contains(string(text), "limits.objectBytes")) ||
			what != "200 MB" && resp.StatusCode != 400 {
			t.Errorf("%s: %d %s", what, resp.StatusCode, text)
		}
	}

	// 200 of each: they begin headers, begin a body, and ask for all and read nothing.
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range 200 {
		for _, text := range []string{
			"GET /meshes HTTP/1.1\r\nHost: localhost\r\nX-",
			"PUT /meshes/m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n{",
			"GET /secrets?size=10000 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		} {
			var d net.Dialer
			c, err := d.DialContext(t.Context(), "tcp", global.addr("http"))
			must(t, c, err)
			conns = append(conns, c)
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetReadBuffer(4 << 10)
			}
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	var slowest time.Duration
	for i := range 20 {
		began := time.Now()
		put(t, global, "/meshes/default/timeouts/other", timeout(fmt.Sprintf("%ds", i+1)))
		slowest = max(slowest, time.Since(began))
	}
	if slowest > 3*time.Second {
		t.Errorf("a write took %s beside 600 slow clients", slowest)
	}
	grown := resident(t, pid) - base
	t.Logf("600 slow clients: slowest write %s, %d MiB more memory", slowest, grown>>20)
	if grown > 700<<20 {
		t.Errorf("600 slow clients cost %d MiB", grown>>20)
	}
	// The slow headers are not waited for.
	_ = conns[0].SetReadDeadline(time.Now().Add(14 * time.Second))
	if line, err := bufio.NewReader(conns[0]).ReadString('\n'); err != nil && !errors.Is(err, io.EOF) || err == nil && !strings.HasPrefix(line, "HTTP/1.1 4") {
		t.Errorf("headers that do not come: %q %v", line, err)
	}
}

// TestZoneWithALowerLimit: a zone that takes only smaller objects says so by name, and goes on with the others.
func TestZoneWithALowerLimit(t *testing.T) {
	global := processes{}.global(t)
	o := joining(t, zoneOptions{name: "zone-1", global: global})
	c, err := suite.programs.Zone(path(t.TempDir(), "zone"), freePorts(t), o)
	must(t, c, err)
	c.Env = []string{"MERIDIAN_LIMITS_OBJECT_BYTES=16KiB"}
	zone := launch(t, c)
	put(t, global, "/meshes/default/secrets/large", fmt.Sprintf(`{"data":%q}`, strings.Repeat("QUFB", 10_000)))
	rev := put(t, global, "/meshes/default/timeouts/small", timeout("1s"))
	live(t, global, "zone-1", rev, 5*time.Second)
	var rejections struct {
		Items []struct{ Kind, Name, Reason, Zone string }
	}
	if err := global.client().Get(within(t, 5*time.Second), "/rejections", &rejections); err != nil {
		t.Fatal(err)
	}
	if len(rejections.Items) != 1 || rejections.Items[0].Name != "large" || !strings.Contains(rejections.Items[0].Reason, "larger than 16 KiB (limits.objectBytes)") {
		t.Errorf("%+v", rejections)
	}
	if _, err := zone.client().Put(within(t, 5*time.Second), "/meshes/default/dataplanes/d", `{"networking":{"address":"`+strings.Repeat("1", 20_000)+`"}}`); err == nil || !strings.Contains(err.Error(), "limits.objectBytes") {
		t.Errorf("a large body at the zone: %v", err)
	}
}
