package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/resource/resourcetest"
)

// serve hands a request to the handler itself; ok is false where no HTTP server would have taken it.
func (p *plane) serve(t testing.TB, method, uri, contentType, body string) (*httptest.ResponseRecorder, bool) {
	u, err := url.ParseRequestURI(uri)
	if err != nil || !strings.HasPrefix(uri, "/") {
		return nil, false
	}
	req := (&http.Request{
		Method: method, URL: u, RequestURI: uri, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "localhost:5681", RemoteAddr: "127.0.0.1:1",
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(t.Context())
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, req)
	return w, true
}

// example is one request of the published documents.
type example struct {
	Method, URL, Body, Answer string
}

func examples(t testing.TB) []example {
	t.Helper()
	paths, err := filepath.Glob("../../e2e/transcripts/testdata/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatal("no examples", err)
	}
	var all []example
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var some []example
		if err := json.Unmarshal(raw, &some); err != nil {
			t.Fatal(err)
		}
		all = append(all, some...)
	}
	return all
}

func FuzzURL(f *testing.F) {
	for _, e := range examples(f) {
		if u, err := url.Parse(e.URL); err == nil {
			f.Add(e.Method, u.RequestURI())
		}
	}
	for _, uri := range []string{
		"/", "//", "/meshes", "/meshes/default/timeouts?size=1&offset=k", "/meshes/default/dataplanes%2Binsights/x?tag=a:b&gateway=x", "/meshes/%2F/timeouts/%00",
		"/status/zones/", "/meshes/../x", "/%E0%A4%A/x", "/zones+insights/a%3Ab", "/meshes/default/zones/zone:x", "/timeouts?offset=-1&size=00", "/tokens/zone", "/a;b=c/d",
		"/meshes/default/../../secrets", "/meshes/%2e%2e/secrets/x", "/%6deshes/default", "/meshes//default///timeouts", "/meshes/default/timeouts/\u2603", "/meshes/default/timeouts/%E2%98%83",
		"/meshes/default/timeouts/%ff%fe", "/meshes/default/timeouts/a%2Fb", "/meshes/default/timeouts/a%252Fb", "/\\evil.example", "//evil.example/meshes", "/meshes/default?size=1&size=2;x", "/meshes?%gg=1",
		"/meshes/" + strings.Repeat("m", 10_000), "/" + strings.Repeat("a/", 5000), "/meshes/default/timeouts?offset=" + strings.Repeat("k", 50_000), "*", "/meshes/%00", "/meshes/default/secrets/default.ca-x",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			f.Add(method, uri)
		}
	}
	p := start(f, setup{})
	f.Fuzz(func(t *testing.T, method, uri string) {
		if method == http.MethodPut && strings.HasPrefix(uri, "/meshes") {
			// A new mesh gets keys, which take their time to make.
			uri += map[bool]string{true: "&", false: "?"}[strings.Contains(uri, "?")] + "dryRun=true"
		}
		w, ok := p.serve(t, method, uri, "", "{}")
		if ok && w.Code >= 500 {
			t.Errorf("%s %q: %d %s", method, uri, w.Code, w.Body)
		}
		if ok && w.Code == http.StatusMovedPermanently {
			if to := w.Header().Get("Location"); !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`) {
				t.Errorf("%q sends elsewhere: %q", uri, to)
			}
		}
	})
}

func FuzzOffset(f *testing.F) {
	for _, s := range []string{"", "0", "1", "-1", "k", "kVGltZW91dABkZWZhdWx0AHQ", "99999999999999999999", "kAAAA", "k__"} {
		f.Add(s, s)
	}
	p := start(f, setup{})
	p.must(p.put("/meshes/default/timeouts/t", timeout), 201)
	f.Fuzz(func(t *testing.T, offset, size string) {
		q := url.Values{"offset": {offset}, "size": {size}}.Encode()
		for _, path := range []string{"/timeouts?", "/dataplanes+insights?", "/rejections?"} {
			if w, ok := p.serve(t, "GET", path+q, "", ""); ok && w.Code != 200 && w.Code != 400 {
				t.Errorf("%s%s: %d %s", path, q, w.Code, w.Body)
			}
		}
	})
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{
		timeout, dataplane, permission, `{"data":"AA=="}`, `{"zone":"zone-1","validFor":"1h"}`, `{"mesh":"default","tags":{"a":["b"]}}`,
		`{`, `[]`, `null`, `{"type":"Timeout","NAME":"t"}`, "sources:\n- match: {a: b}\n", "a: &a [*a]", `{"mtls":{"backends":[{"name":"a","type":"provided","conf":{"cert":{"secret":7}}}]}}`,
	} {
		f.Add(body)
	}
	added := map[string]bool{}
	for _, e := range examples(f) {
		for _, body := range []string{e.Body, e.Answer} {
			if !added[body] {
				added[body] = true
				f.Add(body)
			}
		}
	}
	p := start(f, setup{})
	alone := start(f, setup{api: api.Options{Mode: api.Standalone}})
	paths := []string{"/tokens", "/tokens/zone", "/tokens/user"}
	for _, d := range resourcetest.Written(resource.NewTable()) {
		if d.Writable == resource.WritableOnGlobal {
			_, path := placeOf(d, "default")
			paths = append(paths, path)
		}
	}
	f.Fuzz(func(t *testing.T, body string) {
		if w, ok := alone.serve(t, "PUT", "/meshes/default/dataplanes/d", "application/json", body); ok && w.Code >= 500 {
			t.Errorf("dataplane %q: %d %s", body, w.Code, w.Body)
		}
		for _, path := range paths {
			for _, contentType := range []string{"application/json", "application/yaml"} {
				if w, ok := p.serve(t, "PUT", path, contentType, body); ok && w.Code >= 500 {
					t.Errorf("%s %q: %d %s", path, body, w.Code, w.Body)
				}
			}
		}
	})
}

// FuzzBatch: no batch brings the server into trouble, and a dry run says what becomes of it.
func FuzzBatch(f *testing.F) {
	mesh, in := `{"type":"Mesh","name":"default"}`, policyIn("default", "t", "1s")
	for _, body := range []string{
		`{}`, `[]`, `{"put":[],"delete":[]}`, batchOf([]string{in, mesh}, []string{keyOf("Timeout", "default", "there")}), batchOf([]string{in, in}, nil),
		`{"put":[{"type":"Zone","mesh":"x","name":"z","enabled":true}]}`, `{"put":[null,1,{"type":1}],"delete":[{"type":"Mesh","name":null}]}`, `{"put":{},"put":[]}`,
		"type: Mesh\nname: default\n---\ndelete: {type: Timeout, mesh: default, name: there}\n", "%YAML 1.2\n--- |\n x\n...\n---\ndelete:\n", "---\n---\n- a\n--- &a [*a]\n",
		`{"put":[{"type":"Secret","mesh":"default","name":"s","data":"AA=="}],"delete":[{"type":"Secret","mesh":"default","name":"s"}]}`,
	} {
		f.Add(body)
	}
	p := start(f, setup{})
	p.must(p.put("/meshes/default/timeouts/there", timeout), 201)
	f.Fuzz(func(t *testing.T, body string) {
		for _, contentType := range []string{"application/json", "application/yaml"} {
			dry, ok := p.serve(t, "PUT", "/batch?dryRun=true", contentType, body)
			if !ok {
				continue
			}
			before := p.store.Config().View().Revision()
			done, _ := p.serve(t, "PUT", "/batch", contentType, body)
			after := p.store.Config().View().Revision()
			if dry.Code >= 500 || dry.Code != done.Code {
				t.Errorf("%q: dry %d %s, then %d %s", body, dry.Code, dry.Body, done.Code, done.Body)
			}
			if moved := after - before; moved > 1 || moved == 1 && done.Code != 200 {
				t.Errorf("%q: %d, and the log moved by %d", body, done.Code, moved)
			}
		}
	})
}
