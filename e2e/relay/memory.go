package relay

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// buffered is how much one direction of a connection in memory takes before its reader has read.
const buffered = 64 << 10

// Memory is a listener whose connections never leave the process and block in nothing but this program, so that
// a testing/synctest bubble can hold both ends. They buffer, half-close, reset and have deadlines as TCP's do.
// It is safe for concurrent use.
type Memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewMemory listens until Close.
func NewMemory() *Memory { return &Memory{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Accept implements net.Listener.
func (m *Memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that are open stay.
func (m *Memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// Addr implements net.Listener.
func (m *Memory) Addr() net.Addr { return memoryAddr{} }

// Dial waits until a connection is accepted; it is refused when the listener is closed.
func (m *Memory) Dial(ctx context.Context) (net.Conn, error) {
	a, b := newFlow(), newFlow()
	select {
	case m.conns <- &memoryConn{in: a, out: b}:
		return &memoryConn{in: b, out: a}, nil
	case <-m.closed:
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

type memoryAddr struct{}

func (memoryAddr) Network() string { return "memory" }
func (memoryAddr) String() string  { return "memory" }

// memoryConn is one end of a connection.
type memoryConn struct{ in, out *flow }

func (c *memoryConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memoryConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *memoryConn) LocalAddr() net.Addr         { return memoryAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr        { return memoryAddr{} }

// CloseWrite lets the other end see an end of input behind what was written.
func (c *memoryConn) CloseWrite() error {
	c.out.set(func(f *flow) { f.ended = true })
	return nil
}

func (c *memoryConn) Close() error {
	c.out.set(func(f *flow) { f.ended, f.unwritable = true, net.ErrClosed })
	c.in.set(func(f *flow) { f.unreadable, f.unwritable = net.ErrClosed, syscall.EPIPE })
	c.setDeadlines(time.Time{}, time.Time{})
	return nil
}

// reset drops what is under way, and fails both ends.
func (c *memoryConn) reset() {
	for _, f := range []*flow{c.in, c.out} {
		f.set(func(f *flow) {
			f.buf = nil
			for _, e := range []*error{&f.unreadable, &f.unwritable} {
				if *e == nil {
					*e = syscall.ECONNRESET
				}
			}
		})
	}
	_ = c.Close()
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.setDeadlines(t, t)
	return nil
}

func (c *memoryConn) setDeadlines(read, write time.Time) {
	_ = c.SetReadDeadline(read)
	_ = c.SetWriteDeadline(write)
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.set(func(f *flow) { f.readBy.set(f, t) })
	return nil
}

func (c *memoryConn) SetWriteDeadline(t time.Time) error {
	c.out.set(func(f *flow) { f.writeBy.set(f, t) })
	return nil
}

// flow is one direction of a connection.
type flow struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	// ended: nothing more will be written. unreadable and unwritable are why an end fails, if it does.
	ended                  bool
	unreadable, unwritable error
	readBy, writeBy        deadline
}

// deadline is when one end's calls fail.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func newFlow() *flow {
	f := &flow{}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// set changes a flow and wakes both ends.
func (f *flow) set(change func(*flow)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
	f.changed.Broadcast()
}

func (d *deadline) set(f *flow, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = t; !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() { f.set(func(*flow) {}) })
	}
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (f *flow) read(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.unreadable != nil:
			return 0, f.unreadable
		case f.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(f.buf) > 0:
			n := copy(b, f.buf)
			if f.buf = f.buf[n:]; len(f.buf) == 0 {
				f.buf = nil
			}
			f.changed.Broadcast()
			return n, nil
		case f.ended:
			return 0, io.EOF
		}
		f.changed.Wait()
	}
}

func (f *flow) write(b []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.unwritable != nil:
			return n, f.unwritable
		case f.ended:
			return n, syscall.EPIPE
		case f.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if room := min(buffered-len(f.buf), len(b)); room > 0 {
			f.buf = append(f.buf, b[:room]...)
			b, n = b[room:], n+room
			f.changed.Broadcast()
			continue
		}
		f.changed.Wait()
	}
}
