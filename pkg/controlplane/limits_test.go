package controlplane_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
)

// TestHeadersAtTheirEdge: headers as large as allowed are read, and one byte more is refused by the key's name. What
// is larger than the server reads at all is refused as well.
func TestHeadersAtTheirEdge(t *testing.T) {
	const most = 4096
	b := &controlplane.Base{Limits: config.Limits{HeaderBytes: most}, Logger: slog.New(slog.DiscardHandler)}
	server := b.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") }))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		// Unlike Close, it waits for the connections, and one is held for a while after the server's own refusal.
		if err := server.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		<-done
	})
	for size, want := range map[int]string{
		most:      "200 served",
		most + 1:  "431 headers: 4097 bytes, at most 4096 (limits.headerBytes)",
		most << 2: "431 431 Request Header Fields Too Large",
	} {
		const frame = "GET /x HTTP/1.1\r\nHost: cp\r\nX-Padding: \r\n\r\n"
		head := strings.Replace(frame, "Padding: ", "Padding: "+strings.Repeat("x", size-len(frame)), 1)
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, head); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		body, _ := io.ReadAll(r.Body)
		if got := fmt.Sprintf("%d %s", r.StatusCode, strings.TrimSpace(string(body))); got != want {
			t.Errorf("%d bytes: %q, want %q", size, got, want)
		}
		_ = c.Close()
	}
}

// TestMetadataAtItsEdge: a gRPC client may send metadata as large as a request's headers. There is a last size that
// is taken, the next is refused, and both are around the limit.
func TestMetadataAtItsEdge(t *testing.T) {
	const most = 4096
	b := &controlplane.Base{Limits: config.Limits{HeaderBytes: most}}
	server := grpc.NewServer(append(b.CallLimits(), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return status.Error(codes.NotFound, "served")
	}))...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	call := func(padding int) error {
		ctx := metadata.AppendToOutgoingContext(context.WithoutCancel(t.Context()), "x", strings.Repeat("x", padding))
		return conn.Invoke(ctx, "/some.Service/Call", &emptypb.Empty{}, &emptypb.Empty{})
	}
	fits, exceeds := 0, most
	for fits+1 < exceeds {
		if n := (fits + exceeds) / 2; status.Code(call(n)) == codes.NotFound {
			fits = n
		} else {
			exceeds = n
		}
	}
	if err := call(fits); status.Code(err) != codes.NotFound {
		t.Errorf("%d bytes: %v", fits, err)
	}
	if err := call(fits + 1); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("%d bytes: %v", fits+1, err)
	}
	// The call's own headers take the rest.
	if fits < most-512 {
		t.Errorf("only %d bytes were taken", fits)
	}
}
