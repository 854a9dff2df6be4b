package relay_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/e2e/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every byte with itself, and an end of input with one.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func start(t *testing.T) (*relay.Relay, *net.TCPConn) {
	t.Helper()
	r, err := relay.Start(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return r, c.(*net.TCPConn)
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("heard %q, %v; want %q", got, err, text)
	}
}

func silent(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(d))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d, %v; want silence", n, err)
	}
}

func TestPassesOn(t *testing.T) {
	r, c := start(t)
	say(t, c, "hello")
	hear(t, c, "hello")
	if up, down := r.Bytes(relay.Up), r.Bytes(relay.Down); up != 5 || down != 5 {
		t.Errorf("bytes %d up, %d down; want 5", up, down)
	}
	if n := r.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestCut(t *testing.T) {
	r, c := start(t)
	say(t, c, "a")
	hear(t, c, "a")
	r.Cut()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after a cut: %v, want a reset", err)
	}
}

func TestHalfClose(t *testing.T) {
	r, c := start(t)
	say(t, c, "a")
	hear(t, c, "a")
	r.HalfClose(relay.Up) // the echo sees the end, and ends its side
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("after a half-close: %v, want an end", err)
	}
}

func TestStall(t *testing.T) {
	r, c := start(t)
	for _, d := range []relay.Direction{relay.Up, relay.Down} {
		r.Stall(d, true)
		say(t, c, "held")
		silent(t, c, 50*time.Millisecond)
		r.Stall(d, false)
		hear(t, c, "held")
	}
}

func TestDelayAndThrottle(t *testing.T) {
	r, c := start(t)
	r.Delay(relay.Up, 60*time.Millisecond)
	begun := time.Now()
	say(t, c, "late")
	hear(t, c, "late")
	if took := time.Since(begun); took < 60*time.Millisecond {
		t.Errorf("took %s, want the delay", took)
	}
	r.Delay(relay.Up, 0)
	r.Throttle(relay.Down, 1000)
	begun = time.Now()
	say(t, c, string(make([]byte, 100)))
	hear(t, c, string(make([]byte, 100)))
	if took := time.Since(begun); took < 100*time.Millisecond {
		t.Errorf("took %s for 100 bytes at 1000 a second", took)
	}
}

func TestRefuse(t *testing.T) {
	r, c := start(t)
	say(t, c, "here") // dialled is not yet accepted
	hear(t, c, "here")
	r.Refuse(true)
	d, err := net.Dial("tcp", r.Addr())
	if err == nil {
		defer d.Close()
		_ = d.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err = d.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a refused connection reads: %v", err)
		}
	}
	say(t, c, "still here")
	hear(t, c, "still here")
}
