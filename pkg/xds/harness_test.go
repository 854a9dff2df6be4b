package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hand is a planner whose sets are given by hand. A change of a Timeout touches the proxy of the same scope and
// name.
type hand struct {
	mu   sync.Mutex
	view store.View
	sets map[resource.Key]*envoy.Set
	errs map[resource.Key]error
	// make, if not nil, is asked in place of sets.
	make func(resource.Key, resource.Revision) *envoy.Set
	// planned counts.
	planned int
}

func (h *hand) Reset(v store.View) { h.see(v) }

func (h *hand) see(v store.View) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.view = v
}

func (h *hand) Apply(c store.Changes) []resource.Key {
	h.see(c.View)
	var dirty []resource.Key
	for _, item := range c.Items {
		if item.Key.Kind == resource.KindTimeout || item.Key.Kind == resource.KindDataplane {
			dirty = append(dirty, resource.Key{Kind: resource.KindDataplane, Scope: item.Key.Scope, Name: item.Key.Name})
		}
	}
	return dirty
}

func (h *hand) Hosts() []string                                 { return nil }
func (h *hand) Resolved(map[string][]netip.Addr) []resource.Key { return nil }

func (h *hand) Plan(k resource.Key) (func() *envoy.Set, []plan.Problem, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.view.Get(k); !ok {
		return nil, nil, plan.ErrUnknownProxy
	}
	h.planned++
	if err := h.errs[k]; err != nil {
		return nil, nil, err
	}
	set := h.sets[k]
	if h.make != nil {
		set = h.make(k, h.view.Revision())
	}
	if set == nil {
		set = xdstest.Set()
	}
	return func() *envoy.Set { return set }, nil, nil
}

// record is an observer that keeps everything.
type record struct {
	mu        sync.Mutex
	open      map[string]Session
	counters  map[string]Counters
	refused   []Refusal
	cleared   []envoy.Ref
	certified []Certificate
	progress  Progress
	reports   int
	onReport  func(Progress)
	connected int
}

func (r *record) Connected(s Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[s.ID] = s
	r.connected++
}

func (r *record) Counted(id string, c Counters) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters[id] = c
}

func (r *record) Refused(f Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, f)
}

func (r *record) Cleared(_ resource.Key, typeURL, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleared = append(r.cleared, envoy.Ref{TypeURL: typeURL, Name: name})
}

func (r *record) Certified(_ resource.Key, c Certificate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certified = append(r.certified, c)
}

func (r *record) Disconnected(id string, _ time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

func (r *record) Progress(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = p
	r.reports++
	if r.onReport != nil {
		r.onReport(p)
	}
}

func (r *record) now() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.progress
}

// lets in whoever has no token or the token "good", until the time that follows it.
type tokens struct{ life time.Duration }

func (a tokens) AuthenticateProxy(_ context.Context, token string, _ resource.Key, _ map[string][]string, _ bool) (Hold, error) {
	switch {
	case token == "":
		return nil, nil
	case token == "good":
		return func(end func(error)) func() {
			t := time.AfterFunc(a.life, func() { end(errors.New("the token has expired")) })
			return func() { t.Stop() }
		}, nil
	}
	return nil, errors.New("the token is for another proxy")
}

// world is a control plane in a bubble.
type world struct {
	t        *testing.T
	ctx      context.Context
	store    store.Store
	hand     *hand // nil: the real planner
	issuer   func(certPEM, keyPEM []byte) (ca.Issuer, error)
	seen     *record
	server   *Server
	conn     *grpc.ClientConn
	shutdown func()
}

// logs fails no test, but shows what happened.
type logs struct{ t *testing.T }

