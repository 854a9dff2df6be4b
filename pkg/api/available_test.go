package api

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// However an ingress is read, it says what its own zone has, in order, and nothing that was written with it.
func TestAvailableServices(t *testing.T) {
	s := service(t, Options{Mode: Global})
	var b store.Batch
	put := func(kind resource.Kind, scope, name string, from resource.Origin, m proto.Message) {
		spec, err := resource.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		b.Puts = append(b.Puts, store.Put{Key: resource.Key{Kind: kind, Scope: scope, Name: name}, Origin: from, Spec: spec})
	}
	has := func(zone resource.Origin, mesh string, instances uint32, tags ...string) {
		m := &systemv1.ZoneService{Tags: map[string]string{}, Instances: instances}
		for i := 0; i < len(tags); i += 2 {
			m.Tags[tags[i]] = tags[i+1]
		}
		put(resource.KindZoneService, mesh, string(zone)+"."+resource.ZoneServiceName(m.Tags), zone, m)
	}
	put(resource.KindMesh, "", "default", resource.Local, &meshv1.Mesh{})
	put(resource.KindMesh, "", "another", resource.Local, &meshv1.Mesh{})
	put(resource.KindDataplane, "default", "zone-1.in", "zone-1", &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Ingress: &meshv1.Dataplane_Networking_Ingress{
			AvailableServices: []*meshv1.Dataplane_Networking_Ingress_AvailableService{{Mesh: "nonsense"}},
		},
		Inbound: []*meshv1.Dataplane_Networking_Inbound{{Port: 10001}},
	}})
	has("zone-1", "default", 2, resource.TagService, "web", "version", "v2")
	has("zone-1", "default", 1, resource.TagService, "web", "version", "v1")
	has("zone-1", "another", 3, resource.TagService, "web")
	has("zone-2", "default", 4, resource.TagService, "elsewhere")
	if _, err := s.Store.Config().Apply(t.Context(), b); err != nil {
		t.Fatal(err)
	}

	want := []string{
		"3 in another of kuma.io/service=web",
		"1 in default of kuma.io/service=web,version=v1",
		"2 in default of kuma.io/service=web,version=v2",
	}
	check := func(how string, data []byte, err error, path ...string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]json.RawMessage
		for _, p := range append(path, "networking", "ingress") {
			object = nil
			if err := json.Unmarshal(data, &object); err != nil {
				t.Fatal(err)
			}
			data = object[p]
		}
		var ingress struct {
			AvailableServices []struct {
				Mesh      string
				Instances int
				Tags      map[string]string
			}
		}
		if err := json.Unmarshal(data, &ingress); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range ingress.AvailableServices {
			got = append(got, fmt.Sprintf("%d in %s of %s", a.Instances, a.Mesh, resource.CanonicalTags(a.Tags)))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", how, diff)
		}
	}
	one, err := s.Get(t.Context(), &apiv1.GetRequest{Plural: "dataplanes", Scope: "default", Name: "zone-1.in"})
	check("get", one.GetJson(), err)
	many, err := s.List(t.Context(), &apiv1.ListRequest{Plural: "dataplanes", Scope: "default"})
	if err != nil || len(many.GetItems()) != 1 {
		t.Fatal(many, err)
	}
	check("list", many.GetItems()[0], err)
	overview, err := s.GetDataplaneOverview(t.Context(), &apiv1.GetDataplaneOverviewRequest{Mesh: "default", Name: "zone-1.in"})
	check("overview", overview.GetJson(), err, "dataplane")
}
