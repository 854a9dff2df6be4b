package globalcp_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options have free ports of the loopback interface only.
func options(t *testing.T, typ string) *config.Global {
	t.Helper()
	c := config.DefaultGlobal()
	dir := t.TempDir()
	c.General.WorkDir = dir
	c.Store.Type, c.Store.SQLite.Path, c.Store.EncryptionKeyFile = typ, filepath.Join(dir, "cp.db"), filepath.Join(dir, "store.key")
	c.APIServer.HTTP.Port, c.APIServer.HTTPS.Port, c.APIServer.HTTPS.Interface = 0, 0, "127.0.0.1"
	c.Diagnostics.ServerPort = 0
	c.Multizone.Global.KDS.GRPCPort, c.Multizone.Global.KDS.Interface = 0, "127.0.0.1"
	return &c
}

// ports are those that may be taken, by their keys.
func ports(c *config.Global) map[string]*int {
	return map[string]*int{
		"apiServer.https.port": &c.APIServer.HTTPS.Port, "multizone.global.kds.grpcPort": &c.Multizone.Global.KDS.GRPCPort,
		"diagnostics.serverPort": &c.Diagnostics.ServerPort,
	}
}

// TestLife: it is ready with its default mesh, keeps it, and stops.
func TestLife(t *testing.T) {
	for _, typ := range []string{config.StoreMemory, config.StoreSQLite} {
		t.Run(typ, func(t *testing.T) {
			c := options(t, typ)
			for range 2 {
				g, err := globalcp.New(t.Context(), c, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				stop := run(t, g)
				for _, name := range []string{"http", "https", "kds", "diagnostics"} {
					if g.Addrs()[name] == "" {
						t.Errorf("no address of %s in %v", name, g.Addrs())
					}
				}
				if code, body := get(t, g.Addrs()["http"], "/meshes/default"); code != http.StatusOK {
					t.Errorf("the default mesh: %d %s", code, body)
				}
				if code, body := get(t, g.Addrs()["diagnostics"], "/ready"); code != http.StatusOK || strings.Contains(body, "degraded") {
					t.Errorf("ready: %d %s", code, body)
				}
				stop()
			}
		})
	}
}

// cp is what the tests need of a control plane.
type cp interface {
	Run(context.Context) error
	Ready() <-chan struct{}
	Addrs() map[string]string
}

// run serves until stop is called, which waits and says how it ended.
func run(t *testing.T, c cp) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	<-c.Ready()
	return func() {
		t.Helper()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("did not stop within 5 s")
		}
	}
}

// get fetches a page of a port.
func get(t *testing.T, address, path string) (int, string) {
	t.Helper()
	r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

// TestDefaultMeshThatIsNone: the start fails, and says once which key is wrong.
func TestDefaultMeshThatIsNone(t *testing.T) {
	c := options(t, config.StoreMemory)
	c.Defaults.Mesh = "bogus: 1"
	_, err := globalcp.New(t.Context(), c, slog.New(slog.DiscardHandler))
	if want := "defaults.mesh: bogus: unknown field"; err == nil || err.Error() != want {
		t.Errorf("%v instead of %s", err, want)
	}
}

// TestAllPortsOrNone: with one port taken, the start fails with its key, and the others are free again.
func TestAllPortsOrNone(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := first.Addr().(*net.TCPAddr).Port
	_ = first.Close()
	c := options(t, config.StoreSQLite)
	c.APIServer.HTTP.Port = free
	for key, port := range ports(c) {
		*port = taken.Addr().(*net.TCPAddr).Port
		if _, err := globalcp.New(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), key+": ") {
			t.Errorf("%s: error %v", key, err)
		}
		*port = 0
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(free))
		if err != nil {
			t.Fatalf("%s: the HTTP port is still open: %v", key, err)
		}
		_ = l.Close()
	}
	made, err := globalcp.New(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	run(t, made)()
}
