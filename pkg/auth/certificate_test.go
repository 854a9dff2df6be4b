package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestEnsureServerCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "work")
	made, err := EnsureServerCertificate(dir, "0.0.0.0", "10.1.2.3", "cp.example")
	if err != nil {
		t.Fatal(err)
	}
	for file, mode := range map[string]os.FileMode{"": 0o700, "ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644, "server.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%q has mode %o", file, info.Mode().Perm())
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 4 {
		t.Errorf("%d files", len(entries))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(made.CA)
	host, _ := os.Hostname()
	names := []string{"localhost", "127.0.0.1", "::1", "10.1.2.3", "cp.example", host}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		names = append(names, a.(*net.IPNet).IP.String())
	}
	for _, name := range names {
		if strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
		if _, err := made.Certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	read := func(file string) string {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	ca, server := read("ca.crt"), read("server.crt")
	if _, err := EnsureServerCertificate(dir, "10.1.2.3"); err != nil {
		t.Fatal(err)
	}
	if ca != read("ca.crt") || server != read("server.crt") {
		t.Error("made anew though it was good")
	}
	if _, err := EnsureServerCertificate(dir, "10.9.9.9"); err != nil {
		t.Fatal(err)
	}
	if ca != read("ca.crt") || server == read("server.crt") {
		t.Error("a new address wants a new certificate by the same CA")
	}
	server = read("server.crt")
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureServerCertificate(dir, "10.8.8.8"); err != nil || server != read("server.crt") {
		t.Errorf("without the CA's key: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "server.crt")); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureServerCertificate(dir); err == nil || !strings.Contains(err.Error(), "ca.key") {
		t.Errorf("nothing to sign with: %v", err)
	}
}

func TestBrokenCertificateFilesAreNamed(t *testing.T) {
	for _, file := range []string{"ca.crt", "ca.key", "server.crt", "server.key"} {
		dir := t.TempDir()
		if _, err := EnsureServerCertificate(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := EnsureServerCertificate(dir); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
	if _, err := LoadServerCertificate("/no/such.crt", "/no/such.key"); err == nil || !strings.Contains(err.Error(), "/no/such.crt") {
		t.Error(err)
	}
}

// clientCertificate makes a self-signed client certificate.
func clientCertificate(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestClientCertificates(t *testing.T) {
	trusted, trustedPEM := clientCertificate(t, "admin")
	untrusted, _ := clientCertificate(t, "admin")
	dir := t.TempDir()
	for file, data := range map[string][]byte{"admin.pem": trustedPEM, "README": []byte("no certificate")} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool, err := LoadClientCAs(dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := EnsureServerCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// caller gives what a server sees of a client.
	caller := func(pool *x509.CertPool, client ...tls.Certificate) (got Caller, err error) {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = CallerOf(r) }))
		srv.TLS = cert.TLS(pool)
		srv.Config.ErrorLog = discard()
		srv.StartTLS()
		defer srv.Close()
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(cert.CA)
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(client) == 0 {
				return &tls.Certificate{}, nil
			}
			return &client[0], nil
		}}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(srv.URL)
		if err != nil {
			return Caller{}, err
		}
		return got, resp.Body.Close()
	}
	if c, err := caller(pool, trusted); err != nil || !c.TLS || c.Certificate == nil || c.Certificate.Subject.CommonName != "admin" {
		t.Errorf("trusted: %+v, %v", c, err)
	}
	if c, err := caller(pool); err != nil || c.Certificate != nil || !c.TLS {
		t.Errorf("none: %+v, %v", c, err)
	}
	if _, err := caller(pool, untrusted); err == nil {
		t.Error("an untrusted certificate passes the handshake")
	}
	if c, err := caller(nil, trusted); err != nil || c.Certificate != nil {
		t.Errorf("nobody is trusted: %+v, %v", c, err)
	}
	empty, err := LoadClientCAs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := caller(empty, trusted); err == nil {
		t.Error("an empty directory trusts someone")
	}
}

func TestLoadClientCAsNamesTheFile(t *testing.T) {
	if p, err := LoadClientCAs(""); p != nil || err != nil {
		t.Errorf("no directory: %v, %v", p, err)
	}
	if _, err := LoadClientCAs("/no/such/dir"); err == nil || !strings.Contains(err.Error(), "/no/such/dir") {
		t.Error(err)
	}
	for name, data := range map[string]string{
		"text":  "hello",
		"noise": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"key":   "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.crt"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadClientCAs(dir); err == nil || !strings.Contains(err.Error(), "x.crt") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
