// Package dns is the index's Resolver: it finds out what DNS names stand for, and asks again when an answer has
// grown old.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// How long an answer holds: as long as it says, within bounds. A failure is tried again after the least.
const (
	MinTTL = 5 * time.Second
	MaxTTL = 5 * time.Minute
	// UnknownTTL holds where the lookup does not say.
	UnknownTTL = 30 * time.Second
	// timeout of one lookup.
	timeout = 5 * time.Second
)

// Lookup asks for the addresses of a name, and how long they hold; 0: that is not known.
type Lookup func(ctx context.Context, host string) (addrs []netip.Addr, ttl time.Duration, err error)

// System asks the system's resolver, which does not say how long its answers hold.
func System() Lookup {
	return func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		return addrs, 0, err
	}
}

// Resolver keeps the answers for the wanted names. All methods are safe for concurrent use; Run asks, one name
// at a time, those without an answer first.
type Resolver struct {
	lookup  Lookup
	log     *slog.Logger
	wake    chan struct{}
	changed chan struct{}

	mu     sync.Mutex
	wanted map[string]*entry
	fresh  map[string][]netip.Addr
}

// entry is what is known of a name.
type entry struct {
	due    time.Time
	answer []netip.Addr
	err    error
}

var _ index.Resolver = (*Resolver)(nil)

// New makes a resolver that asks nothing before Run.
func New(lookup Lookup, log *slog.Logger) *Resolver {
	return &Resolver{
		lookup: lookup, log: log, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		wanted: map[string]*entry{}, fresh: map[string][]netip.Addr{},
	}
}

// Run asks until the context ends, and returns its cause.
func (r *Resolver) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		if host, e, in := r.next(); e != nil {
			if in <= 0 && ctx.Err() == nil {
				r.ask(ctx, host, e)
				continue
			}
			timer.Reset(in)
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.wake:
		case <-due:
		}
	}
}

// next finds the name that is to be asked for next, and in how long.
func (r *Resolver) next() (host string, next *entry, in time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for h, e := range r.wanted {
		wait := max(e.due.Sub(now), 0)
		newer := next != nil && wait == in && next.answer != nil && e.answer == nil
		if next == nil || wait < in || newer || wait == in && (next.answer == nil) == (e.answer == nil) && e.due.Before(next.due) {
			host, next, in = h, e, wait
		}
	}
	return host, next, in
}

// ask looks one name up. What fails, or has no address, keeps the last good answer.
func (r *Resolver) ask(ctx context.Context, host string, e *entry) {
	lookup, cancel := context.WithTimeout(ctx, timeout)
	addrs, ttl, err := r.lookup(lookup, host)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if err == nil && len(addrs) == 0 {
		err = errors.New("no addresses")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted[host] != e {
		return
	}
	if err != nil {
		if e.err == nil {
			r.log.Warn("cannot resolve a dataplane's address", "host", host, "error", err, "kept", e.answer)
		}
		e.err, e.due = err, time.Now().Add(MinTTL)
		return
	}
	if ttl == 0 {
		ttl = UnknownTTL
	}
	e.err, e.due = nil, time.Now().Add(min(max(ttl, MinTTL), MaxTTL))
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	if slices.Equal(addrs, e.answer) {
		return
	}
	e.answer = addrs
	r.fresh[host] = addrs
	signal(r.changed)
}

// Want implements index.Resolver.
func (r *Resolver) Want(hosts []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := make(map[string]*entry, len(hosts))
	added := false
	for _, h := range hosts {
		e, ok := r.wanted[h]
		if !ok {
			e = &entry{due: time.Now()}
			added = true
		}
		wanted[h] = e
	}
	for h := range r.fresh {
		if _, ok := wanted[h]; !ok {
			delete(r.fresh, h)
		}
	}
	r.wanted = wanted
	if added {
		signal(r.wake)
	}
}

// Changed implements index.Resolver.
func (r *Resolver) Changed() <-chan struct{} { return r.changed }

// Take implements index.Resolver.
func (r *Resolver) Take() map[string][]netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	fresh := r.fresh
	r.fresh = map[string][]netip.Addr{}
	return fresh
}

// Failing lists the names whose last lookup failed, and why.
func (r *Resolver) Failing() map[string]error {
	r.mu.Lock()
	defer r.mu.Unlock()
	failing := map[string]error{}
	for h, e := range r.wanted {
		if e.err != nil {
			failing[h] = e.err
		}
	}
	return failing
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
