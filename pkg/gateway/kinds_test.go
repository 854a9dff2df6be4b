package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// TestKindsWithoutAPath: what the published API keeps to itself, and what is ours alone, has no path.
func TestKindsWithoutAPath(t *testing.T) {
	p := start(t, setup{})
	paths := []string{"/configs", "/configs/x", "/meshes/default/configs/x", "/service-overviews", "/dataplane-overviews", "/zone-overviews"}
	for _, d := range resource.NewTable().All() {
		if d.Access == resource.Internal {
			paths = append(paths, "/"+d.Plural, "/"+d.Plural+"/x", "/meshes/default/"+d.Plural, "/meshes/default/"+d.Plural+"/x")
		}
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			if a := p.do(method, path, "{}"); a.status != 404 || a.header.Get("Content-Type") != "text/plain" {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.body)
			}
		}
	}
}

// TestStagesOfAWrite: what is wrong is told in the order in which it is looked at, each stage whole: the shape of the
// body, whether it is what its path names, its own rules, its mesh, what it changes, what it rests on.
func TestStagesOfAWrite(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/meshes/default", `{"mtls":{"enabledBackend":"a","backends":[{"name":"a","type":"builtin"}]}}`), 200)
	const missing = `{"name":"p","type":"provided","conf":{"cert":{"secret":"no"},"key":{"secret":"no"}}}`
	for _, tc := range []struct {
		name, path, body string
		title            string
		fields           string
	}{
		{
			"shape", "/meshes/none/timeouts/X", `{"name":"y","conf":{"connectTimeout":1,"nope":{}},"nope":1,"sources":{},"destinations":[{"match":{"a\"b":1}}]}`, "Could not process a resource",
			`conf.connectTimeout conf.nope nope sources destinations[0].match["a\"b"]`,
		},
		{"path", "/meshes/none/timeouts/X", `{"name":"y","type":"Retry","mesh":"x"}`, "Could not process a resource", "name type mesh"},
		{"names", "/meshes/No/timeouts/X", `{}`, "Could not process a resource", "name mesh"},
		{"rules of a new one", "/meshes/none/timeouts/x", `{}`, "Could not create a resource", "sources destinations conf"},
		{"mesh", "/meshes/none/timeouts/x", timeout, "Could not create a resource", "mesh"},
		{"rules of a mesh", "/meshes/default", `{"mtls":{"enabledBackend":"p","backends":[` + missing + `]},"tracing":{"defaultBackend":"x"}}`, "Could not update a resource", "tracing.defaultBackend"},
		{"change of a mesh", "/meshes/default", `{"mtls":{"enabledBackend":"p","backends":[` + missing + `]}}`, "Could not update a resource", "mtls.enabledBackend"},
		{
			"what a mesh rests on", "/meshes/new", `{"mtls":{"enabledBackend":"p","backends":[{"name":"a","type":"builtin"},` + missing + `]}}`, "Could not create a resource",
			"mtls.backends[1].config.cert mtls.backends[1].config.key",
		},
	} {
		before := p.store.Config().View().Revision()
		got := p.problem(p.must(p.put(tc.path, tc.body), 400))
		var fields []string
		for _, c := range got.Causes {
			fields = append(fields, c.Field)
		}
		if diff := cmp.Diff(tc.fields, strings.Join(fields, " ")); diff != "" || got.Title != tc.title {
			t.Errorf("%s: %s %q", tc.name, diff, got.Title)
		}
		if p.store.Config().View().Revision() != before {
			t.Errorf("%s: something was written", tc.name)
		}
	}
}

// TestManyViolations: an answer lists very many, but not without end.
func TestManyViolations(t *testing.T) {
	p := start(t, setup{})
	var body strings.Builder
	body.WriteString(`{"sources":[`)
	for i := range 10_000 {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"match":{"%d %%":""}}`, i)
	}
	body.WriteString(`]}`)
	a := p.must(p.put("/meshes/default/traffic-permissions/x", body.String()), 400)
	got := p.problem(a)
	if n := len(got.Causes); n < 200 || n > 300 || got.Causes[0].Field != "sources[0].match" || got.Causes[1].Field != `sources[0].match["0 %"]` {
		t.Errorf("%d causes: %.300s", n, a.body)
	}
}

// TestOlderTagsInTokens: a token is for tags by the names that dataplanes have them under, whatever the client's era.
func TestOlderTagsInTokens(t *testing.T) {
	p := startAlone(t)
	p.must(p.put("/meshes/m", `{}`), 201)
	a := p.must(p.do("POST", "/tokens", `{"mesh":"m","name":"d","tags":{"service":["web"],"zone":["z"],"version":["v1"]}}`), 200)
	parts := strings.Split(a.body, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %s", a.body)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Tags map[string][]string }
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"kuma.io/service": {"web"}, "kuma.io/zone": {"z"}, "version": {"v1"}}
	if diff := cmp.Diff(want, claims.Tags); diff != "" {
		t.Error(diff)
	}
	got := p.problem(p.must(p.do("POST", "/tokens", `{"mesh":"m","tags":{"service":["web"],"kuma.io/service":["web"]}}`), 400))
	if len(got.Causes) != 1 || got.Causes[0].Field != `tags["service"]` {
		t.Errorf("%+v", got)
	}
}
