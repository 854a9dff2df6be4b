package kds_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// observed is a store whose config log shows each of its states, in order.
type observed struct {
	store.Store
	log *observedLog
}

type observedLog struct {
	store.Log
	mu  sync.Mutex
	see func(store.View)
}

func observe(s store.Store, see func(store.View)) *observed {
	return &observed{Store: s, log: &observedLog{Log: s.Config(), see: see}}
}

func (s *observed) Config() store.Log { return s.log }

// Apply lets no two batches share a commit, so that the view is the batch's own, and none be committed behind
// the back of a caller who has given up.
func (l *observedLog) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, err := l.Log.Apply(context.WithoutCancel(ctx), b)
	if err == nil {
		l.see(r.View)
	}
	return r, err
}

// scissors cut the stream after some frames, counted in both directions.
type scissors struct{ left atomic.Int64 }

func (s *scissors) snip() bool { return s.left.Add(-1) == 0 }

var errSnip = errors.New("snip")

type cutStream struct {
	grpc.ServerStream
	s *scissors
}

func (c *cutStream) SendMsg(m any) error {
	if c.s.snip() {
		return errSnip
	}
	return c.ServerStream.SendMsg(m)
}

func (c *cutStream) RecvMsg(m any) error {
	if err := c.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if c.s.snip() {
		return errSnip
	}
	return nil
}

// checkCopy compares a zone's copy with what it may see of the global control plane at its cursor.
func checkCopy(zone string, z, g store.View) error {
	tab := newTable()
	rejected := func(k resource.Key) bool {
		_, ok := z.Get(key(resource.KindSyncRejection, "", string(k.Kind)+"/"+k.Scope+"/"+k.Name))
		return ok
	}
	for o := range g.Scan(store.Everything()) {
		d, _ := tab.ByKind(o.Key.Kind)
		flow := d.Flow(o.Key)
		visible := flow == resource.FlowDown && o.Origin == resource.Local ||
			flow == resource.FlowUpAndOn && o.Origin != resource.Local && o.Origin != resource.Origin(zone)
		if !visible || rejected(o.Key) {
			continue
		}
		got, ok := z.Get(o.Key)
		if !ok {
			return fmt.Errorf("%s is missing", o.Key)
		}
		if !bytes.Equal(got.Spec, o.Spec) || !got.Created.Equal(o.Created) || !got.Modified.Equal(o.Modified) || got.Origin != resource.Global {
			return fmt.Errorf("%s is not the global control plane's", o.Key)
		}
	}
	for o := range z.Scan(store.Everything()) {
		if o.Origin == resource.Global && !rejected(o.Key) {
			if _, ok := g.Get(o.Key); !ok {
				return fmt.Errorf("%s is too much", o.Key)
			}
		}
		if o.Key.Scope != "" {
			if _, ok := z.Get(mesh(o.Key.Scope)); !ok && o.Origin == resource.Global {
				return fmt.Errorf("%s is here before its mesh", o.Key)
			}
		}
		if o.Key.Kind == resource.KindSyncRejection && o.Origin == resource.Local {
			m, err := resource.Decode[systemv1.SyncRejection](o)
			if err != nil {
				return err
			}
			src, ok := g.Get(resource.Key{Kind: resource.Kind(m.GetKind()), Scope: m.GetScope(), Name: m.GetName()})
			if !ok {
				return fmt.Errorf("%s speaks of a key that is gone", o.Key)
			}
			if m.GetReason() == "spec: is bad" && !bytes.Contains(src.Spec, []byte("bad")) {
				return fmt.Errorf("%s speaks of a version that is gone", o.Key)
			}
		}
	}
	return nil
}

// hidden hides a test's deadline, of which there is none in virtual time.
type hidden struct{ rapid.TB }

