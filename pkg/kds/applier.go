package kds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

const (
	// maxKeyPart bounds the scope and the name of a key that a peer may send at all.
	maxKeyPart = 1024
	// maxReason bounds the text of a rejection.
	maxReason = 2048
	// maxConflicts is how often a group is decided again because what was read has changed meanwhile.
	maxConflicts = 100
	// noSpaceRetry is the time between two tries while the store has no room.
	noSpaceRetry = time.Second
	// zoneRate is how many changes a second a zone may make, zoneBurst the time of which it may save them up.
	zoneRate  = 2000
	zoneBurst = 10 * time.Second
)

var (
	// errStale ends a session whose cursor another session has moved.
	errStale = errors.New("another session has taken over")
	// errZoneGone ends the session of a zone that was deleted meanwhile; it may join again, as a new one.
	errZoneGone = errors.New("the zone was deleted")
)

// applier writes the peer's groups of one log into this store.
type applier struct {
	s   *session
	id  kdsv1.Log
	log store.Log
	// cursor is how far this store has taken, as it is stored; fresh says that the peer was told that it has
	// nothing, so that only a snapshot can be next.
	cursor store.Cursor
	fresh  bool
	// rate is how many changes a second are taken from the peer; 0: all.
	rate time.Duration
	// debt is when a zone that has made many changes may make more.
	debt time.Time
	// quota bounds what the log holds of the peer; nil: nothing does.
	quota *quota

	mu    sync.Mutex
	queue []*group
	ready chan struct{}
}

