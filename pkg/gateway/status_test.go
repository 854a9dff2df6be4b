package gateway_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const timeoutBody = `{"sources": [{"match": {"kuma.io/service": "*"}}], "destinations": [{"match": {"kuma.io/service": "*"}}], "conf": {"connectTimeout": "1s"}}`

// statusOf asks for a resource with its status.
func statusOf(p *plane, path string) (s struct {
	Revision, State string
	Rejections      []struct {
		Type, Kind, Mesh, Name, Revision, Reason, Zone, Count, ResourceType, ResourceName string
		Proxies                                                                           []string
	}
},
) {
	p.t.Helper()
	var body struct{ Status json.RawMessage }
	a := p.must(p.do("GET", path+"?status=true", ""), 200)
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Status == nil {
		p.t.Fatalf("%v: %s", err, a.body)
	}
	if err := json.Unmarshal(body.Status, &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func rejectionOf(kind resource.Kind, mesh, name, reason string) *systemv1.ProxyRejection {
	return &systemv1.ProxyRejection{
		Kind: string(kind), Scope: mesh, Name: name, Revision: 9, Count: 2, Proxies: []string{"default.web"}, Reason: reason,
		ResourceType: "type.googleapis.com/envoy.config.cluster.v3.Cluster", ResourceName: "backend",
	}
}

// What is refused of an object is shown with it where it is asked for, and only there.
func TestStatusOfAResource(t *testing.T) {
	p := start(t, setup{})
	path := "/meshes/default/timeouts/t"
	p.put(path, timeoutBody)
	plain := p.must(p.do("GET", path, ""), 200).body
	for _, query := range []string{"?status=false", "?status=", "?other=true"} {
		if a := p.must(p.do("GET", path+query, ""), 200); a.body != plain {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	if a := p.do("GET", path+"?status=perhaps", ""); a.status != 400 || !strings.Contains(a.body, `"field": "status"`) {
		t.Errorf("%d %s", a.status, a.body)
	}

	rev := p.store.Config().View().Revision()
	if s := statusOf(p, path); s.State != "live" || s.Revision != rev.String() || len(s.Rejections) != 0 {
		t.Errorf("without zones: %+v", s)
	}
	if got, want := keys(t, p.do("GET", path+"?status=true", "").body), append(keys(t, plain), "status"); !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
	p.seed(resource.Key{Kind: resource.KindZone, Name: "z1"}, resource.Local, &systemv1.Zone{})
	p.seed(resource.Key{Kind: resource.KindZone, Name: "z2"}, resource.Local, &systemv1.Zone{})
	p.seed(resource.Key{Kind: resource.KindZoneInsight, Name: "z2"}, resource.Local, &systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{subscription(true)}})
	if s := statusOf(p, path); s.State != "pending" {
		t.Errorf("while a zone joins: %+v", s)
	}
	for _, zone := range []string{"z1", "z2"} {
		p.seed(resource.Key{Kind: resource.KindProxyRejection, Name: zone + ".Timeout/default/t"}, resource.Origin(zone), rejectionOf("Timeout", "default", "t", "no in "+zone))
		p.seed(resource.Key{Kind: resource.KindProxyRejection, Name: zone + ".Timeout/default/other"}, resource.Origin(zone), rejectionOf("Timeout", "default", "other", "another's"))
	}
	p.seed(resource.Key{Kind: resource.KindSyncRejection, Name: "z1.Timeout/default/t"}, "z1", &systemv1.SyncRejection{Kind: "Timeout", Scope: "default", Name: "t", Revision: 7, Reason: "too new"})
	s := statusOf(p, path)
	var got []string
	for _, r := range s.Rejections {
		got = append(got, r.Zone+" "+r.Type+" "+r.Revision+" "+r.Reason)
	}
	if diff := cmp.Diff([]string{"z1 ProxyRejection 9 no in z1", "z1 SyncRejection 7 too new", "z2 ProxyRejection 9 no in z2"}, got); diff != "" || s.State != "rejected" {
		t.Errorf("state %q, rejections (-want +got):\n%s", s.State, diff)
	}
	if r := s.Rejections[0]; r.Count != "2" || !slices.Equal(r.Proxies, []string{"default.web"}) || r.ResourceName != "backend" ||
		r.Kind != "Timeout" || r.Mesh != "default" || r.Name != "t" {
		t.Errorf("%+v", r)
	}
}

// Also of a global kind, and of a zone's own objects, which the zone knows without its name in front.
func TestStatusOfOtherResources(t *testing.T) {
	p := start(t, setup{})
	p.seed(resource.Key{Kind: resource.KindZone, Name: "z1"}, resource.Local, &systemv1.Zone{})
	p.seed(resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "z1.web"}, "z1", service("kuma.io/service=web"))
	p.seed(resource.Key{Kind: resource.KindProxyRejection, Name: "z1.Mesh//default"}, "z1", rejectionOf("Mesh", "", "default", "bad mesh"))
	p.seed(resource.Key{Kind: resource.KindProxyRejection, Name: "z1.Dataplane/default/web"}, "z1", rejectionOf("Dataplane", "default", "web", "in use"))
	p.seed(resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "z1.web"}, "z1", &meshv1.DataplaneInsight{})
	if s := statusOf(p, "/meshes/default"); len(s.Rejections) != 1 || s.Rejections[0].Reason != "bad mesh" || s.State != "rejected" {
		t.Errorf("mesh: %+v", s)
	}
	if s := statusOf(p, "/meshes/default/dataplanes/z1.web"); len(s.Rejections) != 1 || s.Rejections[0].Reason != "in use" || s.State != "" {
		t.Errorf("dataplane: %+v", s)
	}
	if s := statusOf(p, "/meshes/default/dataplane-insights/z1.web"); len(s.Rejections) != 0 || s.State != "" {
		t.Errorf("insight: %+v", s)
	}

	z := start(t, setup{api: api.Options{Mode: api.Zone, Zone: "z1"}})
	z.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, resource.Global, &meshv1.Timeout{})
	z.seed(resource.Key{Kind: resource.KindProxyRejection, Name: "Timeout/default/t"}, resource.Local, rejectionOf("Timeout", "default", "t", "no"))
	if s := statusOf(z, "/meshes/default/timeouts/t"); len(s.Rejections) != 1 || s.Rejections[0].Zone != "z1" || s.State != "" {
		t.Errorf("in the zone: %+v", s)
	}
}