// Whatever is written where, and wherever the stream is cut: after each group that a zone has applied, its
// copy is what it may see of the global control plane at that group's revision.
func TestZoneIsNeverInBetween(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rapid.Check(hidden{t}, func(t *rapid.T) {
			var (
				mu    sync.Mutex
				views = map[resource.Revision]store.View{}
				bad   []string
				cut   scissors
			)
			cut.left.Store(int64(rapid.IntRange(1, 60).Draw(t, "first cut")))
			backing := memory.New(memory.Options{ID: "global-store"})
			g := newGlobal(t, func(g *globalCP) {
				_ = g.store.Close()
				g.store = observe(backing, func(v store.View) {
					mu.Lock()
					defer mu.Unlock()
					views[v.Revision()] = v
				})
				g.more = []grpc.ServerOption{grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
					return h(srv, &cutStream{ss, &cut})
				})}
			})
			mu.Lock()
			views[0] = backing.Config().View()
			mu.Unlock()
			zone := func(name string) *zoneCP {
				inner := memory.New(memory.Options{ID: name})
				t.Cleanup(func() { _ = inner.Close() })
				return g.zone(name, func(o *kds.ClientOptions) {
					o.Store = observe(inner, func(v store.View) {
						c, ok := v.Cursor("global")
						if !ok {
							return
						}
						// A batch is seen by others before it is noted.
						noted := g.store.Config().(*observedLog)
						noted.mu.Lock()
						defer noted.mu.Unlock()
						mu.Lock()
						defer mu.Unlock()
						gv := views[c.Revision]
						if gv == nil {
							bad = append(bad, fmt.Sprintf("%s is at %s, which never was", name, c.Revision))
						} else if err := checkCopy(name, v, gv); err != nil {
							bad = append(bad, fmt.Sprintf("%s at %s: %v", name, c.Revision, err))
						}
					})
				})
			}
			zones := []*zoneCP{zone("zone-1"), zone("zone-2")}

			meshes := rapid.SampledFrom([]string{"a", "b", "c"})
			names := rapid.SampledFrom([]string{"x", "y", "z"})
			specs := rapid.SampledFrom([]string{"1", "2", "3", "bad", "large"})
			global := g.store.Config()
			t.Repeat(map[string]func(*rapid.T){
				"put mesh": func(t *rapid.T) {
					mustWrite(t, global, store.Batch{Puts: []store.Put{put(mesh(meshes.Draw(t, "mesh")), body(specs.Draw(t, "spec")))}})
				},
				"delete mesh": func(t *rapid.T) {
					m := meshes.Draw(t, "mesh")
					mustWrite(t, global, store.Batch{Deletes: []resource.Key{mesh(m)}, DeleteScopes: []string{m}})
				},
				"put policies": func(t *rapid.T) {
					m := meshes.Draw(t, "mesh")
					b := store.Batch{Guards: []store.Guard{store.Exists(mesh(m))}}
					for _, n := range rapid.SliceOfNDistinct(names, 1, 3, rapid.ID[string]).Draw(t, "names") {
						b.Puts = append(b.Puts, put(timeout(m, n), body(specs.Draw(t, "spec"))))
					}
					mustWrite(t, global, b)
				},
				"delete policy": func(t *rapid.T) {
					mustWrite(t, global, store.Batch{Deletes: []resource.Key{timeout(meshes.Draw(t, "mesh"), names.Draw(t, "name"))}})
				},
				"put hidden": func(t *rapid.T) {
					mustWrite(t, global, store.Batch{Puts: []store.Put{put(key(resource.KindGlobalSecret, "", "s"), "1")}})
				},
				"put in zone": func(t *rapid.T) {
					m := meshes.Draw(t, "mesh")
					kind := rapid.SampledFrom([]resource.Kind{resource.KindDataplane, relayKind}).Draw(t, "kind")
					mustWrite(t, zones[rapid.IntRange(0, 1).Draw(t, "zone")].opts.Store.Config(), store.Batch{
						Guards: []store.Guard{store.Exists(mesh(m))}, Puts: []store.Put{put(key(kind, m, names.Draw(t, "name")), body(specs.Draw(t, "spec")))},
					})
				},
				"delete in zone": func(t *rapid.T) {
					kind := rapid.SampledFrom([]resource.Kind{resource.KindDataplane, relayKind}).Draw(t, "kind")
					mustWrite(t, zones[rapid.IntRange(0, 1).Draw(t, "zone")].opts.Store.Config(), store.Batch{
						Deletes: []resource.Key{key(kind, meshes.Draw(t, "mesh"), names.Draw(t, "name"))},
					})
				},
				"restart zone": func(t *rapid.T) {
					z := zones[rapid.IntRange(0, 1).Draw(t, "zone")]
					z.stop()
					if rapid.Bool().Draw(t, "new version") {
						z.opts.Version.Version += "."
					}
					z.start()
				},
				"restart global": func(*rapid.T) {
					g.stop()
					g.start()
				},
				"cut": func(t *rapid.T) { cut.left.Store(int64(rapid.IntRange(1, 60).Draw(t, "after"))) },
				"wait": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
				},
				"settle": func(*rapid.T) { synctest.Wait() },
				"": func(t *rapid.T) {
					mu.Lock()
					defer mu.Unlock()
					if len(bad) > 0 {
						t.Fatal(bad[0])
					}
				},
			})
			// Left alone, all come together.
			cut.left.Store(0)
			time.Sleep(time.Minute)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(bad) > 0 {
				t.Fatal(bad[0])
			}
			gv := global.View()
			for i, z := range zones {
				zv, name := z.opts.Store.Config().View(), fmt.Sprintf("zone-%d", i+1)
				if err := checkCopy(name, zv, gv); err != nil {
					t.Fatalf("%s in the end: %v", name, err)
				}
				if err := checkUp(name, zv, gv); err != nil {
					t.Fatalf("%s in the end: %v", name, err)
				}
			}
		})
	})
}

// body makes a large spec span frames.
func body(s string) string {
	if s == "large" {
		return strings.Repeat(s, 20_000)
	}
	return s
}

// checkUp compares what was born in a zone with what the global control plane has of it.
func checkUp(zone string, z, g store.View) error {
	n := 0
	for o := range z.Scan(store.Everything()) {
		if o.Origin != resource.Local {
			continue
		}
		k := o.Key
		k.Name = zone + "." + k.Name
		if _, rejected := g.Get(key(resource.KindSyncRejection, "", string(k.Kind)+"/"+k.Scope+"/"+k.Name)); rejected {
			if !bytes.Contains(o.Spec, []byte("bad")) {
				return fmt.Errorf("%s is rejected for no reason", k)
			}
			// An older version that was good may be kept.
			if _, ok := g.Get(k); ok {
				n++
			}
			continue
		}
		got, ok := g.Get(k)
		if !ok || !bytes.Equal(got.Spec, o.Spec) || got.Origin != resource.Origin(zone) {
			return fmt.Errorf("%s is not the zone's", k)
		}
		n++
	}
	for o := range g.Scan(store.Everything()) {
		if o.Origin == resource.Origin(zone) {
			n--
		}
	}
	if n != 0 {
		return fmt.Errorf("the global control plane has %d objects too much of it", -n)
	}
	return nil
}

func mustWrite(t *rapid.T, l store.Log, b store.Batch) {
	if _, err := l.Apply(context.Background(), b); err != nil && !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
}
