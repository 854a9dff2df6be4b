package api

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/auth"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// TestSeats: whoever reaches the port may wait and watch, but keeps no one out who may write. A read that waits for its
// revision is one that waits, and one that need not is answered all the same.
func TestSeats(t *testing.T) {
	nobody := auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1"), TLS: true}
	writer := auth.Caller{User: &auth.UserToken{Role: auth.RoleWriter}}
	for name, call := range map[string]func(w *world, ctx context.Context) error{
		"limits.waits": func(w *world, ctx context.Context) error {
			ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("meridian-min-revision", "1000"))
			_, err := w.s.List(ctx, &apiv1.ListRequest{Plural: "meshes"})
			return err
		},
		"limits.watches": func(w *world, ctx context.Context) error {
			return w.s.Watch(&apiv1.WatchRequest{}, &silentStream{ctx: ctx})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, Global)
				w.s.waits, w.s.watches = newSeats(4), newSeats(4)
				done := make(chan error, 6)
				open := func(as auth.Caller, n int) {
					ctx := auth.WithCaller(t.Context(), as)
					for range n {
						go func() { done <- call(w, ctx) }()
						synctest.Wait()
					}
				}
				full := func() {
					t.Helper()
					if err := <-done; len(done) > 0 || status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), name) {
						t.Errorf("%v, and %d others ended", err, len(done))
					}
				}
				open(nobody, 4)
				full()
				open(writer, 1)
				if len(done) > 0 {
					t.Fatalf("a writer: %v", <-done)
				}
				open(writer, 1)
				full()
				here := metadata.NewIncomingContext(auth.WithCaller(t.Context(), nobody), metadata.Pairs("meridian-min-revision", "0"))
				if _, err := w.s.List(here, &apiv1.ListRequest{Plural: "meshes"}); err != nil {
					t.Errorf("a read that need not wait: %v", err)
				}
				w.s.StopWatches()
				for range 4 {
					if err := <-done; status.Code(err) != codes.Unavailable {
						t.Error(err)
					}
				}
				for _, s := range []seats{w.s.waits, w.s.watches} {
					if len(s.all)+len(s.anyone) != 0 {
						t.Error("seats are taken by nobody")
					}
				}
			})
		})
	}
}

// silentStream is a watch whose messages nobody reads.
type silentStream struct {
	grpc.ServerStreamingServer[apiv1.WatchResponse]
	ctx context.Context
}

func (s *silentStream) Context() context.Context { return s.ctx }

func (s *silentStream) Send(*apiv1.WatchResponse) error { return nil }

// Only so many may wait, each is heard of, and who need not wait is answered all the same.
func TestWaitsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Global)
		w.s.waits = newSeats(2)
		nudged := 0
		w.s.Nudge = func() { nudged++ }
		w.zone("a", true)
		w.online("a", "1")
		r := w.policy("p")
		done := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := w.s.GetPositions(t.Context(), &apiv1.GetPositionsRequest{Revision: r.String(), Wait: "1m"})
				done <- err
			}()
			synctest.Wait()
		}
		err := <-done
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "2 requests wait already (limits.waits)") || len(done) != 0 || nudged != 2 {
			t.Errorf("the third: %v, with %d answered and %d nudges", err, len(done), nudged)
		}
		if !slices.ContainsFunc(status.Convert(err).Details(), func(d any) bool {
			h, ok := d.(*apiv1.HTTPStatus)
			return ok && h.GetCode() == http.StatusTooManyRequests
		}) {
			t.Errorf("the third: %v", status.Convert(err).Details())
		}
		if s := w.ask(r); !strings.HasPrefix(s, "pending") {
			t.Error(s)
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := w.s.waits.taken(); n != 0 {
			t.Errorf("%d still count", n)
		}
	})
}