// put queues a complete group. It never blocks: the window bounds what may wait.
func (a *applier) put(g *group) {
	a.mu.Lock()
	a.queue = append(a.queue, g)
	a.mu.Unlock()
	a.s.inflow.queued(g.bytes)
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

func (a *applier) take(ctx context.Context) (*group, error) {
	for {
		a.mu.Lock()
		if len(a.queue) > 0 {
			g := a.queue[0]
			a.queue[0], a.queue = nil, a.queue[1:]
			a.mu.Unlock()
			return g, nil
		}
		a.mu.Unlock()
		select {
		case <-a.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// run applies group after group until ctx is done or one can't be applied.
func (a *applier) run(ctx context.Context) error {
	for {
		g, err := a.take(ctx)
		if err != nil {
			return err
		}
		d, err := a.apply(ctx, g)
		if err != nil {
			return fmt.Errorf("apply (%s, %s] of %s: %w", g.from, g.to, a.s.peer, err)
		}
		if len(d.rejected) > 0 {
			a.s.logger.WarnContext(ctx, "keys were rejected", "from", a.s.peer, "revision", g.to, "keys", len(d.rejected), "first", d.rejected[0])
		}
		if lost := d.batch.Deletes; g.whole() && a.s.global() && len(lost) > 0 {
			// The zone's store is another one, or an older one: nobody has deleted these.
			a.s.logger.WarnContext(ctx, "the zone does not have what it had", "log", a.id, "keys", len(lost), "first", lost[:min(len(lost), 20)])
		}
		a.s.traffic.groupApplied(len(d.rejected))
		a.s.inflow.queued(-g.bytes)
		ack := &kdsv1.Ack{Log: a.id, To: uint64(g.to), RejectedKinds: d.rejectedKinds}
		if err := a.s.outbox.put(&kdsv1.Frame{Kind: &kdsv1.Frame_Ack{Ack: ack}}); err != nil {
			return err
		}
		if err := a.s.credit(); err != nil {
			return err
		}
		if a.id == kdsv1.Log_LOG_CONFIG && a.s.onCursor != nil {
			a.s.onCursor()
		}
		if err := a.slowDown(ctx, d.size()); err != nil {
			return err
		}
	}
}

// slowDown holds a zone to its rate: what it has sent meanwhile waits, uncredited.
func (a *applier) slowDown(ctx context.Context, changes int) error {
	if a.rate == 0 || changes == 0 {
		return nil
	}
	now := time.Now()
	if a.debt.Before(now) {
		a.debt = now
	}
	a.debt = a.debt.Add(time.Duration(changes) * time.Second / a.rate)
	return wait(ctx, a.debt.Sub(now)-zoneBurst)
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// apply writes one group with its cursor, all of it or nothing.
func (a *applier) apply(ctx context.Context, g *group) (*decision, error) {
	if !g.whole() {
		if a.fresh {
			return nil, violation("a snapshot must come first")
		}
		if g.from != a.cursor.Revision {
			return nil, violation("the cursor is at %s", a.cursor.Revision)
		}
	}
	to := store.Cursor{Store: a.s.peerStore, Epoch: g.epoch, Revision: g.to}
	for conflicts := 0; ; {
		d, err := a.decide(a.log.View(), g)
		if err != nil {
			return nil, err
		}
		if d.size() == 0 && to == a.cursor {
			return d, nil
		}
		grown, err := a.quota.check(a, d)
		if err != nil {
			return nil, err
		}
		d.batch.Cursor = &store.CursorMove{Peer: string(a.s.peer), To: to, From: &a.cursor}
		if err = a.noteUnknown(ctx, d); err == nil {
			_, err = a.log.Apply(ctx, d.batch)
		}
		var conflict *store.ConflictError
		switch {
		case err == nil:
			a.cursor, a.fresh = to, false
			a.quota.book(grown)
			return d, nil
		case errors.Is(err, store.ErrNoSpace):
			// Not ACKed, so the sender waits; heartbeats say why.
			if err := wait(ctx, noSpaceRetry); err != nil {
				return nil, err
			}
		case errors.As(err, &conflict) && conflict.Guard.Peer != "":
			return nil, errStale
		case errors.As(err, &conflict) && conflict.Guard.Key.Kind == resource.KindZone:
			return nil, errZoneGone
		case errors.As(err, &conflict) && conflicts < maxConflicts:
			conflicts++
		default:
			return nil, err
		}
	}
}

// noteUnknown keeps the rows of kinds that were left out of the status log: rows live in the config log.
func (a *applier) noteUnknown(ctx context.Context, d *decision) error {
	if len(d.aside.Puts)+len(d.aside.Deletes) == 0 {
		return nil
	}
	d.aside.Author = d.batch.Author
	_, err := a.s.store.Config().Apply(ctx, d.aside)
	return err
}

// decision is what becomes of a group.
type decision struct {
	batch store.Batch
	// aside has rows of kinds left out, which belong into the config log while the group belongs into the
	// status log.
	aside store.Batch
	// rejected says what was rejected and why; rejectedKinds lists the kinds, each once.
	rejected      []string
	rejectedKinds []string
}

func (d *decision) size() int {
	return len(d.batch.Puts) + len(d.batch.Deletes) + len(d.batch.DeleteScopes)
}

// fate is what a group does with a mesh.
type fate int

const (
	untouched fate = iota
	taken
	refused
	gone
)

// judge decides one group against one view.
type judge struct {
	*decision
	a *applier
	v store.View
	g *group
	// named are the keys, as they are here, that the group names.
	named  map[resource.Key]bool
	meshes map[string]fate
	// empty are the meshes that lose all that they hold, what was born here included.
	empty  map[string]bool
	config bool
}

// decide works out the batch of a group. It reads nothing but the view.
func (a *applier) decide(v store.View, g *group) (*decision, error) {
	j := &judge{
		decision: &decision{batch: store.Batch{Author: store.Author{Who: "kds " + string(a.s.peer)}}},
		a:        a, v: v, g: g,
		named: make(map[resource.Key]bool, len(g.changes)), meshes: map[string]fate{}, empty: map[string]bool{},
		config: a.id == kdsv1.Log_LOG_CONFIG,
	}
	// Meshes first: what they hold depends on them.
	for _, meshes := range []bool{true, false} {
		for _, c := range g.changes {
			if (resource.Kind(c.GetKind()) == resource.KindMesh) != meshes {
				continue
			}
			if err := j.change(c); err != nil {
				return nil, err
			}
		}
		if meshes {
			j.missing(resource.KindMesh)
		}
	}
	j.missing("")
	if j.config {
		j.orphans()
		j.scopes()
		if a.s.global() {
			j.guards()
		}
	}
	return j.decision, nil
}

// change decides one change.
func (j *judge) change(c *kdsv1.Change) error {
	s := j.a.s
	theirs := resource.Key{Kind: resource.Kind(c.GetKind()), Scope: c.GetScope(), Name: c.GetName()}
	if len(theirs.Kind) > maxKeyPart || len(theirs.Scope) > maxKeyPart || len(theirs.Name) > maxKeyPart {
		return violation("a key of more than %d bytes", maxKeyPart)
	}
	desc, known := s.table.ByKind(theirs.Kind)
	if !known {
		j.leaveOut(theirs.Kind)
		return nil
	}
	key := s.in(theirs)
	if j.named[key] {
		return violation("%s comes twice in a group", theirs)
	}
	j.named[key] = true
	if err := s.bears(desc, theirs, resourceLog(j.a.id)); err != nil {
		j.reject(key, c, err.Error(), false)
		return nil
	}
	old, have := j.v.Get(key)
	mine := have && old.Origin != s.peer
	if mine && j.discards(desc, old) {
		mine = false
	}
	if c.GetDeleted() {
		if have && !mine {
			j.remove(old)
		}
		j.clear(key)
		return nil
	}
	if mine {
		j.reject(key, c, "the name is taken by one that was born elsewhere", false)
		return nil
	}
	if !validTime(c.GetCreated()) || !validTime(c.GetModified()) {
		j.reject(key, c, "its times are not valid", false)
		return nil
	}
	if j.config && key.Scope != "" {
		if why := j.meshTrouble(key.Scope); why != "" {
			j.reject(key, c, why, true)
			return nil
		}
	}
	if err := s.accept(key, s.peer, c.GetSpec()); err != nil {
		if key.Kind == resource.KindMesh && have && !old.Created.Equal(timeOf(c.GetCreated())) {
			// It was deleted and made anew: the one that is here is gone, though the new one can't be taken.
			j.remove(old)
		}
		j.reject(key, c, err.Error(), false)
		return nil
	}
	j.take(key, old, c)
	return nil
}

// take writes an object that is accepted, unless it is here already.
func (j *judge) take(key resource.Key, old *resource.Object, c *kdsv1.Change) {
	created, modified := timeOf(c.GetCreated()), timeOf(c.GetModified())
	if key.Kind == resource.KindMesh {
		j.meshes[key.Name] = taken
		if old != nil && old.Origin == j.a.s.peer && !old.Created.Equal(created) {
			// Deleted and made anew in between: what was born here went with the first one.
			j.removeOwn(key.Name)
		}
	}
	j.clear(key)
	if old != nil && old.Origin == j.a.s.peer && old.Created.Equal(created) && old.Modified.Equal(modified) && bytes.Equal(old.Spec, c.GetSpec()) {
		return
	}
	j.batch.Puts = append(j.batch.Puts, store.Put{
		Key: key, Origin: j.a.s.peer, Spec: c.GetSpec(), Created: created, Modified: modified,
	})
}

// remove deletes an object of the peer; a mesh goes with all that it holds.
func (j *judge) remove(o *resource.Object) {
	j.batch.Deletes = append(j.batch.Deletes, o.Key)
	if o.Key.Kind == resource.KindMesh {
		j.meshes[o.Key.Name], j.empty[o.Key.Name] = gone, true
	}
}

// removeOwn deletes what was born here in a mesh.
func (j *judge) removeOwn(mesh string) {
	for o := range j.own() {
		if o.Key.Scope == mesh {
			j.batch.Deletes = append(j.batch.Deletes, o.Key)
		}
	}
}

// own yields the mesh-scoped objects that were born here.
func (j *judge) own() func(func(*resource.Object) bool) {
	return func(yield func(*resource.Object) bool) {
		for _, d := range j.a.s.table.All() {
			if d.Scope != resource.ScopeMesh || d.Log != resourceLog(j.a.id) {
				continue
			}
			for o := range j.v.Scan(store.OfKind(d.Kind)) {
				if o.Origin == resource.Local && !yield(o) {
					return
				}
			}
		}
	}
}

// discards says whether an object that was born here gives way to the global control plane's.
func (j *judge) discards(d *resource.Descriptor, o *resource.Object) bool {
	return j.a.s.discardLocal && bornForGlobal(d, o)
}

// bornForGlobal says whether an object was born in this zone though its kind is the global control plane's.
func bornForGlobal(d *resource.Descriptor, o *resource.Object) bool {
	return o.Origin == resource.Local && d.Access != resource.Internal && d.Flow(o.Key) == resource.FlowDown
}

// meshTrouble says why nothing can be taken into a mesh; empty: nothing is wrong.
func (j *judge) meshTrouble(mesh string) string {
	k := resource.Key{Kind: resource.KindMesh, Name: mesh}
	switch j.meshes[mesh] {
	case taken:
		return ""
	case refused:
		return fmt.Sprintf("its mesh %s was rejected", mesh)
	case gone:
		return fmt.Sprintf("there is no mesh %s", mesh)
	}
	if _, rejected := j.v.Get(rejectionKey(k)); rejected {
		return fmt.Sprintf("its mesh %s was rejected", mesh)
	}
	if _, ok := j.v.Get(k); !ok {
		return fmt.Sprintf("there is no mesh %s", mesh)
	}
	return ""
}

// reject notes by name that a key can't be taken. What is here of it stays.
func (j *judge) reject(key resource.Key, c *kdsv1.Change, why string, forMesh bool) {
	if c.GetDeleted() {
		// There is nothing to take, and nothing that could come of it later.
		return
	}
	if key.Kind == resource.KindMesh && j.config {
		j.meshes[key.Name] = refused
	}
	j.rejected = append(j.rejected, fmt.Sprintf("%s: %s", key, why))
	if kind := string(key.Kind); !slices.Contains(j.rejectedKinds, kind) {
		j.rejectedKinds = append(j.rejectedKinds, kind)
	}
	if j.config {
		j.row(key, &systemv1.SyncRejection{Revision: c.GetRevision(), Reason: cut(why), ForMesh: forMesh}, &j.batch.Puts, j.v)
	}
}

// leaveOut notes that a kind is not known here: one row for all of it.
func (j *judge) leaveOut(kind resource.Kind) {
	key := j.a.s.in(resource.Key{Kind: kind, Name: anyName})
	if j.named[key] {
		return
	}
	j.named[key] = true
	j.rejectedKinds = append(j.rejectedKinds, string(kind))
	m := &systemv1.SyncRejection{Reason: fmt.Sprintf("this control plane does not know the kind %s", cut(string(kind)))}
	if j.config {
		j.row(key, m, &j.batch.Puts, j.v)
	} else {
		j.row(key, m, &j.aside.Puts, j.a.s.store.Config().View())
	}
}

// row writes a rejection, unless it stands in v as it is.
func (j *judge) row(key resource.Key, m *systemv1.SyncRejection, puts *[]store.Put, v store.View) {
	m.Kind, m.Scope, m.Name, m.Version = string(key.Kind), key.Scope, key.Name, j.a.s.version
	spec, err := resource.Encode(m)
	if err != nil {
		// Only text that is not UTF-8 can't be encoded.
		m.Reason = "it can't be said why"
		spec, _ = resource.Encode(m)
	}
	k := rejectionKey(key)
	if old, ok := v.Get(k); ok && bytes.Equal(old.Spec, spec) {
		return
	}
	*puts = append(*puts, store.Put{Key: k, Origin: resource.Local, Spec: spec})
}

// clear takes back the rejection of a key, if there is one.
func (j *judge) clear(key resource.Key) {
	if !j.config {
		return
	}
	k := rejectionKey(key)
	if o, ok := j.v.Get(k); ok && o.Origin == resource.Local && !slices.Contains(j.batch.Deletes, k) {
		j.batch.Deletes = append(j.batch.Deletes, k)
	}
}

// missing deletes what a snapshot replaces and does not name: of one kind, or of all others than meshes.
func (j *judge) missing(kind resource.Kind) {
	s := j.a.s
	for _, r := range j.g.replaces {
		if kind != "" && r.Kind != "" && r.Kind != kind {
			continue
		}
		if kind != "" {
			r = store.OfKind(kind)
		}
		for o := range j.v.Scan(r) {
			if j.named[o.Key] || kind == "" && o.Key.Kind == resource.KindMesh {
				continue
			}
			d, ok := s.table.ByKind(o.Key.Kind)
			if o.Origin == s.peer || ok && j.discards(d, o) {
				j.named[o.Key] = true
				j.remove(o)
			}
		}
	}
	if kind == "" && len(j.g.replaces) > 0 {
		j.forget()
	}
}

// forget takes back the rejections of what a snapshot replaces and does not name.
func (j *judge) forget() {
	s := j.a.s
	rows := j.v
	if !j.config {
		rows = s.store.Config().View()
	}
	for key := range s.rejections(rows) {
		theirs, _ := s.out(key)
		d, known := s.table.ByKind(key.Kind)
		if j.named[key] || !known || d.Log != resourceLog(j.a.id) || !j.g.contains(theirs) && theirs.Name != anyName {
			continue
		}
		if theirs.Name == anyName && !j.g.contains(resource.Key{Kind: key.Kind}) {
			continue
		}
		if j.config {
			j.clear(key)
		} else {
			j.aside.Deletes = append(j.aside.Deletes, rejectionKey(key))
		}
	}
}

// orphans finds, after a snapshot of everything in a zone, the meshes of which the zone has objects and the
// global control plane has nothing.
func (j *judge) orphans() {
	if j.a.s.global() || !j.g.whole() {
		return
	}
	for o := range j.own() {
		m := o.Key.Scope
		if j.meshes[m] != untouched {
			continue
		}
		if _, ok := j.v.Get(resource.Key{Kind: resource.KindMesh, Name: m}); !ok {
			j.meshes[m], j.empty[m] = gone, true
		}
	}
}

// scopes makes the deletion of meshes the deletion of all that they hold, here-born objects and rejections
// included.
func (j *judge) scopes() {
	if len(j.empty) == 0 {
		return
	}
	j.batch.DeleteScopes = slices.Sorted(maps.Keys(j.empty))
	emptied := func(k resource.Key) bool { return k.Scope != "" && j.empty[k.Scope] }
	j.batch.Deletes = slices.DeleteFunc(j.batch.Deletes, emptied)
	for key := range j.a.s.rejections(j.v) {
		if emptied(key) && !j.named[key] {
			j.clear(key)
		}
	}
}

// guards makes the batch fail when a mesh that it relies on, or the zone itself, goes before the commit.
func (j *judge) guards() {
	need := map[string]bool{}
	for _, p := range j.batch.Puts {
		if p.Key.Scope != "" {
			need[p.Key.Scope] = true
		}
	}
	for m := range need {
		j.batch.Guards = append(j.batch.Guards, store.Exists(resource.Key{Kind: resource.KindMesh, Name: m}))
	}
	j.batch.Guards = append(j.batch.Guards, store.Exists(resource.Key{Kind: resource.KindZone, Name: j.a.s.zone}))
}

// validTime says whether a time is one that a store can hold, or absent.
func validTime(t *timestamppb.Timestamp) bool { return t == nil || t.IsValid() }

// timeOf is the zero time where a time is absent: the store takes that of the commit.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func cut(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	return strings.ToValidUTF8(s, "")
}
