package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// fieldsOf are the fields that an answer names.
func (p *plane) fieldsOf(a answer) []string {
	p.t.Helper()
	fields := []string{}
	for _, c := range p.problem(a).Causes {
		fields = append(fields, c.Field)
	}
	return fields
}

// TestNames holds names to the rules of spec 1.2 wherever something is written: in a path, in a dry run, and in a
// batch.
func TestNames(t *testing.T) {
	p := start(t, setup{api: api.Options{Mode: api.Standalone, Zone: "zone-1"}})
	p.mesh("m-1_x")
	long := strings.Repeat("x", resource.MaxNameLength)
	for _, tc := range []struct {
		name, kind, mesh, object, body string
		fields                         []string
	}{
		{"all that is allowed", "Timeout", "default", "az-09_", timeout, nil},
		{"longest", "Timeout", "default", long, timeout, nil},
		{"too long", "Timeout", "default", long + "x", timeout, []string{"name"}},
		{"upper case", "Timeout", "default", "Web", timeout, []string{"name"}},
		{"dot", "Timeout", "default", "zone-1.web", timeout, []string{"name"}},
		{"only dots", "Timeout", "default", "...", timeout, []string{"name"}},
		{"slash", "Timeout", "default", "a/b", timeout, []string{"name"}},
		{"space", "Timeout", "default", "a b", timeout, []string{"name"}},
		{"zero byte", "Timeout", "default", "a\x00b", timeout, []string{"name"}},
		{"no ASCII", "Timeout", "default", "bücher", timeout, []string{"name"}},
		{"percent", "Timeout", "default", "a%2fb", timeout, []string{"name"}},
		{"mesh in upper case", "Timeout", "Default", "web", timeout, []string{"mesh"}},
		{"mesh with a dot", "Timeout", "a.b", "web", timeout, []string{"mesh"}},
		{"mesh too long", "Timeout", long + "x", "web", timeout, []string{"mesh"}},
		{"both", "Timeout", "a.b", "c.d", timeout, []string{"name", "mesh"}},
		{"a mesh", "Mesh", "", "m-1_x", `{}`, nil},
		{"a mesh in upper case", "Mesh", "", "M", `{}`, []string{"name"}},
		{"a mesh with a dot", "Mesh", "", "m.m", `{}`, []string{"name"}},
		{"dataplane", "Dataplane", "default", "d-1", dataplane, nil},
		{"dataplane with a dot", "Dataplane", "default", "zone-1.d", dataplane, []string{"name"}},
		{"zone", "Zone", "", "zone-7", `{}`, nil},
		{"zone that is no label", "Zone", "", "zone_7", `{}`, []string{"name"}},
		{"global secret", "GlobalSecret", "", "g", `{}`, nil},
		{"global secret with a dot", "GlobalSecret", "", "default.ca-builtin-cert-a", `{}`, []string{"name"}},
		{"secret", "Secret", "default", "s", `{}`, nil},
		{"secret with a dot", "Secret", "default", "a.b", `{}`, []string{"name"}},
		{"builtin certificate", "Secret", "default", "default.ca-builtin-cert-b", `{}`, nil},
		{"builtin key of a backend with dots", "Secret", "default", "default.ca-builtin-key-b.1_x-2", `{}`, nil},
		{"provided certificate", "Secret", "default", "default.ca-provided-cert-provided", `{}`, nil},
		{"provided key", "Secret", "default", "default.ca-provided-key-provided", `{}`, nil},
		{"key of a backend without a name", "Secret", "default", "default.ca-builtin-key-", `{}`, nil},
		{"key of another mesh", "Secret", "default", "other.ca-builtin-key-b", `{}`, []string{"name"}},
		{"no half of a CA", "Secret", "default", "default.ca-b", `{}`, []string{"name"}},
		{"key of a backend in upper case", "Secret", "default", "default.ca-builtin-key-B", `{}`, []string{"name"}},
		{"key of a backend with a long name", "Secret", "default", "default.ca-builtin-key-" + long + long, `{}`, []string{"name"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, _ := resource.NewTable().ByKind(resource.Kind(tc.kind))
			path := "/" + d.Plural + "/" + pathEscape(tc.object)
			if tc.mesh != "" {
				path = "/meshes/" + pathEscape(tc.mesh) + path
			}
			item := strings.Replace(tc.body, "{", fmt.Sprintf(`{"type":%q,"mesh":%s,"name":%s,`, tc.kind, quoted(t, tc.mesh), quoted(t, tc.object)), 1)
			item = strings.Replace(strings.Replace(item, `"mesh":"",`, "", 1), ",}", "}", 1)
			for _, form := range []struct{ what, path, body, prefix string }{
				{"dry run", path + "?dryRun=true", tc.body, ""},
				{"dry batch", "/batch?dryRun=true", `{"put":[` + item + `]}`, "put[0]."},
				{"write", path, tc.body, ""},
				{"batch", "/batch", `{"put":[` + item + `]}`, "put[0]."},
			} {
				a := p.put(form.path, form.body)
				if tc.fields == nil {
					if a.status/100 != 2 {
						t.Errorf("%s: %d %s", form.what, a.status, a.body)
					}
					continue
				}
				want := make([]string, len(tc.fields))
				for i, f := range tc.fields {
					want[i] = form.prefix + f
				}
				if a.status != 400 {
					t.Fatalf("%s: %d %s", form.what, a.status, a.body)
				}
				if diff := cmp.Diff(want, p.fieldsOf(a)); diff != "" {
					t.Errorf("%s: %s\n%s", form.what, diff, a.body)
				}
			}
			// What may not be written is not refused where it is read or deleted: it is not there.
			if tc.fields != nil {
				for _, method := range []string{"GET", "DELETE"} {
					if a := p.do(method, path, ""); a.status != 404 || p.problem(a).Details != "Not found" {
						t.Errorf("%s: %d %s", method, a.status, a.body)
					}
				}
			}
		})
	}
}

