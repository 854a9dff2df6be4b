package dns

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers from a script, and notes when it was asked.
type server struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr
	ttl     time.Duration
	err     error
	start   time.Time
	asked   map[string][]time.Duration
}

func (s *server) lookup(_ context.Context, host string) ([]netip.Addr, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[host] = append(s.asked[host], time.Since(s.start))
	if s.err != nil {
		return nil, 0, s.err
	}
	return s.answers[host], s.ttl, nil
}

// change changes the script.
func (s *server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// run starts a resolver in a bubble and stops it at the test's end.
func run(t *testing.T, s *server) *Resolver {
	t.Helper()
	s.start, s.asked = time.Now(), map[string][]time.Duration{}
	r := New(s.lookup, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestAsksAgainWhenAnAnswerIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answers: map[string][]netip.Addr{"a.test": addrs("10.0.0.2", "10.0.0.1")}, ttl: time.Second}
		r := run(t, s)
		r.Want([]string{"a.test"})
		<-r.Changed()
		if diff := cmp.Diff(map[string][]netip.Addr{"a.test": addrs("10.0.0.1", "10.0.0.2")}, r.Take(), sameAddr); diff != "" {
			t.Error(diff)
		}
		synctest.Wait()

		// The same answer in another order is no change; another one is.
		s.change(func() { s.answers["a.test"] = addrs("10.0.0.1", "10.0.0.2") })
		time.Sleep(MinTTL + time.Second)
		synctest.Wait()
		if got := r.Take(); len(got) != 0 {
			t.Errorf("the same answer counts as new: %v", got)
		}
		s.change(func() { s.answers["a.test"], s.ttl = addrs("10.0.0.3"), time.Hour })
		<-r.Changed()
		if diff := cmp.Diff(map[string][]netip.Addr{"a.test": addrs("10.0.0.3")}, r.Take(), sameAddr); diff != "" {
			t.Error(diff)
		}
		time.Sleep(MaxTTL + time.Second)
		synctest.Wait()
		want := []time.Duration{0, MinTTL, 2 * MinTTL, 2*MinTTL + MaxTTL}
		if diff := cmp.Diff(want, s.asked["a.test"]); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFailureKeepsTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answers: map[string][]netip.Addr{"a.test": addrs("10.0.0.1")}}
		r := run(t, s)
		r.Want([]string{"a.test"})
		<-r.Changed()
		r.Take()
		synctest.Wait()
		s.change(func() { s.err = errors.New("server down") })
		time.Sleep(UnknownTTL + time.Second)
		synctest.Wait()
		if got := r.Take(); len(got) != 0 {
			t.Errorf("a failure gives %v", got)
		}
		if err := r.Failing()["a.test"]; err == nil {
			t.Error("the failure is not shown")
		}
		s.change(func() { s.err = nil })
		time.Sleep(MinTTL)
		synctest.Wait()
		if got := r.Failing(); len(got) != 0 {
			t.Errorf("still failing: %v", got)
		}
	})
}

func TestWantsOnlyWhatIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answers: map[string][]netip.Addr{"a.test": addrs("10.0.0.1"), "b.test": addrs("10.0.0.2")}}
		r := run(t, s)
		r.Want([]string{"a.test", "b.test"})
		synctest.Wait()
		r.Want([]string{"b.test"})
		if diff := cmp.Diff(map[string][]netip.Addr{"b.test": addrs("10.0.0.2")}, r.Take(), sameAddr); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(s.asked["a.test"]); n != 1 {
			t.Errorf("asked %d times for what is not wanted any more", n)
		}

		// Wanted again it is delivered again, for whoever wants it has forgotten it.
		r.Want([]string{"a.test", "b.test"})
		synctest.Wait()
		if diff := cmp.Diff(map[string][]netip.Addr{"a.test": addrs("10.0.0.1")}, r.Take(), sameAddr); diff != "" {
			t.Error(diff)
		}
	})
}
