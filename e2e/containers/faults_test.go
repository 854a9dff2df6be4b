package containers

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// offlineTime is how long the global may take to see that a zone is silent.
	offlineTime = 10 * time.Second
	// onlineTime is how long it may take to see it back.
	onlineTime = 5 * time.Second
	// standstill is longer than the time after which a silent peer is given up.
	standstill = 7 * time.Second
)

// A mesh with mTLS, and one without.
const (
	secured = `{"type":"Mesh","name":"default","mtls":{"enabledBackend":"ca-1","backends":[{"name":"ca-1","type":"builtin"}]}}`
	plain   = `{"type":"Mesh","name":"default"}`
)

// What befalls control planes costs their proxies no request, in their zone or to another one, and the writers nothing
// that was answered.
func TestFaults(t *testing.T) {
	m := newMesh(t, suite.present, secured)
	m.across(t)
	for _, f := range []struct {
		name string
		try  func(*testing.T, *mesh)
	}{
		{"networks are apart", apart},
		{"proxies show who they are", identified},
		{"a zone is disconnected", disconnected},
		{"control planes stand still", paused},
		{"control planes are killed", killed},
	} {
		if !t.Run(f.name, func(t *testing.T) { f.try(t, m) }) {
			return // the mesh is not what the others expect
		}
	}
}

// A service's network reaches neither the global nor anything of the other zone.
func apart(t *testing.T, m *mesh) {
	one, two := m.zones[0], m.zones[1]
	port, _, _ := strings.Cut(servicePort, "/")
	for _, c := range []struct {
		unit  *unit
		port  string
		reach bool
	}{
		{one.backends[0], port, true},
		{one.cp.unit, "5678", true},
		{m.global.unit, "5685", false},
		{two.cp.unit, "5678", false},
		{two.backends[0], port, false},
	} {
		for network, addr := range c.unit.addresses(t) {
			_, err := one.web.run(within(t, actTime), "/service", "reach", net.JoinHostPort(addr, c.port))
			if want := c.reach && network == one.network; (err == nil) != want {
				t.Errorf("zone-1's web reaches %s on %s: %v (%v), want %v", c.unit.name, network, err == nil, err, want)
			}
		}
	}
}

// Who shows no certificate of the mesh is let in by no proxy.
func identified(t *testing.T, m *mesh) {
	one := m.zones[0]
	addr := one.backends[0].addresses(t)[one.network]
	port, _, _ := strings.Cut(servicePort, "/")
	for port, want := range map[string]bool{port: true, strconv.Itoa(inboundPort): false} {
		_, err := one.web.run(within(t, actTime), "/service", "call", "http://"+net.JoinHostPort(addr, port)+"/")
		if (err == nil) != want {
			t.Errorf("a plain request to port %s of a backend is answered: %v (%v), want %v", port, err == nil, err, want)
		}
	}
}

// A zone that loses its way to the global is seen offline, serves on, takes in what is new of its own, and is sent
// what it missed, and no more, when it is back.
func disconnected(t *testing.T, m *mesh) {
	one := m.zones[0]
	requests := goOn(t, m.callers()...)
	w := goOnWriting(t, m.global)
	one.cp.disconnect(t, m.network)
	t.Logf("offline after %s", m.online(t, one, false, offlineTime).Round(time.Millisecond))
	late := one.service(t, "backend-v3", "backend", "v3", false)
	proxy := one.proxy(t, late, dataplane{service: "backend", version: "v3"})
	answers(t, one.caller(), "v3", onlineTime)
	if zones := m.live(t, w.now()); zones[one.name] != "offline" {
		t.Errorf("zones: %v", zones)
	}
	if most := one.largest(t, time.Time{}); most <= policies {
		t.Errorf("at its first join the zone took %d objects at once, which is no more than it is to catch up on", most)
	}
	back := time.Now()
	one.cp.connect(t, m.network)
	t.Logf("online after %s", m.online(t, one, true, onlineTime).Round(time.Millisecond))
	if zones := m.live(t, w.end(t, m.global, one.cp, m.zones[1].cp)); zones[one.name] != "live" {
		t.Errorf("zones: %v", zones)
	}
	if most := one.largest(t, back); most > policies {
		t.Errorf("the zone took %d objects at once when it was back, %d had changed", most, policies)
	}
	// It takes its leave while it is called.
	proxy.stop(t)
	requests.end(t)
}

// Control planes that stand still, first those of both zones, then the global, and go on later.
func paused(t *testing.T, m *mesh) {
	one, two := m.zones[0], m.zones[1]
	requests := goOn(t, m.callers()...)
	w := goOnWriting(t, m.global)
	for _, z := range m.zones {
		z.cp.pause(t)
	}
	for _, z := range m.zones {
		t.Logf("%s offline after %s", z.name, m.online(t, z, false, offlineTime).Round(time.Millisecond))
	}
	for _, z := range m.zones {
		z.cp.unpause(t)
		t.Logf("%s online after %s", z.name, m.online(t, z, true, onlineTime).Round(time.Millisecond))
	}
	m.global.pause(t)
	pass(t, standstill)
	m.global.unpause(t)
	for _, z := range m.zones {
		t.Logf("global goes on: %s online after %s", z.name, m.online(t, z, true, onlineTime).Round(time.Millisecond))
	}
	w.goesOn(t)
	m.live(t, w.end(t, m.global, one.cp, two.cp))
	requests.end(t)
}

// Each control plane is killed and started again.
func killed(t *testing.T, m *mesh) {
	requests := goOn(t, m.callers()...)
	w := goOnWriting(t, m.global)
	for _, victim := range []*controlPlane{m.global, m.zones[0].cp, m.zones[1].cp} {
		victim.kill(t)
		pass(t, time.Second)
		victim.restart(t)
		for _, z := range m.zones {
			t.Logf("%s killed: %s online after %s", victim.name, z.name, m.online(t, z, true, 2*onlineTime).Round(time.Millisecond))
		}
		w.goesOn(t)
	}
	m.live(t, w.end(t, m.global, m.zones[0].cp, m.zones[1].cp))
	requests.end(t)
}

// A new build takes the place of the one before it under traffic and writes, the global first, then zone by zone:
// both builds work together, nothing that was answered is lost, and no request fails.
func TestRoll(t *testing.T) {
	m := newMesh(t, suite.old, plain)
	was := m.global.version(t)
	requests := goOn(t, m.callers()...)
	w := goOnWriting(t, m.global)
	rolled := []*controlPlane{m.global, m.zones[0].cp, m.zones[1].cp}
	for _, cp := range rolled {
		cp.roll(t, suite.present)
		if is := cp.version(t); is == was {
			t.Errorf("%s still runs %s", cp.name, was)
		}
		for _, z := range m.zones {
			t.Logf("%s rolled: %s online after %s", cp.name, z.name, m.online(t, z, true, 2*onlineTime).Round(time.Millisecond))
		}
		w.goesOn(t)
		m.live(t, w.now())
	}
	// Instances of a service go one after the other; each takes its leave, and the other answers meanwhile.
	for _, z := range m.zones {
		for i, p := range z.proxies {
			p.roll(t, suite.present)
			answers(t, z.caller(), fmt.Sprintf("v%d", i+1), startTime)
		}
	}
	m.live(t, w.end(t, rolled...))
	requests.end(t)
}

// pass lets what runs run for a while.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	<-within(t, d).Done()
}
