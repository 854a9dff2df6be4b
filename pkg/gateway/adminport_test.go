package gateway_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/gateway"
)

// adminPort gives the same control plane by its admin port.
func (p *plane) adminPort() *plane {
	p.t.Helper()
	h, err := gateway.AdminPort(p.handler)
	if err != nil {
		p.t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	p.t.Cleanup(srv.Close)
	port := *p
	port.url, port.handler = srv.URL, h
	return &port
}

func TestAdminPort(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/meshes/m", `{}`), 201)
	admin := p.adminPort()

	for path, want := range map[string]int{
		"/": 404, "/meshes": 404, "/meshes/m": 404, "/config": 404, "/catalog": 404, "/global-secrets": 404, "/batch": 404, "/openapi.yaml": 404,
		"/meshes/m/timeouts": 404, "/meshes/m/timeouts/x": 404, "/tokens/user": 404, "/signing-keys": 404, "/backup": 404,
		"/secrets": 200, "/meshes/m/secrets": 200, "/meshes/m/secrets/none": 404, "/meshes/m/ca/provided/certificates": 200,
		"/tokens": 405, "/meshes/m/ca/provided/certificates/none": 405, "/meshes/m/ca/provided": 404, "/meshes/m/ca/builtin/certificates": 404,
	} {
		admin.must(admin.do("GET", path, ""), want)
	}
	for _, contentType := range []string{"", "application/json", "application/x-www-form-urlencoded"} {
		a := admin.do("POST", "/tokens", `{"name": "dp-echo-1", "mesh": "m"}`)
		if contentType != "" {
			a = admin.do("POST", "/tokens", `{"name": "dp-echo-1", "mesh": "m"}`, "Content-Type", contentType)
		}
		admin.must(a, 200)
		if strings.Count(a.body, ".") != 2 || a.header.Get("Content-Type") != "text/plain" {
			t.Errorf("%q: %q %q", contentType, a.header.Get("Content-Type"), a.body)
		}
	}
	for body, want := range map[string]string{
		`{"mesh": "m"}`: "name", `{"name": "x"}`: "mesh", `{}`: "mesh, name", `{"name": "x", "mesh": "m", "named": "false"}`: "named",
	} {
		var fields []string
		for _, c := range p.problem(admin.must(admin.do("POST", "/tokens?named=false", body), 400)).Causes {
			fields = append(fields, c.Field)
		}
		if got := strings.Join(fields, ", "); got != want {
			t.Errorf("%s: %s", body, got)
		}
	}
	// The newer API's tokens may be for several proxies.
	p.must(p.do("POST", "/tokens", `{"mesh": "m"}`), 200)

	admin.must(admin.put("/meshes/m/secrets/s", `{"type":"Secret","mesh":"m","name":"s","data":"AQ=="}`), 201)
	p.must(p.do("GET", "/meshes/m/secrets/s", ""), 200)
	admin.must(admin.do("DELETE", "/meshes/m/secrets/s", ""), 200)

	// It asks as the API does who is calling.
	admin.as = &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1")}
	p.as = admin.as
	for _, path := range []string{"/secrets", "/meshes/m/ca/provided/certificates"} {
		admin.must(admin.do("GET", path, ""), 403)
	}
	admin.must(admin.do("POST", "/tokens", `{"name": "x", "mesh": "m"}`), 403)

	if _, err := gateway.AdminPort(http.NotFoundHandler()); err == nil {
		t.Error("an admin port of nothing")
	}
}

type certificate struct{ ID, Cert string }

func (p *plane) certificates(mesh string) []certificate {
	p.t.Helper()
	var out []certificate
	if err := json.Unmarshal([]byte(p.must(p.do("GET", "/meshes/"+mesh+"/ca/provided/certificates", ""), 200).body), &out); err != nil {
		p.t.Fatal(err)
	}
	return out
}

func keyPair(t *testing.T, cert, key []byte) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{"cert": string(cert), "key": string(key)})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestProvidedCertificates goes the way of a client of 0.3: a mesh with a provided CA, the CA, another one.
func TestProvidedCertificates(t *testing.T) {
	p := start(t, setup{})
	admin := p.adminPort()
	make := func() ([]byte, []byte) {
		cert, key, err := ca.Generate(ca.Config{Mesh: "m", Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return cert, key
	}
	const path = "/meshes/m/ca/provided/certificates"
	mesh := func(enabled string) string { return `{"mtls": {"enabled": ` + enabled + `, "ca": {"provided": {}}}}` }
	cert, key := make()
	if got := p.problem(admin.must(admin.do("POST", path, keyPair(t, cert, key)), 400)); got.Causes[0].Field != "mesh" {
		t.Errorf("a CA of no mesh: %+v", got)
	}
	p.must(p.put("/meshes/m", mesh("true")), 201)
	if got := admin.certificates("m"); len(got) != 0 {
		t.Errorf("a CA from nowhere: %v", got)
	}

	a := admin.must(admin.do("POST", path, keyPair(t, cert, key), "Content-Type", "application/json"), 200)
	var added certificate
	if err := json.Unmarshal([]byte(a.body), &added); err != nil {
		t.Fatal(err)
	}
	if added.Cert != string(cert) || len(added.ID) != 64 || a.header.Get("Meridian-Revision") == "" {
		t.Errorf("%+v, revision %q", added, a.header.Get("Meridian-Revision"))
	}
	for _, at := range []*plane{p, admin} {
		if diff := cmp.Diff([]certificate{added}, at.certificates("m")); diff != "" {
			t.Error(diff)
		}
	}
	for name, want := range map[string][]byte{"m.ca-provided-cert-provided": cert, "m.ca-provided-key-provided": key} {
		if got, _ := p.secretOf("m", name); string(got) != string(want) {
			t.Errorf("%s is %q", name, got)
		}
	}
	// The mesh takes it.
	p.must(p.put("/meshes/m", mesh("true")), 200)

	before := p.store.Config().View().Revision()
	again := admin.must(admin.do("POST", path, keyPair(t, append([]byte("\n"), cert...), key)), 200)
	if again.body != a.body || p.store.Config().View().Revision() != before {
		t.Error("the same CA twice is a write")
	}
	other, otherKey := make()
	for body, want := range map[string]string{
		keyPair(t, other, otherKey): "cert", keyPair(t, cert, otherKey): "cert key", keyPair(t, nil, key): "cert", keyPair(t, cert, nil): "key",
		`{}`: "cert key", `{"cert": "x", "key": "y", "id": "z"}`: "id", `{"cert": 1}`: "cert", keyPair(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), key): "cert key", `[]`: "",
	} {
		var fields []string
		for _, c := range p.problem(admin.must(admin.do("POST", path, body), 400)).Causes {
			fields = append(fields, c.Field)
		}
		if got := strings.Join(fields, " "); got != want {
			t.Errorf("%.60s: %q, want %q", body, got, want)
		}
	}
	admin.must(admin.do("DELETE", path+"/none", ""), 404)
	used := p.problem(admin.must(admin.do("DELETE", path+"/"+added.ID, ""), 400))
	if used.Causes[0].Field != "id" || !strings.Contains(used.Causes[0].Message, `"provided" of mesh "m"`) {
		t.Errorf("%+v", used)
	}

	p.must(p.put("/meshes/m", mesh("false")), 200)
	gone := admin.must(admin.do("DELETE", path+"/"+added.ID, ""), 200)
	if gone.body != "" || gone.header.Get("Meridian-Revision") == "" || len(admin.certificates("m")) != 0 {
		t.Errorf("%+v", gone)
	}
	admin.must(admin.do("DELETE", path+"/"+added.ID, ""), 404)
	admin.must(admin.do("POST", path, keyPair(t, other, otherKey)), 200)
	p.must(p.put("/meshes/m", mesh("true")), 200)
}

// Where nothing is written, old clients are told where it is.
func TestProvidedCertificatesElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		o    api.Options
		want string
	}{
		"zone":      {api.Options{Mode: api.Zone, Zone: "z", GlobalAddress: "grpcs://global:5685"}, "on the global control plane (grpcs://global:5685)"},
		"read-only": {api.Options{ReadOnly: true}, "apiServer.readOnly"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, setup{api: c.o}).adminPort()
			for _, a := range []answer{
				p.do("POST", "/meshes/default/ca/provided/certificates", "{}"), p.do("DELETE", "/meshes/default/ca/provided/certificates/x", ""),
				p.put("/meshes/default/secrets/s", "{}"),
			} {
				if a.status != 405 || !strings.Contains(a.body, c.want) {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
}

func TestCatalog(t *testing.T) {
	p := start(t, setup{api: api.Options{Catalog: func(host string) api.Catalog {
		return api.Catalog{Bootstrap: "https://" + host, AdminLocal: "a", TokensPublic: "t"}
	}}})
	var got map[string]any
	a := p.must(p.do("GET", "/catalog", ""), 200)
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"apis": map[string]any{
		"bootstrap":            map[string]any{"url": "https://" + strings.TrimPrefix(p.url, "http://")},
		"dataplaneToken":       map[string]any{"localUrl": "", "publicUrl": "t"},
		"admin":                map[string]any{"localUrl": "a", "publicUrl": ""},
		"monitoringAssignment": map[string]any{"url": ""},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
