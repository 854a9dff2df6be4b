package zonedp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// defaults are the options as no flag and no variable leaves them, but impatient.
func defaults() Options {
	var o Options
	o.Bind(&cobra.Command{})
	o.Name = "web-1"
	o.RetryBackoff, o.DrainTime = time.Millisecond, time.Millisecond
	return o
}

// controlPlane is the zone control plane's port for proxies.
type fakeCP struct {
	*httptest.Server
	mu       sync.Mutex
	answers  []int // statuses of the next answers to /bootstrap; then 200
	reason   string
	requests []map[string]any
	goodbyes []string
	tokens   []string
}

func newCP(t *testing.T, answers ...int) *fakeCP {
	t.Helper()
	cp := &fakeCP{answers: answers}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /bootstrap", func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		cp.mu.Lock()
		defer cp.mu.Unlock()
		cp.requests = append(cp.requests, body)
		if len(cp.answers) > 0 {
			status := cp.answers[0]
			cp.answers = cp.answers[1:]
			http.Error(w, cp.reason, status)
			return
		}
		if port, ok := body["adminPort"]; ok {
			_, _ = fmt.Fprintf(w, "admin:\n  address:\n    socket_address:\n      address: 127.0.0.1\n      port_value: %v\n", port)
		}
		_, _ = fmt.Fprintln(w, "node: {}")
	})
	mux.HandleFunc("POST /goodbye", func(w http.ResponseWriter, r *http.Request) {
		defer w.WriteHeader(http.StatusNoContent)
		body, _ := io.ReadAll(r.Body)
		cp.mu.Lock()
		defer cp.mu.Unlock()
		cp.goodbyes = append(cp.goodbyes, string(body))
		cp.tokens = append(cp.tokens, r.Header.Get("Authorization"))
	})
	cp.Server = httptest.NewUnstartedServer(mux)
	cp.Config.ErrorLog = log.New(io.Discard, "", 0)
	cp.StartTLS()
	t.Cleanup(cp.Close)
	return cp
}

// ca is the control plane's certificate as PEM.
func (cp *fakeCP) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cp.Certificate().Raw}))
}

// options lead to the control plane and the fake Envoy.
func (cp *fakeCP) options(t *testing.T, behave string) Options {
	t.Helper()
	t.Setenv(fakeVariable, behave)
	t.Setenv(fakeLog, filepath.Join(t.TempDir(), "envoy.log"))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := defaults()
	o.CPAddress, o.CACert, o.BinaryPath, o.ConfigDir = cp.URL, cp.ca(), self, t.TempDir()
	return o
}