// pathEscape escapes all that could mean something in a path.
func pathEscape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

func quoted(t testing.TB, s string) string {
	t.Helper()
	return compact(t, strings.NewReplacer("\x00", `\u0000`).Replace(`"`+s+`"`))
}

// TestNamesWithDots: what control planes have named is read and deleted by its name.
func TestNamesWithDots(t *testing.T) {
	p := start(t, setup{})
	dp := resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "zone-1.web.1"}
	p.seed(dp, "zone-1", nil)
	p.must(p.do("GET", "/meshes/default/dataplanes/zone-1.web.1", ""), 200)
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		a := p.must(p.do(method, "/meshes/default/dataplanes/zone-1.web.1", dataplane), 405)
		if !strings.Contains(a.body, "zone control plane") {
			t.Error(a.body)
		}
	}
	p.must(p.put("/meshes/default", mtls("", `{"name":"b.1","type":"builtin"}`)), 200)
	const path = "/meshes/default/secrets/default.ca-builtin-key-b.1"
	secret := p.must(p.do("GET", path, ""), 200)
	p.must(p.put("/meshes/default", `{}`), 200)
	p.must(p.do("DELETE", path, ""), 200)
	p.must(p.put(path, secret.body), 201)
	p.must(p.do("DELETE", path, ""), 200)
	p.must(p.do("GET", path, ""), 404)
}

