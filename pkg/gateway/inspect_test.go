package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func streams(open bool) *meshv1.DataplaneInsight {
	s := &meshv1.DiscoverySubscription{Id: "s", ConnectTime: timestamppb.New(time.Unix(1, 0))}
	if !open {
		s.DisconnectTime = timestamppb.New(time.Unix(2, 0))
	}
	return &meshv1.DataplaneInsight{Subscriptions: []*meshv1.DiscoverySubscription{s}}
}

func service(tags ...string) *meshv1.Dataplane {
	n := &meshv1.Dataplane_Networking{Address: "10.0.0.1"}
	for i, t := range tags {
		set := map[string]string{}
		for kv := range strings.SplitSeq(t, ",") {
			k, v, _ := strings.Cut(kv, "=")
			set[k] = v
		}
		n.Inbound = append(n.Inbound, &meshv1.Dataplane_Networking_Inbound{Port: uint32(80 + i), Tags: set})
	}
	return &meshv1.Dataplane{Networking: n}
}

// keys gives the keys of a JSON object in their order.
func keys(t testing.TB, object string) []string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	var out []string
	for d.More() {
		k, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k.(string))
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func positionOf(t testing.TB, object string) map[string]any {
	t.Helper()
	var x struct{ Position map[string]any }
	if err := json.Unmarshal([]byte(object), &x); err != nil {
		t.Fatal(err)
	}
	return x.Position
}

func TestZonesOnTheGlobal(t *testing.T) {
	p := start(t, setup{})
	zone := func(name string, enabled bool) {
		p.seed(resource.Key{Kind: resource.KindZone, Name: name}, resource.Local, &systemv1.Zone{Enabled: wrapperspb.Bool(enabled)})
	}
	zone("off", false)
	zone("never", true)
	zone("here", true)
	zone("gone", true)
	insight := func(name string, open ...bool) {
		in := &systemv1.ZoneInsight{}
		for _, o := range open {
			in.Subscriptions = append(in.Subscriptions, subscription(o))
		}
		p.seed(resource.Key{Kind: resource.KindZoneInsight, Name: name}, resource.Local, in)
	}
	insight("off", true)
	insight("here", false, true)
	insight("gone", false)
	p.seed(resource.Key{Kind: resource.KindZonePosition, Name: "here.self"}, "here", &systemv1.ZonePosition{Applied: 3, Processed: 3, Live: 2, Lagging: 1, Rejected: 4})

	want := `[{"name":"gone","url":"grpcs://10.0.0.1:4444","active":false},{"name":"here","url":"grpcs://10.0.0.1:4444","active":true},` +
		`{"name":"never","url":"","active":false},{"name":"off","url":"grpcs://10.0.0.1:4444","active":false}]`
	if got := compact(t, p.do("GET", "/status/zones", "").body); got != want {
		t.Errorf("/status/zones: %s", got)
	}

	a := p.must(p.do("GET", "/zones+insights/here", ""), 200)
	if diff := cmp.Diff([]string{"type", "mesh", "name", "creationTime", "modificationTime", "zone", "zoneInsight", "position"}, keys(t, a.body)); diff != "" {
		t.Error(diff)
	}
	head := p.store.Config().View().Revision().String()
	if diff := cmp.Diff(map[string]any{"applied": "3", "live": "2", "head": head, "lagging": "1", "rejected": "4"}, positionOf(t, a.body)); diff != "" {
		t.Error(diff)
	}
	a = p.must(p.do("GET", "/zones+insights/never", ""), 200)
	if !strings.Contains(a.body, `"zoneInsight": {}`) || !strings.Contains(a.body, `"mesh": "default"`) {
		t.Error(a.body)
	}
	if diff := cmp.Diff(map[string]any{"applied": "0", "live": "0", "head": head, "lagging": "0", "rejected": "0"}, positionOf(t, a.body)); diff != "" {
		t.Error(diff)
	}

	l := p.list("/zones+insights?size=3")
	if l.Total != 4 || len(l.Items) != 3 || l.Next == nil {
		t.Errorf("%+v", l)
	}
	if a := p.do("GET", "/zones+insights", ""); strings.Count(a.body, `"zoneInsight"`) != 3 {
		t.Errorf("a list leaves out the insights that there are not: %s", a.body)
	}
}

