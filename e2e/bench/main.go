// Command bench measures a global control plane, a zone control plane and simulated proxies on this machine,
// over loopback: how long a write takes to get to the proxies, what a proxy costs, and the same for many zones.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

func main() {
	bin := flag.String("bin", "bin", "directory of global-cp and zone-cp")
	sizes := flag.String("n", "1,100,500,1000", "numbers of proxies in one zone; 0 leaves one zone out")
	rounds := flag.Int("rounds", 30, "writes that a median is taken of")
	objects := flag.Int("objects", 100_000, "objects on the global control plane that serves many zones")
	zones := flag.Int("zones", 100, "scripted zones; 0 leaves many zones out")
	realZones := flag.Int("real", 10, "real zones beside the scripted ones")
	api := flag.Bool("rest", true, "measure the REST API")
	profiles := flag.String("profiles", "", "directory for CPU profiles, taken while writes go out to the most proxies")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	switch flag.Arg(0) {
	case scriptedArg:
		err = runScripted(ctx, os.Stdin, os.Stdout)
	case bareArg:
		err = runBare(os.Stdin, os.Stdout)
	default:
		many := scale{objects: *objects, scripted: *zones, real: *realZones, rounds: *rounds}
		err = run(ctx, *bin, *sizes, *rounds, *profiles, *api, many, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, sizes string, rounds int, profiles string, api bool, many scale, out io.Writer) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	var counts []int
	for s := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return fmt.Errorf("-n: %q is no number of proxies", s)
		}
		if n > 0 {
			counts = append(counts, n)
		}
	}
	dir, err := os.MkdirTemp("", "meridian-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	fmt.Fprintf(out, "%s/%s, %d cores, %s; everything on this machine, the simulated proxies too\n\n",
		runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())

	r := &report{}
	if api {
		if err := (rest{harness.Programs{Dir: bin}, dir, r, profiles}).run(ctx); err != nil {
			return fmt.Errorf("rest: %w", err)
		}
	}
	if len(counts) > 0 {
		if err := oneZone(ctx, bin, dir, counts, rounds, profiles, r); err != nil {
			return err
		}
	}
	if many.scripted > 0 {
		many.programs, many.dir, many.report = harness.Programs{Dir: bin}, dir, r
		if err := many.run(ctx); err != nil {
			return fmt.Errorf("many zones: %w", err)
		}
	}
	r.print(out)
	return nil
}

// oneZone measures a zone with numbers of proxies.
func oneZone(ctx context.Context, bin, dir string, counts []int, rounds int, profiles string, r *report) error {
	b, err := start(ctx, bin, dir, rounds, r)
	if err != nil {
		return err
	}
	defer b.close()
	b.profiles = profiles
	if err := b.zoneStore(ctx); err != nil {
		return err
	}
	for i, n := range counts {
		if err := b.proxies(ctx, n, i == len(counts)-1); err != nil {
			return fmt.Errorf("%d proxies: %w", n, err)
		}
	}
	return b.reconnect(ctx)
}

// report collects what was measured.
type report struct{ rows [][4]string }

// durations adds a row for a series; goal 0 is none.
func (r *report) durations(what string, s series, goal time.Duration) {
	ratio := ""
	if goal > 0 {
		ratio = fmt.Sprintf("%s (%.2f)", goal, float64(s.median())/float64(goal))
	}
	r.add(what, round(s.median()), fmt.Sprintf("%s to %s, p95 %s, n %d", round(s.at(0)), round(s.at(1)), round(s.at(.95)), len(s)), ratio)
}

func (r *report) add(what, value, more, goal string) {
	r.rows = append(r.rows, [4]string{what, value, more, goal})
	fmt.Fprintf(os.Stderr, "%s: %s %s\n", what, value, more)
}

func (r *report) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	fmt.Fprintf(w, "| measured\t| median or value\t| spread\t| goal (ratio)\t|\n|---\t|---\t|---\t|---\t|\n")
	for _, row := range r.rows {
		fmt.Fprintf(w, "| %s\t| %s\t| %s\t| %s\t|\n", row[0], row[1], row[2], row[3])
	}
	_ = w.Flush()
}

func round(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}
