package listen_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meridian-mesh/meridian/pkg/listen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// One TLS port answers gRPC clients and HTTP clients of both protocol versions.
func TestSplitServesBoth(t *testing.T) {
	cert, pool := certificate(t)
	set := listen.New()
	l, err := set.TCP("dpServer", "dpServer.port", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	split := listen.NewSplit(l.Addr(), &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	rpc := grpc.NewServer(grpc.Creds(split))
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	set.GRPC("dpServer", l, rpc)
	set.HTTP("bootstrap", split, &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			t.Error("handler does not see the TLS state")
		}
		_, _ = io.WriteString(w, "over http")
	})})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- set.Serve(ctx, time.Second) }()

	conn, err := grpc.NewClient(set.Addrs()["dpServer"], grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	_ = conn.Close()

	for _, h2 := range []bool{false, true} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: h2}
		resp, err := (&http.Client{Transport: tr}).Get("https://" + set.Addrs()["dpServer"])
		if err != nil {
			t.Fatalf("HTTP, offering h2 %v: %v", h2, err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != "over http" {
			t.Errorf("HTTP, offering h2 %v: got %q", h2, body)
		}
		tr.CloseIdleConnections()
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
}

// A port in use is named by its key, and nothing of the set stays open.
func TestAllPortsOrNone(t *testing.T) {
	set := listen.New()
	first, err := set.TCP("http", "apiServer.http.port", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = set.TCP("kds", "multizone.global.kds.grpcPort", "127.0.0.1", first.Addr().(*net.TCPAddr).Port)
	if err == nil {
		t.Fatal("the same port was opened twice")
	}
	if got := err.Error(); got[:len("multizone.global.kds.grpcPort: ")] != "multizone.global.kds.grpcPort: " {
		t.Errorf("error %q does not begin with the key", got)
	}
	if _, err := first.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("first listener still open: %v", err)
	}
}

// The first task that fails ends the others and is the result.
func TestServeEndsWithFirstFailure(t *testing.T) {
	set := listen.New()
	boom := errors.New("boom")
	set.Task("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	set.Task("fails", func(context.Context) error { return boom })
	if err := set.Serve(t.Context(), time.Second); !errors.Is(err, boom) {
		t.Errorf("got %v, want %v", err, boom)
	}
}
