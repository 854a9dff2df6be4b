package kds

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// encoded remembers the encoded form of recent changes, so that one is encoded once for all zones.
type encoded = lru.Cache[encodedKey, []byte]

type encodedKey struct {
	log      kdsv1.Log
	key      resource.Key
	revision resource.Revision
}

const (
	// encodedChanges and encodedSize bound what is remembered: 2,048 changes of at most 16 KiB.
	encodedChanges = 2048
	encodedSize    = 16 << 10
)

// errWoken ends a wait for changes because there is something else to do.
var errWoken = errors.New("woken")

// publisher sends what the peer may see of one log of this store.
type publisher struct {
	s   *session
	id  kdsv1.Log
	log store.Log
	// lazy is how long a position may stay unsent to which nothing visible has led.
	lazy time.Duration

	mu sync.Mutex
	// wake ends the present wait, if there is one; woken is set when it did, or would have.
	wake  context.CancelCauseFunc
	woken bool
	// offers are keys that the peer asked for again.
	offers map[resource.Key]struct{}
	// read is how far the log was read, sent how far the peer was told, acked how far it has applied.
	read, sent, acked resource.Revision
	// out are the groups that are sent and not ACKed, oldest first.
	out []sentGroup
}

type sentGroup struct {
	to    resource.Revision
	kinds []resource.Kind
}

// run publishes from the peer's cursor on until ctx is done or the stream fails.
func (p *publisher) run(ctx context.Context, after store.Cursor) error {
	p.mu.Lock()
	p.read, p.sent, p.acked = after.Revision, after.Revision, after.Revision
	p.mu.Unlock()
	w, err := p.log.Watch(store.Everything(), after)
	for {
		if errors.Is(err, store.ErrCompacted) {
			w, err = p.snapshot(ctx)
		}
		if err != nil {
			return err
		}
		err = p.follow(ctx, w)
		_ = w.Close() // It only frees.
	}
}

// snapshot sends the present state, and watches from there.
func (p *publisher) snapshot(ctx context.Context) (store.Watch, error) {
	v := p.log.View()
	if err := p.sendScan(ctx, v, store.Everything(), 0); err != nil {
		return nil, err
	}
	for o := range v.Scan(store.OfKind(resource.KindMesh)) {
		if err := p.s.changed(v, store.Change{Key: o.Key, Object: o, Origin: o.Origin, Revision: o.Revision}, p.id); err != nil {
			return nil, err
		}
	}
	return p.log.Watch(store.Everything(), v.At())
}

// follow sends the changes that a watch gives. It returns only with an error.
func (p *publisher) follow(ctx context.Context, w store.Watch) error {
	// due fires when a position has stayed unsent for long enough.
	due := time.AfterFunc(time.Hour, p.wakeUp)
	due.Stop()
	defer due.Stop()
	armed := false
	for {
		changes, err := p.next(ctx, w)
		woken := errors.Is(err, errWoken)
		if err != nil && !woken {
			return err
		}
		offers := p.takeOffers()
		if woken {
			armed = false
			// What the peer gets must be the state at the position that it is told.
			v := p.log.View()
			if v.Revision() != p.position() {
				if changes, err = w.Next(ctx); err != nil {
					return err
				}
			} else {
				changes = store.Changes{From: v.Revision(), To: v.Revision(), View: v}
			}
		}
		for _, c := range changes.Items {
			if err := p.s.changed(changes.View, c, p.id); err != nil {
				return err
			}
		}
		moved, err := p.publish(ctx, changes, offers, woken)
		if err != nil {
			return err
		}
		switch {
		case moved:
			due.Stop()
			armed = false
		case !armed && p.unsent():
			due.Reset(p.lazy)
			armed = true
		}
	}
}

// next waits for changes. It fails with errWoken when there are offers or a position to send.
func (p *publisher) next(ctx context.Context, w store.Watch) (store.Changes, error) {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.mu.Lock()
	woken := p.woken
	if p.woken = false; !woken {
		p.wake = cancel
	}
	p.mu.Unlock()
	if woken {
		return store.Changes{}, errWoken
	}
	c, err := w.Next(waiting)
	p.mu.Lock()
	p.wake = nil
	if err != nil {
		p.woken = false
	}
	p.mu.Unlock()
	return c, err
}

