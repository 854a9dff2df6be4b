package kds_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func TestDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "a"), "1"),
			put(key(resource.KindGlobalSecret, "", "s"), "no"), put(key(resource.KindSecret, "m", "dataplane-token-signing-key-m"), "no"))
		z := g.zone("zone-1")
		synctest.Wait()
		want := map[string]string{"Mesh m": "global:1", "Timeout m/a": "global:1"}
		wantDump(t, "zone", z.store.Config(), want)
		if o, ok := z.store.Config().View().Get(key(resource.KindZone, "", "zone-1")); !ok {
			t.Error("the zone does not know itself")
		} else if self := must[*systemv1.Zone](t)(resource.Decode[systemv1.Zone](o)); !self.GetEnabled().GetValue() {
			t.Errorf("the zone made at the first join is %v, not enabled by name", self)
		}

		time.Sleep(time.Hour)
		created := time.Now()
		write(t, g.store.Config(), put(timeout("m", "b"), "1"))
		synctest.Wait()
		time.Sleep(time.Second)
		r := write(t, g.store.Config(), put(timeout("m", "b"), "2"))
		synctest.Wait()
		want["Timeout m/b"] = "global:2"
		wantDump(t, "zone", z.store.Config(), want)
		o, _ := z.store.Config().View().Get(timeout("m", "b"))
		if !o.Created.Equal(created) || !o.Modified.Equal(created.Add(time.Second)) {
			t.Errorf("created %s, modified %s; want %s and a second later", o.Created, o.Modified, created)
		}
		if got, ok := g.server.Applied("zone-1"); !ok || got != r {
			t.Errorf("applied %s, want %s", got, r)
		}
		if c, _ := z.store.Config().View().Cursor("global"); c.Revision != r || c.Store != g.store.ID() {
			t.Errorf("the zone's cursor is %v, want %s", c, r)
		}
		// Counters are written after ten seconds; they name no kind of which nothing was sent.
		time.Sleep(20 * time.Second)
		synctest.Wait()
		stat := insightOf(t, g.store, "zone-1").GetSubscriptions()[0].GetStatus().GetStat()
		if stat["Timeout"].GetResponsesSent() == 0 || stat["GlobalSecret"] != nil || stat["Secret"] != nil {
			t.Errorf("counted by kind: %v", stat)
		}

		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{timeout("m", "a")}})
		synctest.Wait()
		delete(want, "Timeout m/a")
		wantDump(t, "zone", z.store.Config(), want)
	})
}

func TestUpAndOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		one, two := g.zone("zone-1"), g.zone("zone-2")
		synctest.Wait()
		write(t, one.store.Config(), put(dataplane("m", "dp"), "1"), put(key(relayKind, "m", "r"), "1"))
		write(t, one.store.Status(), put(key(resource.KindZonePosition, "", "self"), "7"))
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{
			"Mesh m": ":1", "Dataplane m/zone-1.dp": "zone-1:1", "Relay m/zone-1.r": "zone-1:1",
		})
		wantDump(t, "global's status", g.store.Status(), map[string]string{"ZonePosition zone-1.self": "zone-1:7"})
		wantDump(t, "zone-2", two.store.Config(), map[string]string{"Mesh m": "global:1", "Relay m/zone-1.r": "global:1"})
		wantDump(t, "zone-1", one.store.Config(), map[string]string{"Mesh m": "global:1", "Dataplane m/dp": ":1", "Relay m/r": ":1"})

		commit(t, one.store.Config(), store.Batch{Deletes: []resource.Key{dataplane("m", "dp"), key(relayKind, "m", "r")}})
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1"})
		wantDump(t, "zone-2", two.store.Config(), map[string]string{"Mesh m": "global:1"})
	})
}