// TestForgottenZones: what a process did not live to forget of a deleted zone, the next one forgets.
func TestForgottenZones(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/zones/zone-1", `{}`), 201)
	var keys []resource.Key
	for _, zone := range []string{"zone-1", "zone-2"} {
		theirs := []resource.Key{
			{Kind: resource.KindDataplaneInsight, Scope: "default", Name: zone + ".d"},
			{Kind: resource.KindZonePosition, Name: zone + ".self"},
		}
		for _, k := range theirs {
			p.seed(k, resource.Origin(zone), nil)
		}
		insight := resource.Key{Kind: resource.KindZoneInsight, Name: zone}
		p.seed(insight, resource.Local, nil)
		keys = append(append(keys, theirs...), insight)
	}
	for range 2 {
		if err := p.service.ForgetDeletedZones(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, k := range keys {
			if p.has(k) != (i < 3) {
				t.Errorf("%s is there: %t", k, p.has(k))
			}
		}
	}
	at := p.store.Status().View().Revision()
	if err := p.service.ForgetDeletedZones(t.Context()); err != nil || p.store.Status().View().Revision() != at {
		t.Errorf("%v, or something was written where there was nothing to do", err)
	}
}

// TestRefusalsOfADeletedZone: what was noted here of a zone's objects goes with the zone.
func TestRefusalsOfADeletedZone(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/zones/zone-1", `{}`), 201)
	note := func(zone string) resource.Key {
		k := resource.Key{Kind: resource.KindSyncRejection, Name: "Dataplane/default/" + zone + ".d"}
		p.seed(k, resource.Local, &systemv1.SyncRejection{Kind: "Dataplane", Scope: "default", Name: zone + ".d"})
		return k
	}
	gone, stays := note("zone-1"), note("zone-10")
	p.must(p.do("DELETE", "/zones/zone-1", ""), 200)
	if p.has(gone) || !p.has(stays) {
		t.Errorf("%t, %t", p.has(gone), p.has(stays))
	}
}

// TestOrderOfRefusals: that a control plane does not take something is said first, whoever asks, and wherever in a
// batch it stands.
func TestOrderOfRefusals(t *testing.T) {
	secret := `{"type":"Secret","mesh":"default","name":"s","data":"eA=="}`
	dp := strings.Replace(dataplane, "{", `{"type":"Dataplane","mesh":"default","name":"d",`, 1)
	to := strings.Replace(timeout, "{", `{"type":"Timeout","mesh":"default","name":"t",`, 1)
	for _, tc := range []struct {
		name   string
		o      api.Options
		fields []string
	}{
		{"global", api.Options{Mode: api.Global}, []string{"put[1].type", "delete[0].type"}},
		{"zone", api.Options{Mode: api.Zone, Zone: "zone-1", GlobalAddress: "grpcs://global:5685"}, []string{"put[0].type", "put[2].type"}},
		{"read-only", api.Options{Mode: api.Standalone, ReadOnly: true}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, setup{api: tc.o})
			for who, as := range map[string]*auth.Caller{
				"administrator": nil,
				// Who may write no secrets is not told so where none are written.
				"writer": {User: &auth.UserToken{Name: "w", Role: auth.RoleWriter}},
			} {
				p.as = as
				for _, method := range []string{"PUT", "DELETE"} {
					if tc.o.Mode != api.Global {
						p.must(p.do(method, "/meshes/default/secrets/s", "{"), 405)
					} else {
						p.must(p.do(method, "/meshes/default/dataplanes/d", "{"), 405)
					}
				}
				if tc.fields == nil {
					a := p.must(p.put("/batch", "["), 405)
					if a.header.Get("Content-Type") != "text/plain" || !strings.Contains(a.body, "apiServer.readOnly") {
						t.Errorf("%v %s", a.header, a.body)
					}
					continue
				}
				a := p.must(p.put("/batch", `{"put":[`+secret+`,`+dp+`,`+to+`],"delete":[`+keyOf("Dataplane", "default", "x")+`]}`), 405)
				if diff := cmp.Diff(tc.fields, p.fieldsOf(a)); diff != "" {
					t.Errorf("%s: %s\n%s", who, diff, a.body)
				}
				if tc.o.GlobalAddress != "" && !strings.Contains(a.body, tc.o.GlobalAddress) {
					t.Errorf("it does not say where to go: %s", a.body)
				}
			}
		})
	}
}
