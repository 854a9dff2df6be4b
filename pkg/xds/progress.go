package xds

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// progress gathers how far the proxies have come. A revision that touches no proxy costs one assignment.
type progress struct {
	// moved has an item when there is something new.
	moved chan struct{}

	mu  sync.Mutex
	now Progress
}

func newProgress() *progress {
	return &progress{
		moved: make(chan struct{}, 1),
		now:   Progress{Lagging: map[resource.Key]Lag{}, Rejected: map[resource.Key]uint32{}},
	}
}

// wake is called with the lock held.
func (g *progress) wake() {
	select {
	case g.moved <- struct{}{}:
	default:
	}
}

// processed: all plans up to r were worked out, and what they changed is booked.
func (g *progress) processed(r resource.Revision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now.Processed != r {
		g.now.Processed = r
		g.wake()
	}
}

// opened numbers a session. With its first stream a proxy is joining, and never seen without a place.
func (g *progress) opened(k resource.Key, first bool) (sequence uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now.Sequence++
	if first {
		g.now.Connected++
		g.now.Lagging[k] = Lag{Joining: true}
	}
	g.wake()
	return g.now.Sequence
}

// disconnected: a proxy has lost its last stream.
func (g *progress) disconnected(k resource.Key) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now.Connected--
	delete(g.now.Lagging, k)
	delete(g.now.Rejected, k)
	g.wake()
}

// set books where one connected proxy stands.
func (g *progress) set(k resource.Key, lag Lag, lags bool, rejected uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was, lagged := g.now.Lagging[k]
	if lagged == lags && was == lag && g.now.Rejected[k] == rejected {
		return
	}
	if lags {
		g.now.Lagging[k] = lag
	} else {
		delete(g.now.Lagging, k)
	}
	if rejected > 0 {
		g.now.Rejected[k] = rejected
	} else {
		delete(g.now.Rejected, k)
	}
	g.wake()
}

// snapshot is a copy of one moment.
func (g *progress) snapshot() Progress {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.now
	c.Lagging, c.Rejected = maps.Clone(c.Lagging), maps.Clone(c.Rejected)
	return c
}

const (
	// reportShare: telling takes at most one part in so many of the time, and of a core.
	reportShare = 32
	// maxReportPause is the longest that news waits for that.
	maxReportPause = 10 * time.Millisecond
)

// run tells an observer, the newest state each time, until the context ends. What there is to tell grows with the
// proxies that lag, and so does the number of times that something moves: the rest after a report is in proportion
// to what it took, so that many ACKs at once make few reports, and one proxy's is told at once.
func (g *progress) run(ctx context.Context, o Observer) {
	rest := time.NewTimer(maxReportPause)
	defer rest.Stop()
	for {
		select {
		case <-g.moved:
		case <-ctx.Done():
			return
		}
		begun := time.Now()
		o.Progress(g.snapshot())
		pause := min(reportShare*time.Since(begun), maxReportPause)
		if pause <= 0 {
			continue
		}
		rest.Reset(pause)
		select {
		case <-rest.C:
		case <-ctx.Done():
			return
		}
	}
}
