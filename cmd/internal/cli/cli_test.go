package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is a Process whose life the test tells.
type process struct {
	ready chan struct{}
	run   func(context.Context) error
}

func (p *process) Run(ctx context.Context) error { return p.run(ctx) }
func (p *process) Ready() <-chan struct{}        { return p.ready }
func (p *process) Addrs() map[string]string {
	return map[string]string{"http": "127.0.0.1:5681", "diagnostics": "127.0.0.1:5680"}
}

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func TestServe(t *testing.T) {
	ready := make(chan struct{})
	close(ready)
	t.Run("ready, then stopped", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := &process{ready: ready, run: untilDone}
		if err := Serve(ctx, p, writer(func([]byte) { cancel() }), Hold(&bytes.Buffer{}), time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Run("line and log", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		held := Hold(&stderr)
		_, _ = fmt.Fprintln(held, "starting")
		seen := make(chan struct{})
		p := &process{ready: ready, run: func(context.Context) error {
			<-seen
			return errors.New("broke")
		}}
		err := Serve(t.Context(), p, writer(func(b []byte) { stdout.Write(b); close(seen) }), held, 0)
		if err == nil || err.Error() != "broke" {
			t.Errorf("got %v", err)
		}
		if got := stdout.String(); got != `{"ready":true,"addresses":{"diagnostics":"127.0.0.1:5680","http":"127.0.0.1:5681"}}`+"\n" {
			t.Errorf("stdout %q", got)
		}
		if stderr.String() != "starting\n" {
			t.Errorf("stderr %q", stderr.String())
		}
	})
	t.Run("fails before it is ready", func(t *testing.T) {
		var stdout, stderr bytes.Buffer
		held := Hold(&stderr)
		_, _ = fmt.Fprintln(held, "starting")
		p := &process{ready: make(chan struct{}), run: func(context.Context) error { return errors.New("port in use") }}
		err := Serve(t.Context(), p, &stdout, held, 0)
		if code := Status(&stderr, err); code != 1 || stderr.String() != "Error: port in use\n" || stdout.Len() > 0 {
			t.Errorf("%d, %q, %q", code, stderr.String(), stdout.String())
		}
	})
	t.Run("does not end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			end := make(chan struct{})
			p := &process{ready: ready, run: func(context.Context) error { <-end; return nil }}
			start := time.Now()
			err := Serve(ctx, p, &bytes.Buffer{}, Hold(&bytes.Buffer{}), 4*time.Second)
			if err == nil || time.Since(start) != 4*time.Second {
				t.Errorf("%v after %s", err, time.Since(start))
			}
			close(end)
		})
	})
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

type exit int

func (e exit) Error() string { return fmt.Sprintf("envoy ended with %d", int(e)) }
func (e exit) ExitCode() int { return int(e) }

type lines string

func (l lines) Error() string   { return string(l) }
func (l lines) Multiline() bool { return true }

func TestStatus(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		code int
		line string
	}{
		"fine":      {nil, 0, ""},
		"an error":  {errors.New("x"), 1, "Error: x\n"},
		"two lines": {errors.New("x\r\ny"), 1, "Error: x; y\n"},
		"in lines":  {fmt.Errorf("file: %w", lines("x\ny")), 1, "Error: file: x\ny\n"},
		"commands":  {errors.New("x\x1b[2J\u009b1m\ty"), 1, "Error: x?[2J?1m?y\n"},
		"own code":  {fmt.Errorf("zone-dp: %w", exit(7)), 7, "Error: zone-dp: envoy ended with 7\n"},
	} {
		var stderr bytes.Buffer
		if code := Status(&stderr, tt.err); code != tt.code || stderr.String() != tt.line {
			t.Errorf("%s: %d, %q", name, code, stderr.String())
		}
	}
}

func TestHeldIsBounded(t *testing.T) {
	var out bytes.Buffer
	h := Hold(&out)
	line := strings.Repeat("x", 1000) + "\n"
	for range 2 * maxHeld / len(line) {
		_, _ = fmt.Fprint(h, line)
	}
	h.Release()
	if out.Len() != 2*maxHeld/len(line)*len(line) {
		t.Errorf("%d bytes came out", out.Len())
	}
}

func TestControlPlane(t *testing.T) {
	ready := make(chan struct{})
	close(ready)
	run := func(args []string, start func(context.Context, *config.Global, *slog.Logger) (*process, error)) (string, string, int) {
		var stdout, stderr bytes.Buffer
		root := Root("global-cp", "x", ControlPlane("run", config.LoadGlobal, start))
		root.SetArgs(args)
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		code := Status(&stderr, root.ExecuteContext(t.Context()))
		return stdout.String(), stderr.String(), code
	}
	fine := func(context.Context, *config.Global, *slog.Logger) (*process, error) {
		return &process{ready: make(chan struct{}), run: func(context.Context) error { return nil }}, nil
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	file := filepath.Join(dir, "cp.yaml")
	if err := os.WriteFile(file, []byte("reports: {enabled: true}\napiServer: {http: {port: 7}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run([]string{"run", "-c", file}, func(_ context.Context, c *config.Global, log *slog.Logger) (*process, error) {
		if c.APIServer.HTTP.Port != 7 {
			t.Errorf("port %d", c.APIServer.HTTP.Port)
		}
		log.Info("opening")
		return nil, errors.New("apiServer.http.port: in use")
	})
	if code != 1 || stderr != "Error: apiServer.http.port: in use\n" {
		t.Errorf("%d, %q", code, stderr)
	}
	_, stderr, code = run([]string{"run", "-c", file}, func(_ context.Context, _ *config.Global, log *slog.Logger) (*process, error) {
		log.Info("opening")
		return &process{ready: ready, run: func(context.Context) error { return errors.New("later") }}, nil
	})
	if code != 1 || !strings.HasSuffix(stderr, "Error: later\n") {
		t.Errorf("%d, %q", code, stderr)
	}
	for name, args := range map[string][]string{
		"no such file": {"run", "-c", filepath.Join(dir, "nowhere.yaml")},
		"log level":    {"run", "--log-level", "loud"},
		"flag":         {"run", "--no-such-flag"},
		"argument":     {"run", "now"},
		"command":      {"walk"},
	} {
		stdout, stderr, code := run(args, fine)
		if code != 1 || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("%s: %d, %q, %q", name, code, stderr, stdout)
		}
	}
	for _, args := range [][]string{{"-h"}, {"run", "-h"}, {"version"}, {"version", "--detailed"}, {"version", "-a"}} {
		if stdout, stderr, code := run(args, fine); code != 0 || stdout == "" || stderr != "" {
			t.Errorf("%v: %d, %q, %q", args, code, stdout, stderr)
		}
	}
}
