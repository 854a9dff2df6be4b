package insight_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

func refusal(proxy, name, text string, sources ...insight.Source) insight.Refusal {
	return insight.Refusal{Proxy: dp(proxy), TypeURL: clusterType, Name: name, Sources: sources, Text: text, At: time.Now()}
}

// shown waits, on the log's own events, until rows are as wanted, and fails if that took a second.
func (z *zone) shown(what string, want func(store.View) bool, do func()) {
	z.Helper()
	log := z.store.Status()
	w, err := log.Watch(store.Everything(), log.View().At())
	if err != nil {
		z.Fatal(err)
	}
	defer w.Close()
	began := time.Now()
	do()
	for v := log.View(); !want(v); {
		c, err := w.Next(z.Context())
		if err != nil {
			z.Fatalf("%s: %v", what, err)
		}
		v = c.View
	}
	if took := time.Since(began); took >= time.Second {
		z.Errorf("%s: shown after %v", what, took)
	}
}

// What a proxy refuses stands at its insight and at each source within a second, the first ten of each, and goes
// as soon as it is mended.
func TestRefusalsAreShownWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := run(t, "", "web")
		route := resource.Key{Kind: resource.KindTrafficRoute, Scope: "default", Name: "r"}
		at := z.write(route, "r")
		z.connect("s", "web")
		z.settle()
		rejected := func(n int) func(store.View) bool {
			return func(v store.View) bool {
				o, ok := v.Get(as(resource.KindDataplaneInsight, dp("web")))
				if !ok {
					return false
				}
				m, err := resource.Decode[meshv1.DataplaneInsight](o)
				_, source := v.Get(resource.Key{Kind: resource.KindProxyRejection, Name: "TrafficRoute/default/r"})
				return err == nil && int(m.GetRejected()) == n && source == (n > 0)
			}
		}
		long := strings.Repeat("é", 3<<10)
		var sources []insight.Source
		for i := range 20 {
			sources = append(sources, insight.Source{Key: dp(fmt.Sprintf("backend-%02d", i)), Revision: 1})
		}
		z.shown("the first", rejected(1), func() {
			z.Refused(refusal("web", "c00", long, append([]insight.Source{{Key: route, Revision: at}}, sources...)...))
		})
		z.shown("twelve", rejected(12), func() {
			for i := range 11 {
				z.Refused(refusal("web", fmt.Sprintf("c%02d", i+1), "no", insight.Source{Key: route, Revision: at}))
			}
		})
		in, _ := read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("web")))
		if len(in.GetRejections()) != 10 || in.GetRejections()[9].GetResourceName() != "c09" {
			t.Fatalf("%d are named", len(in.GetRejections()))
		}
		first := in.GetRejections()[0]
		if n := len(first.GetReason()); n > 2<<10 || n < 2<<10-4 || len(first.GetSources()) != 10 {
			t.Errorf("a reason of %d bytes, %d sources", n, len(first.GetSources()))
		}
		z.equal(&meshv1.DataplaneInsight_Rejection{
			ResourceType: clusterType, ResourceName: "c01", Reason: "no", Time: in.GetRejections()[1].GetTime(),
			Sources: []*meshv1.DataplaneInsight_Source{{Kind: "TrafficRoute", Mesh: "default", Name: "r", Revision: uint64(at)}},
		}, in.GetRejections()[1])
		if len(in.GetSubscriptions()) != 1 {
			t.Errorf("%d subscriptions", len(in.GetSubscriptions()))
		}
		z.shown("one mended", rejected(11), func() { z.Cleared(dp("web"), clusterType, "c00") })
		z.shown("all mended", rejected(0), func() {
			for i := range 11 {
				z.Cleared(dp("web"), clusterType, fmt.Sprintf("c%02d", i+1))
			}
		})
		in, _ = read[meshv1.DataplaneInsight](z, as(resource.KindDataplaneInsight, dp("web")))
		if len(in.GetRejections()) != 0 {
			t.Errorf("still named: %v", in.GetRejections())
		}
	})
}

// The proxies that a rejection names are the first ten of those that still refuse.
func TestProxiesThatStillRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 15 {
			names = append(names, fmt.Sprintf("p%02d", i))
		}
		z := run(t, "", names...)
		src := insight.Source{Key: resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, Revision: 1}
		for _, n := range names {
			z.connect(n, n)
			z.Refused(refusal(n, "c", "no", src))
		}
		for _, n := range names[:8] {
			z.Cleared(dp(n), clusterType, "c")
		}
		z.settle()
		m, _ := read[systemv1.ProxyRejection](z, resource.Key{Kind: resource.KindProxyRejection, Name: "Timeout/default/t"})
		var want []string
		for _, n := range names[8:] {
			want = append(want, "default."+n)
		}
		z.equal(&systemv1.ProxyRejection{
			Kind: "Timeout", Scope: "default", Name: "t", Revision: m.GetRevision(), Count: 15, Proxies: want, Reason: "no",
			ResourceType: clusterType, ResourceName: "c", Last: m.GetLast(),
		}, m)
	})
}

// What an earlier instance noted as refused says nothing of now.
func TestRefusalsOfAnEarlierInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(memory.Options{})
		defer s.Close()
		k := as(resource.KindDataplaneInsight, dp("web"))
		spec, err := resource.Encode(&meshv1.DataplaneInsight{
			Rejections: []*meshv1.DataplaneInsight_Rejection{{ResourceName: "c", Time: timestamppb.New(time.Now())}}, Rejected: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Status().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: k, Spec: spec}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Config().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: dp("web"), Spec: []byte{}}}}); err != nil {
			t.Fatal(err)
		}
		if err := insight.CloseLeftovers(t.Context(), s, "cp-2", time.Now()); err != nil {
			t.Fatal(err)
		}
		o, _ := s.Status().View().Get(k)
		m, err := resource.Decode[meshv1.DataplaneInsight](o)
		if err != nil || m.GetRejected() != 0 || len(m.GetRejections()) != 0 {
			t.Errorf("%v: %v", m, err)
		}
	})
}
