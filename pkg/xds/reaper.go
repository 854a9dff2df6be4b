package xds

import (
	"context"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// reaper removes inline dataplanes when their time has come, those of one moment together.
type reaper struct {
	// earlier has an item when something is due earlier than what is waited for.
	earlier chan struct{}

	mu  sync.Mutex
	due map[resource.Key]time.Time
}

func newReaper() *reaper {
	return &reaper{earlier: make(chan struct{}, 1), due: map[resource.Key]time.Time{}}
}

// add sets when a dataplane is removed if its proxy is not there then.
func (r *reaper) add(k resource.Key, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due[k] = at
	select {
	case r.earlier <- struct{}{}:
	default:
	}
}

// take returns what is due, and how long it is until the next; false: nothing is waited for.
func (r *reaper) take(now time.Time) (keys []resource.Key, next time.Duration, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, at := range r.due {
		left := at.Sub(now)
		switch {
		case left <= 0:
			keys = append(keys, k)
			delete(r.due, k)
		case !waits || left < next:
			next, waits = left, true
		}
	}
	return keys, next, waits
}

// run until the context ends. What can't be removed is tried again after a while.
func (r *reaper) run(ctx context.Context, again time.Duration, remove func(context.Context, []resource.Key) error, failed func(error)) {
	timer := time.NewTimer(again)
	defer timer.Stop()
	for {
		keys, next, waits := r.take(time.Now())
		if len(keys) > 0 {
			if err := remove(ctx, keys); err != nil && ctx.Err() == nil {
				failed(err)
				for _, k := range keys {
					r.add(k, time.Now().Add(again))
				}
				continue
			}
		}
		if waits {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.earlier:
		}
	}
}
