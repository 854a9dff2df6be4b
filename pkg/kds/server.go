package kds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

var (
	errReplaced = errors.New("replaced by a new session of the zone")
	errClosing  = errors.New("the global control plane is shutting down")
	errExpired  = errors.New("the zone's credentials do not hold any more")
)

// ServerOptions of the global control plane's end. All fields but Version and the limits are needed.
type ServerOptions struct {
	Store store.Store
	Table Table
	// Accept judges what zones send.
	Accept        Accept
	Authenticator Authenticator
	// Instance names this process in ZoneInsights.
	Instance string
	Version  Version
	Logger   *slog.Logger
	// MaxZoneObjects and MaxZoneBytes bound what each log holds of one zone. What would go beyond is not taken,
	// and the zone's session ends with that reason. 0: 200,000 and 1 GiB.
	MaxZoneObjects int
	MaxZoneBytes   int64
	// Traffic counts what the sessions do; nil: nobody does.
	Traffic *Traffic
	// ZoneRate is how many changes a second are taken from a zone; what it makes beyond has to wait, after ten
	// seconds' worth that it may save up. 0: 2,000.
	ZoneRate int
}

// Server serves the zones of a global control plane. It is safe for concurrent use.
type Server struct {
	kdsv1.UnimplementedSyncServiceServer
	opts    ServerOptions
	encoded *encoded
	// started is the instant from which heartbeats are counted off.
	started time.Time

	// closing is done when Close is called; work counts all that must end before it returns.
	closing context.Context
	close   context.CancelFunc

	mu       sync.Mutex
	sessions map[string]*serving
	work     sync.WaitGroup
}

// serving is a session of a zone, from its Hello until its end is written.
type serving struct {
	zone, store string
	cancel      context.CancelCauseFunc
	// done is closed when nothing of the session will be written any more.
	done    chan struct{}
	session *session
}

// NewServer makes a server. It starts nothing; Close waits for what its sessions have started.
func NewServer(opts ServerOptions) (*Server, error) {
	err := needed("kds server options", map[string]bool{
		"Store": opts.Store != nil, "Table": opts.Table != nil, "Accept": opts.Accept != nil,
		"Authenticator": opts.Authenticator != nil, "Instance": opts.Instance != "", "Logger": opts.Logger != nil,
	})
	if err != nil {
		return nil, err
	}
	cache, err := lru.New[encodedKey, []byte](encodedChanges)
	if err != nil {
		return nil, fmt.Errorf("cache of encoded changes: %w", err)
	}
	opts.MaxZoneObjects = cmp.Or(opts.MaxZoneObjects, maxZoneObjects)
	opts.MaxZoneBytes = cmp.Or(opts.MaxZoneBytes, maxZoneBytes)
	opts.ZoneRate = cmp.Or(opts.ZoneRate, zoneRate)
	closing, stop := context.WithCancel(context.Background())
	return &Server{opts: opts, started: time.Now(), encoded: cache, closing: closing, close: stop, sessions: map[string]*serving{}}, nil
}

// needed names the options that are missing.
func needed(what string, have map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !have[name] {
			return fmt.Errorf("%s: %s is missing", what, name)
		}
	}
	return nil
}

// ServerGRPCOptions bound what a stream may send and hold before and beside the session's own limits. HTTP/2's
// windows are as large as the session's: where they are fixed, gRPC need not measure the connection with a ping
// for each frame that comes, which for heartbeats costs as much as they do.
func ServerGRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(2 * maxFrame), grpc.MaxConcurrentStreams(16),
		grpc.StaticStreamWindowSize(windowSize), grpc.StaticConnWindowSize(windowSize),
	}
}

// Register adds the sync service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { kdsv1.RegisterSyncServiceServer(r, s) }

// Online lists the zones that have a session, sorted.
func (s *Server) Online() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.sessions))
}

// IsOnline says whether a zone has a session.
func (s *Server) IsOnline(zone string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[zone] != nil
}

// Applied is the revision of the config log up to which a zone's copy is complete; false: it is not online.
func (s *Server) Applied(zone string) (resource.Revision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.sessions[zone]; v != nil && v.session != nil {
		return v.session.pubs[0].applied(), true
	}
	return 0, false
}

