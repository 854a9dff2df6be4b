package kds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

const (
	// countersEvery is the time between two writes of counters that move.
	countersEvery = 10 * time.Second
	// keptSubscriptions is how many sessions of a zone are remembered.
	keptSubscriptions = 10
	// maxVersionPart bounds what a zone says of its software.
	maxVersionPart = 256
)

type counter struct{ sent, acked, rejected uint64 }

// counters count the groups that were sent to a zone, in total and by the kinds that were in them.
type counters struct {
	total  counter
	byKind map[resource.Kind]*counter
}

func (c *counters) of(k resource.Kind) *counter {
	if c.byKind[k] == nil {
		c.byKind[k] = &counter{}
	}
	return c.byKind[k]
}

// sent counts a group that holds something; others only move the position.
func (c *counters) sent(kinds []resource.Kind) {
	c.total.sent++
	for _, k := range kinds {
		c.of(k).sent++
	}
}

func (c *counters) acked(kinds []resource.Kind, rejected []string) {
	note := func(c *counter, bad bool) {
		if bad {
			c.rejected++
		} else {
			c.acked++
		}
	}
	note(&c.total, len(rejected) > 0)
	for _, k := range kinds {
		note(c.of(k), slices.Contains(rejected, string(k)))
	}
}

// insight writes what is observed of one session into its zone's ZoneInsight.
type insight struct {
	log    store.Log
	logger *slog.Logger
	key    resource.Key
	moved  chan struct{}

	mu       sync.Mutex
	counters counters
	sub      *systemv1.KDSSubscription
	// failed says that the last write was not made, for want of space say.
	failed bool
}

func newInsight(log store.Log, logger *slog.Logger, zone, instance, address string, v *kdsv1.Version) *insight {
	part := func(s string) string { return cut(s[:min(len(s), maxVersionPart)]) }
	return &insight{
		log: log, logger: logger, key: resource.Key{Kind: resource.KindZoneInsight, Name: zone},
		moved: make(chan struct{}, 1), counters: counters{byKind: map[resource.Kind]*counter{}},
		sub: &systemv1.KDSSubscription{
			Id: uuid.NewString(), GlobalInstanceId: instance, ConnectTime: timestamppb.Now(), Address: address,
			Status: &systemv1.KDSSubscriptionStatus{Total: &systemv1.KDSServiceStats{}},
			Version: &systemv1.Version{KumaCp: &systemv1.KumaCpVersion{
				Version: part(v.GetVersion()), GitTag: part(v.GetGitTag()), GitCommit: part(v.GetGitCommit()), BuildDate: part(v.GetBuildDate()),
			}},
		},
	}
}

// count changes the counters. It never blocks.
func (i *insight) count(f func(*counters)) {
	i.mu.Lock()
	f(&i.counters)
	i.mu.Unlock()
	select {
	case i.moved <- struct{}{}:
	default:
	}
}

func (i *insight) connect(ctx context.Context) { i.write(ctx, false) }

// disconnect writes the session's end; false: it must be tried again, by end.
func (i *insight) disconnect(ctx context.Context) bool {
	i.sub.DisconnectTime = timestamppb.Now()
	return i.write(ctx, false)
}

// end writes the end that disconnect could not, as soon as it can be or until ctx is done: else the zone would
// look online until it has a session again. A session that nobody has read of is not told of any more.
func (i *insight) end(ctx context.Context) {
	for wait(ctx, noSpaceRetry) == nil {
		if i.write(ctx, true) {
			return
		}
	}
}

// flush writes the counters at most every ten seconds, while they move, until ctx is done; and soon again what
// could not be written.
func (i *insight) flush(ctx context.Context) {
	for {
		select {
		case <-i.moved:
		case <-ctx.Done():
			return
		}
		pause := countersEvery
		i.mu.Lock()
		if i.failed {
			pause = noSpaceRetry
		}
		i.mu.Unlock()
		if wait(ctx, pause) != nil {
			return
		}
		i.write(ctx, false)
	}
}

