// Package e2e holds the scenarios: each is written once and runs in this process, with simulated Envoys, and
// as processes, with real Envoys and real traffic.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// suite is what the tests share: it is set once, before they start.
var suite struct {
	programs harness.Programs
	envoy    string
	envoyErr error
	// require makes a failure of every skip.
	require bool
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	root, err := harness.Root()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	suite.require = os.Getenv("MERIDIAN_E2E_REQUIRE") == "1"
	if dir := os.Getenv("MERIDIAN_E2E_BIN"); dir != "" {
		suite.programs = harness.Programs{Dir: dir}
	} else {
		dir, err := os.MkdirTemp("", "meridian-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if suite.programs, err = harness.Build(ctx, root, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	suite.envoy, suite.envoyErr = harness.Envoy(ctx, root)
	return m.Run()
}

// missing skips a test for want of something, by name, or fails it where skips are not allowed.
func missing(t *testing.T, what string) {
	t.Helper()
	if suite.require {
		t.Fatalf("%s is missing: %s", t.Name(), what)
	}
	t.Skipf("SKIPPED %s: %s", t.Name(), what)
}

// envoy is the path of the real Envoy.
func envoy(t *testing.T) string {
	t.Helper()
	if suite.envoyErr != nil {
		missing(t, suite.envoyErr.Error())
	}
	return suite.envoy
}

// tool is the path of a program that a test needs.
func tool(t *testing.T, name, hint string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, fmt.Sprintf("%s is not installed (%s)", name, hint))
	}
	return path
}

// within is a context that ends after d, or with the test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("not within %s", d))
	t.Cleanup(cancel)
	return ctx
}

// until asks again until it is so, for at most d, and gives how long it took.
func until(t *testing.T, d time.Duration, what string, ask func(context.Context) error) time.Duration {
	t.Helper()
	begun := time.Now()
	if err := harness.Until(within(t, d), what, ask); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

// must gives a value that came without an error.
func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// freePort is a port to give to a program.
func freePort(t *testing.T) int {
	t.Helper()
	p, err := harness.FreePort(0)
	return must(t, p, err)
}

// keepLog writes a program's log next to the test's name if the test fails.
func keepLog(t *testing.T, p *harness.Process) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			log := p.Stderr()
			if len(log) > 8<<10 {
				log = "…" + log[len(log)-8<<10:]
			}
			t.Logf("log of %s:\n%s", p.Name, log)
		}
	})
}

// path joins a test's directory with names.
func path(dir string, names ...string) string {
	return filepath.Join(append([]string{dir}, names...)...)
}