// Close ends all sessions, writes that they have ended, and waits until nothing is left of them. To be called
// before the gRPC server is stopped, which waits for its streams.
func (s *Server) Close() {
	s.mu.Lock()
	s.close()
	s.mu.Unlock()
	s.work.Wait()
}

// enter counts a stream, unless the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Err() != nil {
		return false
	}
	s.work.Add(1)
	return true
}

// Sync implements the service: one session of one zone.
func (s *Server) Sync(st grpc.BidiStreamingServer[kdsv1.Frame, kdsv1.Frame]) error {
	if !s.enter() {
		return status.Error(codes.Unavailable, errClosing.Error())
	}
	defer s.work.Done()
	ctx, cancel := context.WithCancelCause(st.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.closing, func() { cancel(errClosing) })()

	zone, hold, err := s.opts.Authenticator.AuthenticateZone(ctx)
	if err != nil {
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if hold != nil {
		defer hold(func(reason error) { cancel(fmt.Errorf("%w: %w", errExpired, reason)) })()
	}
	hello, err := s.hello(ctx, st)
	if err != nil {
		return err
	}
	if zone == "" {
		zone = hello.GetZone()
	}
	if err := s.check(zone, hello); err != nil {
		return err
	}
	v := &serving{zone: zone, store: hello.GetStore(), cancel: cancel, done: make(chan struct{})}
	if err := s.begin(ctx, v); err != nil {
		return err
	}
	defer s.end(v)
	return toStatus(s.serve(ctx, v, hello, st))
}

// hello waits for the zone's first frame. A stream that sends none holds nothing but itself.
func (s *Server) hello(ctx context.Context, st stream) (*kdsv1.Hello, error) {
	type first struct {
		frame *kdsv1.Frame
		err   error
	}
	got := make(chan first, 1)
	s.work.Go(func() {
		f, err := st.Recv()
		got <- first{f, err}
	})
	timeout := time.NewTimer(globalSilence)
	defer timeout.Stop()
	select {
	case f := <-got:
		switch {
		case f.err != nil:
			return nil, f.err
		case f.frame.GetHello() == nil:
			return nil, status.Error(codes.InvalidArgument, "the first frame must be a Hello")
		}
		return f.frame.GetHello(), nil
	case <-timeout.C:
		return nil, status.Error(codes.DeadlineExceeded, "no Hello has come")
	case <-ctx.Done():
		return nil, toStatus(context.Cause(ctx))
	}
}

// check refuses a zone by what it says of itself.
func (s *Server) check(zone string, h *kdsv1.Hello) error {
	if err := ValidateZoneName(zone); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if h.GetZone() != zone {
		return status.Errorf(codes.PermissionDenied, "the credentials are those of zone %q, not of %q", zone, cut(h.GetZone()))
	}
	if h.GetStore() == "" || len(h.GetStore()) > 128 {
		return status.Error(codes.InvalidArgument, "store: the identity of the zone's store must have 1 to 128 bytes")
	}
	own := s.opts.Store.ID()
	if h.GetStore() == own {
		return status.Error(codes.FailedPrecondition, "the zone runs on the store of the global control plane")
	}
	if c := h.GetConfig(); c != nil && c.GetStore() != own && !h.GetAcceptOtherStore() {
		return status.Errorf(codes.FailedPrecondition,
			"zone %s holds a copy of another global store (%s) than this one (%s), and was not told to replace it (multizone.zone.kds.resync)", zone, cut(c.GetStore()), own)
	}
	return nil
}

// begin makes v the one session of its zone. It waits for the end of one that it replaces.
func (s *Server) begin(ctx context.Context, v *serving) error {
	for {
		s.mu.Lock()
		old := s.sessions[v.zone]
		if old == nil {
			s.sessions[v.zone] = v
		}
		s.mu.Unlock()
		if old == nil {
			return nil
		}
		if old.store != v.store {
			return status.Errorf(codes.AlreadyExists, "zone %s is online already, with another store (%s) than that of this one (%s)", v.zone, old.store, v.store)
		}
		old.cancel(errReplaced)
		select {
		case <-old.done:
		case <-ctx.Done():
			return toStatus(context.Cause(ctx))
		}
	}
}

func (s *Server) end(v *serving) {
	s.mu.Lock()
	delete(s.sessions, v.zone)
	s.mu.Unlock()
	close(v.done)
}

// serve runs the session that v stands for.
func (s *Server) serve(ctx context.Context, v *serving, hello *kdsv1.Hello, st stream) error {
	logger := s.opts.Logger.With("zone", v.zone)
	stored := cursors(s.opts.Store, resource.Origin(v.zone))
	told := stored
	joined, err := s.join(ctx, v.zone)
	if err != nil {
		return fmt.Errorf("join of zone %s: %w", v.zone, err)
	}
	if joined {
		// What was here of a zone of this name may be gone with it.
		told = [2]store.Cursor{}
	}
	ses := &session{
		side: globalSide(s.opts.Table, v.zone), store: s.opts.Store, accept: s.opts.Accept, logger: logger,
		version: s.opts.Version.Version, peerStore: v.store, silence: globalSilence, beats: s.started, traffic: s.opts.Traffic, encoded: s.encoded, stream: st,
	}
	ses.prepare(stored, told)
	for _, a := range ses.apps {
		a.rate = time.Duration(s.opts.ZoneRate)
		a.quota = &quota{maxObjects: s.opts.MaxZoneObjects, maxBytes: s.opts.MaxZoneBytes}
	}

	address := ""
	if p, ok := peer.FromContext(ctx); ok {
		address = p.Addr.String()
	}
	insight := newInsight(s.opts.Store.Status(), logger, v.zone, s.opts.Instance, address, hello.GetVersion())
	ses.onCount = insight.count
	insight.connect(ctx)
	// The end is written also, and just, when ctx is done.
	defer func() {
		if !insight.disconnect(context.WithoutCancel(ctx)) {
			s.work.Go(func() { insight.end(s.closing) })
		}
	}()
	flushing, stop := context.WithCancel(ctx)
	flushed := make(chan struct{})
	s.work.Go(func() {
		defer close(flushed)
		insight.flush(flushing)
	})
	defer func() {
		stop()
		<-flushed
	}()

	answer := &kdsv1.Hello{
		Store: s.opts.Store.ID(), Version: s.opts.Version.proto(), Config: cursorProto(told[0]), Status: cursorProto(told[1]),
		Session: insight.sub.GetId(),
	}
	if err := st.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: answer}}); err != nil {
		return err
	}
	s.mu.Lock()
	v.session = ses
	s.mu.Unlock()
	logger.InfoContext(ctx, "zone is online", "address", address, "version", hello.GetVersion().GetVersion(), "joined", joined)
	err = ses.run(ctx, [2]store.Cursor{cursorOf(hello.GetConfig()), cursorOf(hello.GetStatus())}, s.work.Go)
	logger.InfoContext(ctx, "zone is offline", "reason", err)
	return err
}

