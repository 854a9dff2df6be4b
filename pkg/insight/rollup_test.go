package insight_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// sums is all that a roll-up says.
type sums struct {
	Meshes   map[string]*meshv1.MeshInsight
	Services map[string]*meshv1.ServiceInsight // by mesh/service
}

// read asks a roll-up for everything, in every way that it can be asked.
func readSums(r *insight.Rollup, meshes []string) (sums, error) {
	ctx := context.Background()
	s := sums{map[string]*meshv1.MeshInsight{}, map[string]*meshv1.ServiceInsight{}}
	for _, m := range meshes {
		in, err := r.Mesh(ctx, m)
		if err != nil {
			return s, err
		}
		if in != nil {
			s.Meshes[m] = in
		}
		n, of, err := r.Services(ctx, m)
		if err != nil {
			return s, err
		}
		for k, in := range of {
			n--
			s.Services[k.Scope+"/"+k.Name] = in
			if one, err := r.Service(ctx, k.Scope, k.Name); err != nil || !proto.Equal(one, in) {
				return s, fmt.Errorf("%s alone is %v (%w), in the list %v", k, one, err, in)
			}
			if k.Scope != m {
				return s, fmt.Errorf("%s is among the services of %s", k, m)
			}
		}
		if n != 0 {
			return s, fmt.Errorf("%s: %d services too few", m, n)
		}
	}
	n, all, err := r.Services(ctx, "")
	if err != nil {
		return s, err
	}
	var last resource.Key
	for k, in := range all {
		n--
		if k.Compare(last) <= 0 {
			return s, fmt.Errorf("%s after %s", k, last)
		}
		last = k
		if !proto.Equal(in, s.Services[k.Scope+"/"+k.Name]) {
			return s, fmt.Errorf("%s is %v among all", k, in)
		}
	}
	if n != 0 {
		return s, fmt.Errorf("%d services too few among all", n)
	}
	return s, nil
}

// recount says what a roll-up must, from the present state alone and the plain way.
func recount(s store.Store, policies []resource.Kind) sums {
	config, status := s.Config().View(), s.Status().View()
	out := sums{map[string]*meshv1.MeshInsight{}, map[string]*meshv1.ServiceInsight{}}
	for o := range config.Scan(store.OfKind(resource.KindMesh)) {
		name := o.Key.Name
		m := &meshv1.MeshInsight{
			Dataplanes: &meshv1.MeshInsight_DataplaneStat{}, Policies: map[string]*meshv1.MeshInsight_PolicyStat{},
			DpVersions: &meshv1.MeshInsight_DpVersions{KumaDp: map[string]*meshv1.MeshInsight_DataplaneStat{}, Envoy: map[string]*meshv1.MeshInsight_DataplaneStat{}},
		}
		out.Meshes[name] = m
		for _, k := range policies {
			for range config.Scan(store.InScope(k, name)) {
				if m.Policies[string(k)] == nil {
					m.Policies[string(k)] = &meshv1.MeshInsight_PolicyStat{}
				}
				m.Policies[string(k)].Total++
			}
		}
		partly := map[string]bool{}
		for o := range config.Scan(store.InScope(resource.KindDataplane, name)) {
			dp, _ := resource.Decode[meshv1.Dataplane](o)
			in := &meshv1.DataplaneInsight{}
			if o, ok := status.Get(as(resource.KindDataplaneInsight, o.Key)); ok {
				in, _ = resource.Decode[meshv1.DataplaneInsight](o)
			}
			var sub *meshv1.DiscoverySubscription
			up := false
			for _, s := range in.GetSubscriptions() {
				if s.DisconnectTime == nil {
					sub, up = s, true
				} else if !up {
					sub = s
				}
			}
			stats := []*meshv1.MeshInsight_DataplaneStat{
				m.Dataplanes, of(m.DpVersions.KumaDp, sub.GetVersion().GetKumaDp().GetVersion()), of(m.DpVersions.Envoy, sub.GetVersion().GetEnvoy().GetVersion()),
			}
			good, bad := 0, 0
			mine := map[string][]bool{}
			for _, i := range dp.GetNetworking().GetInbound() {
				ready := i.Health == nil || i.Health.Ready
				if ready {
					good++
				} else {
					bad++
				}
				if tag := i.Tags[resource.TagService]; tag != "" {
					mine[tag] = append(mine[tag], ready)
				}
			}
			if g := dp.GetNetworking().GetGateway(); g != nil {
				mine[g.Tags[resource.TagService]] = []bool{true}
			}
			for _, st := range stats {
				st.Total++
				switch {
				case !up || bad > 0 && good == 0:
					st.Offline++
				case bad > 0:
					st.PartiallyDegraded++
				default:
					st.Online++
				}
			}
			for name, readies := range mine {
				k := o.Key.Scope + "/" + name
				if out.Services[k] == nil {
					out.Services[k] = &meshv1.ServiceInsight{Dataplanes: &meshv1.ServiceInsight_DataplaneStat{}}
				}
				st := out.Services[k].Dataplanes
				st.Total++
				some := false
				for _, r := range readies {
					some = some || r
				}
				if !up || !some {
					st.Offline++
					continue
				}
				st.Online++
				for _, r := range readies {
					partly[k] = partly[k] || !r
				}
			}
		}
		for k, s := range out.Services {
			switch {
			case s.Dataplanes.Online == 0:
				s.Status = "offline"
			case s.Dataplanes.Offline > 0 || partly[k]:
				s.Status = "partially_degraded"
			case s.Status == "":
				s.Status = "online"
			}
		}
	}
	return out
}

