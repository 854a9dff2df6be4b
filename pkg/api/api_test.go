package api

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

func service(t testing.TB, o Options) *Service {
	t.Helper()
	mem := memory.New(memory.Options{})
	t.Cleanup(func() { _ = mem.Close() })
	o.Store, o.Table, o.Logger = mem, resource.NewTable(), slog.New(slog.DiscardHandler)
	if o.Mode == "" {
		o.Mode = Global
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A call whose caller nobody told is nobody's.
func TestNobodyMayWrite(t *testing.T) {
	s := service(t, Options{Policy: auth.AdminPolicy{AllowFromLocalhost: true}})
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"put": func() error {
			_, err := s.Put(ctx, &apiv1.PutRequest{Plural: "meshes", Name: "m", Body: []byte("{}")})
			return err
		},
		"delete": func() error {
			_, err := s.Delete(ctx, &apiv1.DeleteRequest{Plural: "meshes", Name: "m"})
			return err
		},
		"secret": func() error {
			_, err := s.Get(ctx, &apiv1.GetRequest{Plural: "global-secrets", Name: "s"})
			return err
		},
		"secrets": func() error {
			_, err := s.List(ctx, &apiv1.ListRequest{Plural: "secrets"})
			return err
		},
		"token": func() error {
			_, err := s.IssueDataplaneToken(ctx, &apiv1.IssueDataplaneTokenRequest{Body: []byte(`{"mesh":"m"}`)})
			return err
		},
		"zone token": func() error {
			_, err := s.IssueZoneToken(ctx, &apiv1.IssueZoneTokenRequest{Body: []byte(`{"zone":"z"}`)})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := s.Store.Config().View().Revision(); n != 0 {
		t.Errorf("something was written: %s", n)
	}
}

// What the gateway's routes keep out, the services refuse on their own.
func TestInternalKindsAreUnknown(t *testing.T) {
	s := service(t, Options{})
	for _, d := range s.Table.All() {
		if d.Access != resource.Internal {
			continue
		}
		if _, err := s.List(t.Context(), &apiv1.ListRequest{Plural: d.Plural}); status.Code(err) != codes.NotFound {
			t.Errorf("list %s: %v", d.Plural, err)
		}
		if _, err := s.Get(t.Context(), &apiv1.GetRequest{Plural: d.Plural, Scope: "default", Name: "x"}); status.Code(err) != codes.NotFound {
			t.Errorf("get %s: %v", d.Plural, err)
		}
	}
	for _, req := range []*apiv1.GetRequest{{Plural: "timeouts", Name: "x"}, {Plural: "meshes", Scope: "default", Name: "x"}, {Plural: "nothing", Name: "x"}} {
		if _, err := s.Get(t.Context(), req); status.Code(err) != codes.NotFound {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestOptions(t *testing.T) {
	mem := memory.New(memory.Options{})
	t.Cleanup(func() { _ = mem.Close() })
	good := Options{Store: mem, Table: resource.NewTable(), Logger: slog.New(slog.DiscardHandler), Mode: Zone, Zone: "zone-1"}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"store": func(o *Options) { o.Store = nil }, "table": func(o *Options) { o.Table = nil }, "logger": func(o *Options) { o.Logger = nil },
		"mode": func(o *Options) { o.Mode = "remote" }, "zone": func(o *Options) { o.Zone = "" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("bad %s is taken", name)
		}
	}
}

func TestRecover(t *testing.T) {
	s := service(t, Options{})
	_, err := s.Recover(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/x/Y"}, func(context.Context, any) (any, error) { panic("boom") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "boom") {
		t.Errorf("%v", err)
	}
}

// A page that goes on after a key, of this range or not, has what is behind it, and does not go through all there is.
func TestPageGoesOn(t *testing.T) {
	s := service(t, Options{})
	var b store.Batch
	for _, kind := range []resource.Kind{resource.KindRetry, resource.KindTimeout, resource.KindTrafficRoute} {
		for _, mesh := range []string{"a", "b", "c"} {
			for _, name := range []string{"x", "y", "z"} {
				b.Puts = append(b.Puts, store.Put{Key: resource.Key{Kind: kind, Scope: mesh, Name: name}})
			}
		}
	}
	gone := resource.Key{Kind: resource.KindTimeout, Scope: "b", Name: "gone"}
	for _, batch := range []store.Batch{b, {Puts: []store.Put{{Key: gone}}}, {Deletes: []resource.Key{gone}}} {
		if _, err := s.Store.Config().Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	v := s.Store.Config().View()
	for _, within := range []store.Range{store.OfKind(resource.KindTimeout), store.InScope(resource.KindTimeout, "b")} {
		all := slices.Collect(v.Scan(within))
		for _, after := range append(b.Puts, store.Put{Key: gone}) {
			want := slices.DeleteFunc(slices.Clone(all), func(o *resource.Object) bool { return o.Key.Compare(after.Key) <= 0 })
			got := slices.Collect(window{after: &after.Key}.rest(unscanned{v}, within))
			if !slices.Equal(got, want) {
				t.Errorf("%+v after %s: %d objects, want %d", within, after.Key, len(got), len(want))
			}
		}
	}
}

// unscanned is a view that nobody may go through from its beginning.
type unscanned struct{ store.View }

func (unscanned) Scan(store.Range) iter.Seq[*resource.Object] { panic("all is gone through") }

func FuzzWindow(f *testing.F) {
	for _, s := range []string{"", "0", "7", "-1", "10000", "10001", "k", "kAAA", formatOffset(resource.Key{Kind: "Timeout", Scope: "default", Name: "t"})} {
		f.Add(s, s)
	}
	objects := make([]*resource.Object, 20)
	for i := range objects {
		objects[i] = &resource.Object{Key: resource.Key{Kind: "Timeout", Scope: "default", Name: string(rune('a' + i))}}
	}
	f.Fuzz(func(t *testing.T, size, offset string) {
		w, err := parseWindow("title", size, offset, maxPage)
		if err != nil {
			return
		}
		if w.size < 1 || w.size > maxPage || w.index < 0 {
			t.Fatalf("%q %q: %+v", size, offset, w)
		}
		if w.after != nil {
			if back, err := parseOffset(formatOffset(*w.after)); err != nil || back != *w.after {
				t.Fatalf("%v is not %v: %v", back, w.after, err)
			}
		}
		// Counted or given, the total is the same, and so is the page.
		encode := func(o *resource.Object) (string, int, error) { return o.Key.Name, 1, nil }
		given, err := paginate(w, slices.Values(objects), len(objects), encode)
		if err != nil {
			t.Fatal(err)
		}
		counted, err := paginate(w, slices.Values(objects), -1, encode)
		if err != nil || counted.total != given.total || counted.next != given.next || !slices.Equal(counted.items, given.items) {
			t.Fatalf("%+v and %+v: %v", given, counted, err)
		}
	})
}
