package controlplane_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/resource/resourcetest"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// sample is one object of a kind, and where it stands in REST.
type sample struct {
	d    *resource.Descriptor
	key  resource.Key
	path string
	body string
	down bool
}

// samples give objects of a kind that together have every field of its schema set.
func samples(t *testing.T, d *resource.Descriptor) []sample {
	t.Helper()
	var all []sample
	for i, m := range resourcetest.Covering(t, d, resource.Key{Kind: d.Kind, Name: "a"}) {
		s := sample{d: d, key: resource.Key{Kind: d.Kind, Name: fmt.Sprintf("%s-%d", strings.ToLower(string(d.Kind)), i)}}
		s.path = "/" + d.Plural + "/" + s.key.Name
		if d.Scope == resource.ScopeMesh {
			s.key.Scope, s.path = "default", "/meshes/default"+s.path
		}
		s.body, s.down = bodyOf(t, d, s.key, m), d.Flow(s.key) == resource.FlowDown
		all = append(all, s)
	}
	return all
}

func bodyOf(t *testing.T, d *resource.Descriptor, k resource.Key, m proto.Message) string {
	t.Helper()
	spec, err := resource.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	b, err := resource.EncodeJSON(d, &resource.Object{Key: k, Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// await waits until a store says something of a key.
func await(t *testing.T, log store.Log, k resource.Key, there bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for v := log.View(); ; {
		if _, ok := v.Get(k); ok == there {
			return
		}
		var err error
		if v, err = log.Await(ctx, v.Revision()+1); err != nil {
			t.Fatalf("%s: %v", k, err)
		}
	}
}

// read is the document at a path, as an administrator sees it.
func (w *world) read(b map[string]string, path string) (int, string) {
	r := w.do(call{base: "https://" + b["https"], method: "GET", path: path, cert: &w.cert})
	return r.status, r.body
}

// TestEveryKindFlows writes objects of every kind with every field, and reads the same documents at the other end:
// what is written at the global control plane in the zone, what is written in the zone, or observed there, at the
// global one; and nothing once it is deleted.
func TestEveryKindFlows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	table := resource.NewTable()
	var down, up []sample
	for _, d := range resourcetest.Written(table) {
		if d.Writable == resource.WritableInZone {
			up = append(up, samples(t, d)...)
		} else {
			down = append(down, samples(t, d)...)
		}
	}
	for _, s := range down {
		w.must("PUT", s.path, s.body)
	}
	w.synced()
	for _, s := range down {
		_, want := w.read(w.global.Addrs(), s.path)
		status, got := w.read(w.zone.Addrs(), s.path)
		if !s.down {
			if status != 404 {
				t.Errorf("%s is in the zone: %s", s.key, got)
			}
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %d %s", s.key, status, diff)
		}
	}
	for _, s := range down {
		w.must("DELETE", s.path, "")
	}
	w.synced()
	for _, s := range down {
		if status, got := w.read(w.zone.Addrs(), s.path); status != 404 {
			t.Errorf("%s is left in the zone: %d %s", s.key, status, got)
		}
	}

	insights, _ := table.ByKind(resource.KindDataplaneInsight)
	for _, s := range up {
		w.mustZone("PUT", s.path, s.body)
	}
	for i, m := range resourcetest.Covering(t, insights, resource.Key{}) {
		k := resource.Key{Kind: insights.Kind, Scope: "default", Name: fmt.Sprintf("seen-%d", i)}
		spec, err := resource.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.zone.Store.Status().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: k, Spec: spec}}}); err != nil {
			t.Fatal(err)
		}
		up = append(up, sample{d: insights, key: k, path: "/meshes/default/" + insights.Plural + "/" + k.Name})
	}
	for _, s := range up {
		there := s.key
		there.Name = "zone-1." + there.Name
		log := w.global.Store.Config()
		if s.d.Log == resource.StatusLog {
			log = w.global.Store.Status()
		}
		await(t, log, there, true)
		_, want := w.read(w.zone.Addrs(), s.path)
		status, got := w.read(w.global.Addrs(), strings.Replace(s.path, s.key.Name, there.Name, 1))
		if diff := cmp.Diff(nameless(t, want, s.key.Name), nameless(t, got, there.Name)); diff != "" {
			t.Errorf("%s: %d %s", s.key, status, diff)
		}
	}
	for _, s := range up {
		if s.d.Log == resource.ConfigLog {
			w.mustZone("DELETE", s.path, "")
			s.key.Name = "zone-1." + s.key.Name
			await(t, w.global.Store.Config(), s.key, false)
		}
	}
}

// nameless is a document without its name, which must be this one.
func nameless(t *testing.T, body, name string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if m["name"] != name {
		t.Errorf("%v is not %q", m["name"], name)
	}
	delete(m, "name")
	return m
}
