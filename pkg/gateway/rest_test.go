package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/gateway"
	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
)

// plane is a control plane's API over a real HTTP server and the memory store.
type plane struct {
	t       testing.TB
	url     string
	store   store.Store
	service *api.Service
	handler http.Handler
	// as, if set, is who every request comes from instead of who the connection says.
	as *auth.Caller
}

type setup struct {
	api    api.Options
	limits gateway.Limits
	cors   []string
	// wrap may replace the store.
	wrap func(store.Store) store.Store
	// bare leaves the default mesh out.
	bare bool
}

func start(t testing.TB, s setup) *plane {
	t.Helper()
	p := assemble(t, s)
	srv := httptest.NewServer(p.handler)
	t.Cleanup(srv.Close)
	p.url = srv.URL
	if !s.bare {
		p.mesh("default")
	}
	return p
}

// assemble is start without the server.
func assemble(t testing.TB, s setup) *plane {
	t.Helper()
	mem := memory.New(memory.Options{})
	t.Cleanup(func() { _ = mem.Close() })
	p := &plane{t: t, store: mem}
	if s.wrap != nil {
		p.store = s.wrap(mem)
	}
	o := s.api
	o.Store, o.Table = p.store, resource.NewTable()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Mode == "" {
		o.Mode = api.Global
	}
	if o.Version == "" {
		o.Version = "0.1.0"
	}
	if o.Policy == (auth.AdminPolicy{}) {
		o.Policy = auth.AdminPolicy{AllowFromLocalhost: true}
	}
	sums, err := insight.NewRollup(p.store, o.Table)
	if err != nil {
		t.Fatal(err)
	}
	o.Insights = sums
	svc, err := api.New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.service = svc
	conn := gateway.NewConn(svc.Recover)
	svc.Register(conn)
	h, err := gateway.New(gateway.Options{
		Conn: conn, MayBatch: svc.MayBatch, Table: o.Table, Logger: o.Logger, CORSAllowedDomains: s.cors, Limits: s.limits,
		Identify: func(r *http.Request) context.Context {
			c := auth.CallerOf(r)
			if p.as != nil {
				c = *p.as
			}
			return auth.WithCaller(r.Context(), c)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.handler = h
	return p
}

// mesh makes a mesh without the cost of its keys.
func (p *plane) mesh(name string) {
	p.t.Helper()
	p.seed(resource.Key{Kind: resource.KindMesh, Name: name}, resource.Local, nil)
}

// seed writes an object past the API.
func (p *plane) seed(k resource.Key, origin resource.Origin, spec proto.Message) {
	p.t.Helper()
	log := p.store.Config()
	d, _ := resource.NewTable().ByKind(k.Kind)
	if d.Log == resource.StatusLog {
		log = p.store.Status()
	}
	if spec == nil {
		spec = d.New()
	}
	b, err := resource.Encode(spec)
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = log.Apply(p.t.Context(), store.Batch{Puts: []store.Put{{Key: k, Origin: origin, Spec: b}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) has(k resource.Key) bool {
	p.t.Helper()
	if _, ok := p.store.Config().View().Get(k); ok {
		return true
	}
	_, ok := p.store.Status().View().Get(k)
	return ok
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request; header is pairs of name and value. It may be called on any goroutine.
func (p *plane) do(method, path, body string, header ...string) answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return answer{}
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		p.t.Errorf("%s %s: %v", method, path, err)
		return answer{}
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Error(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func (p *plane) put(path, body string) answer {
	return p.do(http.MethodPut, path, body, "Content-Type", "application/json")
}

func (p *plane) must(a answer, status int) answer {
	p.t.Helper()
	if a.status != status {
		p.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	return a
}

type problem struct {
	Title, Details string
	Causes         []struct{ Field, Message string }
}

func (p *plane) problem(a answer) problem {
	p.t.Helper()
	var out problem
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		p.t.Fatalf("not an error body: %q", a.body)
	}
	return out
}

func revision(t testing.TB, a answer) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(a.header.Get("Meridian-Revision"), 10, 64)
	if err != nil {
		t.Fatalf("Meridian-Revision: %v", err)
	}
	return n
}

const (
	permission = `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}]}`
	dataplane  = `{"networking":{"address":"127.0.0.1","inbound":[{"port":11011,"servicePort":11012,"tags":{"kuma.io/service":"backend"}}]}}`
	timeout    = `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"web"}}],"conf":{"connectTimeout":"7s"}}`
)

func TestResourceLife(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/timeouts/t1"

	a := p.must(p.put(path, timeout), 201)
	if a.body != "" || a.header.Get("Content-Type") != "" {
		t.Errorf("a PUT's answer is empty, got %q of %q", a.body, a.header.Get("Content-Type"))
	}
	first := revision(t, a)

	a = p.must(p.do("GET", path, ""), 200)
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(a.body, "{\n \"type\": \"Timeout\",\n \"mesh\": \"default\",\n \"name\": \"t1\",\n \"creationTime\": ") || !strings.HasSuffix(a.body, "\n}\n") {
		t.Errorf("shape of %s", a.body)
	}
	if diff := cmp.Diff(map[string]any{"connectTimeout": "7s"}, got["conf"]); diff != "" {
		t.Error(diff)
	}

	again := revision(t, p.must(p.put(path, timeout), 200))
	if again <= first {
		t.Errorf("a PUT that changes nothing took revision %d after %d", again, first)
	}
	gone := revision(t, p.must(p.do("DELETE", path, ""), 200))
	if gone <= again {
		t.Errorf("DELETE took revision %d after %d", gone, again)
	}
	for method, title := range map[string]string{"GET": "Could not retrieve a resource", "DELETE": "Could not delete a resource"} {
		if got := p.problem(p.must(p.do(method, path, ""), 404)); got.Title != title || got.Details != "Not found" || got.Causes != nil {
			t.Errorf("%s: %+v", method, got)
		}
	}
}

func TestErrors(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/meshes/default/timeouts/there", timeout), 201)
	for _, tc := range []struct {
		name, method, path, body string
		status                   int
		title, details           string
		fields                   string
	}{
		{"malformed", "PUT", "/meshes/default/timeouts/x", `{"conf":`, 400, "Could not process a resource", "", ""},
		{"empty body", "PUT", "/meshes/default/timeouts/x", ``, 400, "Could not process a resource", "", ""},
		{"array", "PUT", "/meshes/default/timeouts/x", `[]`, 400, "Could not process a resource", "", ""},
		{"wrong type", "PUT", "/meshes/default/timeouts/x", `{"conf":{"connectTimeout":5}}`, 400, "Could not process a resource", "Resource is not valid", "conf.connectTimeout sources destinations"},
		{"unknown field", "PUT", "/meshes/default/timeouts/x", `{"bogus":1,"conf":{"nope":2}}`, 400, "Could not process a resource", "Resource is not valid", "bogus conf.nope sources destinations"},
		{"mismatch", "PUT", "/meshes/default/timeouts/x", `{"name":"y","type":"Retry","mesh":"other"}`, 400, "Could not process a resource", "Resource is not valid", "name type mesh"},
		{"charset", "PUT", "/meshes/default/timeouts/X!", `{}`, 400, "Could not process a resource", "Resource is not valid", "name"},
		{"charset of the mesh", "PUT", "/meshes/De/timeouts/x", `{}`, 400, "Could not process a resource", "Resource is not valid", "mesh"},
		{"slash in a name", "PUT", "/meshes/default/timeouts/a%2Fb", `{}`, 400, "Could not process a resource", "Resource is not valid", "name"},
		{"name too long", "PUT", "/meshes/default/timeouts/" + strings.Repeat("x", 254), `{}`, 400, "Could not process a resource", "Resource is not valid", "name"},
		{"invalid new", "PUT", "/meshes/default/timeouts/x", `{}`, 400, "Could not create a resource", "Resource is not valid", "sources destinations conf"},
		{"invalid old", "PUT", "/meshes/default/timeouts/there", `{}`, 400, "Could not update a resource", "Resource is not valid", "sources destinations conf"},
		{"no mesh", "PUT", "/meshes/none/timeouts/x", timeout, 400, "Could not create a resource", "Mesh is not found", "mesh"},
		{"no mesh for a secret", "PUT", "/meshes/none/secrets/x", `{"data":"AA=="}`, 400, "Could not create a resource", "Mesh is not found", "mesh"},
		{"zone called global", "PUT", "/zones/global", `{}`, 400, "Could not create a resource", "Resource is not valid", "name"},
		{"page size", "GET", "/meshes/default/timeouts?size=10001", "", 400, "Could not retrieve resources", "Invalid page size", "size"},
		{"negative size", "GET", "/meshes?size=-1", "", 400, "Could not retrieve resources", "Invalid page size", "size"},
		{"no number", "GET", "/meshes?size=ten", "", 400, "Could not retrieve resources", "Invalid page size", "size"},
		{"offset", "GET", "/meshes?offset=-1", "", 400, "Could not retrieve resources", "Invalid offset", "offset"},
		{"opaque offset of another's", "GET", "/meshes?offset=kAAAA", "", 400, "Could not retrieve resources", "Invalid offset", "offset"},
		{"overviews' size", "GET", "/zones+insights?size=x", "", 400, "Could not retrieve dataplane overviews", "Invalid page size", "size"},
		{"gateway filter", "GET", "/meshes/default/dataplanes+insights?gateway=maybe", "", 400, "Could not retrieve dataplane overviews", "Resource is not valid", "/meshes/{mesh}/dataplanes+insights.gateway"},
		{"ingress filter", "GET", "/dataplanes+insights?ingress=2", "", 400, "Could not retrieve dataplane overviews", "Resource is not valid", "/dataplanes+insights.ingress"},
		{"no overview", "GET", "/meshes/default/dataplanes+insights/x", "", 404, "Could not retrieve a dataplane overview", "Not found", ""},
		{"no zone overview", "GET", "/zones+insights/x", "", 404, "Could not retrieve a zone overview", "Not found", ""},
		{"min revision", "GET", "/meshes/default", "", 400, "Could not retrieve resources", "Invalid revision", "Meridian-Min-Revision"},
		{"token without a mesh", "POST", "/tokens", `{"name":"x"}`, 400, "Invalid request", "Resource is not valid", "mesh"},
		{"token of no mesh", "POST", "/tokens", `{"mesh":"none"}`, 404, "Signing Key not found", "", ""},
		{"token body", "POST", "/tokens", `[`, 400, "Invalid request", "", ""},
		{"null token body", "POST", "/tokens", `null`, 400, "Invalid request", "", ""},
		{"token fields", "POST", "/tokens", `{"mesh":"default","name":1,"tags":{"a":"b"},"bogus":true}`, 400, "Invalid request", "Resource is not valid", "bogus name tags"},
		{"token validity", "POST", "/tokens", `{"mesh":"default","validFor":"87601h","type":"x"}`, 400, "Invalid request", "Resource is not valid", "type validFor"},
		{"zone token", "POST", "/tokens/zone", `{"zone":"Zone_1","validFor":"soon"}`, 400, "Invalid request", "Resource is not valid", "zone validFor"},
		{"zone token for the global", "POST", "/tokens/zone", `{"zone":"global","validFor":"0s"}`, 400, "Invalid request", "Resource is not valid", "zone validFor"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header := []string{"Content-Type", "application/json"}
			if tc.name == "min revision" {
				header = append(header, "Meridian-Min-Revision", "x")
			}
			a := p.do(tc.method, tc.path, tc.body, header...)
			if a.status != tc.status {
				t.Fatalf("status %d, want %d: %s", a.status, tc.status, a.body)
			}
			if got := a.header.Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
			got := p.problem(a)
			if got.Title != tc.title || got.Details == "" || tc.details != "" && got.Details != tc.details {
				t.Errorf("%+v", got)
			}
			var fields []string
			for _, c := range got.Causes {
				if fields = append(fields, c.Field); c.Message == "" {
					t.Errorf("no message for %s", c.Field)
				}
			}
			if diff := cmp.Diff(strings.Fields(tc.fields), fields); diff != "" && (len(fields) > 0 || tc.fields != "") {
				t.Errorf("causes: %s\n%s", diff, a.body)
			}
		})
	}
	if a := p.do("GET", "/meshes/default/timeouts/x", ""); a.status != 404 {
		t.Errorf("bad input changed something: %d", a.status)
	}
}

func TestRouting(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/zones/zone-1", `{}`), 201)
	p.must(p.put("/meshes/default/traffic-permissions/tp", permission), 201)
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 200, ""},
		{"GET", "/nothing", 404, ""},
		{"POST", "/nothing", 404, ""},
		{"GET", "/meshes/default/nothing", 404, ""},
		{"GET", "/meshes/default/timeouts/x/y", 404, ""},
		{"GET", "/timeouts/x", 404, ""},
		{"GET", "/dataplanes+insights/x", 404, ""},
		{"GET", "/meshes/default/global-secrets", 404, ""},
		{"GET", "/meshes/default/config", 404, ""},
		{"GET", "/zone-positions", 404, ""},
		{"GET", "/meshes/default/public-keys", 404, ""},
		{"GET", "/sync-rejections/x", 404, ""},
		{"HEAD", "/meshes", 405, "GET"},
		{"POST", "/meshes", 405, "GET"},
		{"PUT", "/meshes", 405, "GET"},
		{"HEAD", "/meshes/default", 405, "PUT, DELETE, GET"},
		{"POST", "/meshes/default", 405, "PUT, DELETE, GET"},
		{"OPTIONS", "/meshes/default", 405, "PUT, DELETE, GET"},
		{"PATCH", "/meshes/default/timeouts/x", 405, "PUT, DELETE, GET"},
		{"PUT", "/meshes/default/dataplanes+insights/x", 405, "GET"},
		{"GET", "/tokens", 405, "POST, PUT"},
		{"DELETE", "/tokens/zone", 405, "POST, PUT"},
		{"PUT", "/config", 405, "GET"},
		{"GET", "/meshes/", 200, ""},
		{"GET", "/meshes/default/", 200, ""},
		{"GET", "/meshes/default/dataplane+insights/", 200, ""},
		{"GET", "/meshes/default/dataplanes%2Binsights", 200, ""},
		{"GET", "/dataplanes%2binsights", 200, ""},
		{"GET", "/meshes/default/trafficpermissions", 200, ""},
		{"GET", "/meshes/default/trafficpermissions/tp", 200, ""},
		{"GET", "/traffic-permissions", 200, ""},
		{"GET", "/meshes/default/zones", 200, ""},
		{"GET", "/meshes/default/zones/zone-1", 200, ""},
		{"GET", "/meshes/default/zones+insights", 200, ""},
		{"GET", "/meshes/default/zones+insights/zone-1", 200, ""},
		{"GET", "/zones+insights/zone-1", 200, ""},
		{"GET", "/meshes/none/timeouts", 200, ""},
		{"GET", "/status/zones", 200, ""},
		{"GET", "/versions", 200, ""},
		{"GET", "/config", 200, ""},
		{"GET", "/rejections", 200, ""},
		{"GET", "/meshes/default/rejections", 200, ""},
		{"GET", "/openapi.yaml", 200, ""},
	} {
		a := p.do(tc.method, tc.path, "")
		if a.status != tc.status || a.header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: %d, Allow %q: %s", tc.method, tc.path, a.status, a.header.Get("Allow"), a.body)
		}
		if tc.status >= 400 && !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s %s: %q", tc.method, tc.path, a.header.Get("Content-Type"))
		}
		if tc.status == 405 && tc.method != "HEAD" && a.body != "405: Method Not Allowed" {
			t.Errorf("%s %s: %q", tc.method, tc.path, a.body)
		}
	}

	for from, to := range map[string]string{
		"//meshes?size=1":            "/meshes?size=1",
		"/meshes//default///":        "/meshes/default/",
		"///evil.example%5Cx/meshes": "/evil.example%5Cx/meshes",
	} {
		if a := p.do("GET", from, ""); a.status != 301 || a.header.Get("Location") != to {
			t.Errorf("%s: %d to %q, want %q", from, a.status, a.header.Get("Location"), to)
		}
	}
}

func TestMediaTypes(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/timeouts/t"
	for accept, status := range map[string]int{
		"": 200, "*/*": 200, "application/json": 200, "application/*;q=0.5": 200, "text/html, application/json;q=0.1": 200,
		"text/html": 406, "application/json;q=0": 406, "application/yaml": 406,
	} {
		a := p.do("GET", "/meshes", "", "Accept", accept)
		if a.status != status || status == 406 && a.body != "406: Not Acceptable" {
			t.Errorf("Accept %q: %d %s", accept, a.status, a.body)
		}
	}
	p.must(p.put(path, timeout), 201)
	for contentType, status := range map[string]int{
		"application/json": 200, "application/json; charset=utf-8": 200, "": 200,
		"text/plain": 415, "application/x-www-form-urlencoded": 415, "junk/": 415,
	} {
		var header []string
		if contentType != "" {
			header = []string{"Content-Type", contentType}
		}
		a := p.do("PUT", path, timeout, header...)
		if a.status != status || status == 415 && (a.body != "415: Unsupported Media Type" || a.header.Get("Content-Type") != "text/plain") {
			t.Errorf("Content-Type %q: %d %s", contentType, a.status, a.body)
		}
	}
	yaml := "type: Timeout\nname: y\nmesh: default\nsources:\n- match: {kuma.io/service: '*'}\ndestinations:\n- match: {kuma.io/service: web}\nconf:\n  connectTimeout: 1m\n"
	p.must(p.do("PUT", "/meshes/default/timeouts/y", yaml, "Content-Type", "application/yaml"), 201)
	if a := p.must(p.do("GET", "/meshes/default/timeouts/y", ""), 200); !strings.Contains(a.body, `"connectTimeout": "60s"`) {
		t.Error(a.body)
	}
	p.must(p.do("POST", "/tokens", `{"mesh":""}`, "Content-Type", "text/weird", "Accept", "text/plain"), 400)
}

func TestBodiesThatAreTooLarge(t *testing.T) {
	p := start(t, setup{})
	// 16 bytes of JSON are left for the rest of the object.
	largest := strings.Repeat("A", (512<<10-16)/4*4)
	p.must(p.put("/global-secrets/s", `{"data":"`+largest+`"}`), 201)
	a := p.must(p.put("/global-secrets/s", `{"data":"`+largest+`AAAAAAAA"}`), 413)
	if got := p.problem(a); got.Title == "" || got.Details == "" {
		t.Error(a.body)
	}
	deep := strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65)
	p.must(p.put("/meshes/default", `{"metrics":{"backends":[{"name":"p","type":"prometheus","conf":`+deep+`}]}}`), 400)
	p.must(p.do("POST", "/tokens", `{"name":"`+strings.Repeat("x", 1<<20)+`"}`), 413)
}

func TestReadOnlyByMode(t *testing.T) {
	const dp, to, mesh, insight = "/meshes/default/dataplanes/d", "/meshes/default/timeouts/t", "/meshes/m", "/meshes/default/dataplane-insights/d"
	for _, tc := range []struct {
		name     string
		o        api.Options
		path     string
		status   int
		sentence string
	}{
		{"dataplane on the global", api.Options{Mode: api.Global}, dp, 405, "zone control plane"},
		{"policy on the global", api.Options{Mode: api.Global}, to, 201, ""},
		{"dataplane in a zone", api.Options{Mode: api.Zone, Zone: "zone-1"}, dp, 201, ""},
		{"policy in a zone", api.Options{Mode: api.Zone, Zone: "zone-1", GlobalAddress: "grpcs://global:5685"}, to, 405, "global control plane (grpcs://global:5685)"},
		{"mesh in a zone", api.Options{Mode: api.Zone, Zone: "zone-1"}, mesh, 405, "global control plane"},
		{"secret in a zone", api.Options{Mode: api.Zone, Zone: "zone-1"}, "/meshes/default/secrets/s", 405, "global control plane"},
		{"zone in a zone", api.Options{Mode: api.Zone, Zone: "zone-1"}, "/zones/z", 405, "global control plane"},
		{"dataplane standalone", api.Options{Mode: api.Standalone, Zone: "default"}, dp, 201, ""},
		{"policy standalone", api.Options{Mode: api.Standalone, Zone: "default"}, to, 201, ""},
		{"insight on the global", api.Options{Mode: api.Global}, insight, 405, "themselves"},
		{"insight standalone", api.Options{Mode: api.Standalone}, insight, 405, "themselves"},
		{"zone insight", api.Options{Mode: api.Standalone}, "/zone-insights/z", 405, "themselves"},
		{"read-only", api.Options{Mode: api.Global, ReadOnly: true}, to, 405, "apiServer.readOnly"},
		{"insight read-only", api.Options{Mode: api.Global, ReadOnly: true}, insight, 405, "themselves"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := start(t, setup{api: tc.o})
			body := map[string]string{dp: dataplane, to: timeout}[tc.path]
			if body == "" {
				body = "{}"
			}
			a := p.must(p.put(tc.path, body), tc.status)
			if tc.status == 405 {
				for _, method := range []string{"PUT", "DELETE"} {
					a = p.do(method, tc.path, body, "Content-Type", "text/wrong") // it comes before the media type
					if a.status != 405 || a.header.Get("Allow") != "GET" || !strings.Contains(a.body, tc.sentence) || a.header.Get("Content-Type") != "text/plain" {
						t.Errorf("%s: %d %q %v", method, a.status, a.body, a.header)
					}
				}
			}
		})
	}
}