func of(m map[string]*meshv1.MeshInsight_DataplaneStat, version string) *meshv1.MeshInsight_DataplaneStat {
	if version == "" {
		version = "unknown"
	}
	if m[version] == nil {
		m[version] = &meshv1.MeshInsight_DataplaneStat{}
	}
	return m[version]
}

func untimed() cmp.Option {
	return cmp.Options{
		protocmp.Transform(),
		protocmp.IgnoreFields(&meshv1.MeshInsight{}, "last_sync"), protocmp.IgnoreFields(&meshv1.ServiceInsight{}, "last_sync"),
	}
}

// movesWhenItChanges says whether each time that is told is that of the last change: nothing else moves it. Of
// several changes, one may have undone what another did: then both times are right. So it is where a proxy of a service
// is degraded from now on, and another was before: that is counted, and not shown.
func movesWhenItChanges(before, after sums, now time.Time, changes int) error {
	check := func(what string, was, is proto.Message, then, at *timestamppb.Timestamp, either bool) error {
		same := cmp.Equal(was, is, untimed())
		if same && at.AsTime().Equal(then.AsTime()) || (!same || either) && at.AsTime().Equal(now) {
			return nil
		}
		return fmt.Errorf("%s: changed at %s, now it is %s, and said to be %s (the same: %t)", what, then.AsTime(), now, at.AsTime(), same)
	}
	for m, is := range after.Meshes {
		if was := before.Meshes[m]; was != nil {
			if err := check(m, was, is, was.LastSync, is.LastSync, changes > 1); err != nil {
				return err
			}
		}
	}
	for k, is := range after.Services {
		if was := before.Services[k]; was != nil {
			if err := check(k, was, is, was.LastSync, is.LastSync, changes > 1 || is.Status == "partially_degraded"); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestRollupEqualsARecount: whatever is written and observed, the counters are what counting anew gives, for one that
// follows every change and for one that sees many at once, or finds that what it missed is forgotten; and their times
// are those of the last change.
func TestRollupEqualsARecount(t *testing.T) {
	table := resource.NewTable()
	policies := []resource.Kind{
		resource.KindTimeout, resource.KindRetry, resource.KindTrafficRoute, resource.KindTrafficPermission, resource.KindHealthCheck, resource.KindCircuitBreaker,
		resource.KindFaultInjection, resource.KindTrafficLog, resource.KindTrafficTrace, resource.KindProxyTemplate, resource.KindExternalService, resource.KindSecret,
	}
	meshes := []string{"default", "m2", "m3"}
	spec := func(m proto.Message) []byte {
		b, err := resource.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	inbound := rapid.Custom(func(rt *rapid.T) *meshv1.Dataplane_Networking_Inbound {
		in := &meshv1.Dataplane_Networking_Inbound{Port: 80, Tags: map[string]string{}}
		if s := rapid.SampledFrom([]string{"", "web", "backend", "db"}).Draw(rt, "service"); s != "" {
			in.Tags[resource.TagService] = s
		}
		switch rapid.IntRange(0, 3).Draw(rt, "health") {
		case 0:
			in.Health = &meshv1.Dataplane_Networking_Inbound_Health{}
		case 1:
			in.Health = &meshv1.Dataplane_Networking_Inbound_Health{Ready: true}
		}
		return in
	})
	networking := rapid.Custom(func(rt *rapid.T) *meshv1.Dataplane {
		n := &meshv1.Dataplane_Networking{}
		switch rapid.IntRange(0, 4).Draw(rt, "form") {
		case 0:
			n.Gateway = &meshv1.Dataplane_Networking_Gateway{Tags: map[string]string{resource.TagService: rapid.SampledFrom([]string{"edge", "web"}).Draw(rt, "gateway")}}
		case 1:
			n.Ingress, n.Inbound = &meshv1.Dataplane_Networking_Ingress{}, []*meshv1.Dataplane_Networking_Inbound{inbound.Draw(rt, "inbound")}
		default:
			n.Inbound = rapid.SliceOfN(inbound, 1, 4).Draw(rt, "inbounds")
		}
		return &meshv1.Dataplane{Networking: n}
	})
	observed := rapid.Custom(func(rt *rapid.T) *meshv1.DataplaneInsight {
		in := &meshv1.DataplaneInsight{}
		for range rapid.IntRange(0, 3).Draw(rt, "streams") {
			s := &meshv1.DiscoverySubscription{ConnectTime: timestamppb.New(time.Unix(1, 0))}
			if rapid.Bool().Draw(rt, "ended") {
				s.DisconnectTime = timestamppb.New(time.Unix(2, 0))
			}
			if v := rapid.SampledFrom([]string{"", "1.1.5", "1.0.0"}).Draw(rt, "version"); v != "" {
				s.Version = &meshv1.Version{KumaDp: &meshv1.KumaDpVersion{Version: v}, Envoy: &meshv1.EnvoyVersion{Version: "e" + v}}
			}
			in.Subscriptions = append(in.Subscriptions, s)
		}
		return in
	})
	type op struct {
		config, status store.Batch
	}
	ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
		var o op
		for range rapid.IntRange(1, 3).Draw(rt, "changes") {
			mesh := rapid.SampledFrom(meshes).Draw(rt, "mesh")
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
			k := resource.Key{Kind: resource.KindDataplane, Scope: mesh, Name: name}
			switch rapid.IntRange(0, 9).Draw(rt, "do") {
			case 0:
				o.config.Puts = append(o.config.Puts, store.Put{Key: resource.Key{Kind: resource.KindMesh, Name: mesh}})
			case 1: // as deleting a mesh does
				o.config.Deletes = append(o.config.Deletes, resource.Key{Kind: resource.KindMesh, Name: mesh})
				o.config.DeleteScopes = append(o.config.DeleteScopes, mesh)
			case 2, 3:
				o.config.Puts = append(o.config.Puts, store.Put{Key: k, Spec: spec(networking.Draw(rt, "dataplane"))})
			case 4:
				o.config.Deletes = append(o.config.Deletes, k)
			case 5:
				k.Kind = rapid.SampledFrom(policies).Draw(rt, "kind")
				o.config.Puts = append(o.config.Puts, store.Put{Key: k})
			case 6:
				k.Kind = rapid.SampledFrom(policies).Draw(rt, "kind")
				o.config.Deletes = append(o.config.Deletes, k)
			case 7, 8:
				o.status.Puts = append(o.status.Puts, store.Put{Key: as(resource.KindDataplaneInsight, k), Spec: spec(observed.Draw(rt, "insight"))})
			case 9:
				o.status.Deletes = append(o.status.Deletes, as(resource.KindDataplaneInsight, k))
			}
		}
		return o
	}), 1, 60)
	rapid.Check(t, func(rt *rapid.T) {
		first, script := ops.Draw(rt, "before"), ops.Draw(rt, "script")
		every := rapid.IntRange(1, 20).Draw(rt, "every")
		var failed error
		synctest.Test(t, func(t *testing.T) {
			s := memory.New(memory.Options{Retention: store.Retention{Count: 8}})
			defer s.Close()
			apply := func(o op) {
				for log, b := range map[store.Log]store.Batch{s.Config(): o.config, s.Status(): o.status} {
					if _, err := log.Apply(t.Context(), b); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, o := range first {
				apply(o)
			}
			follows, ferr := insight.NewRollup(s, table)
			asked, aerr := insight.NewRollup(s, table)
			if ferr != nil || aerr != nil {
				t.Fatal(ferr, aerr)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- follows.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			compare := func(r *insight.Rollup) (sums, error) {
				got, err := readSums(r, meshes)
				if err != nil {
					return got, err
				}
				if diff := cmp.Diff(recount(s, policies), got, untimed()); diff != "" {
					return got, fmt.Errorf("(-recount +roll-up)\n%s", diff)
				}
				return got, nil
			}
			var before sums
			if before, failed = compare(follows); failed != nil {
				return
			}
			for i, o := range script {
				time.Sleep(time.Second)
				now := time.Now()
				apply(o)
				synctest.Wait()
				time.Sleep(time.Second) // what is read later is not newer for that
				after, err := compare(follows)
				if err == nil && len(o.config.DeleteScopes) == 0 {
					err = movesWhenItChanges(before, after, now, len(o.config.Puts)+len(o.config.Deletes)+len(o.status.Puts)+len(o.status.Deletes))
				}
				before = after
				if err == nil && i%every == 0 {
					_, err = compare(asked)
				}
				if err != nil {
					failed = fmt.Errorf("step %d: %w", i, err)
					return
				}
			}
		})
		if failed != nil {
			rt.Fatal(failed)
		}
	})
}

// TestRollupEndsWithItsStore: a store that is closed ends who follows it, which is no failure.
func TestRollupEndsWithItsStore(t *testing.T) {
	s := memory.New(memory.Options{})
	populate(t, s, 1)
	r, err := insight.NewRollup(s, resource.NewTable())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(t.Context()) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := insight.NewRollup(s, resource.NewTable()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("counting a closed store: %v", err)
	}
}

// looked counts how often a store is looked into.
type looked struct {
	store.Store
	gets, scans, counts int
}

type lookedLog struct {
	store.Log
	by *looked
}

type lookedView struct {
	store.View
	by *looked
}

type lookedWatch struct {
	store.Watch
	by *looked
}

func (l *looked) Config() store.Log  { return lookedLog{l.Store.Config(), l} }
func (l *looked) Status() store.Log  { return lookedLog{l.Store.Status(), l} }
func (l lookedLog) View() store.View { return lookedView{l.Log.View(), l.by} }
func (v lookedView) Count(r store.Range) int {
	v.by.counts++
	return v.View.Count(r)
}

func (l lookedLog) Watch(r store.Range, after store.Cursor) (store.Watch, error) {
	w, err := l.Log.Watch(r, after)
	return lookedWatch{w, l.by}, err
}

func (w lookedWatch) Next(ctx context.Context) (store.Changes, error) {
	c, err := w.Watch.Next(ctx)
	c.View = lookedView{c.View, w.by}
	return c, err
}

func (v lookedView) Get(k resource.Key) (*resource.Object, bool) {
	v.by.gets++
	return v.View.Get(k)
}

func (v lookedView) Scan(r store.Range) iter.Seq[*resource.Object] {
	v.by.scans++
	return v.View.Scan(r)
}

// TestConnectIsNoRecount: a proxy that connects is all that is looked at, however many others there are; and what
// concerns nobody's insight is not looked at.
func TestConnectIsNoRecount(t *testing.T) {
	l := &looked{Store: memory.New(memory.Options{})}
	t.Cleanup(func() { _ = l.Close() })
	populate(t, l.Store, 10_000)
	r, err := insight.NewRollup(l, resource.NewTable())
	if err != nil {
		t.Fatal(err)
	}
	l.gets, l.scans, l.counts = 0, 0, 0
	connect(t, l.Store, 17, "1.1.5")
	in, err := r.Service(t.Context(), "mesh-7", "service-7")
	if err != nil {
		t.Fatal(err)
	}
	want := &meshv1.ServiceInsight{Status: "partially_degraded", Dataplanes: &meshv1.ServiceInsight_DataplaneStat{Total: 1000, Online: 1, Offline: 999}}
	if diff := cmp.Diff(want, in, untimed()); diff != "" {
		t.Error(diff)
	}
	// The dataplane, its insight, and the mesh, which is asked for.
	if l.gets != 3 || l.scans != 0 || l.counts != 0 {
		t.Errorf("%d objects looked up, %d scans, %d counts", l.gets, l.scans, l.counts)
	}
	l.gets = 0
	if _, err := l.Store.Status().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: self, Spec: nil}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Store.Config().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindZone, Name: "z"}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Service(t.Context(), "mesh-8", "service-8"); err != nil {
		t.Fatal(err)
	}
	if l.gets != 1 || l.scans != 0 || l.counts != 0 {
		t.Errorf("for nothing %d objects looked up, %d scans, %d counts", l.gets, l.scans, l.counts)
	}
}

// populate writes ten meshes and n dataplanes with two inbounds each, none of which has connected.
func populate(t testing.TB, s store.Store, n int) {
	t.Helper()
	var b store.Batch
	for i := range 10 {
		b.Puts = append(b.Puts, store.Put{Key: resource.Key{Kind: resource.KindMesh, Name: fmt.Sprintf("mesh-%d", i)}})
	}
	for i := range n {
		inbound := func(port uint32, service string) *meshv1.Dataplane_Networking_Inbound {
			return &meshv1.Dataplane_Networking_Inbound{Port: port, Tags: map[string]string{resource.TagService: service, "version": "v1"}}
		}
		spec, err := resource.Encode(&meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
			Address: "10.0.0.1",
			Inbound: []*meshv1.Dataplane_Networking_Inbound{inbound(80, fmt.Sprintf("service-%d", i%10)), inbound(81, "admin")},
		}})
		if err != nil {
			t.Fatal(err)
		}
		b.Puts = append(b.Puts, store.Put{Key: rolled(i), Spec: spec})
	}
	if _, err := s.Config().Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// rolled is one of populate's dataplanes.
func rolled(i int) resource.Key {
	return resource.Key{Kind: resource.KindDataplane, Scope: fmt.Sprintf("mesh-%d", i%10), Name: fmt.Sprintf("dp-%05d", i)}
}

// connect writes that a proxy is connected.
func connect(t testing.TB, s store.Store, i int, version string) {
	t.Helper()
	spec, err := resource.Encode(&meshv1.DataplaneInsight{Subscriptions: []*meshv1.DiscoverySubscription{{
		Id: "s", ConnectTime: timestamppb.New(time.Unix(1, 0)),
		Version: &meshv1.Version{KumaDp: &meshv1.KumaDpVersion{Version: version}, Envoy: &meshv1.EnvoyVersion{Version: "1.40.0"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Status().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: as(resource.KindDataplaneInsight, rolled(i)), Spec: spec}}}); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkRollup measures what it costs to write into the memory store that one of 10,000 proxies is connected, that
// and to count it, and to count all of them from the start.
func BenchmarkRollup(b *testing.B) {
	const proxies = 10_000
	s := memory.New(memory.Options{})
	defer s.Close()
	populate(b, s, proxies)
	for i := range proxies {
		connect(b, s, i, "1.1.5")
	}
	next := 0
	again := func(b *testing.B) { // each time with another version than before
		connect(b, s, next%proxies, fmt.Sprintf("1.1.%d", next/proxies%2))
		next++
	}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			again(b)
		}
	})
	r, err := insight.NewRollup(s, resource.NewTable())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("write and count", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			again(b)
			if _, err := r.Service(b.Context(), "mesh-0", "none"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("count all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := insight.NewRollup(s, resource.NewTable()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
