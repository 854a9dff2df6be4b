package zonecp_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/zonecp"
)

// TestFilesOfTheConnection: what the zone verifies the global control plane by, and what it shows itself, is read at each
// connect.
func TestFilesOfTheConnection(t *testing.T) {
	t.Parallel()
	generate := func(name string) (cert, key []byte, pair tls.Certificate) {
		t.Helper()
		cert, key, err := auth.SelfSigned{Name: name, Server: true, Client: true, Hosts: []string{"127.0.0.1"}, Now: time.Now()}.Make()
		if err != nil {
			t.Fatal(err)
		}
		if pair, err = tls.X509KeyPair(cert, key); err != nil {
			t.Fatal(err)
		}
		return cert, key, pair
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	other, _, _ := generate("other")
	global, _, pair := generate("global")
	cert, key, _ := generate("zone 1")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Who each client is that believes this server.
	clients := func() <-chan string {
		names := make(chan string, 100)
		go func() {
			defer close(names)
			for {
				raw, err := l.Accept()
				if err != nil {
					return
				}
				conn := tls.Server(raw, &tls.Config{
					MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
				})
				name := "nobody"
				if conn.Handshake() == nil {
					name = conn.ConnectionState().PeerCertificates[0].Subject.CommonName
				}
				_ = conn.Close()
				select {
				case names <- name:
				default: // Nobody asks any more.
				}
			}
		}()
		return names
	}()
	t.Cleanup(func() {
		_ = l.Close()
		for range clients {
			continue // until it has ended
		}
	})

	c := options(t, config.StoreMemory)
	c.Mode, c.Multizone.Zone.Name, c.Multizone.Zone.GlobalAddress = config.ModeZone, "zone-1", "grpcs://"+l.Addr().String()
	k := &c.Multizone.Zone.KDS
	k.RootCAFile, k.TLSCertFile, k.TLSKeyFile = write("ca.pem", other), write("zone.pem", cert), write("zone.key", key)
	z, err := zonecp.New(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	stop := run(t, z)
	defer stop()
	next := func(want string) {
		t.Helper()
		late := time.After(10 * time.Second)
		for got := "none"; got != want; {
			select {
			case got = <-clients:
			case <-late:
				t.Fatalf("no %s came, but %s", want, got)
			}
		}
	}
	next("nobody")
	write("ca.pem", global)
	next("zone 1")
	cert, key, _ = generate("zone 2")
	write("zone.pem", cert)
	write("zone.key", key)
	next("zone 2")

	k.RootCAFile = filepath.Join(dir, "none")
	if _, err := zonecp.New(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("it starts without the CA that it is to verify by")
	}
}
