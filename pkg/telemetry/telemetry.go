// Package telemetry is what a process says about itself: its log, its metrics, its health.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewLogger writes lines of key=value from a level on: debug, info, warn, error, or off.
func NewLogger(w io.Writer, level string) (*slog.Logger, error) {
	if level == "off" {
		return slog.New(slog.DiscardHandler), nil
	}
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil || strings.ContainsAny(level, "+-") {
		return nil, fmt.Errorf("log level: must be off, debug, info, warn or error, got %q", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}

// NewRegistry makes a registry with the metrics of the Go runtime and of the process, and
// meridian_build_info with the given labels.
func NewRegistry(build map[string]string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "meridian_build_info", Help: "Always 1; the labels say which build runs.", ConstLabels: build,
	})
	info.Set(1)
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), info)
	return r
}

// Health says whether a process serves, and what ails it meanwhile. It is safe for concurrent use; the zero
// one is not ready.
type Health struct {
	mu      sync.Mutex
	ready   bool
	ailings map[string]string
}

// SetReady says whether the process serves.
func (h *Health) SetReady(ready bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = ready
}

// Set says what ails a part of the process; nil says that it is well (again). A process with an ailing part
// serves all the same.
func (h *Health) Set(part string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.ailings, part)
		return
	}
	if h.ailings == nil {
		h.ailings = map[string]string{}
	}
	h.ailings[part] = err.Error()
}

// Status gives whether the process serves, and one line, "part: reason", for each part that ails, in order.
func (h *Health) Status() (ready bool, degraded []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, part := range slices.Sorted(maps.Keys(h.ailings)) {
		degraded = append(degraded, part+": "+strings.ReplaceAll(h.ailings[part], "\n", " "))
	}
	return h.ready, degraded
}

// Ailing lists the parts that ail, in order.
func (h *Health) Ailing() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.ailings))
}

// Diagnostics serves /healthy (200 as long as the process answers), /ready (200, or 503 while it does not
// serve; the body says what ails it), /metrics, and with debug /debug/pprof.
func Diagnostics(h *Health, metrics prometheus.Gatherer, debug bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthy", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		ready, degraded := h.Status()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "not ready\n")
		}
		for _, line := range degraded {
			_, _ = io.WriteString(w, "degraded: "+line+"\n")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	if debug {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}
