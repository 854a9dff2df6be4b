// Package relay passes connections on and misbehaves on demand: it cuts, half-closes, stalls, throttles and delays
// what goes through it. It works over TCP, and in memory inside a testing/synctest bubble.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Direction is one of the two ways through a relay.
type Direction int

// The two ways.
const (
	// Up is from the client to the target.
	Up Direction = iota
	// Down is from the target to the client.
	Down
)

const (
	// chunk is the most that is passed on at once, so that a throttled stream flows evenly.
	chunk = 4 << 10
	// underWay is how many chunks of one direction may be on their way, so that a delay is no throttle.
	underWay = 64
)

// Dialer opens a connection to a target.
type Dialer func(ctx context.Context, target string) (net.Conn, error)

// Relay passes connections on to one target. All methods are safe for concurrent use.
type Relay struct {
	listener net.Listener
	dial     Dialer
	target   string
	cancel   context.CancelFunc
	ctx      context.Context
	tasks    sync.WaitGroup

	mu      sync.Mutex
	links   map[*link]struct{}
	refuses bool
	ways    [2]way
	// changed is closed, and made anew, when a way changes.
	changed chan struct{}
}

// way is how one direction behaves.
type way struct {
	stalled bool
	// rate in bytes a second; 0: as fast as it goes.
	rate  int
	delay time.Duration
	bytes int64
}

// link is one connection through the relay.
type link struct{ client, target net.Conn }

// Start listens on a free loopback port and passes what comes on to target, until Close.
func Start(target string) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var dialer net.Dialer
	return New(l, func(ctx context.Context, target string) (net.Conn, error) {
		return dialer.DialContext(ctx, "tcp", target)
	}, target), nil
}

// New passes what comes to a listener on to target, until Close, which closes the listener too.
func New(l net.Listener, dial Dialer, target string) *Relay {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{
		listener: l, dial: dial, target: target, ctx: ctx, cancel: cancel,
		links: map[*link]struct{}{}, changed: make(chan struct{}),
	}
	r.tasks.Go(r.accept)
	return r
}

// reset closes a connection as one that broke, with RST in place of FIN.
func reset(c net.Conn) {
	switch c := c.(type) {
	case *net.TCPConn:
		_ = c.SetLinger(0)
		_ = c.Close()
	case *memoryConn:
		c.reset()
	default:
		_ = c.Close()
	}
}

// closeWrite ends one direction.
func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

// Addr is where the relay listens, host:port.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// SetTarget sends new connections to another address: the target came back on another port.
func (r *Relay) SetTarget(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// Close ends every connection and waits for what was started.
func (r *Relay) Close() {
	r.cancel()
	_ = r.listener.Close()
	r.Cut()
	r.tasks.Wait()
}

// Cut resets every connection. New ones are taken.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.links {
		reset(l.client)
		reset(l.target)
	}
}

// HalfClose closes one direction of every connection with a FIN, as a peer does that has said all.
func (r *Relay) HalfClose(d Direction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.links {
		if d == Up {
			closeWrite(l.target)
		} else {
			closeWrite(l.client)
		}
	}
}

// Refuse closes new connections at once while on; those that are open stay.
func (r *Relay) Refuse(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = on
}

// Stall holds everything in one direction while on, without closing anything: a cable that was pulled.
func (r *Relay) Stall(d Direction, on bool) { r.set(func() { r.ways[d].stalled = on }) }

// Throttle lets at most rate bytes a second through in one direction; 0 lets all through.
func (r *Relay) Throttle(d Direction, rate int) { r.set(func() { r.ways[d].rate = rate }) }

// Delay holds what comes from now on in one direction for a while. It bounds the throughput to 256 KiB for each
// delay.
func (r *Relay) Delay(d Direction, by time.Duration) { r.set(func() { r.ways[d].delay = by }) }

// Bytes is how much has gone through in one direction.
func (r *Relay) Bytes(d Direction) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ways[d].bytes
}

// Connections is how many are open.
func (r *Relay) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.links)
}

func (r *Relay) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Relay) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		refuses, target := r.refuses, r.target
		r.mu.Unlock()
		if refuses {
			reset(c)
			continue
		}
		r.tasks.Go(func() { r.connect(c, target) })
	}
}

func (r *Relay) connect(client net.Conn, target string) {
	c, err := r.dial(r.ctx, target)
	if err != nil {
		reset(client)
		return
	}
	defer client.Close()
	defer c.Close()
	l := &link{client: client, target: c}

	r.mu.Lock()
	if r.ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	r.links[l] = struct{}{}
	r.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { r.pass(Up, l.target, l.client) })
	both.Go(func() { r.pass(Down, l.client, l.target) })
	both.Wait()

	r.mu.Lock()
	delete(r.links, l)
	r.mu.Unlock()
}

// piece is what was read at once, and when; err is what ended the reading.
type piece struct {
	data []byte
	at   time.Time
	err  error
}

// pass copies one direction. An end of input is passed on as one; an error ends the link.
func (r *Relay) pass(d Direction, to, from net.Conn) {
	pieces := make(chan piece, underWay)
	quit := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			buf := make([]byte, chunk)
			n, err := from.Read(buf)
			select {
			case pieces <- piece{buf[:n], time.Now(), err}:
			case <-quit:
				return
			}
			if err != nil {
				return
			}
		}
	})
	if err := r.forward(d, to, pieces); err != nil {
		reset(to)
		reset(from)
	}
	close(quit)
	reading.Wait()
}

// forward writes piece after piece. Nil: all was written, up to the end of input.
func (r *Relay) forward(d Direction, to net.Conn, pieces <-chan piece) error {
	for {
		select {
		case p := <-pieces:
			if !r.admit(d, len(p.data), p.at) { // a stalled way holds the FIN and the RST too
				return net.ErrClosed
			}
			if _, err := to.Write(p.data); err != nil {
				return err
			}
			switch {
			case errors.Is(p.err, io.EOF):
				closeWrite(to)
				return nil
			case p.err != nil:
				return p.err
			}
		case <-r.ctx.Done():
			return net.ErrClosed
		}
	}
}

// admit waits until n bytes that came at a time may go on in a direction, and says whether the relay still runs.
func (r *Relay) admit(d Direction, n int, at time.Time) bool {
	for {
		r.mu.Lock()
		w, changed := r.ways[d], r.changed
		r.mu.Unlock()
		if !w.stalled {
			// A heal ends a delay, not what a throttle has already taken on.
			if wait := time.Until(at.Add(w.delay)); w.delay > 0 && wait > 0 {
				if !r.pause(wait, changed) {
					return false
				}
				continue
			}
			r.mu.Lock()
			r.ways[d].bytes += int64(n)
			r.mu.Unlock()
			if w.rate > 0 && n > 0 {
				return r.pause(time.Duration(n)*time.Second/time.Duration(w.rate), nil)
			}
			return r.ctx.Err() == nil
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return false
		}
	}
}

// pause waits for a time, or until changed is closed, and says whether the relay still runs.
func (r *Relay) pause(d time.Duration, changed <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-changed:
		return true
	case <-r.ctx.Done():
		return false
	}
}
