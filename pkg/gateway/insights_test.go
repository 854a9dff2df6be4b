package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// without takes the named keys out of a JSON object, and checks that those of times are times.
func without(t testing.TB, object string, names ...string) string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &m); err != nil {
		t.Fatalf("%v: %s", err, object)
	}
	for _, n := range names {
		var at time.Time
		if err := json.Unmarshal(m[n], &at); err != nil || at.IsZero() {
			t.Errorf("%s is %s", n, m[n])
		}
		delete(m, n)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestInsights reads the sums of meshes and services, as they are when proxies come, are degraded and go.
func TestInsights(t *testing.T) {
	p := start(t, setup{})
	p.mesh("empty")
	dataplane := func(name string, dp *meshv1.Dataplane) {
		p.seed(resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name}, "zone-1", dp)
	}
	observed := func(name string, in *meshv1.DataplaneInsight) {
		p.seed(resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: name}, "zone-1", in)
	}
	mesh := func(name string) string {
		t.Helper()
		return without(t, p.must(p.do("GET", "/mesh-insights/"+name, ""), 200).body, "creationTime", "modificationTime", "lastSync")
	}
	of := func(mesh, name string) string {
		t.Helper()
		return without(t, p.must(p.do("GET", "/meshes/"+mesh+"/service-insights/"+name, ""), 200).body, "creationTime", "modificationTime")
	}
	same := func(got, want string) {
		t.Helper()
		var g, w any
		if err := json.Unmarshal([]byte(got), &g); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want), &w); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, g); diff != "" {
			t.Error(diff)
		}
	}

	// A mesh with nothing has all keys.
	a := p.must(p.do("GET", "/mesh-insights/empty", ""), 200)
	if diff := cmp.Diff([]string{"type", "name", "creationTime", "modificationTime", "lastSync", "dataplanes", "policies", "dpVersions"}, keys(t, a.body)); diff != "" {
		t.Error(diff)
	}
	same(mesh("empty"), `{"type":"MeshInsight","name":"empty","dataplanes":{},"policies":{},"dpVersions":{"kumaDp":{},"envoy":{}}}`)

	p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, resource.Local, nil)
	p.seed(resource.Key{Kind: resource.KindSecret, Scope: "default", Name: "s"}, resource.Local, nil)
	p.seed(resource.Key{Kind: resource.KindPublicKey, Scope: "default", Name: "k"}, resource.Local, nil)
	named := func(v string, open bool) *meshv1.DataplaneInsight {
		in := streams(open)
		in.Subscriptions[0].Version = &meshv1.Version{KumaDp: &meshv1.KumaDpVersion{Version: v}, Envoy: &meshv1.EnvoyVersion{Version: "1.40.0"}}
		return in
	}
	tags := resource.TagService + "="
	dataplane("never", service(tags+"backend"))
	dataplane("here", service(tags+"backend", tags+"admin"))
	observed("here", named("1.1.5", true))
	half := service(tags+"backend", tags+"admin")
	half.Networking.Inbound[1].Health = &meshv1.Dataplane_Networking_Inbound_Health{}
	dataplane("half", half)
	observed("half", named("1.1.5", true))
	dataplane("edge", &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Gateway: &meshv1.Dataplane_Networking_Gateway{Tags: map[string]string{resource.TagService: "edge"}}}})
	observed("edge", streams(true))
	dataplane("gone", service(tags+"old"))
	observed("gone", named("1.0.0", false))

	same(mesh("default"), `{"type":"MeshInsight","name":"default",
		"dataplanes":{"total":5,"online":2,"offline":2,"partiallyDegraded":1},
		"policies":{"Secret":{"total":1},"Timeout":{"total":1}},
		"dpVersions":{
			"kumaDp":{"1.0.0":{"total":1,"offline":1},"1.1.5":{"total":2,"online":1,"partiallyDegraded":1},"unknown":{"total":2,"online":1,"offline":1}},
			"envoy":{"1.40.0":{"total":3,"online":1,"offline":1,"partiallyDegraded":1},"unknown":{"total":2,"online":1,"offline":1}}}}`)
	same(of("default", "backend"), `{"type":"ServiceInsight","mesh":"default","name":"backend","status":"partially_degraded","dataplanes":{"total":3,"online":2,"offline":1}}`)
	same(of("default", "admin"), `{"type":"ServiceInsight","mesh":"default","name":"admin","status":"partially_degraded","dataplanes":{"total":2,"online":1,"offline":1}}`)
	same(of("default", "edge"), `{"type":"ServiceInsight","mesh":"default","name":"edge","status":"online","dataplanes":{"total":1,"online":1}}`)
	same(of("default", "old"), `{"type":"ServiceInsight","mesh":"default","name":"old","status":"offline","dataplanes":{"total":1,"offline":1}}`)
	// What has no proxies, in a mesh that is there.
	same(of("default", "nothing"), `{"type":"ServiceInsight","mesh":"default","name":"nothing","dataplanes":{}}`)
	for _, path := range []string{"/mesh-insights/no", "/meshes/no/service-insights/backend"} {
		if got := p.problem(p.must(p.do("GET", path, ""), 404)); got.Title != "Could not retrieve a resource" || got.Details != "Not found" {
			t.Errorf("%s: %+v", path, got)
		}
	}

	// The time of the mesh is that of the last change of a number in it, and nothing else moves it.
	at := func() (all struct{ LastSync, ModificationTime time.Time }) {
		t.Helper()
		if err := json.Unmarshal([]byte(p.must(p.do("GET", "/mesh-insights/default", ""), 200).body), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := at()
	p.mesh("third")
	p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, resource.Local, nil)
	observed("here", named("1.1.5", true))
	if after := at(); after != before {
		t.Errorf("%v moved to %v", before, after)
	}
	observed("here", named("1.1.5", false))
	if after := at(); !after.LastSync.After(before.LastSync) || after.LastSync != after.ModificationTime {
		t.Errorf("%v did not move, but to %v", before, after)
	}
}

