package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

// defaultRounds of killing; MERIDIAN_E2E_ROUNDS asks for another number.
const defaultRounds = 20

// The global, the zone or both are killed at random moments under write load, for many rounds: no answered
// write is lost, no mesh is there without its defaults, and afterwards the zone equals the global and the
// global knows the zone's dataplanes.
func TestKillsUnderLoad(t *testing.T) {
	rounds := defaultRounds
	if n, err := strconv.Atoi(os.Getenv("MERIDIAN_E2E_ROUNDS")); err == nil {
		rounds = n
	}
	global := processes{}.global(t).(processCP)
	zone := processes{}.zone(t, zoneOptions{name: "zone-1", global: global}).(processCP)
	active(t, global, "zone-1", true, 2*time.Second)
	routes, meshes, dataplanes := newLedger(), newLedger(), newLedger()
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				for n := 1; ctx.Err() == nil; n++ {
					value := round*100_000 + n
					routes.write(ctx, global.client(), fmt.Sprintf("/meshes/default/traffic-routes/r%d-%d", w, n%5), route(value, 1), value)
				}
			})
		}
		writers.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				meshes.write(ctx, global.client(), fmt.Sprintf("/meshes/m%d-%d", round, n/10), "{}", n) // each brings RSA keys, which take their time
			}
		})
		for w := range 2 {
			writers.Go(func() {
				for n := 1; ctx.Err() == nil; n++ {
					port := 1 + (round*1000+n)%60_000
					dataplanes.write(ctx, zone.client(), fmt.Sprintf("/meshes/default/dataplanes/d%d-%d", w, n%5), dataplaneAt(port), port)
				}
			})
		}
		pause(t, time.Duration(20+rand.IntN(400))*time.Millisecond)
		victims := [][]processCP{{global}, {zone}, {global, zone}}[rand.IntN(3)]
		for _, v := range victims {
			v.Kill()
		}
		cancel()
		writers.Wait()
		for _, v := range victims {
			v.start(t)
		}

		routes.check(t, global, func(got map[string]any) int { return int(dig[float64](got, "conf", "split", 0, "weight")) })
		dataplanes.check(t, zone, func(got map[string]any) int { return int(dig[float64](got, "networking", "inbound", 0, "port")) })
		wholeMeshes(t, global, meshes)
		active(t, global, "zone-1", true, 3*time.Second)
		equal(t, global, zone, 3*time.Second)
		until(t, 3*time.Second, "the global knows the zone's dataplanes", func(ctx context.Context) error {
			return sameDataplanes(ctx, global, zone)
		})
		if t.Failed() {
			t.Fatalf("in round %d, after killing %d", round, len(victims))
		}
	}
	t.Logf("%d rounds, %d routes, %d meshes and %d dataplanes were answered", rounds, routes.answered, meshes.answered, dataplanes.answered)
}

// pause lets the load run for a while.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// ledger remembers by path what was answered, and what was sent after that without an answer.
type ledger struct {
	mu       sync.Mutex
	entries  map[string]*entry
	answered int
}

type entry struct {
	answered int
	// open are the values that were sent last and never answered; any of them may be there.
	open []int
}

func newLedger() *ledger { return &ledger{entries: map[string]*entry{}} }

func (l *ledger) write(ctx context.Context, c *harness.Client, path, body string, value int) {
	l.mu.Lock()
	e := l.entries[path]
	if e == nil {
		e = &entry{}
		l.entries[path] = e
	}
	e.open = append(e.open, value)
	l.mu.Unlock()
	_, err := c.Put(ctx, path, body)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.answered, e.open = value, nil
	l.answered++
}

// check compares what is there with what was answered. What is found is what holds from now on.
func (l *ledger) check(t *testing.T, cp controlPlane, value func(map[string]any) int) {
	t.Helper()
	for path, e := range l.entries {
		var got map[string]any
		err := cp.client().Get(t.Context(), path, &got)
		if status(err) == http.StatusNotFound && e.answered == 0 {
			continue
		}
		if err != nil {
			t.Errorf("answered with %d: %v", e.answered, err)
			continue
		}
		v := value(got)
		ok := v == e.answered
		for _, o := range e.open {
			ok = ok || v == o
		}
		if !ok {
			t.Errorf("%s is %d; %d was answered, %v sent after it", path, v, e.answered, e.open)
		}
		e.answered, e.open = v, nil
	}
}

// wholeMeshes checks that each mesh is there with all its defaults, or not at all, and that the answered ones are.
func wholeMeshes(t *testing.T, global controlPlane, meshes *ledger) {
	t.Helper()
	for path, e := range meshes.entries {
		_, _, err := global.client().Do(t.Context(), http.MethodGet, path, nil)
		there := err == nil
		if !there && (status(err) != http.StatusNotFound || e.answered != 0) {
			t.Errorf("mesh was answered: %v", err)
		}
		want := 0
		if there {
			want = 1
		}
		for _, plural := range []string{"traffic-permissions", "traffic-routes", "timeouts", "retries"} {
			items, err := list(t.Context(), global, path+"/"+plural)
			if must(t, items, err); len(items) != want {
				t.Errorf("%s has %d %s, want %d", path, len(items), plural, want)
			}
		}
	}
	clear(meshes.entries)
}

func dataplaneAt(port int) string {
	return fmt.Sprintf(`{"networking":{"address":"127.0.0.1","inbound":[{"port":%d,"tags":{"kuma.io/service":"s"}}]}}`, port)
}

// sameDataplanes compares the zone's dataplanes with what the global has of them.
func sameDataplanes(ctx context.Context, global, zone controlPlane) error {
	have, err := list(ctx, global, "/dataplanes")
	if err != nil {
		return err
	}
	want, err := list(ctx, zone, "/dataplanes")
	if err != nil {
		return err
	}
	ports := map[string]float64{}
	for _, d := range want {
		ports["zone-1."+d["name"].(string)] = dig[float64](d, "networking", "inbound", 0, "port")
	}
	for _, d := range have {
		name := d["name"].(string)
		if got := dig[float64](d, "networking", "inbound", 0, "port"); ports[name] != got {
			return fmt.Errorf("%s has port %v on the global, %v in the zone", name, got, ports[name])
		}
		delete(ports, name)
	}
	if len(ports) > 0 {
		return fmt.Errorf("not on the global: %v", ports)
	}
	return nil
}

// dig reads a value in decoded JSON by keys and indexes; the zero value where there is none.
func dig[T any](v any, path ...any) T {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				var zero T
				return zero
			}
			v = l[p]
		}
	}
	t, _ := v.(T)
	return t
}