func (l logs) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func newWorld(t *testing.T, limits Limits) *world {
	t.Helper()
	w := &world{
		t: t, store: memory.New(memory.Options{}),
		hand: &hand{sets: map[resource.Key]*envoy.Set{}, errs: map[resource.Key]error{}},
		seen: &record{open: map[string]Session{}, counters: map[string]Counters{}},
	}
	t.Cleanup(func() { _ = w.store.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	w.ctx = ctx
	w.put(resource.Key{Kind: resource.KindMesh, Name: "default"}, nil)
	w.start(limits)
	return w
}

// start a control plane over the store.
func (w *world) start(limits Limits) {
	w.t.Helper()
	var err error
	o := Options{
		Store: w.store, Table: resource.NewTable(), Zone: "zone-1", Instance: "cp", Authenticator: tokens{time.Minute},
		Observer: w.seen, Logger: slog.New(slog.NewTextHandler(logs{w.t}, nil)), Limits: limits, Issuer: w.issuer,
	}
	if w.hand != nil {
		w.server, err = newServer(o, w.hand)
	} else {
		w.server, err = NewServer(o)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	lis := bufconn.Listen(256 << 10)
	gs := grpc.NewServer()
	w.server.Register(gs)
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = gs.Serve(lis) })
	wg.Go(func() {
		if err := w.server.Run(ctx); err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
	w.conn, err = grpc.NewClient("passthrough:///cp", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.shutdown = sync.OnceFunc(func() {
		cancel()
		synctest.Wait()
		_ = w.conn.Close()
		gs.Stop()
		wg.Wait()
	})
	w.t.Cleanup(w.shutdown)
}

func (w *world) put(k resource.Key, spec []byte) resource.Revision {
	w.t.Helper()
	r, err := w.store.Config().Apply(w.ctx, store.Batch{Puts: []store.Put{{Key: k, Spec: append([]byte{}, spec...)}}})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Revision
}

func dataplane(name string) resource.Key {
	return resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name}
}

// register a dataplane, and what it is to have.
func (w *world) register(name string, resources ...*envoy.Resource) resource.Key {
	k := dataplane(name)
	w.hand.mu.Lock()
	w.hand.sets[k] = xdstest.Set(resources...)
	w.hand.mu.Unlock()
	w.put(k, nil)
	return k
}

// publish another configuration; the revision is that of the change.
func (w *world) publish(name string, resources ...*envoy.Resource) resource.Revision {
	k := dataplane(name)
	w.hand.mu.Lock()
	w.hand.sets[k] = xdstest.Set(resources...)
	w.hand.mu.Unlock()
	return w.touch(name)
}

// touch a proxy; "" touches none.
func (w *world) touch(name string) resource.Revision {
	if name == "" {
		return w.put(resource.Key{Kind: resource.KindRetry, Scope: "default", Name: "r"}, []byte(fmt.Sprint(time.Now().UnixNano())))
	}
	return w.put(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: name}, []byte(fmt.Sprint(time.Now().UnixNano())))
}

// connect a proxy and wait until nothing moves any more.
func (w *world) connect(o xdstest.Options) *xdstest.Client {
	w.t.Helper()
	c, err := xdstest.Connect(w.ctx, w.conn, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	synctest.Wait()
	return c
}

func node(name string) xdstest.Options {
	return xdstest.Options{Node: xdstest.Node("default", name, "")}
}

// live is the position of a proxy; false: it is joining.
func (w *world) live(k resource.Key) (resource.Revision, bool) {
	p := w.seen.now()
	if lag, ok := p.Lagging[k]; ok {
		return lag.Live, !lag.Joining
	}
	return p.Processed, true
}

// short is a log of exchanges in one line each: type, names, -removed, ! when refused.
func short(log []xdstest.Exchange) []string {
	var lines []string
	for _, x := range log {
		line := x.TypeURL[strings.LastIndexByte(x.TypeURL, '.')+1:]
		line = map[string]string{"Cluster": "CDS", "ClusterLoadAssignment": "EDS", "Listener": "LDS", "RouteConfiguration": "RDS", "Secret": "SDS"}[line]
		for _, n := range x.Names {
			line += " " + n
		}
		for _, n := range x.Removed {
			line += " -" + n
		}
		if x.Refused != "" {
			line += " !"
		}
		lines = append(lines, line)
	}
	return lines
}

// since is what came after a state.
func since(c *xdstest.Client, before xdstest.State) []string {
	return short(c.State().Log[len(before.Log):])
}

func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// total of all streams.
func (r *record) total() Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	var t Counters
	for _, c := range r.counters {
		t.CDS, t.EDS, t.LDS, t.RDS, t.SDS = t.CDS.plus(c.CDS), t.EDS.plus(c.EDS), t.LDS.plus(c.LDS), t.RDS.plus(c.RDS), t.SDS.plus(c.SDS)
	}
	return t
}

func (c Counter) plus(o Counter) Counter {
	return Counter{c.Sent + o.Sent, c.Acked + o.Acked, c.Rejected + o.Rejected}
}

func (c Counter) minus(o Counter) Counter {
	return Counter{c.Sent - o.Sent, c.Acked - o.Acked, c.Rejected - o.Rejected}
}

func (c Counters) minus(o Counters) Counters {
	return Counters{CDS: c.CDS.minus(o.CDS), EDS: c.EDS.minus(o.EDS), LDS: c.LDS.minus(o.LDS), RDS: c.RDS.minus(o.RDS)}
}
