package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// planner turns the config log into what each proxy should have. It is used by one goroutine.
type planner interface {
	// Reset starts anew from a view.
	Reset(store.View)
	// Apply takes in changes and names the proxies that they may touch, deleted ones included.
	Apply(store.Changes) []resource.Key
	// Hosts are the DNS names that plans need; Resolved takes in what they stand for.
	Hosts() []string
	Resolved(map[string][]netip.Addr) []resource.Key
	// Plan works out one proxy. It fails with plan.ErrUnknownProxy, or another error that is to be shown. The
	// plan's translation may be called from any goroutine.
	Plan(resource.Key) (translate func() *envoy.Set, problems []plan.Problem, err error)
}

// stages is the planner of index, plan and envoy.
type stages struct {
	zone       string
	index      *index.Index
	translator *envoy.Translator
}

func (s *stages) Reset(v store.View)                                { s.index = index.New(s.zone, v) }
func (s *stages) Apply(c store.Changes) []resource.Key              { return s.index.Apply(c) }
func (s *stages) Hosts() []string                                   { return s.index.Hosts() }
func (s *stages) Resolved(a map[string][]netip.Addr) []resource.Key { return s.index.Resolved(a) }

func (s *stages) Plan(k resource.Key) (func() *envoy.Set, []plan.Problem, error) {
	p, err := plan.Build(s.index, k)
	if err != nil {
		return nil, nil, err
	}
	return func() *envoy.Set { return s.translator.Translate(p) }, p.Problems, nil
}

// loop follows the config log and publishes what it means. There are no timers: the first change is worked on
// at once, and what comes meanwhile makes up the next round.
type loop struct {
	s       *Server
	planner planner
	// view is the state up to which plans are worked out. hosts are those that the resolver was told last.
	view  store.View
	hosts []string
	// wake has an item when there is something in wanted.
	wake chan struct{}

	mu sync.Mutex
	// wanted are proxies that have no plan, and the revision that it must contain.
	wanted map[*proxy]resource.Revision
}

func newLoop(s *Server, p planner) *loop {
	return &loop{s: s, planner: p, wake: make(chan struct{}, 1), wanted: map[*proxy]resource.Revision{}}
}

// want asks for a proxy's plan at or after a revision.
func (l *loop) want(p *proxy, at resource.Revision) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted[p] = max(at, l.wanted[p])
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run until the context ends or the store fails.
func (l *loop) run(ctx context.Context) error {
	for {
		err := l.follow(ctx)
		if !errors.Is(err, store.ErrCompacted) || ctx.Err() != nil {
			return err
		}
		l.s.o.Logger.Warn("the config log went on without its proxies, all plans are made anew")
	}
}

// follow starts from the present state and goes on until something fails.
func (l *loop) follow(ctx context.Context) error {
	log := l.s.o.Store.Config()
	before := l.view
	view := log.View()
	watch, err := log.Watch(store.Everything(), view.At())
	if err != nil {
		return fmt.Errorf("watching the config log: %w", err)
	}
	defer watch.Close()
	l.planner.Reset(view)
	var all []resource.Key
	since := view.Revision()
	if before != nil {
		since = before.Revision()
		for _, p := range l.s.all() {
			all = append(all, p.key)
		}
	}
	l.round(view, all, since+1)

	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	defer cancel()
	changes := make(chan store.Changes)
	g.Go(func() error {
		for {
			c, err := watch.Next(ctx)
			if err != nil {
				return fmt.Errorf("watching the config log: %w", err)
			}
			select {
			case changes <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	g.Go(func() error {
		var resolved <-chan struct{}
		if r := l.s.o.Resolver; r != nil {
			resolved = r.Changed()
		}
		for {
			select {
			case c := <-changes:
				since := l.view.Revision() + 1
				l.round(c.View, l.planner.Apply(c), since)
			case <-resolved:
				l.round(l.view, l.planner.Resolved(l.s.o.Resolver.Take()), l.view.Revision()+1)
			case <-l.wake:
				l.round(l.view, nil, l.view.Revision()+1)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return g.Wait()
}

// due takes the proxies that wait for a plan that can be made now.
func (l *loop) due(r resource.Revision) []*proxy {
	l.mu.Lock()
	defer l.mu.Unlock()
	var due []*proxy
	for p, at := range l.wanted {
		if at <= r {
			due = append(due, p)
			delete(l.wanted, p)
		}
	}
	return due
}

// round works out the proxies that were touched and those that wait, up to a view.
func (l *loop) round(v store.View, dirty []resource.Key, since resource.Revision) {
	l.view = v
	if r := l.s.o.Resolver; r != nil {
		if hosts := l.planner.Hosts(); !slices.Equal(hosts, l.hosts) {
			l.hosts = slices.Clone(hosts)
			r.Want(hosts)
		}
	}
	work := map[resource.Key]*proxy{}
	for _, k := range dirty {
		p := l.s.find(k)
		switch {
		case p == nil:
		case !p.idle():
			work[k] = p
		default:
			if _, ok := v.Get(k); !ok {
				l.forget(p)
			}
		}
	}
	for _, p := range l.due(v.Revision()) {
		if !p.planned() {
			work[p.key] = p
		}
	}
	if len(work) > 0 {
		g := new(errgroup.Group)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for _, k := range slices.SortedFunc(maps.Keys(work), resource.Key.Compare) {
			p := work[k]
			// Plans share what they have in common without locks; the rest is each proxy's own.
			translate, problems, err := l.planner.Plan(k)
			g.Go(func() error {
				var set *envoy.Set
				if err == nil {
					set = translate()
				}
				l.publish(p, set, problems, err, since)
				return nil
			})
		}
		_ = g.Wait() // none fails
	}
	l.s.progress.processed(v.Revision())
}

func (l *loop) publish(p *proxy, set *envoy.Set, problems []plan.Problem, err error, since resource.Revision) {
	l.s.plans.Add(1)
	switch {
	case errors.Is(err, plan.ErrUnknownProxy), errors.Is(err, plan.ErrUnknownMesh):
		l.forget(p)
	case err != nil:
		l.s.o.Logger.Error("a proxy keeps its configuration, the new one can't be made",
			slog.String("proxy", p.key.String()), slog.Any("error", err))
		p.fail(l.blame(p.key, err))
	default:
		p.publish(set, since)
		p.tell(problems, l.s.o.Logger)
	}
}

// forget a proxy whose dataplane is gone.
func (l *loop) forget(p *proxy) {
	p.gone(l.view.Revision(), l.reason(p.key))
	l.s.release(l.s.acquire(p.key))
}

// reason says why there is no configuration for a proxy.
func (l *loop) reason(k resource.Key) error {
	if _, ok := l.view.Get(resource.Key{Kind: resource.KindMesh, Name: k.Scope}); !ok {
		return status.Errorf(codes.NotFound, "mesh %q was deleted", k.Scope)
	}
	return status.Errorf(codes.NotFound, "%s was deleted", k)
}

// blame says of the dataplane why there is no plan.
func (l *loop) blame(k resource.Key, err error) Refusal {
	r := Refusal{Proxy: k, Text: err.Error(), At: time.Now()}
	if o, ok := l.view.Get(k); ok {
		r.Sources = []plan.Source{{Key: k, Revision: o.SpecRevision}}
	}
	return r
}
