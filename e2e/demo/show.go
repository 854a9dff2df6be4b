package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

const (
	// each request to a zone's web comes so long after the one before.
	pace = 100 * time.Millisecond
	// window in which answers are counted.
	window = 5 * time.Second
	// refresh of the table.
	refresh = time.Second
)

// load asks each zone's web again and again and remembers who answered.
type load struct {
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	answers map[string][]answer
}

type answer struct {
	at time.Time
	by string
}

func startLoad(m *mesh) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, answers: map[string][]answer{}}
	for _, z := range m.zones {
		l.tasks.Go(func() { l.ask(ctx, z) })
	}
	return l
}

func (l *load) close() {
	l.cancel()
	l.tasks.Wait()
}

func (l *load) ask(ctx context.Context, z *zone) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a, err := sample.Call(ctx, client, fmt.Sprintf("http://127.0.0.1:%d/", z.entry))
		by := "failed"
		if err == nil && a.Called != nil {
			by = a.Called.Service.Service + " " + a.Called.Version
		}
		l.mu.Lock()
		l.answers[z.name] = append(l.answers[z.name], answer{time.Now(), by})
		l.mu.Unlock()
	}
}

// recent counts who answered in the last window.
func (l *load) recent(zone string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := time.Now().Add(-window)
	l.answers[zone] = slices.DeleteFunc(l.answers[zone], func(a answer) bool { return a.at.Before(since) })
	counts := map[string]int{}
	for _, a := range l.answers[zone] {
		counts[a.by]++
	}
	var parts []string
	for by, n := range counts {
		parts = append(parts, fmt.Sprintf("%s: %d", by, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// show draws the table until the context ends: in place on a terminal, else a line for each change.
func show(ctx context.Context, m *mesh, l *load, out io.Writer) {
	terminal := isTerminal(out)
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	last, lines := "", 0
	for {
		text := table(ctx, m, l, terminal)
		switch {
		case ctx.Err() != nil:
			return
		case terminal:
			if lines > 0 {
				fmt.Fprintf(out, "\x1b[%dA\x1b[J", lines)
			}
			fmt.Fprint(out, text)
			lines = strings.Count(text, "\n")
		case text != last:
			fmt.Fprint(out, text)
			last = text
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// table is what is known now. Without counts it changes only when something happens.
func table(ctx context.Context, m *mesh, l *load, counts bool) string {
	ctx, cancel := context.WithTimeout(ctx, refresh)
	defer cancel()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	global, up := m.global.client()
	status := map[string]harness.ZoneStatus{}
	if up {
		if s, err := global.ZoneStatus(ctx); err == nil {
			status = s
		} else {
			up = false
		}
	}
	answered := ""
	if counts {
		answered = fmt.Sprintf("\tANSWERED BY (last %s)", window)
	}
	fmt.Fprintf(w, "ZONE\tCONTROL PLANE\tON THE GLOBAL\tAPPLIED\tLIVE\tHEAD\tPROXIES%s\n", answered)
	for _, z := range m.zones {
		control, proxies := "stopped", "?"
		if c, runs := z.client(); runs {
			control = "runs"
			proxies = online(ctx, c)
		}
		seen := "(global is stopped)"
		var p harness.Position
		if up {
			seen = "inactive"
			if status[z.name].Active {
				seen = "active"
			}
			p, _ = global.ZonePosition(ctx, z.name)
		}
		if counts {
			answered = "\t" + l.recent(z.name)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s%s\n", z.name, control, seen, number(p.Applied), number(p.Live), number(p.Head), proxies, answered)
	}
	_ = w.Flush()
	return b.String()
}

func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// online counts a zone's proxies that have a stream.
func online(ctx context.Context, c *harness.Client) string {
	var page harness.Items[struct {
		Insight struct {
			Subscriptions []struct {
				DisconnectTime string `json:"disconnectTime"`
			} `json:"subscriptions"`
		} `json:"dataplaneInsight"`
	}]
	if err := c.Get(ctx, "/dataplanes+insights", &page); err != nil {
		return "?"
	}
	n := 0
	for _, d := range page.Items {
		if slices.ContainsFunc(d.Insight.Subscriptions, func(s struct {
			DisconnectTime string `json:"disconnectTime"`
		},
		) bool {
			return s.DisconnectTime == ""
		}) {
			n++
		}
	}
	return fmt.Sprintf("%d of %d", n, len(page.Items))
}
