package kds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

const (
	// attemptEvery is the time between the starts of two attempts to connect.
	attemptEvery = time.Second
	// attemptFor is how long one attempt may take. Some go on at the same time.
	attemptFor = 5 * time.Second
	// refusedFor is how long a zone waits that was refused.
	refusedFor = 5 * time.Second
)

// errRefused marks what will not be better at the next attempt, but perhaps later.
var errRefused = errors.New("refused")

// ClientOptions of a zone's end.
type ClientOptions struct {
	Store store.Store
	Table Table
	// Accept judges what the global control plane sends.
	Accept Accept
	// Zone is the zone's name.
	Zone string
	// Address of the global control plane: host:port, with or without "grpcs://" before it.
	Address string
	// TLS of the connection, with the client certificate if there is one; it is asked at each connect. Nil: none, for
	// tests.
	TLS func() (*tls.Config, error)
	// Token gives the zone token and is asked at each connect. Nil: none is sent.
	Token   func() (string, error)
	Version Version
	Logger  *slog.Logger
	// DiscardLocal replaces policies that were born in this zone, while it was standalone, by the global
	// control plane's; without it the zone does not join.
	DiscardLocal bool
	// AcceptOtherStore takes a copy of another global store than the one that this zone followed before.
	AcceptOtherStore bool
	// OnCursor is told, if not nil, after each move of the config cursor. It must not block.
	OnCursor func()
	// OnSession is told, if not nil, the id of each session when it begins. It must not block.
	OnSession func(id string)
	// Traffic counts what the sessions do; nil: nobody does.
	Traffic *Traffic
	// Dial opens the connection below TLS; nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// State is how the zone stands with the global control plane.
type State struct {
	Connected bool
	// Err is why not; empty while connected and before the first attempt has ended.
	Err string
	// Since is when it became so.
	Since time.Time
}

// Client follows a global control plane for one zone. It is safe for concurrent use.
type Client struct {
	opts ClientOptions

	mu    sync.Mutex
	state State
}

// NewClient makes a client. It does nothing before Run.
func NewClient(opts ClientOptions) (*Client, error) {
	if err := ValidateZoneName(opts.Zone); err != nil {
		return nil, err
	}
	opts.Address = strings.TrimPrefix(opts.Address, "grpcs://")
	if _, _, err := net.SplitHostPort(opts.Address); err != nil {
		return nil, fmt.Errorf("address of the global control plane: %w", err)
	}
	err := needed("kds client options", map[string]bool{
		"Store": opts.Store != nil, "Table": opts.Table != nil, "Accept": opts.Accept != nil, "Logger": opts.Logger != nil,
	})
	if err != nil {
		return nil, err
	}
	return &Client{opts: opts, state: State{Since: time.Now()}}, nil
}

// State says how the zone stands with the global control plane now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// setState notes how it stands; an end is logged when its reason is a new one.
func (c *Client) setState(ctx context.Context, err error) {
	c.mu.Lock()
	old := c.state
	c.state = State{Connected: err == nil, Since: old.Since}
	if err != nil {
		c.state.Err = err.Error()
	}
	if c.state != old {
		c.state.Since = time.Now()
	}
	changed := c.state != old
	c.mu.Unlock()
	switch {
	case !changed:
	case err == nil:
		c.opts.Logger.InfoContext(ctx, "the global control plane is there", "address", c.opts.Address)
	case errors.Is(err, errRefused):
		c.opts.Logger.ErrorContext(ctx, "the zone goes on with its copy", "address", c.opts.Address, "reason", err)
	default:
		c.opts.Logger.WarnContext(ctx, "the zone goes on with its copy", "address", c.opts.Address, "reason", err)
	}
}

// Run follows the global control plane until ctx is done, and gives its cause. It fails before only when the
// store does. All that it has started has ended when it returns.
func (c *Client) Run(ctx context.Context) error {
	pace := &pacer{}
	for {
		err := c.once(ctx, pace)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, store.ErrClosed) {
			return err
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the global control plane has ended the session")
		}
		c.setState(ctx, err)
		if errors.Is(err, errRefused) {
			if err := wait(ctx, refusedFor); err != nil {
				return err
			}
		}
	}
}

