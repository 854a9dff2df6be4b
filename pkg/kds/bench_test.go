package kds_test

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
)

// counted counts what goes over a connection.
type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.Add(int64(n))
	return n, err
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// BenchmarkCommitToZone is the time from before a commit at the global control plane until the zone's store
// has it, over TCP and with stores in memory.
func BenchmarkCommitToZone(b *testing.B) {
	global, zone := memory.New(memory.Options{}), memory.New(memory.Options{})
	defer func() { _ = global.Close(); _ = zone.Close() }()
	log := slog.New(slog.DiscardHandler)
	server, err := kds.NewServer(kds.ServerOptions{
		Store: global, Table: resource.NewTable(), Accept: accept, Authenticator: trusting{}, Instance: "g", Logger: log,
	})
	if err != nil {
		b.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer(kds.ServerGRPCOptions()...)
	server.Register(srv)
	go func() { _ = srv.Serve(lis) }()
	defer srv.Stop()
	defer server.Close()
	var bytes atomic.Int64
	client, err := kds.NewClient(kds.ClientOptions{
		Store: zone, Table: resource.NewTable(), Accept: accept, Zone: "zone-1", Address: lis.Addr().String(), Logger: log,
		Dial: func(ctx context.Context, a string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", a)
			return counted{c, &bytes}, err
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if _, err := zone.Config().Await(ctx, 1); err != nil {
		b.Fatal(err)
	}
	bytes.Store(0)
	for b.Loop() {
		before := zone.Config().View().Revision()
		if _, err := global.Config().Apply(ctx, store.Batch{Puts: []store.Put{put(mesh("m"), time.Now().String())}}); err != nil {
			b.Fatal(err)
		}
		if _, err := zone.Config().Await(ctx, before+1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(bytes.Load())/float64(b.N), "wire-B/op")
}
