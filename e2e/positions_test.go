package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// settled waits for a revision by the API and gives its state, and that of each zone.
func settled(t *testing.T, cp controlPlane, rev uint64, wait time.Duration) (state string, zones map[string]string) {
	t.Helper()
	var p struct {
		State string
		Zones []struct{ Name, State string }
	}
	if err := cp.client().Get(within(t, wait+5*time.Second), fmt.Sprintf("/positions?revision=%d&wait=%s", rev, wait), &p); err != nil {
		t.Fatal(err)
	}
	zones = map[string]string{}
	for _, z := range p.Zones {
		zones[z.Name] = z.State
	}
	return p.State, zones
}

// When a wait for a revision says live, the proxies of all zones have it; a zone that is away is not waited for, and
// one that is back counts anew.
func TestWaitForRevision(t *testing.T) {
	w := inProcess{}
	global := w.global(t)
	names := []string{"zone-1", "zone-2"}
	stages := map[string]*stage{}
	for _, name := range names {
		stages[name] = newStage(t, w, w.zone(t, zoneOptions{name: name, global: global}), name)
	}
	change := func(d time.Duration) uint64 {
		return put(t, global, "/meshes/default/timeouts/web", timeout(d.String()))
	}
	has := func(zone string, want time.Duration) {
		t.Helper()
		if got, err := stages[zone].web.connectTimeout(t.Context(), "backend"); err != nil || got != want {
			t.Errorf("%s is said to be live with %s, it has %s: %v", zone, want, got, err)
		}
	}
	for i := range 20 {
		d := time.Duration(i+1) * time.Second
		rev := change(d)
		if state, zones := settled(t, global, rev, 5*time.Second); state != "live" {
			t.Fatal(state, zones)
		}
		for _, name := range names {
			has(name, d)
		}
	}

	stages["zone-2"].zone.stop(t)
	active(t, global, "zone-2", false, 5*time.Second)
	rev := change(time.Minute)
	if state, zones := settled(t, global, rev, 5*time.Second); state != "live" || zones["zone-2"] != "offline" || zones["zone-1"] != "live" {
		t.Fatal(state, zones)
	}
	has("zone-1", time.Minute)

	stages["zone-2"].zone.start(t)
	active(t, global, "zone-2", true, 10*time.Second)
	until(t, 10*time.Second, "both are live", func(context.Context) error {
		if state, zones := settled(t, global, rev, 5*time.Second); state != "live" || zones["zone-2"] != "live" {
			return fmt.Errorf("%s: %v", state, zones)
		}
		return nil
	})
}
