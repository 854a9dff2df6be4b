// Package controlplane is what the global and the zone control plane are both assembled from: the store, the
// API with its HTTP ports, the diagnostics port, and their common life.
package controlplane

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/files"
	"github.com/meridian-mesh/meridian/pkg/gateway"
	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/listen"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	"github.com/meridian-mesh/meridian/pkg/telemetry"
	"github.com/meridian-mesh/meridian/pkg/version"
)

const (
	// stopGrace is how long requests may take to end when the process is told to stop; with what follows it
	// stays within the five seconds that a stop may last.
	stopGrace = 2 * time.Second
	// callStreams is how many calls a client of the gRPC form of the API may have open on one connection.
	callStreams = 100
	// idleTime is how long an idle HTTP connection is kept.
	idleTime = 2 * time.Minute
)

// Base is a control plane without what is special to its place. New fills it, the assembly adds to Set, and Run
// serves. It is not safe for concurrent use before Run.
type Base struct {
	Logger *slog.Logger
	Store  store.Store
	Table  *resource.Table
	// Instance names this process among the control planes that there are and were.
	Instance string
	Set      *listen.Set
	Health   *telemetry.Health
	Metrics  *prometheus.Registry
	API      *api.Service
	// Limits are those of the configuration; to be set before anything is served. Where one is zero, its default holds.
	Limits config.Limits
	// Live are the streams and calls that rest on credentials.
	Live *auth.Live

	// files are those that are read again when they change.
	files *files.Watcher
	// handler is that of the API; beside are other paths of its TLS port.
	handler http.Handler
	beside  map[string]http.Handler
	// advertised is how other machines know this one; empty: as they have called it.
	advertised  string
	instruments *instruments
	insights    *insight.Rollup
	expiries    expiries
	// sealer encrypts what the store keeps secret; nil: it keeps nothing.
	sealer store.Sealer
	// refresh brings Health up to date before it is read.
	refresh []func(*telemetry.Health)
	closers []func() error
	fatal   chan error
	ready   chan struct{}
}