func TestZonesElsewhere(t *testing.T) {
	p := start(t, setup{api: api.Options{Mode: api.Zone, Zone: "zone-1"}})
	for _, z := range []string{"zone-1", "zone-2"} {
		p.seed(resource.Key{Kind: resource.KindZone, Name: z}, resource.Global, &systemv1.Zone{})
	}
	p.seed(resource.Key{Kind: resource.KindZonePosition, Name: "self"}, resource.Local, &systemv1.ZonePosition{Applied: 40, Processed: 40, Live: 39})
	if _, err := p.store.Config().Apply(t.Context(), store.Batch{Cursor: &store.CursorMove{Peer: "global", To: store.Cursor{Store: "g", Epoch: "e", Revision: 41}}}); err != nil {
		t.Fatal(err)
	}
	a := p.must(p.do("GET", "/zones+insights/zone-1", ""), 200)
	if diff := cmp.Diff(map[string]any{"applied": "40", "live": "39", "head": "41", "lagging": "0", "rejected": "0"}, positionOf(t, a.body)); diff != "" {
		t.Error(diff)
	}
	if a := p.do("GET", "/zones+insights/zone-2", ""); positionOf(t, a.body) != nil {
		t.Error("a zone tells another's position")
	}
	if a := p.must(p.do("GET", "/status/zones", ""), 200); a.body != "[]\n" {
		t.Errorf("a zone tells of sessions, which the global control plane has: %s", a.body)
	}

	p = start(t, setup{api: api.Options{Mode: api.Standalone, Zone: "default"}})
	p.must(p.put("/zones/default", `{}`), 201)
	p.seed(resource.Key{Kind: resource.KindZonePosition, Name: "self"}, resource.Local, &systemv1.ZonePosition{Applied: 1, Live: 1})
	a = p.must(p.do("GET", "/zones+insights/default", ""), 200)
	if got := positionOf(t, a.body); got["head"] != p.store.Config().View().Revision().String() || got["applied"] != "1" {
		t.Error(got)
	}
}

func TestDataplaneOverviews(t *testing.T) {
	p := start(t, setup{})
	p.mesh("other")
	dp := func(zone resource.Origin, mesh, name string, spec *meshv1.Dataplane) resource.Key {
		k := resource.Key{Kind: resource.KindDataplane, Scope: mesh, Name: string(zone) + "." + name}
		p.seed(k, zone, spec)
		return k
	}
	observe := func(k resource.Key, open bool) {
		k.Kind = resource.KindDataplaneInsight
		p.seed(k, resource.Origin(strings.Split(k.Name, ".")[0]), streams(open))
	}
	web := dp("z1", "default", "web", service("kuma.io/service=web,version=1,region=eu", "kuma.io/service=admin,version=2"))
	late := dp("z1", "default", "late", service("kuma.io/service=late"))
	dp("z1", "default", "never", service("kuma.io/service=never"))
	left := dp("z1", "default", "left", service("kuma.io/service=left"))
	far := dp("z2", "default", "far", service("kuma.io/service=web,version=3"))
	gw := service()
	gw.Networking.Gateway = &meshv1.Dataplane_Networking_Gateway{Tags: map[string]string{"kuma.io/service": "edge", "version": "1"}}
	dp("z1", "default", "gw", gw)
	in := service("kuma.io/service=ingress")
	in.Networking.Ingress = &meshv1.Dataplane_Networking_Ingress{}
	dp("z1", "other", "in", in)
	observe(web, true)
	observe(late, true)
	observe(left, false)
	observe(far, true)
	p.seed(resource.Key{Kind: resource.KindProxyPosition, Scope: "default", Name: "z1.late"}, "z1", &systemv1.ProxyPosition{Live: 5})
	p.seed(resource.Key{Kind: resource.KindZonePosition, Name: "z1.self"}, "z1", &systemv1.ZonePosition{Applied: 9, Processed: 8, Live: 5})
	p.seed(resource.Key{Kind: resource.KindZonePosition, Name: "z2.self"}, "z2", &systemv1.ZonePosition{Applied: 3, Processed: 2, Live: 2})

	for name, live := range map[string]string{"z1.web": "8", "z1.late": "5", "z1.never": "0", "z1.left": "0", "z2.far": "2"} {
		a := p.must(p.do("GET", "/meshes/default/dataplanes+insights/"+name, ""), 200)
		if diff := cmp.Diff(map[string]any{"live": live}, positionOf(t, a.body)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if diff := cmp.Diff([]string{"type", "mesh", "name", "creationTime", "modificationTime", "dataplane", "dataplaneInsight", "position"}, keys(t, a.body)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if same := p.do("GET", "/meshes/default/dataplane+insights/"+name, ""); same.body != a.body {
			t.Errorf("the singular path differs for %s", name)
		}
	}
	if a := p.do("GET", "/meshes/default/dataplanes+insights", ""); strings.Count(a.body, `"dataplaneInsight"`) != 4 || strings.Count(a.body, `"position"`) != 6 {
		t.Error(a.body)
	}

	for _, tc := range []struct{ query, want string }{
		{"", "z1.gw z1.late z1.left z1.never z1.web z2.far"},
		{"?tag=kuma.io/service:web", "z1.web z2.far"},
		{"?tag=service:web", "z1.web z2.far"}, // as older clients name it
		{"?tag=kuma.io%2Fservice%3Aweb&tag=version:1", "z1.web"},
		{"?tag=kuma.io/service:web&tag=version:2", ""}, // on two inbounds is not on one
		{"?tag=version:*", "z1.gw z1.web z2.far"},
		{"?tag=version:1", "z1.gw z1.web"},
		{"?tag=version:1&tag=version:3", ""},
		{"?tag=nonsense", "z1.gw z1.late z1.left z1.never z1.web z2.far"},
		{"?tag=a:b:c", "z1.gw z1.late z1.left z1.never z1.web z2.far"},
		{"?gateway=TRUE", "z1.gw"},
		{"?gateway=false", "z1.late z1.left z1.never z1.web z2.far"},
		{"?ingress=true", ""},
		{"?ingress=False&gateway=True", "z1.gw"},
	} {
		l := p.list("/meshes/default/dataplanes+insights" + tc.query)
		var got []string
		for _, i := range l.Items {
			got = append(got, i.Name)
		}
		if strings.Join(got, " ") != tc.want || l.Total != len(got) {
			t.Errorf("%s: %v of %d", tc.query, got, l.Total)
		}
	}
	if l := p.list("/dataplanes+insights?ingress=true"); strings.Join(l.names(), " ") != "other/z1.in" {
		t.Error(l.names())
	}

	var walked []string
	path := "/dataplanes+insights?tag=kuma.io/service:*&size=2"
	for path != "" {
		l := p.list(path)
		if l.Total != 7 {
			t.Errorf("total %d on a page", l.Total)
		}
		walked = append(walked, l.names()...)
		path = ""
		if l.Next != nil {
			path = strings.TrimPrefix(*l.Next, p.url)
		}
	}
	if len(walked) != 7 {
		t.Error(walked)
	}
}

func TestDataplaneInAZone(t *testing.T) {
	for mode, zone := range map[api.Mode]string{api.Zone: "zone-1", api.Standalone: "default"} {
		p := start(t, setup{api: api.Options{Mode: mode, Zone: zone}})
		p.must(p.put("/meshes/default/dataplanes/d", dataplane), 201)
		p.seed(resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "d"}, resource.Local, streams(true))
		p.seed(resource.Key{Kind: resource.KindZonePosition, Name: "self"}, resource.Local, &systemv1.ZonePosition{Applied: 9, Processed: 7, Live: 5})
		a := p.must(p.do("GET", "/meshes/default/dataplanes+insights/d", ""), 200)
		if got := positionOf(t, a.body); got["live"] != "7" {
			t.Errorf("%s: %v", mode, got)
		}
		p.must(p.do("DELETE", "/meshes/default/dataplanes/d", ""), 200)
		if p.has(resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "d"}) {
			t.Error("the insight stays")
		}
	}
}

