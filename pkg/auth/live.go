package auth

import (
	"container/heap"
	"errors"
	"sync"
	"time"
)

// ErrEnded: a credential's time is over.
var ErrEnded = errors.New("credential has expired")

// Live keeps account of the streams and calls that rest on credentials, by token and by key, and ends them when
// their credential does. It holds one timer, for the credential that expires first. It is safe for concurrent use.
type Live struct {
	revoked Revoked

	mu       sync.Mutex
	byID     map[string]map[*held]struct{}
	expiries expiries
	// timer goes off at armed; zero: it is stopped.
	timer  *time.Timer
	armed  time.Time
	closed bool
}

// held is one stream or call.
type held struct {
	credential Credential
	end        func(error)
	// place in the heap, or outside, or gone.
	place int
}

// NewLive makes an empty account. revoked is asked anew whenever Changed is told of an id.
func NewLive(revoked Revoked) *Live {
	return &Live{revoked: revoked, byID: map[string]map[*held]struct{}{}}
}

// Hold has end called with the reason when the credential does not hold any more, be it at once; release, which
// must be called, puts an end to that. end is called at most once, on another goroutine or within Hold, may come
// while release is under way, and must not block.
func (l *Live) Hold(c Credential, end func(reason error)) (release func()) {
	if c.Endless() {
		return func() {}
	}
	h := &held{credential: c, end: end, place: outside}
	l.mu.Lock()
	for _, id := range c.under() {
		if l.byID[id] == nil {
			l.byID[id] = map[*held]struct{}{}
		}
		l.byID[id][h] = struct{}{}
	}
	if !c.Expires.IsZero() {
		heap.Push(&l.expiries, h)
		l.arm()
	}
	l.mu.Unlock()
	// What was taken back since it was verified, and before it stood here, nobody tells of.
	if err := c.standing(l.revoked); err != nil && l.drop(h) {
		end(err)
	}
	return func() { l.drop(h) }
}

// Changed ends what rests on one of the ids (of tokens, keys, certificates, Secrets of legacy tokens) and does not
// hold any more.
func (l *Live) Changed(ids ...string) {
	l.mu.Lock()
	var found []*held
	for _, id := range ids {
		for h := range l.byID[id] {
			found = append(found, h)
		}
	}
	l.mu.Unlock()
	l.check(found)
}

// CheckAll is Changed for every id.
func (l *Live) CheckAll() {
	l.mu.Lock()
	var found []*held
	for _, hs := range l.byID {
		for h := range hs {
			found = append(found, h)
		}
	}
	l.mu.Unlock()
	l.check(found)
}

func (l *Live) check(found []*held) {
	for _, h := range found {
		if err := h.credential.standing(l.revoked); err != nil && l.drop(h) {
			h.end(err)
		}
	}
}

// Close stops the timer. What is held is ended by others.
func (l *Live) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
}

// drop forgets h; false: it was forgotten before.
func (l *Live) drop(h *held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.remove(h)
}

// remove is drop with the lock.
func (l *Live) remove(h *held) bool {
	if h.place == gone {
		return false
	}
	for _, id := range h.credential.under() {
		delete(l.byID[id], h)
		if len(l.byID[id]) == 0 {
			delete(l.byID, id)
		}
	}
	if h.place >= 0 {
		heap.Remove(&l.expiries, h.place)
		l.arm()
	}
	h.place = gone
	return true
}

// arm sets the timer for the first expiry. With the lock.
func (l *Live) arm() {
	var first time.Time
	if len(l.expiries) > 0 {
		first = l.expiries[0].credential.Expires
	}
	if l.closed || first.Equal(l.armed) {
		return
	}
	l.armed = first
	switch {
	case first.IsZero():
		l.timer.Stop()
	case l.timer == nil:
		l.timer = time.AfterFunc(time.Until(first), l.expire)
	default:
		l.timer.Reset(time.Until(first))
	}
}

// expire ends what has expired.
func (l *Live) expire() {
	l.mu.Lock()
	var over []*held
	for now := time.Now(); len(l.expiries) > 0 && !l.expiries[0].credential.Expires.After(now); {
		h := l.expiries[0]
		l.remove(h)
		over = append(over, h)
	}
	l.armed = time.Time{}
	l.arm()
	l.mu.Unlock()
	for _, h := range over {
		h.end(ErrEnded)
	}
}

// Places of what is not in the heap.
const (
	outside = -1
	gone    = -2
)

// expiries is a heap of what is held, the first to expire first.
type expiries []*held

func (e expiries) Len() int { return len(e) }
func (e expiries) Less(i, j int) bool {
	return e[i].credential.Expires.Before(e[j].credential.Expires)
}

func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = i, j
}

// Push implements heap.Interface.
func (e *expiries) Push(x any) {
	h := x.(*held)
	h.place = len(*e)
	*e = append(*e, h)
}

// Pop implements heap.Interface.
func (e *expiries) Pop() any {
	last := len(*e) - 1
	h := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	h.place = outside
	return h
}
