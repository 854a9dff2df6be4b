package kds

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// cost is what a group's frame takes of the window. Both ends must agree on it.
func cost(g *kdsv1.Group) int64 { return int64(len(g.GetChanges())) + 64 }

// errProtocol is what a peer gets that does not keep to the protocol.
var errProtocol = errors.New("protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// window is how much may still be sent before the peer has staged what was.
type window struct {
	free *semaphore.Weighted

	mu    sync.Mutex
	taken int64
}

func newWindow() *window { return &window{free: semaphore.NewWeighted(windowSize)} }

// take waits until n bytes may be sent.
func (w *window) take(ctx context.Context, n int64) error {
	if err := w.free.Acquire(ctx, n); err != nil {
		return context.Cause(ctx)
	}
	w.mu.Lock()
	w.taken += n
	w.mu.Unlock()
	return nil
}

// give takes the peer's credit.
func (w *window) give(n uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n > uint64(w.taken) {
		return violation("credit for %d bytes, but only %d are out", n, w.taken)
	}
	w.taken -= int64(n)
	w.free.Release(int64(n))
	return nil
}

// inflow counts what has come and is not yet given back to the sender. Bytes are credited as they are staged,
// as long as not too much waits to be applied: then they are held back until it is.
type inflow struct {
	mu sync.Mutex
	// owed were not yet credited; waiting are those of complete groups that are not yet applied.
	owed, waiting int64
}

// arrived notes a frame. It fails when the peer has sent more than it may.
func (f *inflow) arrived(n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.owed += n; f.owed > windowSize {
		return violation("%d bytes sent into a window of %d", f.owed, windowSize)
	}
	return nil
}

// queued notes that a complete group of n bytes waits to be applied; applied that it does no longer (n < 0).
func (f *inflow) queued(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting += n
}

// credit gives what may be credited now.
func (f *inflow) credit() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting > windowSize || f.owed < creditStep {
		return 0
	}
	n := f.owed
	f.owed = 0
	return uint64(n)
}

// outbox is what the one sending loop takes from: control frames, which nobody waits to hand over, before
// data frames, which are handed over one by one.
type outbox struct {
	data chan *kdsv1.Frame
	// ready has a token when there may be control frames.
	ready chan struct{}

	mu      sync.Mutex
	control []*kdsv1.Frame
}

func newOutbox() *outbox {
	return &outbox{data: make(chan *kdsv1.Frame), ready: make(chan struct{}, 1)}
}

// put queues a control frame. It never blocks; it fails when the peer makes us queue without end.
func (o *outbox) put(f *kdsv1.Frame) error {
	o.mu.Lock()
	n := len(o.control)
	if n < maxReplies {
		o.control = append(o.control, f)
	}
	o.mu.Unlock()
	if n >= maxReplies {
		return violation("%d answers are waiting to be read", n)
	}
	select {
	case o.ready <- struct{}{}:
	default:
	}
	return nil
}

// next gives the oldest control frame, or nil.
func (o *outbox) next() *kdsv1.Frame {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.control) == 0 {
		o.control = nil
		return nil
	}
	f := o.control[0]
	o.control[0], o.control = nil, o.control[1:]
	return f
}

// send hands over a data frame and waits until the sending loop has taken it.
func (o *outbox) send(ctx context.Context, f *kdsv1.Frame) error {
	select {
	case o.data <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