// join makes the Zone object at a zone's first session; true: it was the first.
func (s *Server) join(ctx context.Context, zone string) (bool, error) {
	key := resource.Key{Kind: resource.KindZone, Name: zone}
	if _, ok := s.opts.Store.Config().View().Get(key); ok {
		return false, nil
	}
	// Said, not left to the default, as the published system says it.
	spec, err := resource.Encode(&systemv1.Zone{Enabled: wrapperspb.Bool(true)})
	if err != nil {
		return false, err
	}
	_, err = s.opts.Store.Config().Apply(ctx, store.Batch{
		Puts:   []store.Put{{Key: key, Origin: resource.Local, Spec: spec}},
		Guards: []store.Guard{store.AtRevision(key, 0)},
		Author: store.Author{Who: "kds " + zone},
	})
	// A conflict: a user has just written it. The zone's objects may still be missing.
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return false, err
	}
	return true, nil
}

// toStatus gives the reason of a session's end the code by which the zone tells a refusal from a fault.
func toStatus(err error) error {
	code := codes.Unavailable
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errProtocol):
		code = codes.InvalidArgument
	case errors.Is(err, errQuota):
		code = codes.ResourceExhausted
	case errors.Is(err, errExpired):
		code = codes.Unauthenticated
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	default:
		if st, ok := status.FromError(err); ok {
			return st.Err()
		}
	}
	return status.Error(code, cmp.Or(cut(err.Error()), code.String()))
}