func newProxy(t *testing.T, o Options) *Proxy {
	t.Helper()
	p, err := New(o, slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start runs a proxy; the channel gives how the run ended.
func start(ctx context.Context, p *Proxy) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return ended
}

func ready(t *testing.T, p *Proxy, ended <-chan error) {
	t.Helper()
	select {
	case <-p.Ready():
	case err := <-ended:
		t.Fatalf("ended before it was ready: %v", err)
	}
}

// serveOnce runs a proxy until it is ready, and then tells it to stop.
func serveOnce(t *testing.T, p *Proxy) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := start(ctx, p)
	ready(t, p, ended)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServesUntilToldToStop(t *testing.T) {
	cp := newCP(t)
	o := cp.options(t, "serve")
	o.Token = "secret-token"
	p := newProxy(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := start(ctx, p)
	ready(t, p, ended)
	addrs := p.Addrs()
	if len(addrs) != 2 || addrs["inbound:127.0.0.1:8080"] != "127.0.0.1:8080" || !strings.HasPrefix(addrs["admin"], "127.0.0.1:") {
		t.Errorf("%v", addrs)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("told to stop: %v", err)
	}
	want := []string{
		"args --drain-time-s 4 --drain-strategy immediate --disable-hot-restart -l warning",
		"mode 600", "started", "POST /healthcheck/fail", "POST /drain_listeners?graceful&inboundonly", "SIGTERM",
	}
	if diff := cmp.Diff(want, notes(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`{"mesh":"default","name":"web-1"}`}, cp.goodbyes); diff != "" {
		t.Error(diff)
	}
	if cp.tokens[0] != "Bearer secret-token" {
		t.Errorf("goodbye with %q", cp.tokens[0])
	}
	if left, _ := os.ReadDir(o.ConfigDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBootstrapRequest(t *testing.T) {
	cp := newCP(t)
	o := cp.options(t, "serve")
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	o.Name = ""
	o.DataplaneFile = write("dp.yaml", "type: Dataplane\nname: {{ name }}\nmesh: prod\nnetworking:\n  address: {{address}}\n")
	o.DataplaneVars = []string{"name=web-7", "address=10.0.0.1,x=y"}
	o.TokenFile = write("token", "file-token\n")
	o.CACertFile, o.CACert = write("ca.crt", cp.ca()), ""
	o.AdminPort = ""
	p := newProxy(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := start(ctx, p)
	ready(t, p, ended)
	if len(p.Addrs()) != 0 {
		t.Errorf("%v without an admin", p.Addrs())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	got := cp.requests[0]
	if v, ok := got["version"].(map[string]any)["kumaDp"].(map[string]any); !ok || v["version"] == "" {
		t.Errorf("%v", got["version"])
	}
	delete(got["version"].(map[string]any), "kumaDp")
	want := map[string]any{
		"mesh": "prod", "name": "web-7", "bootstrapVersion": "3", "caCert": cp.ca(), "dataplaneToken": "file-token",
		"dataplaneResource": "type: Dataplane\nname: web-7\nmesh: prod\nnetworking:\n  address: 10.0.0.1,x=y\n",
		"version":           map[string]any{"envoy": map[string]any{"version": "1.40.0", "build": "0ee1b9/1.40.0/Clean/RELEASE/BoringSSL"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnvoyDies(t *testing.T) {
	for name, tt := range map[string]struct {
		behave string
		kill   func(t *testing.T, p *Proxy)
		status int
	}{
		"at once":  {"exit 3", nil, 3},
		"later":    {"serve", func(t *testing.T, p *Proxy) { _, _ = newAdminFor(t, p).do(t.Context(), http.MethodPost, "/die") }, 7},
		"and fine": {"exit 0", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cp := newCP(t)
			p := newProxy(t, cp.options(t, tt.behave))
			ended := start(t.Context(), p)
			if tt.kill != nil {
				ready(t, p, ended)
				tt.kill(t, p)
			}
			err := <-ended
			var exit *EnvoyExitError
			if tt.status == 0 && err != nil || tt.status != 0 && (!errors.As(err, &exit) || exit.ExitCode() != tt.status) {
				t.Errorf("got %v", err)
			}
			if len(cp.goodbyes) != 1 {
				t.Errorf("%d goodbyes", len(cp.goodbyes))
			}
		})
	}
}

func newAdminFor(t *testing.T, p *Proxy) *admin {
	t.Helper()
	a := newAdmin(p.Addrs()["admin"])
	t.Cleanup(a.close)
	return a
}

func TestStopWhileNotReady(t *testing.T) {
	for _, behave := range []string{"unready", "deaf"} {
		t.Run(behave, func(t *testing.T) {
			cp := newCP(t)
			p := newProxy(t, cp.options(t, behave))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := start(ctx, p)
			if behave == "deaf" {
				ready(t, p, ended)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBootstrapIsRetried(t *testing.T) {
	cp := newCP(t, 404, 503, 500)
	p := newProxy(t, cp.options(t, "serve"))
	serveOnce(t, p)
	if len(cp.requests) != 4 {
		t.Errorf("%d requests", len(cp.requests))
	}
}

func TestBootstrapIsRefused(t *testing.T) {
	for _, status := range []int{400, 401, 403, 422} {
		cp := newCP(t, status)
		cp.reason = "authentication failed:\ntoken has expired"
		err := newProxy(t, cp.options(t, "serve")).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(status)) || !strings.HasSuffix(err.Error(), ": authentication failed: token has expired") {
			t.Errorf("%d: %v", status, err)
		}
		if len(cp.requests) != 1 || len(cp.goodbyes) != 0 || notes(t) != nil {
			t.Errorf("%d: %d requests, %d goodbyes, envoy: %v", status, len(cp.requests), len(cp.goodbyes), notes(t))
		}
	}
}

func TestBootstrapIsGivenUp(t *testing.T) {
	cp := newCP(t)
	o := cp.options(t, "serve")
	o.RetryMaxDuration = 20 * time.Millisecond
	cp.Close()
	err := newProxy(t, o).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "bootstrap: given up after 20ms") {
		t.Error(err)
	}
	// Told to stop meanwhile.
	ctx, cancel := context.WithCancel(t.Context())
	o.RetryMaxDuration, o.RetryBackoff = 2*time.Hour, time.Hour
	waits := make(chan struct{})
	p, err := New(o, slog.New(slog.NewTextHandler(once(func() { close(waits) }), nil)), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := start(ctx, p)
	<-waits
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

type onceWriter struct {
	f  func()
	mu sync.Once
}

func once(f func()) *onceWriter { return &onceWriter{f: f} }

func (w *onceWriter) Write(b []byte) (int, error) {
	w.mu.Do(w.f)
	return len(b), nil
}

func TestControlPlaneIsVerified(t *testing.T) {
	cp := newCP(t)
	o := cp.options(t, "serve")
	o.RetryMaxDuration = 0
	o.CACert = makeCA(t)
	if err := newProxy(t, o).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another CA: %v", err)
	}
	o.CACert = ""
	var logged bytes.Buffer
	p, err := New(o, slog.New(slog.NewTextHandler(&logged, nil)), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	serveOnce(t, p)
	if !strings.Contains(logged.String(), "not verified") {
		t.Errorf("no warning in %s", logged.String())
	}
}

// Whoever kills zone-dp kills its Envoy.
func TestEnvoyDiesWithUs(t *testing.T) {
	cp := newCP(t)
	cp.options(t, "serve")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), runVariable+"="+cp.URL, "TMPDIR="+temp)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Envoy's output: at its end once Envoy is gone.
	lives, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(lives); err != nil {
		t.Errorf("%q, %v", text, err)
	}
	_ = cmd.Wait()
	if left, err := os.ReadDir(temp); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if slices.Contains(notes(t), "SIGTERM") {
		t.Error("envoy was told, not killed")
	}
}

func TestTakePort(t *testing.T) {
	var mu sync.Mutex
	taken := map[uint16]bool{}
	var releases []func()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			port, release, err := takePort(40100, 40199)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if taken[port] {
				t.Errorf("port %d twice", port)
			}
			taken[port] = true
			releases = append(releases, release)
		})
	}
	wg.Wait()
	for _, release := range releases {
		release()
	}
	port, release, err := takePort(40100, 40199)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, _, err := takePort(port, port); err == nil || !strings.Contains(err.Error(), "--admin-port") {
		t.Errorf("a port twice: %v", err)
	}
}
