package api

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// Only so many may wait, each is heard of, and who need not wait is answered all the same.
func TestWaitsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Global)
		w.s.waits = make(chan struct{}, 2)
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
		if n := len(w.s.waits); n != 0 {
			t.Errorf("%d still count", n)
		}
	})
}
