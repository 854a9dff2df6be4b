// Package relay is a TCP relay that misbehaves on demand: it cuts, half-closes, stalls, throttles and delays
// the connections that go through it.
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

// chunk is the most that is passed on at once, so that a throttled stream flows evenly.
const chunk = 4 << 10

// Relay passes TCP connections on to one target. All methods are safe for concurrent use.
type Relay struct {
	listener net.Listener
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
type link struct{ client, target *net.TCPConn }

// Start listens on a free loopback port and passes what comes on to target, until Close.
func Start(target string) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Relay{listener: l, target: target, ctx: ctx, cancel: cancel, links: map[*link]struct{}{}, changed: make(chan struct{})}
	r.tasks.Go(r.accept)
	return r, nil
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
		for _, c := range []*net.TCPConn{l.client, l.target} {
			_ = c.SetLinger(0) // RST in place of FIN
			_ = c.Close()
		}
	}
}

// HalfClose closes one direction of every connection with a FIN, as a peer does that has said all.
func (r *Relay) HalfClose(d Direction) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.links {
		if d == Up {
			_ = l.target.CloseWrite()
		} else {
			_ = l.client.CloseWrite()
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

// Delay holds what goes in one direction for a while. It bounds the throughput to 4 KiB for each delay.
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
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			continue
		}
		r.tasks.Go(func() { r.connect(c.(*net.TCPConn), target) })
	}
}

func (r *Relay) connect(client *net.TCPConn, target string) {
	defer client.Close()
	var dialer net.Dialer
	c, err := dialer.DialContext(r.ctx, "tcp", target)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	l := &link{client: client, target: c.(*net.TCPConn)}
	defer l.target.Close()

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

// pass copies one direction. An end of input is passed on as one; an error ends the link.
func (r *Relay) pass(d Direction, to, from *net.TCPConn) {
	buf := make([]byte, chunk)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !r.admit(d, n) {
				return
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				_ = from.Close()
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if r.admit(d, 0) { // a stalled way holds the FIN too
				_ = to.CloseWrite()
			}
			return
		case err != nil:
			_ = to.SetLinger(0)
			_ = to.Close()
			return
		}
	}
}

// admit waits until n bytes may go on in a direction, and says whether the relay still runs.
func (r *Relay) admit(d Direction, n int) bool {
	for {
		r.mu.Lock()
		w, changed := r.ways[d], r.changed
		if !w.stalled {
			r.ways[d].bytes += int64(n)
		}
		r.mu.Unlock()
		if !w.stalled {
			wait := w.delay
			if w.rate > 0 {
				wait += time.Duration(n) * time.Second / time.Duration(w.rate)
			}
			return r.pause(wait)
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return false
		}
	}
}

func (r *Relay) pause(d time.Duration) bool {
	if d <= 0 {
		return r.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}
