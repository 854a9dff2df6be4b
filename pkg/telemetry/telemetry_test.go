package telemetry

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	for level, want := range map[string][]string{
		"off": {}, "error": {"e"}, "warn": {"e", "w"}, "info": {"e", "w", "i"}, "debug": {"e", "w", "i", "d"}, "INFO": {"e", "w", "i"},
	} {
		var out bytes.Buffer
		l, err := NewLogger(&out, level)
		if err != nil {
			t.Fatal(err)
		}
		l.Error("e")
		l.Warn("w")
		l.Info("i")
		l.Debug("d")
		var got []string
		for line := range strings.Lines(out.String()) {
			_, msg, _ := strings.Cut(strings.TrimSpace(line), "msg=")
			got = append(got, msg)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: %v", level, got)
		}
	}
	for _, level := range []string{"", "loud", "info+2"} {
		if _, err := NewLogger(nil, level); err == nil {
			t.Errorf("%q is a level", level)
		}
	}
}

func TestDiagnostics(t *testing.T) {
	h := &Health{}
	plain := Diagnostics(h, NewRegistry(map[string]string{"version": "1.2.3"}), false)
	debug := Diagnostics(h, NewRegistry(nil), true)
	get := func(handler http.Handler, path string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	expect := func(handler http.Handler, path string, code int, body string) {
		t.Helper()
		if gotCode, gotBody := get(handler, path); gotCode != code || gotBody != body {
			t.Errorf("%s: %d %q, want %d %q", path, gotCode, gotBody, code, body)
		}
	}
	expect(plain, "/healthy", 200, "")
	expect(plain, "/ready", 503, "not ready\n")
	h.SetReady(true)
	expect(plain, "/ready", 200, "")
	h.Set("store", errors.New("disk full"))
	h.Set("global", errors.New("refused:\nno token"))
	expect(plain, "/ready", 200, "degraded: global: refused: no token\ndegraded: store: disk full\n")
	h.Set("store", nil)
	h.Set("global", nil)
	expect(plain, "/ready", 200, "")
	if _, body := get(plain, "/metrics"); !strings.Contains(body, `meridian_build_info{version="1.2.3"} 1`) || !strings.Contains(body, "go_goroutines") {
		t.Error(body)
	}
	if code, _ := get(plain, "/debug/pprof/"); code != 404 {
		t.Errorf("pprof without debug: %d", code)
	}
	if code, _ := get(debug, "/debug/pprof/heap"); code != 200 {
		t.Errorf("pprof with debug: %d", code)
	}
}
