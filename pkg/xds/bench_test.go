package xds

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// everyone is a planner by which a Timeout touches all proxies, which share one set.
type everyone struct {
	hand
	all []resource.Key
	set *envoy.Set
}

func (e *everyone) Apply(c store.Changes) []resource.Key {
	dirty := e.hand.Apply(c)
	for _, item := range c.Items {
		if item.Key.Kind == resource.KindTimeout {
			return e.all
		}
	}
	return dirty
}

// One endpoint of a service that all proxies use changes: from the write until the last has ACKed.
func BenchmarkEndpointChange(b *testing.B) {
	for _, n := range []int{1, 100, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			st := memory.New(memory.Options{})
			defer st.Close()
			put := func(k resource.Key, spec string) resource.Revision {
				r, err := st.Config().Apply(b.Context(), store.Batch{Puts: []store.Put{{Key: k, Spec: []byte(spec)}}})
				if err != nil {
					b.Fatal(err)
				}
				return r.Revision
			}
			put(resource.Key{Kind: resource.KindMesh, Name: "default"}, "")
			e := &everyone{}
			e.sets = map[resource.Key]*envoy.Set{}
			var common []*envoy.Resource
			for i := range 50 {
				name := fmt.Sprintf("s%d", i)
				common = append(common, xdstest.Cluster(name, 1), xdstest.Endpoints(name, 1), xdstest.Listener("l"+name, uint32(i+1), "r"+name), xdstest.Route("r"+name, 1, name))
			}
			e.make = func(resource.Key, resource.Revision) *envoy.Set { return e.set }
			e.set = xdstest.Set(common...)
			seen := &record{open: map[string]Session{}, counters: map[string]Counters{}}
			moved := make(chan Progress, 1)
			seen.onReport = func(p Progress) {
				select {
				case <-moved:
				default:
				}
				moved <- p
			}
			s, err := newServer(Options{Store: st, Table: resource.NewTable(), Zone: "z", Authenticator: tokens{}, Observer: seen, Logger: slog.New(slog.DiscardHandler)}, e)
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
			var clients []*xdstest.Client
			for i := range n {
				name := fmt.Sprintf("dp-%d", i)
				put(dataplane(name), "")
				e.all = append(e.all, dataplane(name))
				o := node(name)
				o.Quiet = true
				c, err := xdstest.Connect(ctx, conn, o)
				if err != nil {
					b.Fatal(err)
				}
				clients = append(clients, c)
			}
			all := func(at resource.Revision) {
				for p := range moved {
					if p.Processed >= at && p.Connected == n && len(p.Lagging) == 0 {
						return
					}
				}
			}
			all(1)
			i := uint32(0)
			for b.Loop() {
				i++
				next := append([]*envoy.Resource{}, common...)
				next[1] = xdstest.Endpoints("s0", 1, 1+i)
				e.mu.Lock()
				e.set = xdstest.Set(next...)
				e.mu.Unlock()
				all(put(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, fmt.Sprint(i)))
			}
			for _, c := range clients {
				c.Close()
			}
			cancel()
			_ = conn.Close()
			gs.Stop()
			wg.Wait()
		})
	}
}
