package containers

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// Between two requests of one client, and between two writes.
const (
	requestEvery = 10 * time.Millisecond
	writeEvery   = 30 * time.Millisecond
	// clients of each service that is called.
	clients = 2
	// requestTime is after how long a request has failed.
	requestTime = 5 * time.Second
)

// newClient is a client of a service from this machine.
func newClient(service *unit) *http.Client {
	return &http.Client{Timeout: requestTime, Transport: &http.Transport{DialContext: service.dial(servicePort), MaxIdleConnsPerHost: clients}}
}

// call asks a service that calls another, and gives the other's answer.
func call(ctx context.Context, c *http.Client) (sample.Answer, error) {
	a, err := sample.Call(ctx, c, "http://service/")
	if err != nil {
		return a, err
	}
	if a.Called == nil {
		return a, fmt.Errorf("%s called nobody", a.Service.Service)
	}
	return *a.Called, nil
}

// caller is a service that calls another for each request.
type caller struct {
	name string
	*unit
}

// answers waits until a version of what is called has answered.
func answers(t *testing.T, by caller, version string, d time.Duration) {
	t.Helper()
	c := newClient(by.unit)
	defer c.CloseIdleConnections()
	until(t, d, fmt.Sprintf("an answer of %s to the %s", version, by.name), func(ctx context.Context) error {
		a, err := call(ctx, c)
		if err == nil && a.Version != version {
			err = fmt.Errorf("an answer of %s", a.Version)
		}
		return err
	})
}

// traffic is what clients do all the time.
type traffic struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu sync.Mutex
	// answered counts by caller.
	answered map[string]int
	failures []string
}

// goOn lets clients ask callers until the test, or end, stops them.
func goOn(t *testing.T, callers ...caller) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &traffic{stop: cancel, answered: map[string]int{}}
	for _, c := range callers {
		f.answered[c.name] = 0
		for range clients {
			f.done.Go(func() { f.requests(ctx, c) })
		}
	}
	t.Cleanup(func() {
		f.stop()
		f.done.Wait()
	})
	return f
}

func (f *traffic) requests(ctx context.Context, by caller) {
	c := newClient(by.unit)
	defer c.CloseIdleConnections()
	tick := time.NewTicker(requestEvery)
	defer tick.Stop()
	for {
		begun := time.Now()
		// A request that has begun is waited for.
		_, err := call(context.WithoutCancel(ctx), c)
		f.mu.Lock()
		if err != nil {
			f.failures = append(f.failures, fmt.Sprintf("%s by the %s, after %s: %v",
				begun.Format("15:04:05.000"), by.name, time.Since(begun).Round(time.Millisecond), err))
		} else {
			f.answered[by.name]++
		}
		f.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// end stops the clients and fails the test if a request has failed, or a caller was not asked often enough for that to
// mean something.
func (f *traffic) end(t *testing.T) {
	t.Helper()
	f.stop()
	f.done.Wait()
	if len(f.failures) > 0 {
		t.Errorf("%d requests failed, the first: %v", len(f.failures), f.failures[:min(len(f.failures), 5)])
	}
	t.Logf("answered: %v", f.answered)
	for by, n := range f.answered {
		if n < 50 {
			t.Errorf("only %d requests by the %s", n, by)
		}
	}
}

// writes change policies of the web all the time. What was answered is remembered.
type writes struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu sync.Mutex
	// answered and sent are the last value of each policy, in milliseconds of its connectTimeout.
	answered, sent map[string]int
	revision       uint64
	count, refused int
}

// policies that the writes go to in turn.
const policies = 5

// goOnWriting writes to the global until the test, or end, stops it.
func goOnWriting(t *testing.T, global *controlPlane) *writes {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writes{stop: cancel, answered: map[string]int{}, sent: map[string]int{}}
	w.done.Go(func() {
		tick := time.NewTicker(writeEvery)
		defer tick.Stop()
		for n := 0; ; n++ {
			w.write(ctx, global.rest, fmt.Sprintf("/meshes/default/timeouts/t%d", n%policies), 5000+n)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() {
		w.stop()
		w.done.Wait()
	})
	return w
}

func (w *writes) write(ctx context.Context, c *harness.Client, path string, value int) {
	w.mu.Lock()
	w.sent[path] = value
	w.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	rev, err := c.Put(limited, path, timeout(value))
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.refused++
		return
	}
	w.answered[path], w.revision = value, rev
	w.count++
}

// now is the last revision that was answered.
func (w *writes) now() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.revision
}

// goesOn waits until something more was answered.
func (w *writes) goesOn(t *testing.T) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.count
	}
	before := count()
	until(t, 5*time.Second, "answered writes", func(context.Context) error {
		if count() == before {
			return fmt.Errorf("%d of them, as before", before)
		}
		return nil
	})
}

// end stops writing, and checks at control planes that nothing that was answered is lost. It gives the last revision.
func (w *writes) end(t *testing.T, at ...*controlPlane) uint64 {
	t.Helper()
	w.stop()
	w.done.Wait()
	t.Logf("%d writes were answered, %d were not", w.count, w.refused)
	if w.count < 50 {
		t.Errorf("only %d writes were answered", w.count)
	}
	for _, cp := range at {
		until(t, 5*time.Second, "what was written at "+cp.name, func(ctx context.Context) error {
			for path, answered := range w.answered {
				var got struct {
					Conf struct{ ConnectTimeout string }
				}
				if err := cp.rest.Get(ctx, path, &got); err != nil {
					return err
				}
				d, err := time.ParseDuration(got.Conf.ConnectTimeout)
				if err != nil {
					return err
				}
				// One that was sent later and never answered may be there.
				if v := int(d.Milliseconds()); v < answered || v > w.sent[path] {
					return fmt.Errorf("%s is %d; %d was answered, %d sent last", path, v, answered, w.sent[path])
				}
			}
			return nil
		})
	}
	return w.revision
}

// timeout is a Timeout of the web's calls.
func timeout(milliseconds int) string {
	return fmt.Sprintf(`{"sources":[{"match":{"kuma.io/service":"web"}}],"destinations":[{"match":{"kuma.io/service":"backend"}}],
"conf":{"connectTimeout":"%dms"}}`, milliseconds)
}
