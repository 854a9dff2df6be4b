package containers

import (
	"net"
	"strings"
	"testing"
	"time"
)

// offlineTime is how long the global may take to see that a zone is silent, and onlineTime to see it back.
const (
	offlineTime = 10 * time.Second
	onlineTime  = 5 * time.Second
)

// Zones are apart: a proxy's network reaches neither the global nor the other zone.
func TestNetworksAreApart(t *testing.T) {
	m := newMesh(t, suite.present)
	one, two := m.zones[0], m.zones[1]
	reach := func(addr string) error {
		_, err := one.web.run(within(t, actTime), "/service", "reach", addr)
		return err
	}
	port, _, _ := strings.Cut(servicePort, "/")
	if err := reach(net.JoinHostPort(one.backends[0].address(t, one.network), port)); err != nil {
		t.Errorf("a service of the own zone: %v", err)
	}
	for what, addr := range map[string]string{
		"the global":                     net.JoinHostPort(m.global.address(t, m.network), "5685"),
		"a service of the other zone":    net.JoinHostPort(two.backends[0].address(t, two.network), port),
		"the other zone's control plane": net.JoinHostPort(two.cp.address(t, two.network), "5678"),
	} {
		if err := reach(addr); err == nil {
			t.Errorf("%s is reached from zone-1's web", what)
		}
	}
}

// A zone that loses its way to the global is seen offline, serves on, takes in what is new of its own, and afterwards
// gets what it missed and no more.
func TestDisconnectedZone(t *testing.T) {
	m := newMesh(t, suite.present)
	one := m.zones[0]
	requests := goOn(t, m.zones...)
	w := goOnWriting(t, m.global)
	one.cp.disconnect(t, m.network)
	t.Logf("offline after %s", m.online(t, one, false, offlineTime).Round(time.Millisecond))
	late := one.service(t, "backend-v3", "backend", "v3", "")
	one.proxy(t, late, "backend", "v3", suite.present)
	one.answers(t, "v3", onlineTime)
	one.cp.connect(t, m.network)
	t.Logf("online after %s", m.online(t, one, true, onlineTime).Round(time.Millisecond))
	rev := w.end(t, m.global, one.cp, m.zones[1].cp)
	if zones := m.live(t, rev); zones[one.name] != "live" {
		t.Errorf("zones: %v", zones)
	}
	requests.end(t)
	t.Log(one.cp.log(t.Context()))
}

// A control plane that stands still costs no request.
func TestPausedControlPlanes(t *testing.T) {
	m := newMesh(t, suite.present)
	one := m.zones[0]
	requests := goOn(t, m.zones...)
	w := goOnWriting(t, m.global)

	one.cp.pause(t)
	t.Logf("offline after %s", m.online(t, one, false, offlineTime).Round(time.Millisecond))
	one.cp.unpause(t)
	t.Logf("online after %s", m.online(t, one, true, onlineTime).Round(time.Millisecond))

	m.global.pause(t)
	pause(t, 5*time.Second)
	m.global.unpause(t)
	for _, z := range m.zones {
		t.Logf("%s online after %s", z.name, m.online(t, z, true, onlineTime).Round(time.Millisecond))
	}
	m.live(t, w.end(t, m.global, one.cp, m.zones[1].cp))
	requests.end(t)
}

// Control planes that are killed come back with what was answered, and cost no request.
func TestKilledControlPlanes(t *testing.T) {
	m := newMesh(t, suite.present)
	requests := goOn(t, m.zones...)
	w := goOnWriting(t, m.global)
	for _, victim := range []*controlPlane{m.global, m.zones[0].cp, m.zones[1].cp} {
		victim.kill(t)
		pause(t, time.Second)
		victim.restart(t)
		for _, z := range m.zones {
			t.Logf("%s killed: %s online after %s", victim.name, z.name, m.online(t, z, true, 2*onlineTime).Round(time.Millisecond))
		}
	}
	m.live(t, w.end(t, m.global, m.zones[0].cp, m.zones[1].cp))
	requests.end(t)
}

// A new build takes the place of the one before it under traffic and writes, the global first, then zone by zone:
// both builds work together, nothing that was answered is lost, and no request fails.
func TestRoll(t *testing.T) {
	m := newMesh(t, suite.old)
	requests := goOn(t, m.zones...)
	w := goOnWriting(t, m.global)
	was := m.global.version(t)
	rolled := []*controlPlane{m.global, m.zones[0].cp, m.zones[1].cp}
	for _, cp := range rolled {
		cp.roll(t, suite.present)
		for _, z := range m.zones {
			t.Logf("%s rolled: %s online after %s", cp.name, z.name, m.online(t, z, true, 2*onlineTime).Round(time.Millisecond))
		}
		if is := cp.version(t); is == was {
			t.Errorf("%s still runs %s", cp.name, was)
		}
		w.goesOn(t)
	}
	m.live(t, w.end(t, rolled...))
	requests.end(t)
}

// pause lets what runs run for a while.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
