package zonedp

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newAPI is a control plane's API, whose catalog has the given answers, one after the other and then the last.
func newAPI(t *testing.T, answers ...string) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/catalog" || r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s, authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
		}
		answer := answers[min(int(asked.Add(1)), len(answers))-1]
		if status, ok := strings.CutPrefix(answer, "status "); ok {
			var code int
			_, _ = fmt.Sscan(status, &code)
			http.Error(w, "no", code)
			return
		}
		_, _ = fmt.Fprint(w, answer)
	}))
	t.Cleanup(srv.Close)
	return srv, &asked
}

func catalogOf(url string) string {
	return fmt.Sprintf(`{"apis": {"bootstrap": {"url": %q}, "admin": {"localUrl": ""}}}`, url)
}

// The port for proxies is found by way of the API, as soon as that is there.
func TestCatalog(t *testing.T) {
	cp := newCP(t)
	o := cp.options(t, "serve")
	api, asked := newAPI(t, "status 503", catalogOf(cp.URL))
	o.CPAddress, o.Token = api.URL, "secret"
	p := newProxy(t, o)
	serveOnce(t, p)
	if asked.Load() != 2 || len(cp.requests) != 1 || len(cp.goodbyes) != 1 {
		t.Errorf("%d questions, %d bootstraps, %d goodbyes", asked.Load(), len(cp.requests), len(cp.goodbyes))
	}
}

// What the catalog leads to must be the control plane that is trusted.
func TestCatalogLeadsElsewhere(t *testing.T) {
	cp := newCP(t)
	// ask asks for a bootstrap, without an Envoy for it.
	ask := func(address, ca string, patience time.Duration) error {
		t.Helper()
		o := defaults()
		o.CPAddress, o.CACert, o.RetryMaxDuration = address, ca, patience
		s, err := o.check()
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(&s)
		defer c.close()
		_, err = c.fetch(t.Context(), &s, 0, envoyVersion{}, slog.New(slog.DiscardHandler))
		if err := c.goodbye(t.Context(), &s); err != nil && c.base == nil {
			t.Errorf("a goodbye to nobody: %v", err)
		}
		return err
	}
	for answer, want := range map[string]string{
		catalogOf(""):                      "is no zone control plane",
		"{}":                               "is no zone control plane",
		catalogOf("http://localhost:5681"): "must be https://host:port",
		catalogOf("ftp://x"):               "must be https://host:port",
		"<html>":                           "no JSON",
		"status 404":                       "has no /catalog",
		"status 403":                       "403",
	} {
		api, asked := newAPI(t, answer)
		if err := ask(api.URL, cp.ca(), time.Minute); err == nil || !strings.Contains(err.Error(), want) || asked.Load() != 1 {
			t.Errorf("%s: %v after %d questions", answer, err, asked.Load())
		}
	}
	api, _ := newAPI(t, catalogOf(cp.URL))
	if err := ask(api.URL, makeCA(t), 0); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("another CA: %v", err)
	}
	if len(cp.requests) > 0 {
		t.Errorf("it asked: %v", cp.requests)
	}
}