// With nothing to do, nothing happens: no write in any log of any side.
func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		one, two := g.zone("zone-1"), g.zone("zone-2")
		synctest.Wait()
		write(t, one.store.Config(), put(dataplane("m", "dp"), "1"))
		time.Sleep(time.Minute)
		logs := []store.Log{g.store.Config(), g.store.Status(), one.store.Config(), one.store.Status(), two.store.Config(), two.store.Status()}
		var before []resource.Revision
		for _, l := range logs {
			before = append(before, l.View().Revision())
		}
		time.Sleep(time.Hour)
		for i, l := range logs {
			if r := l.View().Revision(); r != before[i] {
				t.Errorf("log %d went from %s to %s", i, before[i], r)
			}
		}
		if got := g.server.Online(); !slices.Equal(got, []string{"zone-1", "zone-2"}) {
			t.Errorf("online: %v", got)
		}
	})
}

// What does not concern a zone moves its position all the same.
func TestPositionMoves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		moved := make(chan struct{}, 100)
		z := g.zone("zone-1", func(o *kds.ClientOptions) { o.OnCursor = func() { moved <- struct{}{} } })
		synctest.Wait()
		for len(moved) > 0 {
			<-moved
		}
		revision := z.store.Config().View().Revision()
		r := write(t, g.store.Config(), put(key(resource.KindGlobalSecret, "", "s"), "1"))
		synctest.Wait()
		if got, _ := g.server.Applied("zone-1"); got != r {
			t.Errorf("applied %s, want %s", got, r)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if c, _ := z.store.Config().View().Cursor("global"); c.Revision != r {
			t.Errorf("the zone's cursor is at %s, want %s", c.Revision, r)
		}
		if len(moved) != 1 {
			t.Errorf("OnCursor was called %d times", len(moved))
		}
		if got := z.store.Config().View().Revision(); got != revision {
			t.Errorf("a position alone took a revision: %s -> %s", revision, got)
		}
	})
}

func TestResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "a"), "1"), put(timeout("m", "b"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		write(t, z.store.Config(), put(dataplane("m", "dp"), "1"))
		synctest.Wait()
		// Each goes on while the other is away.
		g.stop()
		write(t, z.store.Config(), put(dataplane("m", "dp2"), "1"))
		commit(t, z.store.Config(), store.Batch{Deletes: []resource.Key{dataplane("m", "dp")}})
		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{timeout("m", "a")}, Puts: []store.Put{put(timeout("m", "c"), "1")}})
		b, _ := z.store.Config().View().Get(timeout("m", "b"))
		time.Sleep(time.Minute)
		if s := z.client.State(); s.Connected || s.Err == "" {
			t.Errorf("state %+v while the global control plane is away", s)
		}
		g.start()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh m": "global:1", "Timeout m/b": "global:1", "Timeout m/c": "global:1", "Dataplane m/dp2": ":1"})
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1", "Timeout m/b": ":1", "Timeout m/c": ":1", "Dataplane m/zone-1.dp2": "zone-1:1"})
		if now, _ := z.store.Config().View().Get(timeout("m", "b")); now.Revision != b.Revision {
			t.Error("an object that did not change was written again")
		}
		if s := z.client.State(); !s.Connected || s.Err != "" {
			t.Errorf("state %+v when the global control plane is back", s)
		}
	})
}

// A log of another history is replaced by a snapshot, which writes only what differs.
func TestSnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		at := time.Now()
		put := func(k resource.Key, spec string) store.Put {
			return store.Put{Key: k, Spec: []byte(spec), Created: at, Modified: at}
		}
		write(t, g.store.Config(), put(mesh("m"), "1"), put(mesh("old"), "1"), put(timeout("m", "a"), "1"), put(timeout("m", "b"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		write(t, z.store.Config(), put(dataplane("m", "dp"), "1"), put(dataplane("old", "dp"), "1"))
		synctest.Wait()
		before := z.store.Config().View()
		g.stop()
		_ = g.store.Close()
		g.store = memory.New(memory.Options{ID: "global-store"})
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "b"), "2"), put(timeout("m", "c"), "1"), put(key(resource.KindZone, "", "zone-1"), ""))
		g.start()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh m": "global:1", "Timeout m/b": "global:2", "Timeout m/c": "global:1", "Dataplane m/dp": ":1"})
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1", "Timeout m/b": ":2", "Timeout m/c": ":1", "Dataplane m/zone-1.dp": "zone-1:1"})
		o, _ := z.store.Config().View().Get(mesh("m"))
		if o.Revision > before.Revision() {
			t.Error("an unchanged object took a revision")
		}
		if got := z.store.Config().View().Revision(); got != before.Revision()+1 {
			t.Errorf("the snapshot took %d revisions", got-before.Revision())
		}
	})
}

func TestOtherGlobalStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		g.stop()
		_ = g.store.Close()
		g.store = memory.New(memory.Options{ID: "staging"})
		write(t, g.store.Config(), put(mesh("other"), "1"))
		g.start()
		time.Sleep(20 * time.Second)
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh m": "global:1"})
		if s := z.client.State(); !strings.Contains(s.Err, "global-store") || !strings.Contains(s.Err, "staging") {
			t.Errorf("state %+v does not name both stores", s)
		}
		if _, ok := g.store.Config().View().Get(key(resource.KindZone, "", "zone-1")); ok {
			t.Error("a refused zone left a Zone object")
		}
		z.stop()
		z.opts.AcceptOtherStore = true
		z.start()
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh other": "global:1"})
	})
}

func TestRejection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "a"), "bad"), put(timeout("m", "b"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		want := map[string]string{"Mesh m": "global:1", "Timeout m/b": "global:1"}
		wantDump(t, "zone", z.store.Config(), want)
		if got := rejections(t, z.store)[":Timeout/m/a"]; got != "spec: is bad" {
			t.Errorf("rejections in the zone: %v", rejections(t, z.store))
		}
		if got := rejections(t, g.store)["zone-1:zone-1.Timeout/m/a"]; got != "spec: is bad" {
			t.Errorf("rejections at the global control plane: %v", rejections(t, g.store))
		}
		if r, _ := g.server.Applied("zone-1"); r != g.store.Config().View().At().Revision {
			t.Errorf("the rejection holds the position at %s", r)
		}
		// What was good stays when the next version is bad.
		write(t, g.store.Config(), put(timeout("m", "b"), "bad"))
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), want)
		// A good version clears it, and so does a deletion.
		write(t, g.store.Config(), put(timeout("m", "a"), "2"))
		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{timeout("m", "b")}})
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh m": "global:1", "Timeout m/a": "global:2"})
		if r := rejections(t, z.store); len(r) > 0 {
			t.Errorf("rejections left in the zone: %v", r)
		}
		if r := rejections(t, g.store); len(r) > 0 {
			t.Errorf("rejections left at the global control plane: %v", r)
		}
	})
}

func TestNewVersionIsOfferedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "a"), "bad"))
		old := 0
		z := g.zone("zone-1", func(o *kds.ClientOptions) {
			o.Table = newTable(novel)
			o.Accept = func(k resource.Key, or resource.Origin, spec []byte) error {
				if k == timeout("m", "a") {
					old++
				}
				return accept(k, or, spec)
			}
		})
		synctest.Wait()
		write(t, g.store.Config(), put(key(novel, "m", "x"), "1"), put(key(novel, "m", "y"), "1"))
		synctest.Wait()
		write(t, g.store.Config(), put(key(novel, "m", "z"), "1"))
		synctest.Wait()
		r := rejections(t, z.store)
		if len(r) != 2 || !strings.Contains(r[":Novel//*"], "Novel") || r[":Timeout/m/a"] == "" {
			t.Errorf("rejections: %v, want one row of the unknown kind and one of the timeout", r)
		}
		// The same version is not asked again.
		z.stop()
		z.start()
		synctest.Wait()
		if old != 1 {
			t.Errorf("an unchanged version looked %d times at an unchanged key", old)
		}
		z.stop()
		z.opts.Version.Version = "1.1.0"
		z.opts.Table = newTable()
		z.opts.Accept = func(resource.Key, resource.Origin, []byte) error { return nil }
		z.start()
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{
			"Mesh m": "global:1", "Timeout m/a": "global:bad", "Novel m/x": "global:1", "Novel m/y": "global:1", "Novel m/z": "global:1",
		})
		if r := rejections(t, z.store); len(r) > 0 {
			t.Errorf("rejections left: %v", r)
		}
	})
}

