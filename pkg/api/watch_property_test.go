package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// follower is a client of a watch that knows nothing but what it is sent.
type follower struct {
	t   *testing.T
	s   *Service
	ctx context.Context
	req *apiv1.WatchRequest
	// w is the open watch, nil between two; inbox is what it has sent and the client has not taken.
	w     *watcher
	inbox []*apiv1.WatchEvent
	// saved are the states at which the client may come back, the last one the present one.
	saved  []saved
	resets int
}

type saved struct {
	id      string
	objects map[resource.Key]string
}

func (f *follower) now() *saved { return &f.saved[len(f.saved)-1] }

// come opens a watch at one of the saved states.
func (f *follower) come(at int) {
	f.saved = f.saved[:at+1]
	f.inbox = nil
	f.w = &watcher{service: f.s}
	var err error
	if f.w.selection, err = f.s.selection(f.ctx, f.req); err != nil {
		f.t.Fatal(err)
	}
	var after *place
	if id := f.now().id; id != "" {
		if after, err = parsePlace(id); err != nil {
			f.t.Fatal(err)
		}
	} else {
		f.now().objects = map[resource.Key]string{}
	}
	f.w.start(after)
}

// take lets the client take one event. idle: there is none.
func (f *follower) take() (idle bool) {
	for len(f.inbox) == 0 {
		res, idle, err := f.w.next(f.ctx)
		if err != nil {
			f.t.Fatal(err)
		}
		if f.inbox = res.GetEvents(); len(f.inbox) == 0 && idle {
			return true
		}
	}
	e := f.inbox[0]
	f.inbox = f.inbox[1:]
	f.apply(e)
	return false
}

func (f *follower) apply(e *apiv1.WatchEvent) {
	next := saved{id: e.GetId(), objects: maps.Clone(f.now().objects)}
	if next.id == "" {
		next.id = f.now().id
	}
	var at deletion
	if err := json.Unmarshal(e.GetJson(), &at); err != nil {
		f.t.Fatal(err)
	}
	k := resource.Key{Kind: at.Type, Scope: at.Mesh, Name: at.Name}
	switch e.GetEvent() {
	case eventPut:
		next.objects[k] = string(e.GetJson())
	case eventDelete:
		delete(next.objects, k)
	case eventReset:
		clear(next.objects)
		f.resets++
	}
	f.saved = append(f.saved, next)
}

// want is what the client should know.
func (f *follower) want() map[resource.Key]string {
	all := map[resource.Key]string{}
	x, err := f.s.selection(f.ctx, f.req)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, log := range []store.Log{f.s.Store.Config(), f.s.Store.Status()} {
		for o := range log.View().Scan(store.Everything()) {
			if x.find(o.Key) == nil {
				continue
			}
			d, _ := f.s.Table.ByKind(o.Key.Kind)
			b, err := resource.EncodeJSON(d, o)
			if err != nil {
				f.t.Fatal(err)
			}
			all[o.Key] = string(bytes.TrimSpace(b))
		}
	}
	return all
}

// TestFollowersEndEqual: whatever is written, deleted and forgotten by the logs, however slow a client is, and wherever
// it breaks off and comes back, what it makes of the events is what is in the store.
func TestFollowersEndEqual(t *testing.T) {
	kinds := map[resource.Kind]string{
		resource.KindMesh: "", resource.KindTimeout: "m", resource.KindRetry: "m", resource.KindSecret: "m",
		resource.KindDataplaneInsight: "m", resource.KindZoneInsight: "",
	}
	order := slices.Sorted(maps.Keys(kinds))
	requests := []*apiv1.WatchRequest{
		{},
		{Scope: "m0"},
		{Plural: "timeouts"},
		{Plural: "timeouts", Scope: "m1"},
		{Plural: "dataplane-insights", Scope: "m0"},
		{Plural: "retries", Scope: "m0", Name: "n1"},
		{Plural: "zone-insights"},
		{Plural: "meshes", Name: "m1"},
	}
	resets, resumed, swept := 0, 0, 0
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 1))
		mem := memory.New(memory.Options{Retention: store.Retention{Count: 1 + r.IntN(40)}})
		s := service(t, Options{Policy: auth.AdminPolicy{AllowFromLocalhost: true}})
		s.Store, s.epochs = mem, newEpochs(mem)
		s.watchEvents = 1 + r.IntN(6)
		f := &follower{t: t, s: s, ctx: auth.WithCaller(t.Context(), admin()), req: requests[r.IntN(len(requests))], saved: make([]saved, 1)}
		if r.IntN(2) == 0 {
			f.ctx = t.Context() // who may read no secrets
		}
		write := func() {
			kind := order[r.IntN(len(order))]
			k := resource.Key{Kind: kind, Name: fmt.Sprint("n", r.IntN(8))}
			if kinds[kind] != "" {
				k.Scope = fmt.Sprint("m", r.IntN(2))
			}
			if kind == resource.KindMesh {
				k.Name = fmt.Sprint("m", r.IntN(2))
			}
			d, _ := s.Table.ByKind(kind)
			log := mem.Config()
			if d.Log == resource.StatusLog {
				log = mem.Status()
			}
			b := store.Batch{Puts: []store.Put{{Key: k, Spec: spec(t, kind, r.IntN(1000))}}}
			switch r.IntN(8) {
			case 0, 1, 2:
				b = store.Batch{Deletes: []resource.Key{k}}
			case 3:
				other := k
				other.Name += "x"
				b.Puts = append(b.Puts, store.Put{Key: other, Spec: spec(t, kind, 1)})
			case 4:
				if k.Scope != "" && r.IntN(4) == 0 {
					b = store.Batch{DeleteScopes: []string{k.Scope}}
				}
			}
			if _, err := log.Apply(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		f.come(0)
		for range 300 {
			switch n := r.IntN(20); {
			case n < 8:
				write()
			case n < 18:
				f.take()
				if f.w.at.sweeping && f.w.synced {
					swept++
				}
			default:
				// Cut off, perhaps with what was in the pipe, and perhaps without having kept the last of what it took.
				f.come(max(0, len(f.saved)-1-r.IntN(4)))
				if f.w.at.sweeping && f.now().id != "" {
					resumed++
				}
			}
		}
		for !f.take() {
		}
		if diff := cmp.Diff(f.want(), f.now().objects); diff != "" {
			t.Fatalf("seed %d, %v: %s", seed, f.req, diff)
		}
		if !f.w.synced {
			t.Fatalf("seed %d: it was not told that it has all", seed)
		}
		// Nothing is left to be said, now or after coming back.
		f.come(len(f.saved) - 1)
		for !f.take() {
			if e := f.saved[len(f.saved)-1]; len(e.objects) != len(f.want()) {
				t.Fatalf("seed %d: something changed", seed)
			}
		}
		resets += f.resets
		_ = mem.Close()
	}
	if resumed < 50 || swept < 50 || resets < 20 {
		t.Errorf("only %d came back in the middle of the present state, %d changes were swept, %d resets", resumed, swept, resets)
	}
}

func admin() auth.Caller {
	return auth.Caller{User: &auth.UserToken{Name: "ann", Role: auth.RoleAdmin}}
}

// spec is one of many of a kind.
func spec(t *testing.T, k resource.Kind, n int) []byte {
	t.Helper()
	if k != resource.KindTimeout {
		return nil
	}
	b, err := resource.Encode(&meshv1.Timeout{Conf: &meshv1.Timeout_Conf{ConnectTimeout: durationpb.New(time.Duration(n) * time.Millisecond)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
