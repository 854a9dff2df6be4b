package kds_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/e2e/relay"
	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// relayKind is a kind that flows up and on, of which this build has none yet; novel one that old builds lack.
const relayKind, novel resource.Kind = "Relay", "Novel"

// table is the table of kinds with those of the tests.
type table struct {
	rows []*resource.Descriptor
}

func newTable(without ...resource.Kind) table {
	empty := func() proto.Message { return &systemv1.Zone{} }
	rows := append(slices.Clone(resource.NewTable().All()),
		&resource.Descriptor{
			Kind: relayKind, Scope: resource.ScopeMesh, Access: resource.Internal, New: empty,
			Flow: func(resource.Key) resource.Flow { return resource.FlowUpAndOn },
		},
		&resource.Descriptor{
			Kind: novel, Scope: resource.ScopeMesh, New: empty,
			Flow: func(resource.Key) resource.Flow { return resource.FlowDown },
		})
	return table{rows: slices.DeleteFunc(rows, func(d *resource.Descriptor) bool { return slices.Contains(without, d.Kind) })}
}

func (t table) All() []*resource.Descriptor { return t.rows }

func (t table) ByKind(k resource.Kind) (*resource.Descriptor, bool) {
	for _, d := range t.rows {
		if d.Kind == k {
			return d, true
		}
	}
	return nil, false
}

// accept takes all specs that do not say otherwise.
func accept(k resource.Key, _ resource.Origin, spec []byte) error {
	if k.Kind != resource.KindSyncRejection && bytes.Contains(spec, []byte("bad")) {
		return errors.New("spec: is bad")
	}
	return nil
}

// trusting believes any name.
type trusting struct{}

func (trusting) AuthenticateZone(context.Context) (string, kds.Hold, error) {
	return "", nil, nil
}

// tester is a *testing.T, or a try of a property test.
type tester interface {
	Helper()
	Cleanup(func())
	Fatal(...any)
}

// globalCP is a global control plane that can be stopped and started, on one address.
type globalCP struct {
	t      tester
	store  store.Store
	auth   kds.Authenticator
	table  table
	accept kds.Accept
	server *kds.Server
	grpc   *grpc.Server
	lis    atomic.Pointer[relay.Memory]
	more   []grpc.ServerOption
	// options changes those of the server; nil: nothing does.
	options func(*kds.ServerOptions)
}

func newGlobal(t tester, change ...func(*globalCP)) *globalCP {
	g := &globalCP{t: t, auth: trusting{}, table: newTable(), accept: accept, store: memory.New(memory.Options{ID: "global-store"})}
	for _, c := range change {
		c(g)
	}
	g.start()
	t.Cleanup(func() {
		g.stop()
		_ = g.store.Close()
	})
	return g
}

func (g *globalCP) start() {
	g.t.Helper()
	opts := kds.ServerOptions{
		Store: g.store, Table: g.table, Accept: g.accept, Authenticator: g.auth, Instance: "global-1",
		Version: kds.Version{Version: "1.0.0"}, Logger: slog.New(slog.DiscardHandler),
	}
	if g.options != nil {
		g.options(&opts)
	}
	server, err := kds.NewServer(opts)
	if err != nil {
		g.t.Fatal(err)
	}
	lis, srv := relay.NewMemory(), grpc.NewServer(append(kds.ServerGRPCOptions(), g.more...)...)
	server.Register(srv)
	g.server, g.grpc = server, srv
	g.lis.Store(lis)
	go func() { _ = srv.Serve(lis) }()
}

func (g *globalCP) stop() {
	if g.server == nil {
		return
	}
	g.server.Close()
	g.grpc.Stop()
	g.server = nil
}

func (g *globalCP) dial(ctx context.Context, _ string) (net.Conn, error) {
	return g.lis.Load().Dial(ctx)
}

// conn is a connection for a scripted zone.
func (g *globalCP) conn() *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///global:1", grpc.WithContextDialer(g.dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// zoneCP is a zone control plane that can be stopped and started.
type zoneCP struct {
	t      tester
	store  store.Store
	opts   kds.ClientOptions
	client *kds.Client
	cancel context.CancelFunc
	done   chan error
}

func (g *globalCP) zone(name string, change ...func(*kds.ClientOptions)) *zoneCP {
	z := &zoneCP{t: g.t, store: memory.New(memory.Options{ID: name + "-store"})}
	z.opts = kds.ClientOptions{
		Store: z.store, Table: newTable(), Accept: accept, Zone: name, Address: "grpcs://global:5685", Dial: g.dial,
		Version: kds.Version{Version: "1.0.0"}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&z.opts)
	}
	z.start()
	g.t.Cleanup(func() {
		z.stop()
		_ = z.store.Close()
	})
	return z
}

func (z *zoneCP) start() {
	z.t.Helper()
	client, err := kds.NewClient(z.opts)
	if err != nil {
		z.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	z.client, z.cancel, z.done = client, cancel, make(chan error, 1)
	go func() { z.done <- client.Run(ctx) }()
}

func (z *zoneCP) stop() {
	if z.cancel != nil {
		z.cancel()
		<-z.done
		z.cancel = nil
	}
}

func key(kind resource.Kind, scope, name string) resource.Key {
	return resource.Key{Kind: kind, Scope: scope, Name: name}
}

func mesh(name string) resource.Key { return key(resource.KindMesh, "", name) }
func timeout(mesh, name string) resource.Key {
	return key(resource.KindTimeout, mesh, name)
}
func dataplane(mesh, name string) resource.Key { return key(resource.KindDataplane, mesh, name) }

func put(k resource.Key, spec string) store.Put { return store.Put{Key: k, Spec: []byte(spec)} }

func write(t *testing.T, l store.Log, puts ...store.Put) resource.Revision {
	t.Helper()
	return commit(t, l, store.Batch{Puts: puts})
}

func commit(t *testing.T, l store.Log, b store.Batch) resource.Revision {
	t.Helper()
	r, err := l.Apply(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return r.Revision
}

// dump is what a log holds: for each key its origin and spec. Rows of the sync itself are left out.
func dump(l store.Log) map[string]string {
	out := map[string]string{}
	for o := range l.View().Scan(store.Everything()) {
		switch o.Key.Kind {
		case resource.KindZone, resource.KindSyncRejection, resource.KindZoneInsight:
		default:
			out[o.Key.String()] = string(o.Origin) + ":" + string(o.Spec)
		}
	}
	return out
}

// rejections are the rows of a store: key and reason.
func rejections(t *testing.T, s store.Store) map[string]string {
	t.Helper()
	out := map[string]string{}
	for o := range s.Config().View().Scan(store.OfKind(resource.KindSyncRejection)) {
		m, err := resource.Decode[systemv1.SyncRejection](o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(o.Key.Name, m.GetKind()+"/"+m.GetScope()+"/"+m.GetName()) {
			t.Errorf("row %s speaks of %v", o.Key, m)
		}
		out[string(o.Origin)+":"+o.Key.Name] = m.GetReason()
	}
	return out
}

func insightOf(t *testing.T, s store.Store, zone string) *systemv1.ZoneInsight {
	t.Helper()
	o, ok := s.Status().View().Get(key(resource.KindZoneInsight, "", zone))
	if !ok {
		return nil
	}
	m, err := resource.Decode[systemv1.ZoneInsight](o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// bubble runs a test in virtual time, in which synctest.Wait returns when all is settled.
func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func wantDump(t *testing.T, what string, l store.Log, want map[string]string) {
	t.Helper()
	if got := dump(l); !maps.Equal(got, want) {
		t.Errorf("%s holds %v, want %v", what, got, want)
	}
}
