package model

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// A group of batches that share one commit has at most so many batches, and takes no further one beyond so
// many bytes.
const (
	maxGroup      = 1024
	maxGroupBytes = 8 << 20
	// maxTurns is how often others are let run before a group is closed.
	maxTurns = 8
)

// Committer makes groups durable. It is called by one goroutine at a time.
type Committer interface {
	// Commit is all or nothing. An error that is store.ErrNoSpace promises that nothing was written and that
	// another try may succeed. After any other error the log takes no further batch.
	Commit(*Group) error
	// Settle is called after the batches of a group were answered, for what need not keep them waiting. Its
	// errors are judged like those of Commit.
	Settle() error
}

// Options of a log.
type Options struct {
	// Name of the log in its lines and errors: "config" or "status".
	Name      string
	Retention store.Retention
	// Audit gets a line for each batch that has an author; nil: none.
	Audit *slog.Logger
	// Health of the log until its first commit: why nothing can be made durable, or nil.
	Health error
	// OnFatal is told once, by the writer's goroutine, why the log takes no further batch; nil: nobody is. It
	// must not wait for the log to close.
	OnFatal func(error)
}

// Log implements store.Log over a Committer, with one goroutine that writes.
type Log struct {
	opts      Options
	committer Committer
	requests  chan *request
	now       atomic.Pointer[published]
	health    atomic.Pointer[error]
	fatal     atomic.Pointer[error]

	closeOnce sync.Once
	closing   chan struct{}
	stopped   chan struct{}
}

var _ store.Log = (*Log)(nil)

// published is what readers see.
type published struct {
	state *State
	// moved is closed when a state of a later revision is published.
	moved chan struct{}
}

// request is a batch on its way through the writer.
type request struct {
	batch *store.Batch
	// taken is won by the writer, or by a caller who gives up.
	taken  atomic.Bool
	done   chan struct{}
	result store.Result
	err    error
}

// Start begins to serve the state that l has gathered. A nil committer keeps nothing.
func (l *Loader) Start(c Committer, opts Options) *Log {
	opts.Retention = opts.Retention.OrDefault()
	log := &Log{
		opts: opts, committer: c,
		requests: make(chan *request, maxGroup),
		closing:  make(chan struct{}), stopped: make(chan struct{}),
	}
	log.now.Store(&published{state: l.state, moved: make(chan struct{})})
	if opts.Health != nil {
		log.health.Store(&opts.Health)
	}
	go log.write()
	return log
}

// Close ends all waiting, and the writer once its present group is committed.
func (l *Log) Close() {
	l.closeOnce.Do(func() { close(l.closing) })
	<-l.stopped
}

// Health is nil unless the last commit failed.
func (l *Log) Health() error {
	if e := l.fatal.Load(); e != nil {
		return *e
	}
	if e := l.health.Load(); e != nil {
		return *e
	}
	return nil
}

func (l *Log) closed() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

// View implements store.Log.
func (l *Log) View() store.View { return l.now.Load().state }

// Await implements store.Log.
func (l *Log) Await(ctx context.Context, r resource.Revision) (store.View, error) {
	for {
		p := l.now.Load()
		if p.state.revision >= r {
			return p.state, nil
		}
		select {
		case <-p.moved:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-l.closing:
			return nil, store.ErrClosed
		}
	}
}

// Apply implements store.Log.
func (l *Log) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	if err := ctx.Err(); err != nil {
		return store.Result{}, context.Cause(ctx)
	}
	if l.closed() {
		return store.Result{}, store.ErrClosed
	}
	r := &request{batch: &b, done: make(chan struct{})}
	select {
	case l.requests <- r:
	case <-ctx.Done():
		return store.Result{}, context.Cause(ctx)
	case <-l.stopped:
		return store.Result{}, store.ErrClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		// Either the writer never takes the batch, or it is being committed and the caller will not know.
		r.taken.CompareAndSwap(false, true)
		return store.Result{}, context.Cause(ctx)
	case <-l.stopped:
		select {
		case <-r.done:
		default:
			return store.Result{}, store.ErrClosed
		}
	}
	if r.err != nil {
		return store.Result{}, r.err
	}
	changes := len(b.Puts)+len(b.Deletes)+len(b.DeleteScopes) > 0
	if l.opts.Audit != nil && b.Author != (store.Author{}) && changes {
		l.audit(ctx, &b, r.result.Revision)
	}
	return r.result, nil
}

func (l *Log) audit(ctx context.Context, b *store.Batch, rev resource.Revision) {
	attrs := []slog.Attr{
		slog.String("log", l.opts.Name), slog.String("revision", rev.String()),
		slog.String("who", b.Author.Who), slog.String("request", b.Author.Request),
		slog.Int("puts", len(b.Puts)), slog.Int("deletes", len(b.Deletes)+len(b.DeleteScopes)),
	}
	switch {
	case len(b.Puts) > 0:
		attrs = append(attrs, slog.String("key", b.Puts[0].Key.String()))
	case len(b.Deletes) > 0:
		attrs = append(attrs, slog.String("key", b.Deletes[0].String()))
	}
	l.opts.Audit.LogAttrs(ctx, slog.LevelInfo, "audit", attrs...)
}

