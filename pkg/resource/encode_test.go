package resource

import (
	"bytes"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func compact(t testing.TB, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return out.String()
}

func object(t testing.TB, d *Descriptor, in Input) *Object {
	t.Helper()
	spec, err := Encode(in.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return &Object{
		Key: Key{Kind: d.Kind, Scope: in.Mesh, Name: in.Name}, Spec: spec,
		Created:  time.Date(2021, 2, 18, 18, 46, 42, 195647000, time.FixedZone("", 3600)),
		Modified: time.Date(2021, 2, 18, 18, 46, 43, 0, time.UTC),
	}
}

// Every testdata/roundtrip/X.in.json or X.in.yaml, defaulted, is valid and encodes to X.out.json, which
// reads as the same.
func TestGoldenRoundTrips(t *testing.T) {
	table := NewTable()
	inputs, err := filepath.Glob("testdata/roundtrip/*.in.*")
	if err != nil || len(inputs) == 0 {
		t.Fatal("no inputs", err)
	}
	for _, path := range inputs {
		t.Run(filepath.Base(path), func(t *testing.T) {
			body, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			decode := DecodeJSON
			if strings.HasSuffix(path, ".yaml") {
				decode = DecodeYAML
			}
			kind, _, _ := strings.Cut(filepath.Base(path), ".")
			kind, _, _ = strings.Cut(kind, "-")
			d := descriptor(t, Kind(kind))
			in, err := decode(d, body)
			if err != nil {
				t.Fatal(err)
			}
			o := object(t, d, in)
			if d.Default != nil {
				d.Default(o.Key, in.Spec)
				o = object(t, d, in)
			}
			if err := Accept(table, o.Key, Local, o.Spec); err != nil {
				t.Error(err)
			}
			got, err := EncodeJSON(d, o)
			if err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(strings.TrimSuffix(path, filepath.Ext(path)), ".in") + ".out.json"
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
			again, err := DecodeJSON(d, got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(in.Spec, again.Spec, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEncodeOrdersMetadataAndKeepsText(t *testing.T) {
	d := descriptor(t, KindTrafficPermission)
	o := &Object{Key: Key{KindTrafficPermission, "default", "<&>\u2028\"\\\n\x01é"}}
	b, err := EncodeJSON(d, o)
	if err != nil {
		t.Fatal(err)
	}
	want := `{
 "type": "TrafficPermission",
 "mesh": "default",
 "name": "<&>\u2028\"\\\n\u0001é",
 "creationTime": "0001-01-01T00:00:00Z",
 "modificationTime": "0001-01-01T00:00:00Z"
}
`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
}

func TestEncodeDurationsAndTimes(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0s"},
		{90 * time.Second, "90s"},
		{200 * time.Millisecond, "0.200s"},
		{time.Hour, "3600s"},
		{-1500 * time.Millisecond, "-1.500s"},
		{25 * time.Microsecond, "0.000025s"},
		{1, "0.000000001s"},
		{-1, "-0.000000001s"},
		{math.MinInt64, "-9223372036.854775808s"},
	} {
		b, err := EncodeSpec(durationpb.New(c.d))
		if err != nil || string(b) != `"`+c.want+`"` {
			t.Errorf("%v: got %s (%v), want %q", c.d, b, err, c.want)
		}
	}
	for want, nanos := range map[string]int{`"2021-02-16T18:41:26Z"`: 0, `"2021-02-16T18:41:26.500Z"`: 5e8, `"2021-02-16T18:41:26.016089Z"`: 16089000} {
		b, err := EncodeSpec(timestamppb.New(time.Date(2021, 2, 16, 18, 41, 26, nanos, time.UTC)))
		if err != nil || string(b) != want {
			t.Errorf("got %s (%v), want %s", b, err, want)
		}
	}
}

func TestEncodeKeepsEmptyMessages(t *testing.T) {
	b, err := EncodeSpec(&meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Ingress: &meshv1.Dataplane_Networking_Ingress{},
		Inbound: []*meshv1.Dataplane_Networking_Inbound{{
			Health:       &meshv1.Dataplane_Networking_Inbound_Health{},
			ServiceProbe: &meshv1.Dataplane_Networking_Inbound_ServiceProbe{HealthyThreshold: wrapperspb.UInt32(0)},
		}},
	}})
	want := `{
 "networking": {
  "ingress": {},
  "inbound": [
   {
    "health": {},
    "serviceProbe": {
     "healthyThreshold": 0
    }
   }
  ]
 }
}`
	if diff := cmp.Diff(want, string(b)); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if b, err := EncodeSpec(&meshv1.Dataplane{}); string(b) != "{}" || err != nil {
		t.Errorf("%s, %v", b, err)
	}
}

func TestEncodeOverview(t *testing.T) {
	o := Overview{Type: "DataplaneOverview", Mesh: "m", Name: "n", Parts: []Part{
		{Name: "dataplane", Message: &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{Address: "1.1.1.1"}}},
		{Name: "dataplaneInsight", Message: &meshv1.DataplaneInsight{Subscriptions: []*meshv1.DiscoverySubscription{{
			Id:     "1",
			Status: &meshv1.DiscoverySubscriptionStatus{Total: &meshv1.DiscoveryServiceStats{ResponsesSent: 3}},
		}}}},
		{Name: "position", Raw: json.RawMessage(`{"live":"812","list":[1,null,true]}`)},
	}}
	b, err := o.JSON()
	if err != nil {
		t.Fatal(err)
	}
	want := `{
 "type": "DataplaneOverview",
 "mesh": "m",
 "name": "n",
 "creationTime": "0001-01-01T00:00:00Z",
 "modificationTime": "0001-01-01T00:00:00Z",
 "dataplane": {
  "networking": {
   "address": "1.1.1.1"
  }
 },
 "dataplaneInsight": {
  "subscriptions": [
   {
    "id": "1",
    "status": {
     "total": {
      "responsesSent": "3"
     }
    }
   }
  ]
 },
 "position": {
  "live": "812",
  "list": [
   1,
   null,
   true
  ]
 }
}`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Error(diff)
	}
	if _, err := (Overview{Parts: []Part{{Name: "x", Raw: json.RawMessage("{")}}}).JSON(); err == nil {
		t.Error("broken JSON was passed on")
	}
}

func TestEncodeRefusesWhatHasNoForm(t *testing.T) {
	for _, m := range []*structpb.Value{structpb.NewNumberValue(math.NaN()), structpb.NewNumberValue(math.Inf(1))} {
		if b, err := EncodeSpec(m); err == nil {
			t.Errorf("got %s", b)
		}
	}
	if b, err := EncodeSpec(&durationpb.Duration{Seconds: 1, Nanos: -1}); err == nil {
		t.Errorf("got %s", b)
	}
	d := descriptor(t, KindMesh)
	if _, err := EncodeJSON(d, &Object{Key: Key{Kind: KindMesh, Name: "m"}, Spec: []byte{0xff}}); err == nil {
		t.Error("a broken spec was encoded")
	}
}
