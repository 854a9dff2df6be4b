package resource

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func encoded(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gateway() *meshv1.Dataplane {
	return &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Address: "10.0.0.1",
		Gateway: &meshv1.Dataplane_Networking_Gateway{Tags: map[string]string{TagService: "a"}},
	}}
}

func TestAccept(t *testing.T) {
	table := NewTable()
	zone, dp := encoded(t, &systemv1.Zone{}), encoded(t, gateway())
	deep := &structpb.Struct{}
	for s, i := deep, 0; i < MaxDepth; i++ {
		inner := &structpb.Struct{}
		s.Fields = map[string]*structpb.Value{"a": structpb.NewStructValue(inner)}
		s = inner
	}
	conf := func(s *structpb.Struct) []byte {
		return encoded(t, &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{Backends: []*meshv1.CertificateAuthorityBackend{{Type: "builtin", Conf: s}}}})
	}
	mesh := Key{Kind: KindMesh, Name: "m"}
	for _, c := range []struct {
		name   string
		key    Key
		origin Origin
		spec   []byte
		want   string
	}{
		{"down", Key{KindZone, "", "zone-1"}, Global, zone, ""},
		{"up", Key{KindDataplane, "default", "zone-1.web"}, "zone-1", dp, ""},
		{"local", Key{KindDataplane, "default", "web"}, Local, dp, ""},
		{"made by a control plane", Key{KindSecret, "default", "default.ca-builtin-cert-ca-1"}, Global, nil, ""},
		{"internal names", Key{KindSyncRejection, "", "zone-1.TrafficRoute/default/web"}, "zone-1", nil, ""},
		{"position", Key{KindZonePosition, "", "zone-1.self"}, "zone-1", nil, ""},
		{"unknown kind", Key{"Nonsense", "", "x"}, Global, nil, `unknown kind "Nonsense"`},
		{"dataplane from above", Key{KindDataplane, "default", "web"}, Global, dp, "does not come from the global"},
		{"policy from a zone", Key{KindTimeout, "default", "zone-1.x"}, "zone-1", nil, "does not come from a zone"},
		{"signing key", Key{KindSecret, "default", "dataplane-token-signing-key-default"}, Global, nil, "does not come from"},
		{"another zone's", Key{KindDataplane, "default", "zone-2.web"}, "zone-1", dp, `is not of zone "zone-1"`},
		{"longer zone name", Key{KindDataplane, "default", "zone-10.web"}, "zone-1", dp, `is not of zone "zone-1"`},
		{"no name", Key{KindZone, "", ""}, Global, zone, "name: cannot be empty"},
		{"bad name", Key{KindMesh, "", "a/b"}, Global, nil, "name: has invalid characters"},
		{"long name", Key{KindMesh, "", strings.Repeat("a", 400)}, Global, nil, "name: is longer"},
		{"control character", Key{KindSyncRejection, "", "zone-1.\n"}, "zone-1", nil, "name: has invalid characters"},
		{"bad zone name", Key{KindZone, "", "a.b"}, Global, zone, "name: must be a DNS label"},
		{"mesh of a global kind", Key{KindZone, "default", "z"}, Global, zone, "mesh: a Zone belongs to no mesh"},
		{"no mesh", Key{KindDataplane, "", "zone-1.web"}, "zone-1", dp, "mesh: cannot be empty"},
		{"no protobuf", mesh, Global, []byte{0xff}, "the spec is not a Mesh"},
		{"no UTF-8", Key{KindZone, "", "z"}, Global, []byte{0x12, 3, 0x0a, 1, 0xff}, "the spec is not a Zone"},
		{"not valid", Key{KindDataplane, "default", "zone-1.web"}, "zone-1", nil, "networking: has to be defined"},
		{"too deep", mesh, Global, conf(deep), "nested more than 64 deep"},
		{"not finite", mesh, Global, conf(&structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewNumberValue(inf())}}), "mtls.backends[0].conf.x: is not a finite number"},
		{"no value", mesh, Global, conf(&structpb.Struct{Fields: map[string]*structpb.Value{"x": {}}}), "mtls.backends[0].conf.x: has no value"},
		{"sampling", mesh, Global, encoded(t, &meshv1.Mesh{Tracing: &meshv1.Mesh_Tracing{Backends: []*meshv1.TracingBackend{{Sampling: wrapperspb.Double(inf())}}}}), "sampling.value: is not a finite number"},
		{"duration", Key{KindTimeout, "m", "x"}, Global, encoded(t, &meshv1.Timeout{Conf: &meshv1.Timeout_Conf{ConnectTimeout: &durationpb.Duration{Seconds: 1 << 37}}}), "conf.connectTimeout: is a duration out of range"},
		{"time", Key{KindDataplaneInsight, "m", "z.x"}, "z", encoded(t, &meshv1.DataplaneInsight{Subscriptions: []*meshv1.DiscoverySubscription{{ConnectTime: &timestamppb.Timestamp{Nanos: -1}}}}), "subscriptions[0].connectTime: is a time out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Accept(table, c.key, c.origin, c.spec)
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := Accept(table, mesh, Global, make([]byte, MaxSpecBytes+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := Accept(table, Key{Kind: "x", Name: "y"}, Global, nil); !errors.Is(err, ErrUnknownKind) {
		t.Error(err)
	}
}

func inf() float64 { var zero float64; return 1 / zero }

// A peer of a newer version may know more fields, and more keys of a backend.
func TestAcceptTakesWhatIsNewer(t *testing.T) {
	spec := encoded(t, &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{Backends: []*meshv1.CertificateAuthorityBackend{{
		Type: "builtin",
		Conf: &structpb.Struct{Fields: map[string]*structpb.Value{"newer": structpb.NewBoolValue(true)}},
	}}}})
	spec = append(spec, 0xfa, 0x01, 1, 'x') // field 31
	if err := Accept(NewTable(), Key{Kind: KindMesh, Name: "m"}, Global, spec); err != nil {
		t.Error(err)
	}
}

func TestMeshDefaultsAreAcceptable(t *testing.T) {
	table := NewTable()
	var names []string
	for _, x := range MeshDefaults("m1") {
		names = append(names, x.Name)
		if err := Accept(table, Key{x.Kind, "m1", x.Name}, Global, encoded(t, x.Spec)); err != nil {
			t.Errorf("%s: %v", x.Name, err)
		}
	}
	if diff := cmp.Diff([]string{"allow-all-m1", "route-all-m1", "timeout-all-m1", "retry-all-m1"}, names); diff != "" {
		t.Error(diff)
	}
	long := strings.Repeat("m", MaxNameLength)
	for _, x := range MeshDefaults(long) {
		if err := Accept(table, Key{x.Kind, long, x.Name}, Global, encoded(t, x.Spec)); err != nil {
			t.Errorf("%s: %v", x.Kind, err)
		}
	}
}

func TestDefaultsOfAMesh(t *testing.T) {
	in, err := DecodeYAML(descriptor(t, KindMesh), []byte(`{metrics: {backends: [{name: a, type: prometheus}, {name: b, type: prometheus, conf: {port: 1, path: null, tags: {service: x, zone: y}}}, {name: c, type: statsd}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	defaultMesh(Key{}, in.Spec)
	once := proto.Clone(in.Spec)
	defaultMesh(Key{}, in.Spec)
	if diff := cmp.Diff(once, in.Spec, protocmp.Transform()); diff != "" {
		t.Error("defaulting again changes the mesh", diff)
	}
	b, err := EncodeSpec(in.Spec)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"metrics":{"backends":[{"name":"a","type":"prometheus","conf":{"path":"/metrics","port":5670,"tags":{"kuma.io/service":"dataplane-metrics"}}},` +
		`{"name":"b","type":"prometheus","conf":{"path":"/metrics","port":1,"tags":{"kuma.io/service":"x","kuma.io/zone":"y"}}},{"name":"c","type":"statsd"}]}}`
	if diff := cmp.Diff(want, compact(t, b)); diff != "" {
		t.Error(diff)
	}
}

func TestZoneTagAndTags(t *testing.T) {
	dp := &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Inbound: []*meshv1.Dataplane_Networking_Inbound{{Tags: map[string]string{TagService: "b", TagZone: "forged"}}, {}, {Tags: map[string]string{TagService: "a"}}},
		Gateway: &meshv1.Dataplane_Networking_Gateway{},
	}}
	SetZoneTag(dp, "")
	if dp.Networking.Inbound[0].Tags[TagZone] != "forged" || dp.Networking.Gateway.Tags != nil {
		t.Error("no zone changed the tags")
	}
	SetZoneTag(dp, "zone-1")
	want := map[string][]string{TagService: {"a", "b"}, TagZone: {"zone-1"}}
	if diff := cmp.Diff(want, DataplaneTags(dp)); diff != "" {
		t.Error(diff)
	}
	if dp.Networking.Gateway.Tags[TagZone] != "zone-1" || dp.Networking.Inbound[1].Tags[TagZone] != "zone-1" {
		t.Error(dp)
	}
	SetZoneTag(&meshv1.Dataplane{}, "zone-1")
	if got := DataplaneTags(&meshv1.Dataplane{}); len(got) != 0 {
		t.Error(got)
	}
}

func TestSchemas(t *testing.T) {
	for _, d := range NewTable().All() {
		s := d.Schema()
		p, _ := s["properties"].(map[string]any)
		if _, ok := p["mesh"]; ok != (d.Scope == ScopeMesh) || p["type"] == nil || p["name"] == nil {
			t.Errorf("%s: %v", d.Kind, p)
		}
	}
	p := descriptor(t, KindTimeout).Schema()["properties"].(map[string]any)
	conf := p["conf"].(map[string]any)["properties"].(map[string]any)
	if diff := cmp.Diff(map[string]any{"type": "string", "format": "duration", "example": "1m30s"}, conf["connectTimeout"]); diff != "" {
		t.Error(diff)
	}
	sources := p["sources"].(map[string]any)
	match := sources["items"].(map[string]any)["properties"].(map[string]any)["match"]
	if diff := cmp.Diff(map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}, match); diff != "" {
		t.Error(diff)
	}
	secret := descriptor(t, KindGlobalSecret).Schema()["properties"].(map[string]any)
	if diff := cmp.Diff(map[string]any{"type": "string", "enum": []any{"GlobalSecret", "Secret"}}, secret["type"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"type": "string", "format": "byte"}, secret["data"]); diff != "" {
		t.Error(diff)
	}
}