func TestRejectedMeshTakesItsScope(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "bad"), put(timeout("m", "a"), "1"), put(mesh("n"), "1"), put(timeout("n", "a"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		write(t, g.store.Config(), put(timeout("m", "b"), "1"))
		synctest.Wait()
		want := map[string]string{"Mesh n": "global:1", "Timeout n/a": "global:1"}
		wantDump(t, "zone", z.store.Config(), want)
		if r := rejections(t, z.store); len(r) != 3 || !strings.Contains(r[":Timeout/m/b"], "mesh m") {
			t.Errorf("rejections: %v", r)
		}
		write(t, g.store.Config(), put(mesh("m"), "2"))
		synctest.Wait()
		want["Mesh m"], want["Timeout m/a"], want["Timeout m/b"] = "global:2", "global:1", "global:1"
		wantDump(t, "zone", z.store.Config(), want)
		if r := rejections(t, z.store); len(r) > 0 {
			t.Errorf("rejections left: %v", r)
		}
	})
}

func TestGlobalLacksTheMesh(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		z := g.zone("zone-1")
		synctest.Wait()
		write(t, z.store.Config(), put(dataplane("m", "dp"), "1"))
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{})
		if r := rejections(t, g.store); !strings.Contains(r[":Dataplane/m/zone-1.dp"], "no mesh m") {
			t.Errorf("rejections: %v", r)
		}
		write(t, g.store.Config(), put(mesh("m"), "1"))
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1", "Dataplane m/zone-1.dp": "zone-1:1"})
		if r := rejections(t, g.store); len(r) > 0 {
			t.Errorf("rejections left: %v", r)
		}
	})
}

func TestMeshDeletion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "a"), "1"), put(mesh("n"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		write(t, z.store.Config(), put(dataplane("m", "dp"), "1"), put(dataplane("n", "dp"), "1"))
		synctest.Wait()
		r := z.store.Config().View().Revision()
		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{mesh("m")}, DeleteScopes: []string{"m"}})
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh n": "global:1", "Dataplane n/dp": ":1"})
		if got := z.store.Config().View().Revision(); got != r+1 {
			t.Errorf("it took %d revisions", got-r)
		}
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh n": ":1", "Dataplane n/zone-1.dp": "zone-1:1"})

		// Deleted and made anew while the zone is away: the dataplanes of the first one are gone.
		z.stop()
		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{mesh("n")}, DeleteScopes: []string{"n"}})
		time.Sleep(time.Second)
		write(t, g.store.Config(), put(mesh("n"), "1"))
		z.start()
		synctest.Wait()
		wantDump(t, "zone", z.store.Config(), map[string]string{"Mesh n": "global:1"})
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh n": ":1"})
	})
}

func TestLocallyBornPolicies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"), put(timeout("m", "a"), "1"))
		local := memory.New(memory.Options{ID: "standalone"})
		write(t, local.Config(), put(mesh("m"), "mine"), put(timeout("m", "mine"), "1"), put(dataplane("m", "dp"), "1"),
			put(key(resource.KindPublicKey, "m", "k"), "1"), put(mesh("alone"), "1"), put(dataplane("alone", "dp"), "1"))
		z := g.zone("zone-1", func(o *kds.ClientOptions) { o.Store = local })
		t.Cleanup(func() { _ = local.Close() })
		time.Sleep(time.Minute)
		if s := z.client.State(); s.Connected || !strings.Contains(s.Err, "Timeout m/mine") || !strings.Contains(s.Err, "Mesh alone") {
			t.Errorf("state %+v does not list what was born in the zone", s)
		}
		if len(g.server.Online()) > 0 {
			t.Error("it joined")
		}
		z.stop()
		before := local.Config().View().Revision()
		z.opts.DiscardLocal = true
		z.start()
		synctest.Wait()
		wantDump(t, "zone", local.Config(), map[string]string{"Mesh m": "global:1", "Timeout m/a": "global:1", "Dataplane m/dp": ":1", "PublicKey m/k": ":1"})
		if got := local.Config().View().Revision(); got != before+1 {
			t.Errorf("it took %d revisions", got-before)
		}
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1", "Timeout m/a": ":1", "Dataplane m/zone-1.dp": "zone-1:1"})
		z.stop()
		z.opts.DiscardLocal = false
		z.start()
		synctest.Wait()
		if !z.client.State().Connected {
			t.Errorf("it does not join again: %+v", z.client.State())
		}
	})
}

