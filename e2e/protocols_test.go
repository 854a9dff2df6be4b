package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meridian-mesh/meridian/e2e/sample"
)

// Every protocol goes through two real Envoys: raw TCP, HTTP/1, HTTP/2 and gRPC.
func TestProtocols(t *testing.T) {
	envoy(t)
	zone := processes{}.zone(t, zoneOptions{})
	token := dataplaneToken(t, zone, "")
	protocols := []string{"tcp", "http", "http2", "grpc"}
	callee, caller := "type: Dataplane\nmesh: default\nname: callee\nnetworking:\n  address: 127.0.0.1\n  inbound:\n", web(t, "caller")
	outbound := map[string]string{}
	for _, p := range protocols {
		port := 0
		if p == "tcp" {
			port = echo(t)
		} else {
			port = serve(t, sample.Service{Service: p, Version: "v1"})
		}
		callee += fmt.Sprintf("  - {port: %d, servicePort: %d, tags: {kuma.io/service: s-%s, kuma.io/protocol: %s}}\n", freePort(t), port, p, p)
		out := freePort(t)
		caller += fmt.Sprintf("  - {port: %d, tags: {kuma.io/service: s-%s}}\n", out, p)
		outbound[p] = fmt.Sprintf("127.0.0.1:%d", out)
	}
	processes{}.proxy(t, zone, proxyOptions{dataplane: callee, token: token})
	processes{}.proxy(t, zone, proxyOptions{dataplane: caller, token: token})

	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	h1 := &http.Transport{}
	defer h1.CloseIdleConnections()
	ask := func(tr *http.Transport, addr, protocol string) func(context.Context) error {
		return func(ctx context.Context) error {
			a, err := sample.Call(ctx, &http.Client{Transport: tr}, "http://"+addr+"/")
			if err == nil && a.Protocol != protocol {
				err = fmt.Errorf("the service was asked over %s", a.Protocol)
			}
			return err
		}
	}
	conn, err := grpc.NewClient(outbound["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, conn, err)
	defer conn.Close()
	for p, try := range map[string]func(context.Context) error{
		"http":  ask(h1, outbound["http"], "HTTP/1.1"),
		"http2": ask(h2, outbound["http2"], "HTTP/2.0"),
		"grpc": func(ctx context.Context) error {
			r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			if err == nil && r.Status != healthpb.HealthCheckResponse_SERVING {
				err = errors.New("not serving")
			}
			return err
		},
		"tcp": func(ctx context.Context) error { return hello(ctx, outbound["tcp"]) },
	} {
		until(t, 5*time.Second, p, try)
	}
}

// echo runs a TCP echo until the test ends, and gives its port.
func echo(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, l, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- sample.Echo(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("echo: %v", err)
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// hello sends a word and wants it back.
func hello(ctx context.Context, addr string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		return fmt.Errorf("heard %q: %w", got, err)
	}
	return nil
}