// TestInsightLists pages through both lists, and tries what can't be done to them.
func TestInsightLists(t *testing.T) {
	p := start(t, setup{})
	for i := range 3 {
		mesh := fmt.Sprintf("m%d", i)
		p.mesh(mesh)
		for _, name := range []string{"b", "a"} {
			p.seed(resource.Key{Kind: resource.KindDataplane, Scope: mesh, Name: name}, "zone-1", service(resource.TagService+"="+name, resource.TagService+"=c"))
		}
	}
	for path, want := range map[string]string{
		"/mesh-insights":              "/default /m0 /m1 /m2",
		"/service-insights":           "m0/a m0/b m0/c m1/a m1/b m1/c m2/a m2/b m2/c",
		"/meshes/m1/service-insights": "m1/a m1/b m1/c",
		"/meshes/no/service-insights": "",
	} {
		for _, size := range []int{1, 2, 4, 10} {
			var got []string
			next := fmt.Sprintf("%s?size=%d", path, size)
			for next != "" {
				l := p.list(next)
				if l.Total != len(strings.Fields(want)) {
					t.Errorf("%s: total %d", next, l.Total)
				}
				got = append(got, l.names()...)
				next = ""
				if l.Next != nil {
					next = strings.TrimPrefix(*l.Next, p.url)
				}
			}
			if diff := cmp.Diff(strings.Fields(want), got); diff != "" && want != "" || want == "" && len(got) > 0 {
				t.Errorf("%s, %d on a page: %s", path, size, diff)
			}
		}
	}
	for path, title := range map[string]string{"/mesh-insights": "Could not retrieve resources", "/service-insights": "Could not paginate resources"} {
		for _, query := range []string{"size=-1", "offset=x"} {
			if got := p.problem(p.must(p.do("GET", path+"?"+query, ""), 400)); got.Title != title {
				t.Errorf("%s?%s: %+v", path, query, got)
			}
		}
		for _, item := range []string{path, strings.Replace(path, "/service-insights", "/meshes/m0/service-insights/a", 1), "/mesh-insights/m0"} {
			for _, method := range []string{"PUT", "DELETE", "POST"} {
				if a := p.must(p.do(method, item, "{}", "Content-Type", "application/json"), 405); a.header.Get("Allow") != "GET" {
					t.Errorf("%s %s: Allow %q", method, item, a.header.Get("Allow"))
				}
			}
		}
	}
	p.must(p.do("GET", "/service-insights/a", ""), 404)
	p.must(p.do("GET", "/meshes/m0/mesh-insights", ""), 404)
	// A read of one's own write.
	rev := p.store.Config().View().Revision().String()
	p.must(p.do("GET", "/mesh-insights/m2", "", "Meridian-Min-Revision", rev), 200)
}
