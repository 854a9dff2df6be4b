package insight

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

const (
	// flushEvery is how long counters that moved wait to be written together.
	flushEvery = 10 * time.Second
	// lagGrace is how long proxies may be under way to a newer revision before that is worth rows: most of them
	// have answered by then, and one row says so for all.
	lagGrace = 100 * time.Millisecond
	// spacing lies between two writes, and rowSpacing more for each row of a lagging proxy in the first.
	spacing    = 10 * time.Millisecond
	rowSpacing = 200 * time.Microsecond
	// retryAfter lies between a write that failed and the next try.
	retryAfter = time.Second
	// lastWrite is how long the last write may take when the recorder ends.
	lastWrite = 2 * time.Second
)

// Options of a recorder.
type Options struct {
	Store store.Store
	// Instance is this control plane instance's id.
	Instance string
	// Peer is the peer in whose config log's numbering positions are given ("global"), or empty for the own.
	Peer   string
	Logger *slog.Logger
	// Leftovers says that those of earlier instances are still to be closed (see CloseLeftovers), before anything
	// else is written.
	Leftovers bool
}

// Recorder implements Observer: it keeps what it is told and writes it to the status log while Run runs.
type Recorder struct {
	store    store.Store
	instance string
	logger   *slog.Logger
	// poke has an item when there may be something to do.
	poke chan struct{}

	mu        sync.Mutex
	positions positions
	// session with the peer that positions are written in.
	session string
	// sessions are those that are open, and those whose end is not yet written.
	sessions map[string]*session
	// streams are the sessions of each proxy: all of them, and how many are open.
	streams map[resource.Key]*streams
	dirty   dirty
	// due is when the counters that moved are to be written; zero: none moved.
	due time.Time

	// certified are the certificates that are not yet in their proxies' insights.
	certified map[resource.Key]certified

	// refusals of each proxy.
	refusals   map[resource.Key]map[refusalID]*refusal
	rejections map[resource.Key]*rejection

	// latest is what was last told, shown what the rows are derived from: latest, unless that is held since
	// a moment for lack of answers. joined are the connected proxies that shown does not take in.
	latest, shown *Progress
	held          time.Time
	told          uint64
	joined        map[resource.Key]*session

	// rest is until when no write should follow the last one; failing, that the last one failed.
	rest    time.Time
	failing bool
	// leftovers are to be closed before the next write. Only the writer looks at it.
	leftovers bool
}

var _ Observer = (*Recorder)(nil)

// session is one stream.
type session struct {
	Session
	told     uint64
	ended    time.Time
	counters Counters
	counted  time.Time
}

// certified is the last certificate that was issued to a proxy, and how many were since the last write.
type certified struct {
	Certificate
	issued uint32
}

type streams struct {
	all  []*session
	open int
}

// dirty is what the next write is about.
type dirty struct {
	// insights of these proxies; counted are those of whose insights only counters moved.
	insights, counted map[resource.Key]struct{}
	// gone are dataplanes that were deleted.
	gone map[resource.Key]struct{}
	// rejections of these source objects.
	rejections map[resource.Key]struct{}
	// positions may have moved.
	positions bool
}

func newDirty() dirty {
	return dirty{
		insights: map[resource.Key]struct{}{}, counted: map[resource.Key]struct{}{},
		gone: map[resource.Key]struct{}{}, rejections: map[resource.Key]struct{}{},
	}
}

// add takes back what could not be written.
func (d *dirty) add(o dirty) {
	maps.Copy(d.insights, o.insights)
	maps.Copy(d.counted, o.counted)
	maps.Copy(d.gone, o.gone)
	maps.Copy(d.rejections, o.rejections)
	d.positions = d.positions || o.positions
}

// urgent says whether there is more than counters to write.
func (d *dirty) urgent() bool {
	return len(d.insights) > 0 || len(d.gone) > 0 || len(d.rejections) > 0 || d.positions
}

// New makes a recorder. It is made before proxies are served, since it maps only revisions that it has seen.
func New(o Options) *Recorder {
	r := &Recorder{
		store: o.Store, instance: o.Instance, logger: o.Logger,
		poke:      make(chan struct{}, 1),
		positions: positions{peer: o.Peer},
		sessions:  map[string]*session{}, streams: map[resource.Key]*streams{}, dirty: newDirty(),
		refusals: map[resource.Key]map[refusalID]*refusal{}, rejections: map[resource.Key]*rejection{},
		joined: map[resource.Key]*session{}, leftovers: o.Leftovers, certified: map[resource.Key]certified{},
	}
	if r.logger == nil {
		r.logger = slog.New(slog.DiscardHandler)
	}
	r.positions.note(o.Store.Config().View())
	r.dirty.positions = true
	return r
}

