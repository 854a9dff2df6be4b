package kds

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// errSilent ends a session whose peer sends nothing, not even heartbeats.
var errSilent = errors.New("the peer is silent")

// stream carries frames in order. Send and Recv may be used at the same time, each by one goroutine.
type stream interface {
	Send(*kdsv1.Frame) error
	Recv() (*kdsv1.Frame, error)
}

// session is one stream after both ends have said Hello. Both ends run the same one.
type session struct {
	side
	store  store.Store
	accept Accept
	logger *slog.Logger
	// version is this end's, for rejections.
	version string
	// peerStore is the identity of the peer's store.
	peerStore    string
	discardLocal bool
	// silence is how long the peer may send nothing.
	silence time.Duration
	// beats is the instant from which heartbeats are counted off, the same for all sessions of a server; zero
	// at a zone, which answers the heartbeats that it gets.
	beats time.Time
	// pulse is signalled by the global control plane's heartbeats; nil at that one.
	pulse chan struct{}
	// traffic counts; nil: nobody does.
	traffic *Traffic
	// encoded is shared by the sessions of a server; nil: nothing is remembered.
	encoded *encoded
	// onCursor is told when the config cursor has moved; nil: nobody is.
	onCursor func()
	// onCount changes the counters; nil: nobody counts.
	onCount func(func(*counters))
	// trouble is what the peer's last heartbeat said of its store.
	trouble string

	stream stream
	outbox *outbox
	window *window
	inflow inflow
	stages [2]stage
	pubs   [2]*publisher
	apps   [2]*applier
}

var logIDs = [2]kdsv1.Log{kdsv1.Log_LOG_CONFIG, kdsv1.Log_LOG_STATUS} //nolint:gochecknoglobals // never changes

func logID(l resource.LogID) kdsv1.Log {
	if l == resource.StatusLog {
		return kdsv1.Log_LOG_STATUS
	}
	return kdsv1.Log_LOG_CONFIG
}

func resourceLog(l kdsv1.Log) resource.LogID {
	if l == kdsv1.Log_LOG_STATUS {
		return resource.StatusLog
	}
	return resource.ConfigLog
}

// index gives the place of a log in the arrays of a session; false: there is no such log.
func index(l kdsv1.Log) (int, bool) {
	return int(l) - 1, l == kdsv1.Log_LOG_CONFIG || l == kdsv1.Log_LOG_STATUS
}

// cursors says how far a store has taken in both logs of a peer.
func cursors(s store.Store, peer resource.Origin) (out [2]store.Cursor) {
	out[0], _ = s.Config().View().Cursor(string(peer))
	out[1], _ = s.Status().View().Cursor(string(peer))
	return out
}

func cursorProto(c store.Cursor) *kdsv1.Cursor {
	if c == (store.Cursor{}) {
		return nil
	}
	return &kdsv1.Cursor{Store: c.Store, Epoch: c.Epoch, Revision: uint64(c.Revision)}
}

func cursorOf(c *kdsv1.Cursor) store.Cursor {
	return store.Cursor{Store: c.GetStore(), Epoch: c.GetEpoch(), Revision: resource.Revision(c.GetRevision())}
}

// prepare makes the parts of a session. stored are the cursors in this store, told those that the peer was
// told: none, where all is to be sent anew.
func (s *session) prepare(stored, told [2]store.Cursor) {
	s.outbox, s.window = newOutbox(), newWindow()
	for i, log := range []store.Log{s.store.Config(), s.store.Status()} {
		s.stages[i] = stage{log: logIDs[i], maxObjects: maxStagedObjects}
		if !s.global() {
			s.stages[i].maxObjects = maxCopyObjects
		}
		s.pubs[i] = &publisher{s: s, id: logIDs[i], log: log, lazy: time.Minute}
		s.apps[i] = &applier{
			s: s, id: logIDs[i], log: log, cursor: stored[i], fresh: told[i].Store != s.peerStore,
			ready: make(chan struct{}, 1),
		}
	}
	if s.global() {
		// Zones report their position in the config log. No one waits for the others' progress past what
		// does not concern the peer: it saves reading it again.
		s.pubs[0].lazy = heartbeatAfter
	}
}