func TestZoneTag(t *testing.T) {
	p := start(t, setup{api: api.Options{Mode: api.Zone, Zone: "zone-1"}})
	p.must(p.put("/meshes/default/dataplanes/d", dataplane), 201)
	if a := p.do("GET", "/meshes/default/dataplanes/d", ""); !strings.Contains(a.body, `"kuma.io/zone": "zone-1"`) {
		t.Error(a.body)
	}
	p = start(t, setup{api: api.Options{Mode: api.Standalone, Zone: "default"}})
	p.must(p.put("/meshes/default/dataplanes/d", dataplane), 201)
	if a := p.do("GET", "/meshes/default/dataplanes/d", ""); strings.Contains(a.body, "kuma.io/zone") {
		t.Error(a.body)
	}
}

func TestTypedEndpoints(t *testing.T) {
	p := start(t, setup{bare: true, api: api.Options{Hostname: "here", InstanceID: "here-1", Version: "0.3.0", ConfigJSON: []byte(`{"a": 1}`)}})
	for path, want := range map[string]string{
		"/":             "{\n \"hostname\": \"here\",\n \"tagline\": \"Kuma\",\n \"version\": \"0.3.0\",\n \"instanceId\": \"here-1\"\n}\n",
		"/status/zones": "[]\n",
		"/meshes":       "{\n \"total\": 0,\n \"items\": [],\n \"next\": null\n}\n",
		"/rejections":   "{\n \"total\": 0,\n \"items\": [],\n \"next\": null\n}\n",
		"/config":       "{\"a\": 1}\n",
	} {
		if a := p.must(p.do("GET", path, ""), 200); a.body != want {
			t.Errorf("%s: %q", path, a.body)
		}
	}
	var versions struct {
		KumaDp map[string]struct{ Envoy string }
	}
	if err := json.Unmarshal([]byte(p.do("GET", "/versions", "").body), &versions); err != nil {
		t.Fatal(err)
	}
	for v, envoy := range map[string]string{"1.0.0": "1.16.0", "1.0.4": "1.16.1", "1.0.8": "1.16.2", "1.1.5": "~1.17.0", "0.3.0": "~1.40.0"} {
		if versions.KumaDp[v].Envoy != envoy {
			t.Errorf("%s: %q", v, versions.KumaDp[v].Envoy)
		}
	}
}

func compact(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		t.Fatalf("%v: %s", err, s)
	}
	return b.String()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newMemory(t testing.TB) store.Store {
	t.Helper()
	mem := memory.New(memory.Options{})
	t.Cleanup(func() { _ = mem.Close() })
	return mem
}
