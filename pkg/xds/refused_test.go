package xds

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/xdstest"
)

// What is refused in one version after another is told with the revision of the first.
func TestRefusedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		w.register("web", xdstest.Cluster("c", 1), xdstest.Endpoints("c", 1))
		o := node("web")
		o.Refuse = func(typeURL string, r *discoveryv3.Resource) string {
			if typeURL == envoy.ClusterType && r.GetVersion() != xdstest.Cluster("c", 1).Version && r.GetVersion() != xdstest.Cluster("c", 4).Version {
				return "bad"
			}
			return ""
		}
		w.connect(o)
		synctest.Wait()
		first := w.publish("web", xdstest.Cluster("c", 2), xdstest.Endpoints("c", 1))
		synctest.Wait()
		w.publish("web", xdstest.Cluster("c", 3), xdstest.Endpoints("c", 1))
		synctest.Wait()
		w.publish("web", xdstest.Cluster("c", 4), xdstest.Endpoints("c", 1)) // taken
		synctest.Wait()
		again := w.publish("web", xdstest.Cluster("c", 5), xdstest.Endpoints("c", 1))
		synctest.Wait()
		w.seen.mu.Lock()
		defer w.seen.mu.Unlock()
		var got []resource.Revision
		for _, f := range w.seen.refused {
			got = append(got, f.Since)
		}
		if !slices.Equal(got, []resource.Revision{first, first, again}) {
			t.Errorf("refused since %v, want %v", got, []resource.Revision{first, first, again})
		}
	})
}

// A proxy that refused a version is not live at it again because another version is on its way: until that is
// there, it has what was before both. That holds for a stream that begins with the refused version, too.
func TestRefusedAndThenOnItsWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, Limits{})
		good, bad, late := xdstest.Cluster("c", 1), xdstest.Cluster("c", 2), xdstest.Cluster("c", 3)
		k := w.register("web", good, xdstest.Endpoints("c", 1))
		release := make(chan struct{})
		o := node("web")
		o.Refuse = func(_ string, r *discoveryv3.Resource) string {
			switch r.GetVersion() {
			case bad.Version:
				return "bad"
			case late.Version:
				<-release
			}
			return ""
		}
		first := w.connect(o)
		before := w.store.Config().View().Revision()
		refused := w.publish("web", bad, xdstest.Endpoints("c", 1))
		synctest.Wait()
		if live, ok := w.live(k); !ok || live != refused {
			t.Fatalf("refused: live at %v, %v, want %v", live, ok, refused)
		}
		state := first.State()
		first.Close()
		o.Before = &state
		w.connect(o)
		if live, ok := w.live(k); !ok || live != refused {
			t.Fatalf("refused, on another stream: live at %v, %v, want %v", live, ok, refused)
		}
		head := w.publish("web", late, xdstest.Endpoints("c", 1))
		time.Sleep(time.Second)
		synctest.Wait()
		if live, ok := w.live(k); !ok || live > before {
			t.Errorf("with another version on its way: live at %v, %v, want %v", live, ok, before)
		}
		close(release)
		synctest.Wait()
		if live, ok := w.live(k); !ok || live != head {
			t.Errorf("with it: live at %v, %v, want %v", live, ok, head)
		}
	})
}