// write puts the session's present state into the insight, with known only if the session is in it already.
// What can't be written is logged, once, and not missed: flush writes again.
func (i *insight) write(ctx context.Context, known bool) bool {
	i.mu.Lock()
	i.fill()
	i.mu.Unlock()
	err := amend(ctx, i.log, i.key, func(m *systemv1.ZoneInsight) bool {
		at := slices.IndexFunc(m.Subscriptions, func(s *systemv1.KDSSubscription) bool { return s.GetId() == i.sub.GetId() })
		if at < 0 && known {
			return false
		}
		if at < 0 {
			m.Subscriptions = append(m.Subscriptions, nil)
			at = len(m.Subscriptions) - 1
		}
		m.Subscriptions[at] = i.sub
		if n := len(m.Subscriptions); n > keptSubscriptions {
			m.Subscriptions = m.Subscriptions[n-keptSubscriptions:]
		}
		return true
	})
	i.mu.Lock()
	said := i.failed
	i.failed = err != nil
	i.mu.Unlock()
	if err == nil {
		return true
	}
	if !said && ctx.Err() == nil {
		i.logger.WarnContext(ctx, "zone insight can't be written", "error", err)
	}
	select {
	case i.moved <- struct{}{}:
	default:
	}
	return false
}

// fill brings the counters into the subscription.
func (i *insight) fill() {
	stats := func(c counter) *systemv1.KDSServiceStats {
		return &systemv1.KDSServiceStats{ResponsesSent: c.sent, ResponsesAcknowledged: c.acked, ResponsesRejected: c.rejected}
	}
	if i.counters.total == (counter{}) {
		return
	}
	st := &systemv1.KDSSubscriptionStatus{
		Total: stats(i.counters.total), Stat: map[string]*systemv1.KDSServiceStats{}, LastUpdateTime: timestamppb.Now(),
	}
	for k, c := range i.counters.byKind {
		st.Stat[string(k)] = stats(*c)
	}
	i.sub.Status = st
}

// amend reads, changes and writes a ZoneInsight, again if it was written meanwhile. change says whether there
// is anything to write.
func amend(ctx context.Context, log store.Log, key resource.Key, change func(*systemv1.ZoneInsight) bool) error {
	for range maxConflicts {
		m, guard := &systemv1.ZoneInsight{}, store.AtRevision(key, 0)
		if o, ok := log.View().Get(key); ok {
			guard.Revision = o.Revision
			if old, err := resource.Decode[systemv1.ZoneInsight](o); err == nil {
				m = proto.CloneOf(old)
			}
		}
		if !change(m) {
			return nil
		}
		spec, err := resource.Encode(m)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		_, err = log.Apply(ctx, store.Batch{
			Puts:   []store.Put{{Key: key, Origin: resource.Local, Spec: spec}},
			Guards: []store.Guard{guard},
		})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%s is written by too many", key)
}

// CloseLeftovers writes the end of the sessions that a process left open which did not stop in order. It is to
// be called before the first zone is served, where one instance serves the store. A store without space does
// not fail it: what could not be written is tried again until the server is closed.
func (s *Server) CloseLeftovers(ctx context.Context) error {
	err := s.closeLeftovers(ctx, "")
	if !errors.Is(err, store.ErrNoSpace) {
		return err
	}
	s.opts.Logger.WarnContext(ctx, "zones may look online that are not", "error", err)
	s.work.Go(func() {
		for errors.Is(err, store.ErrNoSpace) && wait(s.closing, noSpaceRetry) == nil {
			err = s.closeLeftovers(s.closing, s.opts.Instance)
		}
		if err != nil && s.closing.Err() == nil {
			s.opts.Logger.Error("zones may look online that are not", "error", err)
		}
	})
	return nil
}

// closeLeftovers ends the sessions of all instances but one.
func (s *Server) closeLeftovers(ctx context.Context, but string) error {
	log := s.opts.Store.Status()
	for o := range log.View().Scan(store.OfKind(resource.KindZoneInsight)) {
		err := amend(ctx, log, o.Key, func(m *systemv1.ZoneInsight) bool {
			open := false
			for _, sub := range m.GetSubscriptions() {
				if sub.GetDisconnectTime() == nil && (but == "" || sub.GetGlobalInstanceId() != but) {
					sub.DisconnectTime, open = timestamppb.Now(), true
				}
			}
			return open
		})
		if err != nil {
			return fmt.Errorf("close the sessions that were left open: %w", err)
		}
	}
	return nil
}
