package auth

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSelfSigned(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for _, c := range []struct {
		name   string
		config SelfSigned
		usages []x509.ExtKeyUsage
		dns    []string
		ips    []string
		life   time.Duration
	}{
		{"server", SelfSigned{Server: true, Hosts: []string{"cp.example", "*.mesh_1.example", "localhost"}}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{"cp.example", "*.mesh_1.example", "localhost"}, nil, 87600 * time.Hour},
		{"addresses", SelfSigned{Server: true, Hosts: []string{"192.0.2.7", "::1"}}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{"localhost"}, []string{"192.0.2.7", "::1"}, 87600 * time.Hour},
		{"client", SelfSigned{Client: true, ValidFor: time.Hour}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil, nil, time.Hour},
		{"both", SelfSigned{Server: true, Client: true, Hosts: []string{"cp"}}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, []string{"cp", "localhost"}, nil, 87600 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Name, c.config.Now = "meridian", now
			certPEM, keyPEM, err := c.config.Make()
			if err != nil {
				t.Fatal(err)
			}
			pair, err := tls.X509KeyPair(certPEM, keyPEM)
			if err != nil {
				t.Fatal(err)
			}
			cert := pair.Leaf
			var ips []string
			for _, ip := range cert.IPAddresses {
				ips = append(ips, ip.String())
			}
			if d := cmp.Diff(c.usages, cert.ExtKeyUsage) + cmp.Diff(c.dns, cert.DNSNames) + cmp.Diff(c.ips, ips); d != "" {
				t.Error(d)
			}
			if !cert.IsCA || cert.Subject.CommonName != "meridian" || !cert.NotAfter.Equal(now.Add(c.life)) || !cert.NotBefore.Before(now) {
				t.Errorf("CA %t, %s, from %s to %s", cert.IsCA, cert.Subject, cert.NotBefore, cert.NotAfter)
			}
		})
	}
	for _, c := range []struct {
		config SelfSigned
		want   string
	}{
		{SelfSigned{}, "for a server, a client or both"},
		{SelfSigned{Server: true}, "needs the name or address"},
		{SelfSigned{Server: true, Hosts: []string{"https://cp:5682"}}, `"https://cp:5682" is neither a host name nor an address`},
		{SelfSigned{Server: true, Hosts: []string{""}}, `"" is neither`},
		{SelfSigned{Server: true, Hosts: []string{"a..b"}}, `"a..b" is neither`},
		{SelfSigned{Server: true, Hosts: []string{"a.*"}}, `"a.*" is neither`},
		{SelfSigned{Server: true, Hosts: []string{strings.Repeat("a", 64)}}, "is neither"},
		{SelfSigned{Server: true, Hosts: []string{strings.Repeat("a.", 127) + "a"}}, "is neither"},
	} {
		if _, _, err := c.config.Make(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.config, err, c.want)
		}
	}
}

// TestSelfSignedPair: a server shows its certificate to those who pinned it, and takes the one client whose
// certificate lies in its directory.
func TestSelfSignedPair(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	serverCert, serverKey, err := SelfSigned{Name: "cp", Server: true, Hosts: []string{"127.0.0.1"}, Now: time.Now()}.Make()
	if err != nil {
		t.Fatal(err)
	}
	show, err := LoadServerCertificate(write("server.pem", serverCert), write("server.key", serverKey))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "clients"), 0o700); err != nil {
		t.Fatal(err)
	}
	client := func(c SelfSigned) (tls.Certificate, []byte) {
		c.Name, c.Now = "client", time.Now()
		cert, key, err := c.Make()
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair, cert
	}
	known, pinned := client(SelfSigned{Client: true})
	write("clients/admin.pem", pinned)
	server, alsoPinned := client(SelfSigned{Server: true, Hosts: []string{"x"}})
	write("clients/server.pem", alsoPinned)
	stranger, _ := client(SelfSigned{Client: true})
	cas, err := LoadClientCAs(filepath.Join(dir, "clients"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := CallerOf(r).Certificate; c != nil {
			_, _ = io.WriteString(w, c.Subject.CommonName)
		}
	}))
	srv.TLS, srv.Config.ErrorLog = show.TLS(cas), log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	call := func(trusted []byte, pairs ...tls.Certificate) (string, error) {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(trusted)
		transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: pairs}}
		defer transport.CloseIdleConnections()
		r, err := (&http.Client{Transport: transport}).Get(srv.URL)
		if err != nil {
			return "", err
		}
		defer func() { _ = r.Body.Close() }()
		b, err := io.ReadAll(r.Body)
		return string(b), err
	}
	for _, c := range []struct {
		name  string
		pairs []tls.Certificate
		want  string
		fails bool
	}{
		{"nobody", nil, "", false},
		{"the pinned client", []tls.Certificate{known}, "client", false},
		// These bear the pinned one's name, so that they are shown at all.
		{"a stranger", []tls.Certificate{stranger}, "", true},
		{"a server's certificate", []tls.Certificate{server}, "", true},
	} {
		got, err := call(serverCert, c.pairs...)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	var unknown *tls.CertificateVerificationError
	if _, err := call(pinned, known); !errors.As(err, &unknown) {
		t.Errorf("a server that is not pinned: %v", err)
	}
	if block, _ := pem.Decode(serverCert); block == nil {
		t.Error("not PEM")
	}
}
