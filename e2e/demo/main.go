// Command demo runs a whole mesh on one machine: a global control plane, two zones, and in each a web that
// calls two versions of a backend through real Envoys. It shows what happens and prints what to try. Ctrl-C
// ends everything that it started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

func main() {
	bin := flag.String("bin", "bin", "directory of global-cp, zone-cp and zone-dp")
	envoy := flag.String("envoy", os.Getenv("ENVOY"), "path of Envoy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *envoy, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run shows the demo until the context ends, and cleans up.
func run(ctx context.Context, bin, envoy string, out io.Writer) (err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if envoy == "" {
		return errors.New("no Envoy: give -envoy or set ENVOY")
	}
	dir, err := os.MkdirTemp("", "meridian-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	begun := time.Now()
	m := newMesh(harness.Programs{Dir: bin}, envoy, dir)
	defer func() {
		fmt.Fprintln(out, "\nstopping …")
		if cerr := m.close(); cerr != nil {
			err = errors.Join(err, cerr)
			return
		}
		fmt.Fprintln(out, "everything has stopped")
	}()
	fmt.Fprintln(out, "starting a global control plane, two zones, seven services and nine Envoys …")
	if err := m.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%w\n(logs: %s)", err, m.logTail())
	}
	ctl, err := startControl(m)
	if err != nil {
		return err
	}
	defer ctl.close()
	load := startLoad(m)
	defer load.close()

	fmt.Fprintf(out, "\nup after %s\n\nTry, in another terminal:\n\n", time.Since(begun).Round(100*time.Millisecond))
	for _, s := range suggestions(m, ctl.addr()) {
		fmt.Fprintf(out, "# %s\n%s\n\n", s.what, s.command)
	}
	fmt.Fprintln(out, "Ctrl-C ends it.")
	fmt.Fprintln(out)
	show(ctx, m, load, out)
	return nil
}