// An overview tells what is held back from its proxy, where there is something.
func TestOverviewTellsOfRejections(t *testing.T) {
	p := start(t, setup{})
	p.seed(resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "z1.web"}, "z1", service("kuma.io/service=web"))
	in := streams(true)
	insight := resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "z1.web"}
	p.seed(insight, "z1", in)
	path := "/meshes/default/dataplanes+insights/z1.web"
	if a := p.must(p.do("GET", path, ""), 200); strings.Contains(a.body, `"rejections"`) {
		t.Errorf("of nothing it says: %s", a.body)
	}
	in.Rejected, in.Rejections = 1, []*meshv1.DataplaneInsight_Rejection{{
		ResourceType: "type.googleapis.com/envoy.config.listener.v3.Listener", ResourceName: "outbound:127.0.0.1:1", Reason: "address already in use",
		Sources: []*meshv1.DataplaneInsight_Source{{Kind: "Dataplane", Mesh: "default", Name: "web", Revision: 3}},
	}}
	p.seed(insight, "z1", in)
	var got struct {
		DataplaneInsight struct {
			Rejected   int
			Rejections []struct {
				ResourceName, Reason string
				Sources              []struct{ Kind, Name, Revision string }
			}
		}
	}
	if err := json.Unmarshal([]byte(p.must(p.do("GET", path, ""), 200).body), &got); err != nil {
		t.Fatal(err)
	}
	r := got.DataplaneInsight.Rejections
	if got.DataplaneInsight.Rejected != 1 || len(r) != 1 || r[0].Reason != "address already in use" || r[0].Sources[0].Name != "web" || r[0].Sources[0].Revision != "3" {
		t.Errorf("%+v", got)
	}
}