func (p *publisher) wakeUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.woken = true
	if p.wake != nil {
		p.wake(errWoken)
	}
}

// offer notes keys that the peer asks for again.
func (p *publisher) offer(keys []*kdsv1.Key) error {
	p.mu.Lock()
	if p.offers == nil {
		p.offers = make(map[resource.Key]struct{}, len(keys))
	}
	for _, k := range keys {
		if _, known := p.s.table.ByKind(resource.Kind(k.GetKind())); !known {
			continue // There is none to send, nor to count.
		}
		p.offers[resource.Key{Kind: resource.Kind(k.GetKind()), Scope: k.GetScope(), Name: k.GetName()}] = struct{}{}
	}
	n := len(p.offers)
	p.mu.Unlock()
	if n > maxOffers {
		return violation("%d keys asked for", n)
	}
	p.wakeUp()
	return nil
}

func (p *publisher) takeOffers() []resource.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(p.offers), resource.Key.Compare)
	p.offers = nil
	return keys
}

func (p *publisher) position() resource.Revision {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.read
}

func (p *publisher) unsent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent != p.read
}

// applied is how far the peer's copy is complete: what it has ACKed, and beyond that what held nothing for it.
func (p *publisher) applied() resource.Revision {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.out) == 0 {
		return p.read
	}
	return p.acked
}

// publish sends what the peer may see of some changes, and what it asked for, as one group; told says whether
// it was told the position, for which must forces a group without changes.
func (p *publisher) publish(ctx context.Context, c store.Changes, offers []resource.Key, must bool) (told bool, err error) {
	visible := make([]store.Change, 0, len(c.Items))
	have := map[resource.Key]bool{}
	for _, x := range c.Items {
		if p.s.sends(x.Key, x.Origin) {
			visible = append(visible, x)
			if len(offers) > 0 {
				have[x.Key] = true
			}
		}
	}
	var whole []resource.Kind
	for _, k := range offers {
		switch {
		case k.Name == anyName:
			whole = append(whole, k.Kind)
		case !have[k]:
			visible = append(visible, p.present(c.View, k))
		}
	}
	p.mu.Lock()
	from := p.sent
	told = len(visible) > 0 || must && from != c.To
	if !told {
		p.read = c.To
	}
	p.mu.Unlock()
	if told {
		g := &kdsv1.Group{From: uint64(from), To: uint64(c.To), Epoch: c.View.At().Epoch}
		if err := p.send(ctx, g, kindsOf(visible), p.encodeAll(visible)); err != nil {
			return false, err
		}
	}
	for _, k := range whole {
		p.mu.Lock()
		from := p.sent
		p.mu.Unlock()
		told = true
		if err := p.sendScan(ctx, c.View, store.OfKind(k), from); err != nil {
			return false, err
		}
	}
	return told, nil
}

// present is the change that brings the peer to the present state of a key.
func (p *publisher) present(v store.View, k resource.Key) store.Change {
	if o, ok := v.Get(k); ok && p.s.sends(k, o.Origin) {
		return store.Change{Key: k, Object: o, Origin: o.Origin, Revision: o.Revision}
	}
	return store.Change{Key: k, Revision: v.Revision()}
}

func kindsOf(changes []store.Change) []resource.Kind {
	var kinds []resource.Kind
	for _, c := range changes {
		if !slices.Contains(kinds, c.Key.Kind) {
			kinds = append(kinds, c.Key.Kind)
		}
	}
	return kinds
}