// wake is called by whoever has changed something.
func (r *Recorder) wake() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// Connected implements Observer.
func (r *Recorder) Connected(s Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told++
	x := &session{Session: s, told: r.told}
	r.sessions[s.ID] = x
	of := r.streams[s.Proxy]
	if of == nil {
		of = &streams{}
		r.streams[s.Proxy] = of
	}
	of.all = append(of.all, x)
	if len(of.all) > maxSubscriptions+of.open {
		// No insight has room for it, if the store has none for the insight.
		r.drop(of.all[slices.IndexFunc(of.all, func(x *session) bool { return !x.ended.IsZero() })])
	}
	if of.open++; of.open == 1 {
		// Until a progress takes the proxy in, nothing is known to be live on it.
		r.joined[s.Proxy] = x
	}
	r.dirty.insights[s.Proxy] = struct{}{}
	r.dirty.positions = true
	r.wake()
}

// Counted implements Observer.
func (r *Recorder) Counted(id string, c Counters) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sessions[id]
	if s == nil || s.counters == c {
		return
	}
	first := s.counters.total().Rejected == 0 && c.total().Rejected > 0
	s.counters, s.counted = c, time.Now()
	if first {
		r.dirty.insights[s.Proxy] = struct{}{}
		r.wake()
		return
	}
	r.dirty.counted[s.Proxy] = struct{}{}
	if r.due.IsZero() {
		r.due = s.counted.Add(flushEvery)
		r.wake()
	}
}

// Certified implements Observer.
func (r *Recorder) Certified(proxy resource.Key, c Certificate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.certified[proxy] = certified{c, r.certified[proxy].issued + 1}
	r.dirty.insights[proxy] = struct{}{}
	r.wake()
}

// settle forgets the certificates that a write has counted, but not those that came while it was under way.
func (r *Recorder) settle(written map[resource.Key]uint32) {
	for k, n := range written {
		c := r.certified[k]
		if c.issued -= n; c.issued == 0 {
			delete(r.certified, k)
			continue
		}
		r.certified[k] = c
	}
}

// Disconnected implements Observer.
func (r *Recorder) Disconnected(id string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sessions[id]; s != nil && s.ended.IsZero() {
		r.end(s, at)
		r.wake()
	}
}

func (r *Recorder) end(s *session, at time.Time) {
	s.ended = at
	if of := r.streams[s.Proxy]; of != nil {
		if of.open--; of.open == 0 {
			delete(r.joined, s.Proxy)
		}
	}
	r.dirty.insights[s.Proxy] = struct{}{}
	r.dirty.positions = true
}

// connected says whether a proxy has an open stream.
func (r *Recorder) connected(k resource.Key) bool {
	of := r.streams[k]
	return of != nil && of.open > 0
}

// Progress implements Observer.
func (r *Recorder) Progress(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told++
	p.told = r.told
	r.latest = &p
	switch {
	case !r.hold(&p):
		r.show()
	case r.held.IsZero():
		r.held = time.Now()
	default:
		return
	}
	r.wake()
}

// hold says whether a progress may wait: proxies are under way to it, and what is shown stays true meanwhile.
func (r *Recorder) hold(p *Progress) bool {
	if r.shown == nil {
		return false
	}
	worth := false
	for k, lag := range p.Lagging {
		if !r.connected(k) || r.joined[k] != nil && !takesIn(p, r.joined[k]) {
			continue
		}
		claim, shown := r.shown.Lagging[k]
		switch {
		case r.joined[k] != nil || shown && claim.Joining:
		case lag.Joining, shown && lag.Live < claim.Live, !shown && lag.Live < r.shown.Processed:
			return false
		case !shown:
			worth = true
		}
	}
	return worth
}

// takesIn says whether a progress was taken after a session had begun.
func takesIn(p *Progress, s *session) bool { return p.told > s.told && p.Sequence >= s.Sequence }

// show derives the rows from the latest progress from now on.
func (r *Recorder) show() {
	r.shown, r.held = r.latest, time.Time{}
	for k, s := range r.joined {
		if takesIn(r.shown, s) {
			delete(r.joined, k)
		}
	}
	r.dirty.positions = true
}

// CursorMoved tells that the config log's cursor for the peer moved without a revision.
func (r *Recorder) CursorMoved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.positions.note(r.store.Config().View())
	r.dirty.positions = true
	r.wake()
}

// SessionBegun tells that the peer has given a session this id. The zone's row names it from then on, so that the
// peer tells a row of this session from one that it has kept.
func (r *Recorder) SessionBegun(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.session = id
	r.dirty.positions = true
	r.wake()
}