// once connects and runs one session to its end.
func (c *Client) once(ctx context.Context, pace *pacer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := c.mayJoin(); err != nil {
		return err
	}
	if c.opts.Token != nil {
		token, err := c.opts.Token()
		if err != nil {
			return errors.Join(fmt.Errorf("zone token: %w", err), pace.turn(ctx))
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	conn, err := c.connect(ctx, pace)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // The stream's end is already known.
	return refusal(c.session(ctx, cancel, conn))
}

// mayJoin refuses to give up policies that were born here.
func (c *Client) mayJoin() error {
	if c.opts.DiscardLocal {
		return nil
	}
	v := c.opts.Store.Config().View()
	var keys []string
	n := 0
	for _, d := range c.opts.Table.All() {
		if d.Log != resource.ConfigLog {
			continue
		}
		for o := range v.Scan(store.OfKind(d.Kind)) {
			if bornForGlobal(d, o) {
				if n++; len(keys) < 20 {
					keys = append(keys, o.Key.String())
				}
			}
		}
	}
	if n == 0 {
		return nil
	}
	if n > len(keys) {
		keys = append(keys, fmt.Sprintf("and %d more", n-len(keys)))
	}
	return fmt.Errorf("%w: this zone holds policies that were born in it: %s; export them to the global control plane, or let the zone discard them (multizone.zone.kds.discardLocal)",
		errRefused, strings.Join(keys, ", "))
}

// session says Hello and runs until the stream ends.
func (c *Client) session(ctx context.Context, cancel context.CancelCauseFunc, conn *grpc.ClientConn) error {
	st, err := kdsv1.NewSyncServiceClient(conn).Sync(ctx)
	if err != nil {
		return err
	}
	stored := cursors(c.opts.Store, resource.Global)
	hello := &kdsv1.Hello{
		Store: c.opts.Store.ID(), Zone: c.opts.Zone, Version: c.opts.Version.proto(),
		Config: cursorProto(stored[0]), Status: cursorProto(stored[1]), AcceptOtherStore: c.opts.AcceptOtherStore,
	}
	silent := time.AfterFunc(zoneSilence, func() { cancel(fmt.Errorf("%w: no Hello for %s", errSilent, zoneSilence)) })
	defer silent.Stop()
	// An error of Send is always io.EOF; Recv has the reason.
	_ = st.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: hello}})
	f, err := st.Recv()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	silent.Stop()
	theirs := f.GetHello()
	if theirs.GetStore() == "" {
		return violation("the first frame must be a Hello")
	}
	if stored[0].Store != "" && stored[0].Store != theirs.GetStore() && !c.opts.AcceptOtherStore {
		return fmt.Errorf("%w: this zone holds a copy of another global store (%s) than the one at %s (%s), and was not told to replace it (multizone.zone.kds.resync)",
			errRefused, stored[0].Store, c.opts.Address, cut(theirs.GetStore()))
	}
	c.setState(ctx, nil)
	if c.opts.OnSession != nil {
		c.opts.OnSession(cut(theirs.GetSession()))
	}
	s := &session{
		side: zoneSide(c.opts.Table), store: c.opts.Store, accept: c.opts.Accept, logger: c.opts.Logger,
		version: c.opts.Version.Version, peerStore: theirs.GetStore(), discardLocal: c.opts.DiscardLocal,
		silence: zoneSilence, pulse: make(chan struct{}, 1), onCursor: c.opts.OnCursor, traffic: c.opts.Traffic, stream: st,
	}
	s.prepare(stored, stored)
	var loops sync.WaitGroup
	err = s.run(ctx, [2]store.Cursor{cursorOf(theirs.GetConfig()), cursorOf(theirs.GetStatus())}, loops.Go)
	cancel(err)
	loops.Wait()
	return err
}

// refusal marks the errors by which the global control plane refuses a zone.
func refusal(err error) error {
	if errors.Is(err, errProtocol) {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch st.Code() {
	case codes.Unauthenticated, codes.PermissionDenied, codes.FailedPrecondition, codes.AlreadyExists,
		codes.InvalidArgument, codes.Unimplemented, codes.ResourceExhausted:
		return fmt.Errorf("%w by the global control plane: %s", errRefused, st.Message())
	}
	return fmt.Errorf("session with the global control plane: %s", st.Message())
}

// pacer holds attempts to one in attemptEvery, from start to start.
type pacer struct{ last time.Time }

// turn waits for the next attempt's time.
func (p *pacer) turn(ctx context.Context) error {
	if !p.last.IsZero() {
		if err := wait(ctx, time.Until(p.last.Add(attemptEvery))); err != nil {
			return err
		}
	}
	p.last = time.Now()
	return nil
}

// connect makes attempts, one a second and each with some time, until one is answered; it fails with the
// first one that fails when no other is under way.
func (c *Client) connect(ctx context.Context, pace *pacer) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		conn *grpc.ClientConn
		err  error
	}
	results := make(chan result)
	var attempts sync.WaitGroup
	defer func() {
		cancel()
		go func() { attempts.Wait(); close(results) }()
		for r := range results {
			if r.conn != nil {
				_ = r.conn.Close() // Another one was first.
			}
		}
	}()
	for running := 0; ; {
		if err := pace.turn(ctx); err != nil {
			return nil, err
		}
		running++
		attempts.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, attemptFor)
			defer cancel()
			conn, err := c.dial(ctx)
			results <- result{conn, err}
		})
		next := time.NewTimer(attemptEvery)
		for again := false; !again; {
			select {
			case r := <-results:
				running--
				if r.err == nil {
					next.Stop()
					return r.conn, nil
				}
				c.setState(ctx, r.err)
				again = running == 0
			case <-next.C:
				again = true
			case <-ctx.Done():
				next.Stop()
				return nil, context.Cause(ctx)
			}
		}
		next.Stop()
	}
}

// dial makes one connection, and waits until the other end has answered.
func (c *Client) dial(ctx context.Context) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.opts.TLS != nil {
		config, err := c.opts.TLS()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(config)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2 * maxFrame)),
		grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(windowSize), grpc.WithStaticConnWindowSize(windowSize), // as at the server
	}
	if c.opts.Dial != nil {
		opts = append(opts, grpc.WithContextDialer(c.opts.Dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.opts.Address, opts...)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	for {
		switch state := conn.GetState(); state {
		case connectivity.Ready:
			return conn, nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			// The reason is told to those who want to use the connection.
			_, err := kdsv1.NewSyncServiceClient(conn).Sync(ctx)
			if err == nil {
				return conn, nil
			}
			_ = conn.Close() // It has failed already.
			return nil, errors.New(status.Convert(err).Message())
		default:
			if !conn.WaitForStateChange(ctx, state) {
				_ = conn.Close() // It was never used.
				return nil, fmt.Errorf("%s does not answer: %w", c.opts.Address, context.Cause(ctx))
			}
		}
	}
}
