package controlplane_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newBase(t *testing.T, typ string) (*controlplane.Base, config.General, config.Store) {
	t.Helper()
	dir := t.TempDir()
	g := config.General{WorkDir: dir}
	s := config.Store{Type: typ, SQLite: config.SQLite{Path: filepath.Join(dir, "cp.db")}, EncryptionKeyFile: filepath.Join(dir, "store.key")}
	b, err := controlplane.New(t.Context(), g, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b, g, s
}

// TestLife: what is added is served until the context ends, and then undone, the last thing first.
func TestLife(t *testing.T) {
	for _, typ := range []string{config.StoreMemory, config.StoreSQLite} {
		t.Run(typ, func(t *testing.T) {
			b, g, _ := newBase(t, typ)
			var undone []string
			for _, s := range []string{"first", "second"} {
				b.OnClose(func() error { undone = append(undone, s); return nil })
			}
			b.OnReady(func(h *telemetry.Health) { h.Set("thing", errors.New("ails")) })
			a := config.DefaultGlobal().APIServer
			a.HTTP.Port, a.HTTPS.Port, a.HTTPS.Interface = 0, 0, "127.0.0.1"
			if err := b.ServeAPI(a, controlplane.NewCertificates(g, "127.0.0.1"), api.Options{Mode: api.Global, ConfigJSON: []byte("{}")}); err != nil {
				t.Fatal(err)
			}
			if err := b.ServeDiagnostics(config.Diagnostics{Interface: "127.0.0.1"}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- b.Run(ctx) }()
			<-b.Ready()
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			for url, want := range map[string]string{
				b.Addrs()["http"] + "/meshes": "200 ", b.Addrs()["diagnostics"] + "/ready": "200 degraded: thing: ails",
			} {
				r, err := client.Get("http://" + url)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(r.Body)
				_ = r.Body.Close()
				if got := r.Status[:4] + string(body); !strings.HasPrefix(got, want) {
					t.Errorf("%s: %q, want %q", url, got, want)
				}
			}
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("did not stop")
			}
			if strings.Join(undone, " ") != "second first" {
				t.Errorf("undone: %v", undone)
			}
			if _, err := b.Store.Config().Apply(t.Context(), store.Batch{}); !errors.Is(err, store.ErrClosed) {
				t.Errorf("the store is left open: %v", err)
			}
		})
	}
}

// TestFailures: what can't be opened is named by its key, and nothing is left open.
func TestFailures(t *testing.T) {
	b, g, s := newBase(t, config.StoreSQLite)
	want := func(err error, key string) {
		t.Helper()
		if err == nil || !strings.HasPrefix(err.Error(), key) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q, want one line about %s", err, key)
		}
	}
	_, err := controlplane.New(t.Context(), g, s, slog.New(slog.DiscardHandler))
	want(err, "store.sqlite.path: ")
	bad := s
	bad.EncryptionKeyFile = g.WorkDir
	_, err = controlplane.New(t.Context(), g, bad, slog.New(slog.DiscardHandler))
	want(err, "store.encryptionKeyFile: ")
	certs := controlplane.NewCertificates(g)
	_, err = certs.For("dpServer.tlsCertFile", filepath.Join(g.WorkDir, "none"), filepath.Join(g.WorkDir, "none"))
	want(err, "dpServer.tlsCertFile: ")
	_, err = controlplane.ClientCAs("apiServer.auth.clientCertsDir", filepath.Join(g.WorkDir, "none"))
	want(err, "apiServer.auth.clientCertsDir: ")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	want(b.ServeDiagnostics(config.Diagnostics{Interface: "127.0.0.1", ServerPort: taken.Addr().(*net.TCPAddr).Port}), "diagnostics.serverPort: ")
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	again, err := controlplane.New(t.Context(), g, s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("the store is still held: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
