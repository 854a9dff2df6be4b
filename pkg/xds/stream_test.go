package xds

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

func TestFirstConfiguration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		k := w.register("web", xdstest.Cluster("a", 1), xdstest.Endpoints("a", 1), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a"))
		c := w.connect(node("web"))
		want := []string{"CDS a", "EDS a", "LDS l", "RDS r"}
		if diff := cmp.Diff(want, short(c.State().Log)); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
		if live, ok := w.live(k); !ok || live != w.store.Config().View().Revision() {
			t.Errorf("live at %v, %v", live, ok)
		}
	})
}

func TestChangedClusterBringsItsEndpoints(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		ea, eb, l, r := xdstest.Endpoints("a", 1), xdstest.Endpoints("b", 2), xdstest.Listener("l", 80, "r"), xdstest.Route("r", 1, "a")
		w.register("web", xdstest.Cluster("a", 1), xdstest.Cluster("b", 1), ea, eb, l, r)
		c := w.connect(node("web"))
		before := c.State()
		began := time.Now()
		w.publish("web", xdstest.Cluster("a", 2), xdstest.Cluster("b", 1), ea, eb, l, r)
		synctest.Wait()
		if diff := cmp.Diff([]string{"CDS a", "EDS a"}, since(c, before)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		s := c.State()
		if len(s.Warming) > 0 {
			t.Errorf("still warming: %v", keys(s.Warming))
		}
		if time.Since(began) > 0 {
			t.Errorf("took %v", time.Since(began))
		}
	})
}