// run publishes from the peer's cursors on and applies what comes, until ctx is done or the session fails. It
// waits for publishers and appliers, so that nothing is written after it has returned; the two loops that use
// the stream are started by spawn, and end when the stream does.
func (s *session) run(ctx context.Context, peer [2]store.Cursor, spawn func(func())) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(s.silence, func() {
		cancel(fmt.Errorf("%w for %s", errSilent, s.silence))
	})
	defer watchdog.Stop()
	alive := func() { watchdog.Reset(s.silence) }

	if err := s.askAgain(); err != nil {
		return err
	}
	spawn(func() { cancel(s.receive(alive)) })
	spawn(func() { cancel(s.transmit(ctx)) })
	var workers sync.WaitGroup
	for i := range logIDs {
		workers.Go(func() { cancel(s.pubs[i].run(ctx, peer[i])) })
		workers.Go(func() { cancel(s.apps[i].run(ctx)) })
	}
	workers.Wait()
	return context.Cause(ctx)
}

// receive takes frame after frame. It never waits for anything but the next one.
func (s *session) receive(alive func()) error {
	for {
		f, err := s.stream.Recv()
		if err != nil {
			return err
		}
		alive()
		if err := s.handle(f); err != nil {
			return err
		}
	}
}

// handle takes one frame.
func (s *session) handle(f *kdsv1.Frame) error {
	switch k := f.GetKind().(type) {
	case *kdsv1.Frame_Group:
		i, ok := index(k.Group.GetLog())
		if !ok {
			return violation("a group of the log %d", k.Group.GetLog())
		}
		if err := s.inflow.arrived(cost(k.Group)); err != nil {
			return err
		}
		g, err := s.stages[i].add(k.Group)
		if err != nil {
			return err
		}
		if g != nil {
			s.apps[i].put(g)
		}
		return s.credit()
	case *kdsv1.Frame_Ack:
		i, ok := index(k.Ack.GetLog())
		if !ok {
			return violation("an ack of the log %d", k.Ack.GetLog())
		}
		return s.pubs[i].ack(k.Ack)
	case *kdsv1.Frame_Credit:
		return s.window.give(k.Credit.GetBytes())
	case *kdsv1.Frame_Offer:
		i, ok := index(k.Offer.GetLog())
		if !ok {
			return violation("an offer of the log %d", k.Offer.GetLog())
		}
		return s.pubs[i].offer(k.Offer.GetKeys())
	case *kdsv1.Frame_Heartbeat:
		s.heard(cut(k.Heartbeat.GetTrouble()))
		select {
		case s.pulse <- struct{}{}:
		default: // it is nil, or an answer is due already
		}
		return nil
	case *kdsv1.Frame_Unsupported:
		s.logger.Warn("the peer does not know a kind of frame", "peer", s.peer, "kind", k.Unsupported.GetKind())
		return nil
	case *kdsv1.Frame_Hello:
		return violation("a second Hello")
	default:
		return s.outbox.put(&kdsv1.Frame{Kind: &kdsv1.Frame_Unsupported{Unsupported: &kdsv1.Unsupported{Kind: unknownKind(f)}}})
	}
}

// heard notes what the peer says of its store, and logs it when that is something new.
func (s *session) heard(trouble string) {
	switch {
	case trouble == s.trouble:
	case trouble == "":
		s.logger.Info("the peer's store takes writes again", "peer", s.peer)
	default:
		s.logger.Warn("the peer's store takes no writes", "peer", s.peer, "reason", trouble)
	}
	s.trouble = trouble
}

// unknownKind is the number of the first field of a frame that this build does not know.
func unknownKind(f *kdsv1.Frame) uint32 {
	n, _, size := protowire.ConsumeField(f.ProtoReflect().GetUnknown())
	if size < 0 {
		return 0
	}
	return uint32(n)
}

// credit gives the peer back what it may send again.
func (s *session) credit() error {
	n := s.inflow.credit()
	if n == 0 {
		return nil
	}
	return s.outbox.put(&kdsv1.Frame{Kind: &kdsv1.Frame_Credit{Credit: &kdsv1.Credit{Bytes: n}}})
}

// transmit sends what there is to send, control before data, and breaks silence by heartbeats.
func (s *session) transmit(ctx context.Context) error {
	sent := time.Now()
	silence := time.NewTimer(s.untilBeat(sent))
	defer silence.Stop()
	for {
		f := s.outbox.next()
		if f == nil {
			beat := false
			select {
			case <-s.outbox.ready:
				continue
			case f = <-s.outbox.data:
			case <-s.pulse:
				beat = true
			case <-silence.C:
				beat = true
				silence.Reset(s.untilBeat(time.Now()))
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if beat {
				if time.Since(sent) < s.patience()-heartbeatAfter/2 {
					continue
				}
				f = s.heartbeat()
			}
		}
		if err := s.stream.Send(f); err != nil {
			return err
		}
		sent = time.Now()
		if s.beats.IsZero() {
			silence.Reset(s.untilBeat(sent))
		}
	}
}

// patience is the silence that this end breaks. A zone may be twice as silent: the global control plane bears it for
// longer, and has a hundred zones to listen to.
func (s *session) patience() time.Duration {
	if s.beats.IsZero() {
		return 2 * heartbeatAfter
	}
	return heartbeatAfter
}

// untilBeat is how long after now silence is looked at. A zone does after its patience. The global control plane
// does at the same instants for all of its zones, and they answer: a hundred heartbeats back to back cost a third
// of what they cost one by one, each waking an idle process. So a silence may last half of heartbeatAfter longer.
func (s *session) untilBeat(now time.Time) time.Duration {
	if s.beats.IsZero() {
		return s.patience()
	}
	return heartbeatAfter - now.Sub(s.beats)%heartbeatAfter
}

func (s *session) heartbeat() *kdsv1.Frame {
	h := &kdsv1.Heartbeat{}
	if err := s.store.Health(); err != nil {
		h.Trouble = cut(err.Error())
	}
	return &kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: h}}
}

