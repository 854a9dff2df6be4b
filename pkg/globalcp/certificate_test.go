package globalcp_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/ctl"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
)

// TestGeneratedCertificates: what `meridianctl generate tls-certificate` makes serves as the HTTPS API's own, and as
// that of an administrator.
func TestGeneratedCertificates(t *testing.T) {
	c := options(t, config.StoreMemory)
	dir := t.TempDir()
	clients := filepath.Join(dir, "clients")
	if err := os.Mkdir(clients, 0o700); err != nil {
		t.Fatal(err)
	}
	generate := func(cert, key string, args ...string) {
		t.Helper()
		root := &cobra.Command{Use: "meridianctl", SilenceErrors: true, SilenceUsage: true}
		root.SetOut(io.Discard)
		ctl.AddCommands(root)
		root.SetArgs(append([]string{"generate", "tls-certificate", "--cert-file", cert, "--key-file", key}, args...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.APIServer.HTTPS.TLSCertFile, c.APIServer.HTTPS.TLSKeyFile = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	c.APIServer.Auth.ClientCertsDir, c.APIServer.Auth.AllowFromLocalhost = clients, false
	admin, adminKey := filepath.Join(clients, "admin.pem"), filepath.Join(dir, "admin.key")
	generate(c.APIServer.HTTPS.TLSCertFile, c.APIServer.HTTPS.TLSKeyFile, "--type", "server", "--cp-hostname", "127.0.0.1")
	generate(admin, adminKey, "--type", "client")

	g, err := globalcp.New(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, g)()
	ca, err := os.ReadFile(c.APIServer.HTTPS.TLSCertFile)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(admin, adminKey)
	if err != nil {
		t.Fatal(err)
	}
	put := func(shown ...tls.Certificate) int {
		t.Helper()
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: shown}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+g.Addrs()["https"]+"/meshes/default/secrets/s", strings.NewReader(`{"data":"AAAA"}`))
		if err != nil {
			t.Fatal(err)
		}
		a, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		return a.StatusCode
	}
	if got := put(); got != http.StatusForbidden && got != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d", got)
	}
	if got := put(pair); got != http.StatusCreated {
		t.Errorf("with the administrator's certificate: %d", got)
	}
}