// Run writes until the context ends or the store is closed, then ends all sessions that are still open and
// writes a last time. It is called once.
func (r *Recorder) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.follow(gctx) })
	g.Go(func() error { return r.write(gctx) })
	err := g.Wait()
	if errors.Is(err, store.ErrClosed) {
		return nil
	}
	r.mu.Lock()
	for _, s := range r.sessions {
		if s.ended.IsZero() {
			r.end(s, time.Now())
		}
	}
	if !r.held.IsZero() {
		r.show()
	}
	r.mu.Unlock()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	if lastErr := r.flush(last); lastErr != nil && !errors.Is(lastErr, store.ErrClosed) {
		r.logger.Warn("the last insights were not written", "error", lastErr)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// follow watches the config log: it learns positions, and which dataplanes are gone.
func (r *Recorder) follow(ctx context.Context) error {
	log := r.store.Config()
	for {
		v := log.View()
		w, err := log.Watch(store.Everything(), v.At())
		if err != nil {
			return err
		}
		r.sweep(v)
		err = r.followWatch(ctx, w)
		_ = w.Close()
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
}

func (r *Recorder) followWatch(ctx context.Context, w store.Watch) error {
	for {
		c, err := w.Next(ctx)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.positions.note(c.View)
		for i := range c.Items {
			switch k := c.Items[i].Key; {
			case k.Kind != resource.KindDataplane:
			case c.Items[i].Object == nil:
				r.forget(k)
			case r.streams[k] != nil:
				r.dirty.insights[k] = struct{}{}
			}
		}
		r.dirty.positions = true
		r.wake()
		r.mu.Unlock()
	}
}

// sweep finds the insights of dataplanes that went unseen.
func (r *Recorder) sweep(config store.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.positions.note(config)
	for o := range local(r.store.Status().View(), resource.KindDataplaneInsight) {
		if k := dataplane(o.Key); !has(config, k) {
			r.forget(k)
		}
	}
	r.dirty.positions = true
	r.wake()
}

func has(v store.View, k resource.Key) bool {
	_, ok := v.Get(k)
	return ok
}

// forget a dataplane that was deleted.
func (r *Recorder) forget(k resource.Key) {
	r.dirty.gone[k] = struct{}{}
	for id := range r.refusals[k] {
		r.clear(id)
	}
}

// write is the one goroutine that writes.
func (r *Recorder) write(ctx context.Context) error {
	for {
		at, something := r.next()
		wait := time.Until(at)
		if something && wait <= 0 {
			if err := r.flush(ctx); err != nil {
				if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
					return err
				}
				r.mu.Lock()
				said := r.failing
				r.failing, r.rest = true, time.Now().Add(retryAfter)
				r.mu.Unlock()
				if !said {
					r.logger.Warn("insights can't be written", "error", err)
				}
			}
			continue
		}
		var timeout <-chan time.Time
		if something {
			timeout = time.After(wait)
		}
		select {
		case <-timeout:
		case <-r.poke:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next says when to write again; false: not before something happens.
func (r *Recorder) next() (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var times []time.Time
	if r.dirty.urgent() {
		times = append(times, r.rest)
	}
	if !r.held.IsZero() {
		times = append(times, r.held.Add(lagGrace))
	}
	if !r.due.IsZero() {
		times = append(times, r.due)
	}
	if len(times) == 0 {
		return time.Time{}, false
	}
	at := slices.MinFunc(times, time.Time.Compare)
	if at.Before(r.rest) {
		at = r.rest
	}
	return at, true
}

// flush writes all that is to be written, in one batch.
func (r *Recorder) flush(ctx context.Context) error {
	now := time.Now()
	if r.leftovers {
		if err := CloseLeftovers(ctx, r.store, r.instance, now); err != nil {
			return err
		}
		r.leftovers = false
	}
	r.mu.Lock()
	if !r.held.IsZero() && !now.Before(r.held.Add(lagGrace)) {
		r.show()
	}
	if !r.due.IsZero() && !now.Before(r.due) {
		maps.Copy(r.dirty.insights, r.dirty.counted)
		clear(r.dirty.counted)
		r.due = time.Time{}
	}
	taken := r.dirty
	r.dirty = newDirty()
	r.dirty.counted = taken.counted
	taken.counted = nil
	w, err := r.build(taken)
	r.mu.Unlock()
	if err == nil && len(w.batch.Puts)+len(w.batch.Deletes) > 0 {
		_, err = r.store.Status().Apply(ctx, w.batch)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.dirty.add(taken)
		return err
	}
	r.failing = false
	r.rest = now.Add(spacing + time.Duration(w.rows)*rowSpacing)
	for _, s := range w.ended {
		r.drop(s)
	}
	r.settle(w.certified)
	return nil
}
