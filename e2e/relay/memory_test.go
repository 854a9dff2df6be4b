package relay_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/meridian-mesh/meridian/e2e/relay"
)

// A connection in memory does what one of TCP does, with a relay between its ends.
func TestMemory(t *testing.T) {
	nettest.TestConn(t, func() (a, b net.Conn, stop func(), err error) {
		l := relay.NewMemory()
		var accepted sync.WaitGroup
		accepted.Go(func() { b, _ = l.Accept() })
		a, err = l.Dial(context.Background())
		accepted.Wait()
		return a, b, func() { _, _, _ = a.Close(), b.Close(), l.Close() }, err
	})
}

// In a bubble, faults take as long as they say, and no longer.
func TestFaultsInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		front, back := relay.NewMemory(), relay.NewMemory()
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				c, err := back.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				})
			}
		})
		r := relay.New(front, func(ctx context.Context, _ string) (net.Conn, error) { return back.Dial(ctx) }, "")
		defer serving.Wait()
		defer back.Close()
		defer r.Close()
		c, err := front.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		took := func(bytes int) time.Duration {
			begun := time.Now()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = c.Write(make([]byte, bytes))
			}()
			if _, err := io.ReadFull(c, make([]byte, bytes)); err != nil {
				t.Fatal(err)
			}
			<-sent
			return time.Since(begun)
		}
		if d := took(1 << 20); d != 0 {
			t.Errorf("without a fault: %s", d)
		}
		r.Inject(relay.Fault{Kind: relay.Delay, Direction: relay.Up, By: time.Second})
		if d := took(100 << 10); d != time.Second {
			t.Errorf("delayed by a second: %s", d)
		}
		r.Heal()
		r.Inject(relay.Fault{Kind: relay.Throttle, Direction: relay.Down, Rate: 10 << 10})
		if d := took(100 << 10); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("100 KiB at 10 KiB/s: %s", d)
		}
		r.Heal()
		r.Inject(relay.Fault{Kind: relay.Stall, Direction: relay.Up})
		time.AfterFunc(time.Hour, r.Heal)
		if d := took(1 << 20); d < time.Hour-time.Second || d > time.Hour {
			t.Errorf("stalled for an hour: %s", d)
		}
		r.Inject(relay.Fault{Kind: relay.HalfClose, Direction: relay.Up})
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("half-closed: %d, %v", n, err)
		}
		_ = c.Close()
		if c, err = front.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Inject(relay.Fault{Kind: relay.Refuse})
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("cut: %d, %v", n, err)
		}
		if c, err = front.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("refused: %d, %v", n, err)
		}
	})
}

// The same seed draws the same script, and each kind comes.
func TestDraw(t *testing.T) {
	a, b := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(1, 2))
	seen := map[relay.FaultKind]bool{}
	for range 100 {
		f := relay.Draw(a)
		if g := relay.Draw(b); f != g {
			t.Fatalf("%v and %v", f, g)
		}
		if f.String() == "nothing" {
			t.Errorf("%+v has no name", f)
		}
		seen[f.Kind] = true
	}
	if len(seen) != 7 {
		t.Errorf("%d kinds", len(seen))
	}
}
