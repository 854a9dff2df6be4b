package xds

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// BenchmarkStorm connects many proxies at once: from the first until the last has all that it should have, with its
// certificate.
func BenchmarkStorm(b *testing.B) {
	for _, mtls := range []bool{false, true} {
		for _, n := range []int{1, 1000} {
			b.Run(fmt.Sprintf("mtls=%v/%d", mtls, n), func(b *testing.B) {
				for b.Loop() {
					storm(b, n, mtls)
				}
			})
		}
	}
}

func storm(b *testing.B, n int, mtls bool) {
	b.StopTimer()
	st := memory.New(memory.Options{})
	defer st.Close()
	cert, key, err := ca.Generate(ca.Config{Mesh: "default", Now: time.Now()})
	if err != nil {
		b.Fatal(err)
	}
	authority := &index.Authority{Backend: "ca-1", Cert: cert, Key: key, Lifetime: time.Hour}
	set := xdstest.Set(static(b, mtls))
	e := &everyone{}
	e.make = func(k resource.Key, _ resource.Revision) *envoy.Set {
		if !mtls {
			return set
		}
		own := *set
		own.Identity = &plan.Identity{Mesh: "default", Services: []string{k.Name}, Authority: authority}
		return &own
	}
	puts := []store.Put{{Key: resource.Key{Kind: resource.KindMesh, Name: "default"}, Spec: []byte{}}}
	for i := range n {
		puts = append(puts, store.Put{Key: dataplane(fmt.Sprintf("dp-%d", i)), Spec: []byte{}})
	}
	if _, err := st.Config().Apply(b.Context(), store.Batch{Puts: puts}); err != nil {
		b.Fatal(err)
	}
	seen := &record{open: map[string]Session{}, counters: map[string]Counters{}}
	all := make(chan struct{})
	seen.onReport = func(p Progress) {
		if p.Connected == n && len(p.Lagging) == 0 {
			seen.onReport = nil
			close(all)
		}
	}
	s, err := newServer(Options{
		Store: st, Table: resource.NewTable(), Zone: "z", Authenticator: tokens{}, Observer: seen, Logger: slog.New(slog.DiscardHandler),
	}, e)
	if err != nil {
		b.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	gs := grpc.NewServer()
	s.Register(gs)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = gs.Serve(lis) })
	wg.Go(func() { _ = s.Run(ctx) })
	conn, err := grpc.NewClient("passthrough:///cp", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		b.Fatal(err)
	}
	clients := make([]*xdstest.Client, n)
	b.StartTimer()
	for i := range clients {
		o := node(fmt.Sprintf("dp-%d", i))
		o.Quiet = true
		if clients[i], err = xdstest.Connect(ctx, conn, o); err != nil {
			b.Fatal(err)
		}
	}
	<-all
	b.StopTimer()
	for _, c := range clients {
		c.Close()
	}
	cancel()
	_ = conn.Close()
	gs.Stop()
	wg.Wait()
	b.StartTimer()
}

// static is a cluster that needs nothing, or a certificate.
func static(b *testing.B, mtls bool) *envoy.Resource {
	m := &clusterv3.Cluster{Name: "s"}
	if !mtls {
		return xdstest.Resource(resourcev3.ClusterType, "s", m)
	}
	config, err := anypb.New(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: envoy.IdentityCert}},
	}})
	if err != nil {
		b.Fatal(err)
	}
	m.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config}}
	return xdstest.Resource(resourcev3.ClusterType, "s", m, envoy.Ref{TypeURL: envoy.SecretType, Name: envoy.IdentityCert})
}
