package sample_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/meridian-mesh/meridian/e2e/sample"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, run func(context.Context, net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func TestNamesItselfAndWhomItCalled(t *testing.T) {
	backend := serve(t, sample.Service{Service: "backend", Zone: "z", Version: "v2"}.Serve)
	web := serve(t, sample.Service{Service: "web", Zone: "z", Version: "v1", Calls: "http://" + backend + "/slow?for=1ms"}.Serve)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	a, err := sample.Call(t.Context(), client, "http://"+web+"/")
	if err != nil {
		t.Fatal(err)
	}
	if a.Service.Service != "web" || a.Called == nil || a.Called.Version != "v2" || a.Protocol != "HTTP/1.1" {
		t.Errorf("answer %+v", a)
	}
	if _, err := sample.Call(t.Context(), client, "http://"+web+"/slow?for=2h"); err == nil {
		t.Error("waits for two hours")
	}
}

func TestSpeaksHTTP2AndGRPC(t *testing.T) {
	addr := serve(t, sample.Service{Service: "s"}.Serve)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: tr}
	defer client.CloseIdleConnections()
	a, err := sample.Call(t.Context(), client, "http://"+addr+"/")
	if err != nil || a.Protocol != "HTTP/2.0" {
		t.Fatalf("%+v, %v", a, err)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestEcho(t *testing.T) {
	c, err := net.Dial("tcp", serve(t, sample.Echo))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}