// sendScan sends a snapshot of a range.
func (p *publisher) sendScan(ctx context.Context, v store.View, r store.Range, from resource.Revision) error {
	var kinds []resource.Kind
	for _, d := range p.s.table.All() {
		if logID(d.Log) != p.id || !r.Contains(resource.Key{Kind: d.Kind}) {
			continue
		}
		for o := range v.Scan(store.OfKind(d.Kind)) {
			if p.s.sends(o.Key, o.Origin) {
				kinds = append(kinds, d.Kind)
				break
			}
		}
	}
	g := &kdsv1.Group{
		From: uint64(from), To: uint64(v.Revision()), Epoch: v.At().Epoch,
		Replaces: []*kdsv1.Range{{Kind: string(r.Kind), Scope: r.Scope, AnyScope: r.AnyScope}},
	}
	return p.send(ctx, g, kinds, func(yield func([]byte, error) bool) {
		for o := range v.Scan(r) {
			if !p.s.sends(o.Key, o.Origin) {
				continue
			}
			if !yield(encode(wire(store.Change{Key: o.Key, Object: o, Revision: o.Revision}))) {
				return
			}
		}
	})
}

// send sends a group in frames. It waits for the window, but not for the peer to apply.
func (p *publisher) send(ctx context.Context, head *kdsv1.Group, kinds []resource.Kind, items iter.Seq2[[]byte, error]) error {
	p.mu.Lock()
	p.sent = resource.Revision(head.GetTo())
	p.read = p.sent
	p.out = append(p.out, sentGroup{to: p.sent, kinds: kinds})
	p.mu.Unlock()
	p.s.traffic.groupSent()
	if len(kinds) > 0 {
		p.s.count(func(c *counters) { c.sent(kinds) })
	}

	frame := &kdsv1.Group{Log: p.id, From: head.From, To: head.To, Replaces: head.Replaces}
	flush := func() error {
		if err := p.s.window.take(ctx, cost(frame)); err != nil {
			return err
		}
		if err := p.s.outbox.send(ctx, &kdsv1.Frame{Kind: &kdsv1.Frame_Group{Group: frame}}); err != nil {
			return err
		}
		frame = &kdsv1.Group{Log: p.id, From: head.From, To: head.To}
		return nil
	}
	for item, err := range items {
		if err != nil {
			return fmt.Errorf("encode a group: %w", err)
		}
		for len(item) > 0 {
			if len(frame.Changes) == maxFrame-frameOverhead {
				if err := flush(); err != nil {
					return err
				}
			}
			n := min(len(item), maxFrame-frameOverhead-len(frame.Changes))
			frame.Changes = append(frame.Changes, item[:n]...)
			item = item[n:]
		}
	}
	frame.Epoch, frame.Last = head.Epoch, true
	return flush()
}

// encodeAll encodes changes, or finds them encoded for another zone.
func (p *publisher) encodeAll(changes []store.Change) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, c := range changes {
			if !yield(p.encodeOne(c)) {
				return
			}
		}
	}
}

func (p *publisher) encodeOne(c store.Change) ([]byte, error) {
	if c.Object == nil || p.s.encoded == nil {
		return encode(wire(c))
	}
	key := encodedKey{log: p.id, key: c.Key, revision: c.Revision}
	if b, ok := p.s.encoded.Get(key); ok {
		return b, nil
	}
	b, err := encode(wire(c))
	if err == nil && len(b) <= encodedSize {
		p.s.encoded.Add(key, b)
	}
	return b, err
}

// wire is the form in which a change travels.
func wire(c store.Change) *kdsv1.Change {
	w := &kdsv1.Change{Kind: string(c.Key.Kind), Scope: c.Key.Scope, Name: c.Key.Name, Revision: uint64(c.Revision)}
	if c.Object == nil {
		w.Deleted = true
		return w
	}
	w.Created, w.Modified, w.Spec = timestamppb.New(c.Object.Created), timestamppb.New(c.Object.Modified), c.Object.Spec
	return w
}

// ack notes that the peer has applied the oldest group that is out.
func (p *publisher) ack(a *kdsv1.Ack) error {
	p.mu.Lock()
	if len(p.out) == 0 || p.out[0].to != resource.Revision(a.GetTo()) {
		p.mu.Unlock()
		return violation("an ack of %d, which is not the next one", a.GetTo())
	}
	g := p.out[0]
	p.out[0] = sentGroup{}
	p.out = p.out[1:]
	p.acked = g.to
	p.mu.Unlock()
	if len(g.kinds) > 0 {
		p.s.count(func(c *counters) { c.acked(g.kinds, a.GetRejectedKinds()) })
	}
	return nil
}
