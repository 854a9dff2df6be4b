package xds

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
)

// Server serves the proxies of a zone. All methods are safe for concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	o        Options
	loop     *loop
	reaper   *reaper
	progress *progress
	issuer   *issuer
	// plans counts those that were worked out.
	plans atomic.Uint64
	// identity goes with every response; shared.
	identity *corev3.ControlPlane
	// ctx ends the streams when Run returns.
	ctx  context.Context
	stop context.CancelCauseFunc

	mu sync.Mutex
	// Guarded by mu.
	proxies map[resource.Key]*proxy
	// streams that are open, and whose they are; nil while that is not known.
	streams map[*stream]*proxy
}

// NewServer makes a server. It does nothing before Run, but streams may open and wait.
func NewServer(o Options) (*Server, error) {
	return newServer(o, &stages{zone: o.Zone, translator: envoy.NewTranslator()})
}

func newServer(o Options, p planner) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Limits = o.Limits.withDefaults()
	s := &Server{
		o: o, reaper: newReaper(), progress: newProgress(), issuer: newIssuer(o.Issuer), identity: &corev3.ControlPlane{Identifier: o.Instance},
		proxies: map[resource.Key]*proxy{}, streams: map[*stream]*proxy{},
	}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.loop = newLoop(s, p)
	return s, nil
}

// Plans is how many plans of proxies were worked out since the start.
func (s *Server) Plans() uint64 { return s.plans.Load() }

// Register adds the aggregated discovery service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Run follows the config log until the context ends, which is no error, or the store fails. It is called once.
// When it returns all streams are booked as ended and have been told to end; inline dataplanes stay, so that
// their proxies find them after a restart.
func (s *Server) Run(ctx context.Context) error {
	back := time.Now().Add(s.o.Limits.Return)
	for o := range s.o.Store.Config().View().Scan(store.OfKind(resource.KindInlineDataplane)) {
		k := o.Key
		k.Kind = resource.KindDataplane
		s.reaper.add(k, back)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.loop.run(gctx) })
	g.Go(func() error {
		s.reaper.run(gctx, s.o.Limits.Grace, s.remove, func(err error) {
			s.o.Logger.Error("dataplanes of proxies that have gone are still there", "error", err)
		})
		return nil
	})
	g.Go(func() error { s.progress.run(gctx, s.o.Observer); return nil })
	g.Go(func() error { s.issuer.run(gctx); return nil })
	err := g.Wait()
	s.stop(status.Error(codes.Unavailable, "the control plane is stopping"))
	s.mu.Lock()
	open := maps.Clone(s.streams)
	s.mu.Unlock()
	for st, p := range open {
		s.finish(st, p)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// StreamAggregatedResources refuses the state of the world.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "state of the world is not served, use DELTA_GRPC")
}

// DeltaAggregatedResources serves one stream until either side ends it.
func (s *Server) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx, cancel := context.WithCancelCause(g.Context())
	defer cancel(nil)
	st := &stream{s: s, ctx: ctx, cancel: cancel}
	if err := s.admit(st); err != nil {
		return err
	}
	defer s.dismiss(st)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
	err := delta.NewServer(ctx, st, st).DeltaStreamHandler(&ending{AggregatedDiscoveryService_DeltaAggregatedResourcesServer: g, st: st}, resourcev3.AnyType)
	if err == nil && ctx.Err() != nil {
		err = st.cause()
	}
	if err != nil && g.Context().Err() == nil {
		s.o.Logger.Info("an xDS stream ends", "node", st.node.GetId(), "reason", err)
	}
	return err
}

// ending notes how the proxy's half of a stream ends.
type ending struct {
	discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	st *stream
}

func (e *ending) Recv() (*discoveryv3.DeltaDiscoveryRequest, error) {
	req, err := e.AggregatedDiscoveryService_DeltaAggregatedResourcesServer.Recv()
	if errors.Is(err, io.EOF) {
		e.st.halved.Store(true)
	}
	return req, err
}

func (s *Server) admit(st *stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if most := s.o.Limits.Streams; len(s.streams) >= most {
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, more are not served (limits.adsStreams)", most)
	}
	s.streams[st] = nil
	return nil
}

// book notes whose stream it is.
func (s *Server) book(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = st.proxy
}

func (s *Server) dismiss(st *stream) {
	s.finish(st, st.proxy)
	s.mu.Lock()
	delete(s.streams, st)
	s.mu.Unlock()
	if st.proxy != nil {
		s.release(st.proxy)
	}
}

// acquire finds or makes a proxy and keeps it in the table until it is released.
func (s *Server) acquire(k resource.Key) *proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proxies[k]
	if p == nil {
		p = &proxy{key: k, o: &s.o, progress: s.progress, issuer: s.issuer}
		s.proxies[k] = p
	}
	p.users++
	return p
}

// release forgets a proxy that nobody uses, unless it has to be remembered for what it refused.
func (s *Server) release(p *proxy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.users--
	if p.users == 0 && !p.remembered() {
		delete(s.proxies, p.key)
	}
}

// find returns nil where the proxy has no stream and never refused anything.
func (s *Server) find(k resource.Key) *proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proxies[k]
}

// all proxies of the table.
func (s *Server) all() []*proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*proxy, 0, len(s.proxies))
	for _, p := range s.proxies {
		all = append(all, p)
	}
	return all
}

// want has a proxy planned.
func (s *Server) want(p *proxy, at resource.Revision) { s.loop.want(p, at) }