// New opens the store. Close must be called if the assembly fails later; Run does it otherwise.
func New(ctx context.Context, general config.General, st config.Store, log *slog.Logger) (*Base, error) {
	if err := os.MkdirAll(general.WorkDir, 0o700); err != nil {
		return nil, fmt.Errorf("general.workDir: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("host name: %w", err)
	}
	v := version.Get()
	b := &Base{
		Logger:   log,
		Table:    resource.NewTable(),
		Instance: host + "-" + uuid.NewString()[:4],
		Set:      listen.New(),
		Health:   &telemetry.Health{},
		Metrics: telemetry.NewRegistry(map[string]string{
			"version": v.Version, "git_tag": v.GitTag, "git_commit": v.GitCommit, "build_date": v.BuildDate,
		}),
		advertised: general.AdvertisedHostname,
		files:      files.NewWatcher(log),
		fatal:      make(chan error, 1),
		ready:      make(chan struct{}),
	}
	b.instruments = newInstruments(b.Metrics)
	if b.Store, err = b.openStore(ctx, st); err != nil {
		return nil, err
	}
	b.OnClose(b.Store.Close)
	b.OnReady(func(h *telemetry.Health) { h.Set("store", b.Store.Health()) })
	path := ""
	if st.Type != config.StoreMemory {
		path = st.SQLite.Path
	}
	b.measure(path)
	b.Live = auth.NewLive(Revoked(b.Store.Config()))
	b.OnClose(func() error { b.Live.Close(); return nil })
	if b.insights, err = insight.NewRollup(b.Store, b.Table); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.Set.Task("insights", b.insights.Run)
	b.Set.Task("files", b.watchFiles)
	from := b.Store.Config().View().At()
	b.Set.Task("credentials", func(ctx context.Context) error { return b.followCredentials(ctx, from) })
	return b, nil
}

func (b *Base) openStore(ctx context.Context, c config.Store) (store.Store, error) {
	if c.Type == config.StoreMemory {
		return memory.New(memory.Options{Audit: b.Logger}), nil
	}
	key, err := store.LoadOrCreateKey(c.EncryptionKeyFile)
	if err != nil {
		return nil, fmt.Errorf("store.encryptionKeyFile: %w", err)
	}
	sealer, err := store.NewAESSealer(key)
	if err != nil {
		return nil, fmt.Errorf("store.encryptionKeyFile: %w", err)
	}
	b.sealer = sealer
	s, err := sqlite.Open(ctx, sqlite.Options{
		Path:   c.SQLite.Path,
		Build:  version.Get().Version,
		OnSync: b.instruments.synced,
		Sealer: sealer,
		Sealed: func(k resource.Kind) bool {
			d, ok := b.Table.ByKind(k)
			return ok && d.Sealed
		},
		Logger: b.Logger,
		OnFatal: func(err error) {
			select {
			case b.fatal <- err:
			default: // The first one ends the process.
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("store.sqlite.path: %w", err)
	}
	return s, nil
}

// OnClose adds something to undo; the last added is undone first.
func (b *Base) OnClose(f func() error) { b.closers = append(b.closers, f) }

// OnReady adds something to look at when /ready is asked.
func (b *Base) OnReady(f func(*telemetry.Health)) { b.refresh = append(b.refresh, f) }

// Close undoes what was built; for an assembly that fails.
func (b *Base) Close() error {
	b.Set.Close()
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	b.closers = nil
	return errors.Join(errs...)
}

// Certificates gives the certificate of each TLS port: the files that its keys name, else the one in workDir,
// which is made if need be. interfaces are those of the ports without files.
type Certificates struct {
	workDir    string
	interfaces []string
	made       *auth.ServerCertificate
}

// NewCertificates prepares for ports on the given interfaces.
func NewCertificates(general config.General, interfaces ...string) *Certificates {
	if general.AdvertisedHostname != "" {
		interfaces = append(interfaces, general.AdvertisedHostname)
	}
	return &Certificates{workDir: general.WorkDir, interfaces: interfaces}
}

// For gives the certificate of one port. key is the configuration key that errors name.
func (c *Certificates) For(key, certFile, keyFile string) (*auth.ServerCertificate, error) {
	if certFile != "" {
		cert, err := auth.LoadServerCertificate(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		return cert, nil
	}
	if c.made == nil {
		made, err := auth.EnsureServerCertificate(c.workDir, c.interfaces...)
		if err != nil {
			return nil, fmt.Errorf("certificate in general.workDir: %w", err)
		}
		c.made = made
	}
	return c.made, nil
}

// Expires notes when the certificate of a port ends, for the metrics.
func (b *Base) Expires(port string, cert *auth.ServerCertificate) {
	if leaf := cert.Certificate.Leaf; leaf != nil {
		b.expiries.set(port, leaf.NotAfter)
	}
}

// ClientCAs reads a directory of client CAs; "" is none.
func ClientCAs(key, dir string) (*x509.CertPool, error) {
	if dir == "" {
		return nil, nil
	}
	pool, err := auth.LoadClientCAs(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return pool, nil
}

// ServeAPI adds the HTTP ports of the API, with the gRPC form of the API beside HTTPS. Options need no Store,
// Table, Logger, Policy, ReadOnly, Version and InstanceID.
func (b *Base) ServeAPI(c config.APIServer, certs *Certificates, o api.Options) error {
	v := version.Get()
	o.Store, o.Table, o.Logger = b.Store, b.Table, b.Logger
	o.Policy = auth.AdminPolicy{AllowFromLocalhost: c.Auth.AllowFromLocalhost, AllowRemoteWrites: c.HTTP.AllowRemoteWrites}
	o.ReadOnly, o.Version, o.InstanceID = c.ReadOnly, v.Version, b.Instance
	o.Sealer, o.Insights, o.Catalog = b.sealer, b.insights, b.catalog
	o.MaxBatchItems = int(b.Limits.BatchItems)
	o.Limits, o.MaxPageItems, o.MaxPageBytes, o.MaxWaits = b.ObjectLimits(), int(b.Limits.PageItems), int(b.Limits.PageBytes), int(b.Limits.Waits)
	o.MaxWatches = int(b.Limits.Watches)
	o.Users, o.Live = auth.NewUserAuthenticator(UserTokenKeys(b.Store.Config()), Revoked(b.Store.Config())), b.Live
	service, err := api.New(o)
	if err != nil {
		return err
	}
	b.API = service
	b.Set.Task("watches", func(ctx context.Context) error {
		<-ctx.Done()
		service.StopWatches()
		return nil
	})
	b.Gauge("meridian_api_watches", "Watches of the API that are open.", nil, func(give func(float64, ...string)) { give(float64(service.OpenWatches())) })
	conn := gateway.NewConn(service.Recover, service.Authenticate)
	conn.InterceptStreams(service.RecoverStream, service.AuthenticateStream)
	service.Register(conn)
	handler, err := gateway.New(gateway.Options{
		Conn: conn, MayBatch: service.MayBatch, Table: b.Table, Logger: b.Logger, CORSAllowedDomains: c.CORSAllowedDomains,
		Observe: b.instruments.answered,
		Limits: gateway.Limits{
			ObjectBytes: int64(b.Limits.ObjectBytes), BodyBytes: int64(b.Limits.BodyBytes), BatchBytes: int64(b.Limits.BatchBytes),
			PageBytes: int(b.Limits.PageBytes), AnswerBytes: int(b.Limits.AnswerBytes),
		},
		Identify: func(r *http.Request) context.Context { return auth.WithCaller(r.Context(), auth.CallerOf(r)) },
	})
	if err != nil {
		return fmt.Errorf("apiServer.corsAllowedDomains: %w", err)
	}
	b.handler = handler
	if c.HTTP.Enabled {
		l, err := b.Set.TCP("http", "apiServer.http.port", c.HTTP.Interface, c.HTTP.Port)
		if err != nil {
			return err
		}
		b.Set.HTTP("http", l, b.HTTPServer(handler))
	}
	if c.HTTPS.Enabled {
		t, err := b.TLS(Port{
			Name: "https", CertKey: "apiServer.https.tlsCertFile", CertFile: c.HTTPS.TLSCertFile, KeyFile: c.HTTPS.TLSKeyFile,
			ClientCertsKey: "apiServer.auth.clientCertsDir", ClientCertsDir: c.Auth.ClientCertsDir,
		}, certs)
		if err != nil {
			return err
		}
		rpc, err := b.SharedPort("https", "apiServer.https.port", c.HTTPS.Interface, c.HTTPS.Port, t.Config(), b.withBeside(handler),
			grpc.ChainUnaryInterceptor(service.Recover, identify, service.Authenticate),
			grpc.ChainStreamInterceptor(service.RecoverStream, identifyStream, service.AuthenticateStream),
			grpc.MaxConcurrentStreams(callStreams),
			grpc.MaxRecvMsgSize(int(max(cmp.Or(b.Limits.ObjectBytes, 1<<20), cmp.Or(b.Limits.BodyBytes, 1<<20)))+4<<10))
		if err != nil {
			return err
		}
		service.Register(rpc)
	}
	return nil
}

// identify lets the API's handlers see who is behind a gRPC call over the network.
func identify(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(withPeer(ctx), req)
}

// identifyStream is identify for calls that stream.
func identifyStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, &identified{stream, withPeer(stream.Context())})
}

type identified struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *identified) Context() context.Context { return s.ctx }

// withPeer puts in who is behind a call, and the id of the call, which the caller is told.
func withPeer(ctx context.Context) context.Context {
	c := auth.CallerOfPeer(ctx)
	c.Request = gateway.RequestID(c.Request)
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-request-id", c.Request)) // It fails only where headers were sent.
	return auth.WithCaller(ctx, c)
}

// SharedPort adds a TLS port for HTTP and gRPC, and returns the gRPC server to register services with.
func (b *Base) SharedPort(name, key, iface string, port int, config *tls.Config, h http.Handler, opts ...grpc.ServerOption) (*grpc.Server, error) {
	l, err := b.Set.TCP(name, key, iface, port)
	if err != nil {
		return nil, err
	}
	split := listen.NewSplit(l.Addr(), config)
	rpc := grpc.NewServer(append(append(b.CallLimits(), opts...), grpc.Creds(split))...)
	b.Set.GRPC(name, l, rpc)
	b.Set.HTTP(name+" (HTTP)", split, b.HTTPServer(h))
	return rpc, nil
}

// ObjectLimits are the limits of objects, which hold at every door.
func (b *Base) ObjectLimits() resource.Limits {
	return resource.Limits{
		ObjectBytes: int(b.Limits.ObjectBytes), Depth: int(b.Limits.JSONDepth), AliasGrowth: int(b.Limits.YAMLAliasGrowth),
	}
}

// CallLimits bound what a gRPC client may send before its call is anything to the service.
func (b *Base) CallLimits() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ConnectionTimeout(b.headerTime()), grpc.MaxHeaderListSize(uint32(b.headerBytes()))}
}

// headerTime is how long a client may take to send its headers, headerBytes how large they may be.
func (b *Base) headerTime() time.Duration {
	return time.Duration(cmp.Or(b.Limits.HeaderSeconds, 10)) * time.Second
}
func (b *Base) headerBytes() int { return int(cmp.Or(b.Limits.HeaderBytes, 64<<10)) }

// HTTPServer makes a server with our limits. Bodies have theirs where they are read.
func (b *Base) HTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: b.limitHeaders(h), ReadHeaderTimeout: b.headerTime(), MaxHeaderBytes: b.headerBytes(), IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(b.Logger.Handler(), slog.LevelDebug),
	}
}

