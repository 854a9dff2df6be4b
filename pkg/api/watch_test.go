package api

import (
	"encoding/base64"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// history is a state of a log with a given history.
type historyView struct {
	store.View
	id     string
	epochs []store.Epoch
	head   resource.Revision
}

func (v historyView) Revision() resource.Revision { return v.head }
func (v historyView) At() store.Cursor            { return store.Cursor{Store: v.id, Revision: v.head} }
func (v historyView) Epochs() []store.Epoch       { return v.epochs }

// TestPlacesOfOtherHistories: an id leads on in the log that it was given for, also after starts of it; and in no other,
// nor in a copy of it that was taken before.
func TestPlacesOfOtherHistories(t *testing.T) {
	make := func(id string, head resource.Revision, starts ...resource.Revision) (epochs, views) {
		v := historyView{id: id, head: head}
		var e epochs
		for i, first := range starts {
			name := id + string(rune('a'+i))
			v.epochs = append(v.epochs, store.Epoch{ID: name, First: first})
			e[0] = append(e[0], epoch{markOf(id, name), v.epochs[i]})
		}
		return e, views{v, v}
	}
	used := [logs]bool{true, false}
	given, _ := make("s", 20, 1, 11)
	for _, tc := range []struct {
		name string
		at   position
		id   string
		head resource.Revision
		of   []resource.Revision
		want bool
	}{
		{"the same", position{done: 15}, "s", 20, []resource.Revision{1, 11}, true},
		{"the head", position{done: 20}, "s", 20, []resource.Revision{1, 11}, true},
		{"the first epoch", position{done: 5}, "s", 20, []resource.Revision{1, 11}, true},
		{"nothing", position{}, "s", 20, []resource.Revision{1, 11}, true},
		{"a start later", position{done: 15}, "s", 25, []resource.Revision{1, 11, 21}, true},
		{"a restored backup", position{done: 15}, "s", 12, []resource.Revision{1, 11}, false},
		{"a restored backup that was written to", position{done: 15}, "s", 30, []resource.Revision{1, 11, 13}, false},
		{"a backup of the first epoch", position{done: 15}, "s", 30, []resource.Revision{1}, false},
		{"the same before a backup", position{done: 12}, "s", 30, []resource.Revision{1, 11, 13}, true},
		{"another store", position{done: 15}, "t", 20, []resource.Revision{1, 11}, false},
		{"in the middle", position{done: 3, until: 15}, "s", 20, []resource.Revision{1, 11}, true},
		{"in the middle, of a restored backup", position{done: 3, until: 15}, "s", 12, []resource.Revision{1, 11}, false},
	} {
		p := place{sweeping: tc.at.until > 0, logs: [logs]position{tc.at}}
		back, err := parsePlace(p.format(used, given))
		if err != nil {
			t.Fatal(err)
		}
		known, v := make(tc.id, tc.head, tc.of...)
		if got := known.know(used, *back, v); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	p := place{sweeping: true, logs: [logs]position{{done: 16, until: 15}}}
	back, _ := parsePlace(p.format(used, given))
	if same, v := make("s", 20, 1, 11); same.know(used, *back, v) {
		t.Error("a place that was never given is taken")
	}
}

// FuzzPlace: no id ends a process, what is one stays the same, and what it leads to are events.
func FuzzPlace(f *testing.F) {
	e := epochs{{{markOf("a"), store.Epoch{ID: "a", First: 1}}}, {{markOf("b"), store.Epoch{ID: "b", First: 1}}}}
	for _, p := range []place{
		{},
		{of: markOf("x"), logs: [logs]position{{done: 7}, {done: math.MaxUint64}}},
		{sweeping: true, fresh: true, logs: [logs]position{{until: 9}, {until: 9}}, swept: resource.Key{Kind: "Timeout", Scope: "default", Name: "t"}},
	} {
		for _, used := range [][logs]bool{{true, true}, {true, false}, {false, true}} {
			f.Add(p.format(used, e))
		}
	}
	for _, s := range []string{"", "AQ", "AQH", "AQ==", "////", strings.Repeat("A", 300), "AQD_"} {
		f.Add(s)
	}
	mem := memory.New(memory.Options{})
	f.Cleanup(func() { _ = mem.Close() })
	s := service(f, Options{})
	s.Store, s.epochs = mem, newEpochs(mem)
	for _, name := range []string{"a", "b"} {
		if _, err := mem.Config().Apply(f.Context(), store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindMesh, Name: name}}}}); err != nil {
			f.Fatal(err)
		}
	}
	x, err := s.selection(f.Context(), &apiv1.WatchRequest{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id string) {
		p, err := parsePlace(id)
		if err != nil {
			return
		}
		b, err := base64.RawURLEncoding.DecodeString(id)
		if err != nil {
			t.Fatal(err)
		}
		used := [logs]bool{b[1]&1 != 0, b[1]&2 != 0}
		back, err := parsePlace(p.format(used, e))
		if err != nil {
			t.Fatal(err)
		}
		want := *p
		for i := range want.logs { // the epochs are those that are known here
			want.logs[i].epoch = back.logs[i].epoch
		}
		if diff := cmp.Diff(&want, back, cmp.AllowUnexported(place{}, position{})); diff != "" {
			t.Fatal(diff)
		}
		// As a forged one of this very watch.
		forged := *p
		forged.of = x.mark
		for i := range forged.logs {
			forged.logs[i].epoch = s.epochs[i][0].mark
		}
		w := &watcher{service: s, selection: x}
		w.start(&forged)
		for range 4 {
			res, idle, err := w.next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(res.GetEvents(), func(e *apiv1.WatchEvent) bool { return e.GetEvent() == eventSynced }) {
				return
			}
			if idle {
				break
			}
		}
		t.Fatalf("%+v never comes to the end of the state", p)
	})
}