// write is the one goroutine that changes the log.
func (l *Log) write() {
	defer close(l.stopped)
	// Those whom the last group answered are about to write again. They are let run before the next group is closed, as one
	// commit for all of them costs little more than one for the first alone. Where there was only one, nobody waits.
	last := 1
	for {
		select {
		case <-l.closing:
			return
		default:
		}
		select {
		case first := <-l.requests:
			for range last - 1 {
				runtime.Gosched()
			}
			group := l.gather(first)
			last = min(len(group), maxTurns)
			l.commit(group)
			if l.committer != nil && l.fatal.Load() == nil {
				if err := l.committer.Settle(); err != nil {
					_ = l.fail(err)
				}
			}
		case <-l.closing:
			return
		}
	}
}

// gather takes what has come meanwhile, so that all of it shares one commit.
func (l *Log) gather(first *request) []*request {
	var group []*request
	size := 0
	for r := first; ; {
		if r.taken.CompareAndSwap(false, true) {
			group = append(group, r)
			for i := range r.batch.Puts {
				size += len(r.batch.Puts[i].Spec)
			}
		}
		if len(group) == maxGroup || size > maxGroupBytes {
			return group
		}
		select {
		case r = <-l.requests:
		default:
			return group
		}
	}
}

// commit checks the batches in order, makes those that hold durable, publishes them in one step, answers.
func (l *Log) commit(group []*request) {
	if e := l.fatal.Load(); e != nil {
		answer(group, *e)
		return
	}
	before := l.now.Load()
	t := before.state.begin(time.Now().UTC().Round(0), l.opts.Retention)
	for _, r := range group {
		r.result.Revision, r.err = t.apply(r.batch)
	}
	if t.revision > before.state.revision || len(t.group.Cursors) > 0 {
		if l.committer != nil {
			if err := l.committer.Commit(t.done()); err != nil {
				// Also those that were refused: what they were refused for did not come to be.
				answer(group, l.fail(err))
				return
			}
			l.health.Store(nil)
		}
		l.publish(before, t.State)
	}
	for _, r := range group {
		r.result.View = l.now.Load().state
		close(r.done)
	}
}

// publish shows a state to all readers, and wakes those who wait for a later revision.
func (l *Log) publish(before *published, s *State) {
	after := &published{state: s, moved: before.moved}
	if s.revision > before.state.revision {
		after.moved = make(chan struct{})
		defer close(before.moved)
	}
	l.now.Store(after)
}

// fail notes why something could not be made durable.
func (l *Log) fail(err error) error {
	l.health.Store(&err)
	if errors.Is(err, store.ErrNoSpace) {
		return err
	}
	l.fatal.Store(&err)
	if l.opts.OnFatal != nil {
		l.opts.OnFatal(err)
	}
	return err
}

func answer(group []*request, err error) {
	for _, r := range group {
		r.result, r.err = store.Result{}, err
		close(r.done)
	}
}

// Watch implements store.Log.
func (l *Log) Watch(rng store.Range, after store.Cursor) (store.Watch, error) {
	if l.closed() {
		return nil, store.ErrClosed
	}
	if !l.now.Load().state.usable(after) {
		return nil, store.ErrCompacted
	}
	return &watch{log: l, rng: rng, at: after.Revision, closed: make(chan struct{})}, nil
}

// watch is a place in a log. It costs nothing while it waits but the waiting goroutine of its user.
type watch struct {
	log       *Log
	rng       store.Range
	at        resource.Revision
	closeOnce sync.Once
	closed    chan struct{}
}

// Next implements store.Watch.
func (w *watch) Next(ctx context.Context) (store.Changes, error) {
	for {
		if ctx.Err() != nil {
			return store.Changes{}, context.Cause(ctx)
		}
		select {
		case <-w.closed:
			return store.Changes{}, store.ErrClosed
		case <-w.log.closing:
			return store.Changes{}, store.ErrClosed
		default:
		}
		p := w.log.now.Load()
		if p.state.revision > w.at {
			if w.at < p.state.compacted {
				return store.Changes{}, store.ErrCompacted
			}
			c := store.Changes{From: w.at, To: p.state.revision, Items: p.state.changesSince(w.at, w.rng), View: p.state}
			w.at = c.To
			return c, nil
		}
		select {
		case <-p.moved:
		case <-ctx.Done():
		case <-w.closed:
		case <-w.log.closing:
		}
	}
}

// Close implements store.Watch.
func (w *watch) Close() error {
	w.closeOnce.Do(func() { close(w.closed) })
	return nil
}
