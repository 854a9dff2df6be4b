package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// Mode says which control plane the API belongs to.
type Mode string

const (
	// Global takes policies; dataplanes come from its zones.
	Global Mode = "global"
	// Zone has joined a global control plane: it takes dataplanes.
	Zone Mode = "zone"
	// Standalone is a zone control plane without a global one: it takes everything.
	Standalone Mode = "standalone"
)

// Options make a Service.
type Options struct {
	Store store.Store
	Table *resource.Table
	Mode  Mode
	// Zone is the own zone's name; empty on the global control plane.
	Zone string
	// GlobalAddress is what a zone tells those who should have asked the global control plane; may be empty.
	GlobalAddress string
	Policy        auth.AdminPolicy
	// Users says whose user token a call brings; nil: there are none. Live ends the calls whose credential ends;
	// nil: none are ended.
	Users *auth.UserAuthenticator
	Live  *auth.Live
	// ReadOnly refuses every change of a resource.
	ReadOnly bool
	// Version of this build, and the name of this process among several; Hostname is the machine's if empty.
	Version, InstanceID, Hostname string
	// ConfigJSON is the configuration as a JSON object, without secrets.
	ConfigJSON []byte
	// Catalog says where the APIs of this process are, to a caller who has called it by host (host, host:port, or
	// empty); nil: nothing is said.
	Catalog func(host string) Catalog
	// Sealer encrypts the secrets in backups; nil: the store keeps nothing, and there are none.
	Sealer store.Sealer
	// Nudge, if not nil, is called when someone begins to wait until zones have come to a revision: they may be told
	// at once how far they are. It must not block.
	Nudge func()
	// Insights are the sums over meshes and services; nil: there are none, and their paths lead to nothing.
	Insights Insights
	// Limits bound bodies and objects.
	Limits resource.Limits
	// MaxPageItems and MaxPageBytes bound a page of a list; 0: 10,000 and 32 MiB.
	MaxPageItems, MaxPageBytes int
	// MaxBatchItems bounds the items of a batch; 0: 10,000.
	MaxBatchItems int
	// MaxWaits bounds the requests that wait for a revision; 0: 1,000.
	MaxWaits int
	// MaxWatches bounds the watches that are open; 0: 1,000.
	MaxWatches int
	// Now gives the time; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Service is the API's gRPC services. It is safe for concurrent use and starts no goroutine.
type Service struct {
	apiv1.UnimplementedResourceServiceServer
	apiv1.UnimplementedInspectServiceServer
	apiv1.UnimplementedControlPlaneServiceServer
	apiv1.UnimplementedTokenServiceServer
	apiv1.UnimplementedProvidedCAServiceServer
	apiv1.UnimplementedBackupServiceServer

	Options
	// waits has a seat for each request that waits for a revision.
	waits seats
	// turns has an item for each page that is being put together.
	turns chan struct{}
	// watches has a seat for each watch that is open; life ends them all by stop.
	watches seats
	life    context.Context
	stop    context.CancelFunc
	epochs  epochs
	// watchEvents is how many events a message of a watch takes.
	watchEvents int
}

// New makes the services. It fails where an option is missing or contradicts another.
func New(o Options) (*Service, error) {
	switch {
	case o.Store == nil, o.Table == nil, o.Logger == nil:
		return nil, errors.New("api: Store, Table and Logger are required")
	case o.Mode != Global && o.Mode != Zone && o.Mode != Standalone:
		return nil, fmt.Errorf("api: unknown mode %q", o.Mode)
	case (o.Mode == Zone) && o.Zone == "":
		return nil, errors.New("api: a zone needs its name")
	}
	if o.Users == nil {
		o.Users = auth.NewUserAuthenticator(nil, nil)
	}
	if o.Live == nil {
		o.Live = auth.NewLive(nil)
	}
	o.MaxPageItems, o.MaxPageBytes = cmp.Or(o.MaxPageItems, maxPage), cmp.Or(o.MaxPageBytes, maxPageBytes)
	o.MaxBatchItems = cmp.Or(o.MaxBatchItems, maxBatchItems)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hostname == "" {
		// Without a name the answer of GET / has an empty one, which is no reason not to serve.
		o.Hostname, _ = os.Hostname()
	}
	if len(o.ConfigJSON) == 0 {
		o.ConfigJSON = []byte("{}")
	}
	s := &Service{
		Options: o, waits: newSeats(cmp.Or(o.MaxWaits, maxWaits)), turns: make(chan struct{}, runtime.GOMAXPROCS(0)),
		watches: newSeats(cmp.Or(o.MaxWatches, maxWatches)), epochs: newEpochs(o.Store), watchEvents: watchEvents,
	}
	s.life, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Register adds the services to a server or to a connection inside the process.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	apiv1.RegisterResourceServiceServer(r, s)
	apiv1.RegisterInspectServiceServer(r, s)
	apiv1.RegisterControlPlaneServiceServer(r, s)
	apiv1.RegisterTokenServiceServer(r, s)
	apiv1.RegisterProvidedCAServiceServer(r, s)
	apiv1.RegisterBackupServiceServer(r, s)
}

// Recover turns a handler's panic into an Internal error, so that no request takes the process down.
func (s *Service) Recover(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Logger.ErrorContext(ctx, "handler panicked", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			res, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	return handler(ctx, req)
}

// RecoverStream is Recover for streams.
func (s *Service) RecoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.Logger.ErrorContext(stream.Context(), "handler panicked", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	return handler(srv, stream)
}

const (
	minRevisionKey = "meridian-min-revision"
	contentTypeKey = "meridian-content-type"

	// minRevisionWait is how long a read waits for the revision that it must hold.
	minRevisionWait = 5 * time.Second
)

// views gives the state of both logs that a read answers from: config at the asked revision at least, and no
// older than status, so that no position is ahead of the log's head.
func (s *Service) views(ctx context.Context) (config, observed store.View, err error) {
	if asked := incoming(ctx, minRevisionKey); asked != "" {
		r, err := resource.ParseRevision(asked)
		if err != nil {
			return nil, nil, invalid(titleList, "Invalid revision", resource.Violations{{Field: "Meridian-Min-Revision", Message: "must be a decimal number"}})
		}
		if err := s.awaitRevision(ctx, r); err != nil {
			return nil, nil, err
		}
	}
	observed = s.Store.Status().View()
	return s.Store.Config().View(), observed, nil
}

// awaitRevision waits until the config log has come to a revision, but not for ever.
func (s *Service) awaitRevision(ctx context.Context, r resource.Revision) error {
	if s.Store.Config().View().Revision() >= r {
		return nil
	}
	leave, ok := s.seat(ctx, s.waits)
	if !ok {
		return s.tooManyWait(titleList)
	}
	defer leave()
	wait, cancel := context.WithTimeout(ctx, minRevisionWait)
	defer cancel()
	if _, err := s.Store.Config().Await(wait, r); err != nil {
		if ctx.Err() == nil && wait.Err() != nil {
			return fail(codes.Unavailable, titleList, fmt.Sprintf("Revision %s is not here yet, the newest is %s", r, s.Store.Config().View().Revision()))
		}
		return s.storeError(err, titleList)
	}
	return nil
}

// viewOf is the view that holds a kind.
func viewOf(d *resource.Descriptor, config, observed store.View) store.View {
	if d.Log == resource.StatusLog {
		return observed
	}
	return config
}

func incoming(ctx context.Context, key string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}