func TestRejections(t *testing.T) {
	p := start(t, setup{})
	p.seed(resource.Key{Kind: resource.KindSyncRejection, Name: "z1.Timeout/default/t"}, "z1", &systemv1.SyncRejection{Kind: "Timeout", Scope: "default", Name: "t", Revision: 7, Reason: "conf: bad"})
	p.seed(resource.Key{Kind: resource.KindSyncRejection, Name: "z1.Mesh//other"}, "z1", &systemv1.SyncRejection{Kind: "Mesh", Name: "other", Revision: 8, Reason: "too new"})
	p.seed(resource.Key{Kind: resource.KindSyncRejection, Name: "Dataplane/default/z2.d"}, resource.Local, &systemv1.SyncRejection{Kind: "Dataplane", Scope: "default", Name: "z2.d", Revision: 2, Reason: "no mesh"})
	p.seed(resource.Key{Kind: resource.KindProxyRejection, Name: "z1.TrafficRoute/default/r"}, "z1", &systemv1.ProxyRejection{Kind: "TrafficRoute", Scope: "default", Name: "r", Revision: 9, Count: 2, Proxies: []string{"default.web"}, Reason: "no such cluster", ResourceType: "rds", ResourceName: "outbound:web"})

	type row struct {
		Type, Kind, Mesh, Name, Revision, Reason, Zone, Count string
		Proxies                                               []string
	}
	read := func(path string) (out []row) {
		var l struct {
			Total int
			Items []row
		}
		a := p.must(p.do("GET", path, ""), 200)
		if err := json.Unmarshal([]byte(a.body), &l); err != nil || l.Total != len(l.Items) {
			t.Fatalf("%v: %s", err, a.body)
		}
		return l.Items
	}
	none := []string{}
	want := []row{
		{"ProxyRejection", "TrafficRoute", "default", "r", "9", "no such cluster", "z1", "2", []string{"default.web"}},
		{"SyncRejection", "Dataplane", "default", "z2.d", "2", "no mesh", "z2", "0", none},
		{"SyncRejection", "Mesh", "", "other", "8", "too new", "z1", "0", none},
		{"SyncRejection", "Timeout", "default", "t", "7", "conf: bad", "z1", "0", none},
	}
	if diff := cmp.Diff(want, read("/rejections")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(append(append([]row(nil), want[:2]...), want[3]), read("/meshes/default/rejections")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want[2:3], read("/meshes/other/rejections")); diff != "" {
		t.Error(diff)
	}
	first := p.list("/rejections?size=1")
	if first.Next == nil || first.Total != 4 {
		t.Fatalf("%+v", first)
	}
	if rest := p.list(strings.TrimPrefix(*first.Next, p.url) + "&size=10"); len(rest.Items) != 1 {
		t.Errorf("the first size counts: %+v", rest)
	}
}