func (s *session) count(f func(*counters)) {
	if s.onCount != nil {
		s.onCount(f)
	}
}

// rejections yields the keys of this peer that a view of the config log says are rejected.
func (s *session) rejections(v store.View) iter.Seq2[resource.Key, *systemv1.SyncRejection] {
	return func(yield func(resource.Key, *systemv1.SyncRejection) bool) {
		for o := range v.Scan(store.OfKind(resource.KindSyncRejection)) {
			if o.Origin != resource.Local {
				continue
			}
			m, err := resource.Decode[systemv1.SyncRejection](o)
			if err != nil {
				s.logger.Error("a rejection can't be read", "key", o.Key, "error", err)
				continue
			}
			key := rejectedKey(m)
			if _, ok := s.out(key); ok && !yield(key, m) {
				return
			}
		}
	}
}

// meshTaken says whether a mesh is here, in the version that its owner has.
func meshTaken(v store.View, mesh string) bool {
	k := resource.Key{Kind: resource.KindMesh, Name: mesh}
	_, here := v.Get(k)
	_, rejected := v.Get(rejectionKey(k))
	return here && !rejected
}

// askAgain asks, at the start of a session, for the rejected keys that may be taken now.
func (s *session) askAgain() error {
	v := s.store.Config().View()
	return s.ask(v, func(k resource.Key, m *systemv1.SyncRejection) bool {
		return m.GetVersion() != s.version || m.GetForMesh() && meshTaken(v, k.Scope)
	})
}

// changed looks at what the config publisher has read: a mesh that has come opens the way for what was
// rejected for want of it.
func (s *session) changed(v store.View, c store.Change, log kdsv1.Log) error {
	if log != kdsv1.Log_LOG_CONFIG {
		return nil
	}
	mesh := ""
	switch {
	case s.global() && c.Object == nil && c.Key == resource.Key{Kind: resource.KindZone, Name: s.zone}:
		return errZoneGone
	case c.Key.Kind == resource.KindMesh && c.Object != nil:
		mesh = c.Key.Name
	case c.Key.Kind == resource.KindSyncRejection && c.Object == nil:
		mesh, _ = strings.CutPrefix(c.Key.Name, string(resource.KindMesh)+"//")
	}
	if mesh == "" || !meshTaken(v, mesh) {
		return nil
	}
	return s.ask(v, func(k resource.Key, m *systemv1.SyncRejection) bool {
		return m.GetForMesh() && k.Scope == mesh
	})
}

// ask asks for the rejected keys that want says.
func (s *session) ask(v store.View, want func(resource.Key, *systemv1.SyncRejection) bool) error {
	var offers [2]*kdsv1.Offer
	size := [2]int{}
	flush := func(i int) error {
		if offers[i] == nil {
			return nil
		}
		f := &kdsv1.Frame{Kind: &kdsv1.Frame_Offer{Offer: offers[i]}}
		offers[i], size[i] = nil, 0
		return s.outbox.put(f)
	}
	for key, m := range s.rejections(v) {
		d, known := s.table.ByKind(key.Kind)
		if !known || !want(key, m) {
			continue
		}
		i, _ := index(logID(d.Log))
		if offers[i] == nil {
			offers[i] = &kdsv1.Offer{Log: logIDs[i]}
		}
		k, _ := s.out(key)
		offers[i].Keys = append(offers[i].Keys, &kdsv1.Key{Kind: string(k.Kind), Scope: k.Scope, Name: k.Name})
		if size[i] += len(k.Kind) + len(k.Scope) + len(k.Name) + 16; size[i] > maxFrame/2 {
			if err := flush(i); err != nil {
				return err
			}
		}
	}
	return errors.Join(flush(0), flush(1))
}
