package kds_test

import (
	"testing"
	"testing/synctest"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// A position that nothing visible has led to comes at once when it is asked for, also where it was not yet read, and
// only once.
func TestNudge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := newGlobal(t)
		moved := make(chan struct{}, 100)
		z := g.zone("zone-1", func(o *kds.ClientOptions) { o.OnCursor = func() { moved <- struct{}{} } })
		synctest.Wait()
		for read := range 2 {
			for len(moved) > 0 {
				<-moved
			}
			r := write(t, g.store.Config(), put(key(resource.KindGlobalSecret, "", "s"), "1"))
			if read == 0 {
				synctest.Wait()
			}
			for range 3 {
				g.server.Nudge()
				synctest.Wait()
			}
			if c, _ := z.store.Config().View().Cursor("global"); c.Revision != r || len(moved) != 1 {
				t.Errorf("the zone's cursor is at %s, want %s, after %d groups", c.Revision, r, len(moved))
			}
		}
	})
}