// A zone that was deleted and comes back is a new one: all of it is sent again.
func TestDeletedZoneComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		write(t, z.store.Config(), put(dataplane("m", "dp"), "1"))
		write(t, z.store.Status(), put(key(resource.KindZonePosition, "", "self"), "1"))
		synctest.Wait()
		z.stop()
		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{key(resource.KindZone, "", "zone-1"), dataplane("m", "zone-1.dp")}})
		commit(t, g.store.Status(), store.Batch{Deletes: []resource.Key{key(resource.KindZonePosition, "", "zone-1.self"), key(resource.KindZoneInsight, "", "zone-1")}})
		z.start()
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1", "Dataplane m/zone-1.dp": "zone-1:1"})
		wantDump(t, "global's status", g.store.Status(), map[string]string{"ZonePosition zone-1.self": "zone-1:1"})

		// Deleted while it is online it comes back, too.
		commit(t, g.store.Config(), store.Batch{Deletes: []resource.Key{key(resource.KindZone, "", "zone-1"), dataplane("m", "zone-1.dp")}})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantDump(t, "global", g.store.Config(), map[string]string{"Mesh m": ":1", "Dataplane m/zone-1.dp": "zone-1:1"})
	})
}

func TestLargeObjectsBothWays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		write(t, g.store.Config(), put(mesh("m"), "1"))
		z := g.zone("zone-1")
		synctest.Wait()
		// More than the window, in one group, both directions at once.
		var down, up []store.Put
		for i := range 40 {
			body := string(bytes.Repeat([]byte{'a' + byte(i%20)}, 512<<10))
			down = append(down, put(timeout("m", string(rune('A'+i))), body))
			up = append(up, put(dataplane("m", string(rune('A'+i))), body))
		}
		write(t, g.store.Config(), down...)
		write(t, z.store.Config(), up...)
		synctest.Wait()
		for _, l := range []store.Log{g.store.Config(), z.store.Config()} {
			if n := l.View().Count(store.OfKind(resource.KindTimeout)) + l.View().Count(store.OfKind(resource.KindDataplane)); n != 80 {
				t.Errorf("%d of 80 objects are there", n)
			}
		}
		o, _ := g.store.Config().View().Get(dataplane("m", "zone-1.B"))
		if o == nil || !bytes.Equal(o.Spec, up[1].Spec) {
			t.Error("an object arrived changed")
		}
	})
}

func TestZoneNames(t *testing.T) {
	for name, ok := range map[string]bool{"zone-1": true, "a": true, "global": false, "": false, "a.b": false, "-a": false, "A": false, strings.Repeat("a", 64): false} {
		if err := kds.ValidateZoneName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := kds.NewClient(kds.ClientOptions{Zone: "z", Address: "host"}); err == nil || !strings.Contains(err.Error(), "address") {
		t.Errorf("an address without a port: %v", err)
	}
	if _, err := kds.NewClient(kds.ClientOptions{Zone: "z", Address: "host:1"}); err == nil || !strings.Contains(err.Error(), "Accept") {
		t.Errorf("options without a part: %v", err)
	}
	if _, err := kds.NewServer(kds.ServerOptions{}); err == nil {
		t.Error("options without all parts made a server")
	}
}