// limitHeaders refuses headers that are too large by the key's name. The server itself reads 4 KiB more than it is told
// to, and ends what is larger still with a 431 that says no more.
func (b *Base) limitHeaders(h http.Handler) http.Handler {
	most := b.headerBytes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := headSize(r); n > most {
			http.Error(w, fmt.Sprintf("headers: %d bytes, at most %d (limits.headerBytes)", n, most), http.StatusRequestHeaderFieldsTooLarge)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// headSize is the size of a request's line and headers as a client writes them in HTTP/1.1.
func headSize(r *http.Request) int {
	const lineEnd, colon = len("\r\n"), len(": ")
	n := len(r.Method) + len(" ") + len(r.RequestURI) + len(" ") + len(r.Proto) + lineEnd + len("Host") + colon + len(r.Host) + lineEnd + lineEnd
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + colon + len(v) + lineEnd
		}
	}
	return n
}

// ServeDiagnostics adds the diagnostics port.
func (b *Base) ServeDiagnostics(c config.Diagnostics) error {
	l, err := b.Set.TCP("diagnostics", "diagnostics.serverPort", c.Interface, c.ServerPort)
	if err != nil {
		return err
	}
	h := telemetry.Diagnostics(b.Health, b.Metrics, c.DebugEndpoints)
	b.Set.HTTP("diagnostics", l, b.HTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, f := range b.refresh {
			f(b.Health)
		}
		h.ServeHTTP(w, r)
	})))
	return nil
}

// Addrs gives the dialable address of each port, by the names of the ready line.
func (b *Base) Addrs() map[string]string { return b.Set.Addrs() }

// Ready is closed when the control plane serves.
func (b *Base) Ready() <-chan struct{} { return b.ready }

// Run serves until ctx ends, then undoes everything. It returns what went wrong, and is called once.
func (b *Base) Run(ctx context.Context) error {
	b.Set.Task("store", func(ctx context.Context) error {
		select {
		case err := <-b.fatal:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	// The listeners are open: what dials now is answered.
	b.Health.SetReady(true)
	close(b.ready)
	err := b.Set.Serve(ctx, stopGrace)
	b.Health.SetReady(false)
	return errors.Join(err, b.Close())
}
