package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

const (
	titleWatch = "Could not watch resources"

	// maxWatches is how many watches may be open at a time, if not told otherwise.
	maxWatches = 1000
	// watchQuiet is how long nothing may be said on a watch.
	watchQuiet = 15 * time.Second
	// A message takes so many events, and no further one beyond so many bytes of them: that is all that a watch holds
	// while its client takes its time.
	watchEvents = 256
	watchBytes  = 64 << 10
)

// Events of a watch.
const (
	eventPut    = "put"
	eventDelete = "delete"
	eventSynced = "synced"
	eventReset  = "reset"
)

// Watch implements the ResourceService.
//
// It holds no view and no queue: each message is made of the newest state when the client has taken the one before.
// What changed since fits into a message as a rule, and comes in the order of the log. Else, and at the beginning, all
// keys are gone through in their order: whatever is written meanwhile, each gets its turn once, with its newest state,
// so that a client which is always behind misses nothing for ever.
func (s *Service) Watch(req *apiv1.WatchRequest, stream grpc.ServerStreamingServer[apiv1.WatchResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	sel, err := s.selection(ctx, req)
	if err != nil {
		return err
	}
	var after *place
	if req.GetAfter() != "" {
		if after, err = parsePlace(req.GetAfter()); err != nil {
			return invalid(titleWatch, "Invalid id", resource.Violations{{Field: "after", Message: "must be the id of an event of a watch"}})
		}
	}
	leave, ok := s.seat(ctx, s.watches)
	if !ok {
		full := fail(codes.ResourceExhausted, titleWatch, fmt.Sprintf("%d watches are open already (limits.watches), try again later", s.watches.taken()))
		return withHTTP(full, http.StatusTooManyRequests)
	}
	defer leave()
	if _, _, err := s.views(ctx); err != nil { // it waits for the revision that the client asks for
		return err
	}
	w := &watcher{service: s, selection: sel, due: time.Now().Add(watchQuiet)}
	w.start(after)
	err = w.run(ctx, stream)
	switch {
	case s.life.Err() != nil:
		return fail(codes.Unavailable, titleWatch, "The control plane is stopping")
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// StopWatches ends all watches, and those that are still to come. It is for the assembly, when the process ends.
func (s *Service) StopWatches() { s.stop() }

// OpenWatches is how many watches are open.
func (s *Service) OpenWatches() int { return s.watches.taken() }

// section is what a watch follows of one kind.
type section struct {
	kind *resource.Descriptor
	rng  store.Range
	// name, if not empty, is the only one in the range.
	name string
}

func (p *section) contains(k resource.Key) bool {
	return p.rng.Contains(k) && (p.name == "" || p.name == k.Name)
}

// selection is what a watch follows: one section a kind, in the order of the kinds.
type selection struct {
	sections []section
	// logs are the logs that hold any of it.
	logs [logs]bool
	// mark tells this selection from others.
	mark mark
}

// find gives the section that a key is in, or nil.
func (x *selection) find(k resource.Key) *section {
	for i := range x.sections {
		if p := &x.sections[i]; p.kind.Kind == k.Kind {
			if p.contains(k) {
				return p
			}
			return nil
		}
	}
	return nil
}

// selection finds what a request asks for. What the caller may not read is refused where it is asked for by its kind,
// and left out of a mesh and of everything.
func (s *Service) selection(ctx context.Context, req *apiv1.WatchRequest) (selection, error) {
	var x selection
	add := func(p section) {
		x.sections = append(x.sections, p)
		x.logs[p.kind.Log] = true
	}
	switch plural, mesh := req.GetPlural(), req.GetScope(); {
	case plural == "" && req.GetName() != "":
		return x, invalid(titleWatch, "Invalid request", resource.Violations{{Field: "plural", Message: "must be given with a name"}})
	case plural == "":
		for _, d := range s.Table.All() {
			switch {
			case d.Access == resource.Internal || s.mayRead(ctx, d) != nil:
			case mesh == "":
				add(section{kind: d, rng: store.OfKind(d.Kind)})
			case d.Kind == resource.KindMesh:
				add(section{kind: d, rng: store.InScope(d.Kind, ""), name: mesh})
			case d.Scope == resource.ScopeMesh:
				add(section{kind: d, rng: store.InScope(d.Kind, mesh)})
			}
		}
	case req.GetName() != "":
		d, key, err := s.item(plural, mesh, req.GetName())
		if err != nil {
			return x, err
		}
		if err := s.mayRead(ctx, d); err != nil {
			return x, err
		}
		add(section{kind: d, rng: store.InScope(d.Kind, key.Scope), name: key.Name})
	default:
		d, scope, err := s.descriptor(plural, mesh)
		if err != nil {
			return x, err
		}
		if err := s.mayRead(ctx, d); err != nil {
			return x, err
		}
		add(section{kind: d, rng: scoped(d.Kind, scope)})
	}
	x.seal()
	return x, nil
}

// watcher is one open watch, for the goroutine that serves it.
type watcher struct {
	service *Service
	selection
	// at is how far the client is.
	at place
	// synced says whether the client has been told that it has all that was there.
	synced bool
	// due is when something must be said again.
	due time.Time
}

// views are the states of the logs.
type views [logs]store.View

// now gives the newest states, config no older than status.
func (w *watcher) now() views {
	status := w.service.Store.Status().View()
	return views{resource.ConfigLog: w.service.Store.Config().View(), resource.StatusLog: status}
}

// start begins behind what the client has.
func (w *watcher) start(after *place) {
	v := w.now()
	switch {
	case after == nil:
		w.begin(v)
	case after.of == w.mark && w.service.epochs.know(w.logs, *after, v):
		w.at = *after
	default:
		w.at.lost = true
	}
}

// begin takes the client to have nothing.
func (w *watcher) begin(v views) {
	w.at, w.synced = place{of: w.mark, fresh: true}, false
	w.sweep(v)
}

// sweep begins to go through all keys.
func (w *watcher) sweep(v views) {
	w.at.sweeping, w.at.swept = true, resource.Key{}
	for l, used := range w.logs {
		if used {
			w.at.logs[l].until = v[l].Revision()
		}
	}
}

// run sends messages until the client, the store or the process ends.
func (w *watcher) run(ctx context.Context, stream grpc.ServerStreamingServer[apiv1.WatchResponse]) error {
	for {
		res, idle, err := w.next(ctx)
		if err != nil {
			return err
		}
		if len(res.GetEvents()) == 0 && idle {
			quiet, err := w.wait(ctx)
			if err != nil && ctx.Err() == nil {
				return w.service.storeError(err, titleWatch)
			}
			if !quiet {
				continue
			}
			res.Id = w.id()
		} else if len(res.GetEvents()) == 0 {
			continue
		}
		if err := stream.Send(res); err != nil {
			return err
		}
		w.due = time.Now().Add(watchQuiet)
	}
}

// wait for something to happen that is watched, or for something to be due: quiet.
func (w *watcher) wait(ctx context.Context) (quiet bool, err error) {
	waiting, cancel := context.WithDeadline(ctx, w.due)
	defer cancel()
	if w.logs[resource.ConfigLog] && w.logs[resource.StatusLog] {
		moved := make(chan error, logs)
		var both sync.WaitGroup
		for l := range w.logs {
			both.Go(func() { moved <- w.await(waiting, l) })
		}
		err = <-moved
		cancel()
		both.Wait()
	} else if w.logs[resource.ConfigLog] {
		err = w.await(waiting, int(resource.ConfigLog))
	} else {
		err = w.await(waiting, int(resource.StatusLog))
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return true, nil
	}
	return false, err
}

// await waits for something to happen in one log that is watched, and passes over what is not: with many watches that
// is what most of them do.
func (w *watcher) await(ctx context.Context, l int) error {
	log, at := w.service.Store.Config(), &w.at.logs[l]
	if l == int(resource.StatusLog) {
		log = w.service.Store.Status()
	}
	for {
		v, err := log.Await(ctx, at.done+1)
		if err != nil {
			return err
		}
		h := v.History()
		if at.done < h.Compacted() {
			return nil
		}
		for c := range h.Changes(at.done) {
			if w.find(c.Key) != nil {
				return nil
			}
		}
		at.done = v.Revision()
	}
}

// next makes a message of the newest state. idle: there is nothing more to be said of it.
func (w *watcher) next(ctx context.Context) (res *apiv1.WatchResponse, idle bool, err error) {
	if err := cmp.Or(ctx.Err(), w.service.life.Err()); err != nil {
		return nil, false, err
	}
	done, err := w.service.turn(ctx, titleWatch)
	if err != nil {
		return nil, false, err
	}
	defer done()
	m := &message{watcher: w, ctx: ctx, views: w.now(), res: &apiv1.WatchResponse{}}
	m.services = newAvailable(m.views[resource.ConfigLog])
	if w.at.lost || w.compacted(m.views) {
		w.begin(m.views)
		m.add(&apiv1.WatchEvent{Event: eventReset, Json: []byte("{}")})
	}
	if !w.at.sweeping {
		fits, err := m.follow()
		if err != nil {
			return nil, false, w.service.storeError(err, titleWatch)
		}
		if fits {
			m.sync()
			return m.res, true, nil
		}
		w.sweep(m.views)
	}
	finished, err := m.sweep()
	if err != nil {
		return nil, false, w.service.storeError(err, titleWatch)
	}
	if finished {
		for l := range w.at.logs {
			w.at.logs[l] = position{done: w.at.logs[l].until}
		}
		w.at.sweeping, w.at.fresh, w.at.swept = false, false, resource.Key{}
		m.sync()
	}
	return m.res, false, nil
}

// compacted says whether the logs have forgotten deletions that the client has not been told of.
func (w *watcher) compacted(v views) bool {
	for l, used := range w.logs {
		if used && w.at.needs(l) < v[l].History().Compacted() {
			return true
		}
	}
	return false
}

// id is what the client goes on after.
func (w *watcher) id() string { return w.at.format(w.logs, w.service.epochs) }

// message is a response that is being put together.
type message struct {
	*watcher
	ctx   context.Context
	views views
	// res holds nothing of the rest, which must not live for as long as the client takes.
	res      *apiv1.WatchResponse
	services *available
	size     int
}

func (m *message) add(e *apiv1.WatchEvent) {
	m.res.Events = append(m.res.Events, e)
	m.size += len(e.GetJson())
}

// full says whether a message has enough in it.
func (m *message) full() bool {
	return len(m.res.GetEvents()) >= m.service.watchEvents || m.size >= watchBytes
}

// sync tells the client, once, that it has what was there.
func (m *message) sync() {
	if m.synced {
		return
	}
	m.synced = true
	l := resource.ConfigLog
	if !m.logs[l] {
		l = resource.StatusLog
	}
	m.add(&apiv1.WatchEvent{Event: eventSynced, Id: m.id(), Json: fmt.Appendf(nil, `{"revision": "%d"}`, m.at.logs[l].done)})
}

// follow adds what has changed since, in the order of the logs, and moves on; false: it is too much, and nothing is done.
func (m *message) follow() (bool, error) {
	var changes [logs][]store.Change
	n := 0
	for l, used := range m.logs {
		if !used || m.views[l].Revision() <= m.at.logs[l].done {
			continue
		}
		for c := range m.views[l].History().Changes(m.at.logs[l].done) {
			if m.find(c.Key) == nil {
				continue
			}
			if n++; n > m.service.watchEvents {
				return false, nil
			}
			changes[l] = append(changes[l], c)
		}
	}
	var events []*apiv1.WatchEvent
	size := 0
	for _, of := range changes {
		for _, c := range of {
			e, err := m.event(c)
			if err != nil {
				return false, err
			}
			if size += len(e.GetJson()); size > watchBytes && n > 1 {
				return false, nil
			}
			events = append(events, e)
		}
	}
	for l, of := range changes {
		if m.logs[l] && len(of) == 0 {
			m.at.logs[l].done = m.views[l].Revision()
		}
	}
	i := 0
	for l, of := range changes {
		for j, c := range of {
			// An id stands for whole revisions.
			switch last := j == len(of)-1; {
			case last:
				m.at.logs[l].done = m.views[l].Revision()
			case of[j+1].Revision > c.Revision:
				m.at.logs[l].done = c.Revision
			}
			events[i].Id = m.id()
			m.add(events[i])
			i++
		}
	}
	return true, nil
}

// sweep adds what has changed since, in the order of the keys, until the message is full; true: these were all.
func (m *message) sweep() (bool, error) {
	for i := range m.sections {
		p := &m.sections[i]
		l := p.kind.Log
		for c := range m.views[l].History().Sweep(p.rng, m.at.swept, m.at.logs[l].done, !m.at.fresh) {
			if !p.contains(c.Key) {
				continue
			}
			if m.full() {
				return false, nil
			}
			e, err := m.event(c)
			if err != nil {
				return false, err
			}
			m.at.swept = c.Key
			e.Id = m.id()
			m.add(e)
		}
	}
	return true, nil
}

// deletion is what is said of a resource that is gone.
type deletion struct {
	Type     resource.Kind `json:"type"`
	Mesh     string        `json:"mesh,omitempty"`
	Name     string        `json:"name"`
	Revision string        `json:"revision"`
}

// event says what became of a key, but for its id.
func (m *message) event(c store.Change) (*apiv1.WatchEvent, error) {
	if c.Object == nil {
		b, err := json.Marshal(deletion{c.Key.Kind, c.Key.Scope, c.Key.Name, c.Revision.String()})
		return &apiv1.WatchEvent{Event: eventDelete, Json: b}, err
	}
	d := m.find(c.Key).kind
	o, err := m.services.complete(c.Object)
	if err != nil {
		return nil, err
	}
	if o, err = m.service.shown(m.ctx, d, o); err != nil {
		return nil, err
	}
	b, err := o.JSON(d)
	return &apiv1.WatchEvent{Event: eventPut, Json: bytes.TrimRight(b, "\n")}, err
}
