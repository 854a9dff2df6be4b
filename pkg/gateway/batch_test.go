package gateway_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// policyIn is a Timeout as a batch has it.
func policyIn(mesh, name, connect string) string {
	return fmt.Sprintf(`{"type":"Timeout","mesh":%q,"name":%q,%s`, mesh, name, timeoutOf(connect)[1:])
}

func keyOf(kind, mesh, name string) string {
	return fmt.Sprintf(`{"type":%q,"mesh":%q,"name":%q}`, kind, mesh, name)
}

func batchOf(puts, deletes []string) string {
	return fmt.Sprintf(`{"put":[%s],"delete":[%s]}`, strings.Join(puts, ","), strings.Join(deletes, ","))
}

type batchAnswer struct {
	Revision string
	Results  []map[string]string
}

func (p *plane) batch(a answer) batchAnswer {
	p.t.Helper()
	var out batchAnswer
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		p.t.Fatalf("%v: %s", err, a.body)
	}
	return out
}

func TestBatch(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/meshes/default/timeouts/same", timeout), 201)
	p.must(p.put("/meshes/default/timeouts/other", timeout), 201)
	p.must(p.put("/meshes/default/timeouts/gone", timeout), 201)
	before := p.store.Config().View().Revision()
	// The mesh comes behind what is in it.
	body := batchOf([]string{
		policyIn("new", "t", "1s"), policyIn("default", "same", "7s"), policyIn("default", "other", "1s"),
		`{"type":"Mesh","name":"new"}`, `{"type":"Zone","mesh":"default","name":"zone-1","enabled":true}`,
	}, []string{keyOf("Timeout", "default", "gone")})
	want := []map[string]string{
		{"type": "Timeout", "mesh": "new", "name": "t", "result": "created"},
		{"type": "Timeout", "mesh": "default", "name": "same", "result": "unchanged"},
		{"type": "Timeout", "mesh": "default", "name": "other", "result": "updated"},
		{"type": "Mesh", "name": "new", "result": "created"},
		{"type": "Zone", "name": "zone-1", "result": "created"},
		{"type": "Timeout", "mesh": "default", "name": "gone", "result": "deleted"},
	}
	dry := p.must(p.put("/batch?dryRun=true", body), 200)
	if diff := cmp.Diff(batchAnswer{before.String(), want}, p.batch(dry)); diff != "" {
		t.Error(diff)
	}
	if dry.header.Get("Meridian-Dry-Run") != "true" || p.store.Config().View().Revision() != before {
		t.Error("a dry run was none")
	}
	a := p.must(p.put("/batch", body), 200)
	now := (before + 1).String()
	if diff := cmp.Diff(batchAnswer{now, want}, p.batch(a)); diff != "" {
		t.Error(diff)
	}
	if a.header.Get("Meridian-Revision") != now || a.header.Get("Content-Type") != "application/json" {
		t.Error(a.header)
	}
	// The mesh is as a PUT makes it.
	p.must(p.put("/meshes/alone", `{}`), 201)
	if diff := cmp.Diff(namesIn(p, "alone"), namesIn(p, "new"), cmpopts.IgnoreSliceElements(func(s string) bool { return s == "Timeout t" })); diff != "" {
		t.Error(diff)
	}
	p.must(p.do("GET", "/meshes/default/timeouts/gone", ""), 404)
	// It goes with all it holds, in a batch too.
	p.must(p.put("/batch", batchOf(nil, []string{keyOf("Mesh", "", "new"), keyOf("Timeout", "new", "t"), keyOf("Mesh", "", "alone")})), 200)
	if left := append(namesIn(p, "new"), namesIn(p, "alone")...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// namesIn lists what a mesh holds; random ids and the mesh's name are left out.
func namesIn(p *plane, mesh string) []string {
	var out []string
	for _, d := range resource.NewTable().All() {
		for o := range p.store.Config().View().Scan(store.InScope(d.Kind, mesh)) {
			name := strings.ReplaceAll(o.Key.Name, mesh, "MESH")
			if d.Kind == resource.KindPublicKey {
				name = "an id"
			}
			out = append(out, string(d.Kind)+" "+name)
		}
	}
	return out
}

func TestBatchYAML(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/meshes/default/timeouts/gone", timeout), 201)
	body := `# a comment
---
type: Timeout
mesh: new
name: t
sources: [{match: {service: "*"}}]
destinations: [{match: {kuma.io/service: web}}]
conf: {connectTimeout: 1s}
---
delete: {type: Timeout, mesh: default, name: gone}
...
--- {type: Mesh, name: new}
---
`
	a := p.must(p.do("PUT", "/batch", body, "Content-Type", "application/yaml"), 200)
	want := []map[string]string{
		{"type": "Timeout", "mesh": "new", "name": "t", "result": "created"},
		{"type": "Mesh", "name": "new", "result": "created"},
		{"type": "Timeout", "mesh": "default", "name": "gone", "result": "deleted"},
	}
	if diff := cmp.Diff(want, p.batch(a).Results); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{`299 - "put[0]: the tag \"service\" is read as \"kuma.io/service\""`}, a.header.Values("Warning")); diff != "" {
		t.Error(diff)
	}
	a = p.must(p.do("PUT", "/batch", "type: Mesh\nname: x\n---\n\na: [\n", "Content-Type", "application/yaml"), 400)
	if got := p.problem(a); !strings.Contains(got.Details, "line 5") && !strings.Contains(got.Details, "line 6") {
		t.Errorf("%+v", got)
	}
}

func TestBatchOfNothing(t *testing.T) {
	p := start(t, setup{})
	now := p.store.Config().View().Revision().String()
	for _, body := range []string{`{}`, `{"put":null,"delete":[]}`} {
		a := p.must(p.put("/batch", body), 200)
		if want := "{\n \"revision\": \"" + now + "\",\n \"results\": []\n}\n"; a.body != want {
			t.Errorf("%q", a.body)
		}
	}
	p.must(p.do("PUT", "/batch", "---\n# nothing\n", "Content-Type", "text/yaml"), 200)
}

func TestBatchIsRefused(t *testing.T) {
	p := start(t, setup{api: api.Options{MaxBatchItems: 20, Limits: resource.Limits{ObjectBytes: 4096}}})
	p.must(p.put("/meshes/default/timeouts/t", timeout), 201)
	p.mesh("doomed")
	p.must(p.put("/meshes/doomed/timeouts/old", timeout), 201)
	p.seed(resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "d"}, "zone-1", nil)
	fresh := policyIn("default", "fresh", "1s")
	for name, c := range map[string]struct {
		body   string
		status int
		causes []string
	}{
		"no object":         {`[]`, 400, nil},
		"no JSON":           {`{"put":[`, 400, nil},
		"more behind it":    {`{} {}`, 400, nil},
		"an unknown list":   {`{"put":[],"patch":[1]}`, 400, []string{"patch: unknown field"}},
		"a list twice":      {`{"put":[],"put":[]}`, 400, []string{"put: given more than once"}},
		"no list":           {`{"put":{}}`, 400, []string{"put: must be a list"}},
		"no items":          {`{"put":[1],"delete":["x"]}`, 400, []string{"put[0]: must be an object, not a number", "delete[0]: must be an object with type, mesh and name, not a string"}},
		"no type":           {batchOf([]string{fresh, `{"name":"x"}`}, []string{`{"name":"x"}`}), 400, []string{"put[1].type: must be given", "delete[0].type: must be given"}},
		"no such type":      {batchOf([]string{`{"type":"Foo","name":"x"}`}, []string{keyOf("InlineDataplane", "default", "x")}), 400, []string{`put[0].type: there is no type "Foo"`, `delete[0].type: there is no type "InlineDataplane"`}},
		"no mesh, no name":  {batchOf([]string{`{"type":"Timeout"}`}, []string{`{"type":"Timeout","mesh":null}`}), 400, []string{"put[0].mesh: must be given", "put[0].name: must be given", "delete[0].mesh: must be given", "delete[0].name: must be given"}},
		"wrong names":       {batchOf([]string{policyIn("default", "A_b", "1s")}, nil), 400, []string{"put[0].name: *"}},
		"unknown fields":    {batchOf([]string{fresh, `{"type":"Mesh","name":"x","foo":1,"a b":2}`}, []string{`{"type":"Mesh","name":"y","bar":1}`}), 400, []string{"put[1].foo: unknown field", `put[1]["a b"]: unknown field`, "delete[0].bar: unknown field"}},
		"invalid":           {batchOf([]string{fresh, policyIn("default", "u", "x")}, nil), 400, []string{"put[1].conf.connectTimeout: *"}},
		"not valid":         {batchOf([]string{fresh, `{"type":"TrafficPermission","mesh":"default","name":"u"}`}, nil), 400, []string{"put[1].sources: *", "put[1].destinations: *"}},
		"twice":             {batchOf([]string{fresh, policyIn("default", "fresh", "2s")}, []string{keyOf("Timeout", "default", "fresh")}), 400, []string{"put[1]: Timeout default/fresh is in the batch twice: it is put[0] too", "delete[0]: Timeout default/fresh is in the batch twice: it is put[0] too"}},
		"no such mesh":      {batchOf([]string{fresh, policyIn("nowhere", "u", "1s")}, nil), 400, []string{"put[1].mesh: mesh of name nowhere is not found"}},
		"a mesh that goes":  {batchOf([]string{policyIn("doomed", "u", "1s"), policyIn("doomed", "old", "1s")}, []string{keyOf("Mesh", "", "doomed")}), 400, []string{"put[0].mesh: mesh of name doomed is not found", "put[1].mesh: mesh of name doomed is not found"}},
		"nothing to delete": {batchOf([]string{fresh}, []string{keyOf("Timeout", "default", "u")}), 404, []string{"delete[0].name: there is no Timeout default/u"}},
		"and more":          {batchOf([]string{policyIn("nowhere", "u", "1s")}, []string{keyOf("Timeout", "default", "u")}), 400, []string{"put[0].mesh: mesh of name nowhere is not found", "delete[0].name: there is no Timeout default/u"}},
		"dataplanes left":   {batchOf(nil, []string{keyOf("Mesh", "", "default")}), 400, []string{"delete[0].mesh: unable to delete mesh, there are still 1 dataplanes attached"}},
		"written elsewhere": {batchOf([]string{fresh, `{"type":"Dataplane","mesh":"default","name":"e"}`}, []string{keyOf("Dataplane", "default", "d")}), 405, []string{"put[1].type: *", "delete[0].type: *"}},
		"written nowhere":   {batchOf(nil, []string{keyOf("ZoneInsight", "", "d")}), 405, []string{"delete[0].type: *"}},
		"too many":          {batchOf(slicesOf(21, fresh), nil), 413, nil},
		"too large":         {batchOf([]string{policyIn("default", strings.Repeat("x", 4096), "1s")}, nil), 413, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := p.store.Config().View().Revision()
			a := p.must(p.put("/batch", c.body), c.status)
			var got []string
			for i, x := range p.problem(a).Causes {
				if i < len(c.causes) && strings.HasSuffix(c.causes[i], ": *") {
					x.Message = "*"
				}
				got = append(got, x.Field+": "+x.Message)
			}
			if diff := cmp.Diff(c.causes, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
			if p.store.Config().View().Revision() != before {
				t.Error("something was written")
			}
		})
	}
	for _, c := range []struct {
		contentType string
		status      int
	}{{"text/plain", 415}, {"", 200}} {
		p.must(p.do("PUT", "/batch", "{}", "Content-Type", c.contentType), c.status)
	}
	p.must(p.do("GET", "/batch", ""), 405)
	p.must(p.put("/meshes/default/batch", "{}"), 404)
	p.must(p.put("/batch?dryRun=x", "{}"), 400)
}

func slicesOf(n int, s string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func TestBatchRights(t *testing.T) {
	p := start(t, setup{})
	secret := `{"type":"Secret","mesh":"default","name":"s","data":"eA=="}`
	fresh := policyIn("default", "fresh", "1s")
	p.as = &auth.Caller{User: &auth.UserToken{Name: "w", Role: auth.RoleWriter}}
	a := p.must(p.put("/batch", batchOf([]string{fresh, secret}, []string{keyOf("GlobalSecret", "", "x")})), 403)
	var fields []string
	for _, c := range p.problem(a).Causes {
		fields = append(fields, c.Field)
	}
	if diff := cmp.Diff([]string{"put[1].type", "delete[0].type"}, fields); diff != "" {
		t.Error(diff)
	}
	p.must(p.put("/batch", batchOf([]string{fresh}, nil)), 200)
	p.as = &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1"), TLS: true}
	p.must(p.put("/batch", "{"), 403)
	p.as = &auth.Caller{User: &auth.UserToken{Name: "a", Role: auth.RoleAdmin}}
	p.must(p.put("/batch", batchOf([]string{secret}, nil)), 200)
}

// TestBatchOfDataplanes: a mesh may go together with its dataplanes, but not with one that came meanwhile.
func TestBatchOfDataplanes(t *testing.T) {
	p := start(t, setup{api: api.Options{Mode: api.Standalone}})
	p.mesh("m")
	p.must(p.put("/meshes/m/dataplanes/a", dataplane), 201)
	p.must(p.put("/meshes/m/dataplanes/b", dataplane), 201)
	mesh, a, b := keyOf("Mesh", "", "m"), keyOf("Dataplane", "m", "a"), keyOf("Dataplane", "m", "b")
	p.must(p.put("/batch", batchOf(nil, []string{mesh, a})), 400)
	p.must(p.put("/batch", batchOf(nil, []string{a, mesh, b})), 200)
	if left := namesIn(p, "m"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestBatchAgainstOthers(t *testing.T) {
	var h *hooked
	p := start(t, setup{api: api.Options{Mode: api.Standalone}, wrap: func(s store.Store) store.Store { h = &hooked{Store: s}; return h }})
	p.mesh("m")
	p.must(p.put("/meshes/m/dataplanes/a", dataplane), 201)
	// once is what others write between a batch's decision and its commit.
	once := func(b func(store.Batch) bool, meanwhile func()) {
		done := false
		h.hook = func(batch store.Batch) error {
			if !done && b(batch) {
				done = true
				meanwhile()
			}
			return nil
		}
	}
	once(func(b store.Batch) bool { return len(b.DeleteScopes) > 0 }, func() {
		p.must(p.put("/meshes/m/dataplanes/b", dataplane), 201)
	})
	a := p.must(p.put("/batch", batchOf(nil, []string{keyOf("Mesh", "", "m"), keyOf("Dataplane", "m", "a")})), 400)
	if got := p.problem(a).Causes; len(got) != 1 || got[0].Message != "unable to delete mesh, there are still 1 dataplanes attached" {
		t.Errorf("%+v", got)
	}
	p.must(p.do("GET", "/meshes/m/dataplanes/a", ""), 200)

	// What it says of a resource is what it did to it.
	once(func(b store.Batch) bool { return len(b.Puts) == 2 }, func() {
		p.must(p.put("/meshes/m/timeouts/t", timeout), 201)
	})
	a = p.must(p.put("/batch", batchOf([]string{policyIn("m", "t", "7s"), policyIn("m", "u", "7s")}, nil)), 200)
	if got := p.batch(a).Results; got[0]["result"] != "unchanged" || got[1]["result"] != "created" {
		t.Error(got)
	}
	once(func(b store.Batch) bool { return len(b.Puts) == 1 && b.Puts[0].Key.Name == "v" }, func() {
		p.must(p.do("DELETE", "/meshes/m/dataplanes/a", ""), 200)
		p.must(p.do("DELETE", "/meshes/m/dataplanes/b", ""), 200)
		p.must(p.do("DELETE", "/meshes/m", ""), 200)
	})
	p.must(p.put("/batch", batchOf([]string{policyIn("m", "v", "7s")}, nil)), 400)
	if left := namesIn(p, "m"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestBatchOfZones: what came from each zone goes with it, and would have to be sent anew.
func TestBatchOfZones(t *testing.T) {
	p := start(t, setup{})
	var deletes []string
	for _, zone := range []string{"zone-1", "zone-2"} {
		p.must(p.put("/zones/"+zone, `{"enabled":true}`), 201)
		p.seed(resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: zone + ".d"}, resource.Origin(zone), nil)
		p.seed(resource.Key{Kind: resource.KindDataplaneInsight, Scope: "default", Name: zone + ".d"}, resource.Origin(zone), nil)
		for _, log := range []store.Log{p.store.Config(), p.store.Status()} {
			if _, err := log.Apply(t.Context(), store.Batch{Cursor: &store.CursorMove{Peer: zone, To: store.Cursor{Store: "s", Epoch: "e", Revision: 7}}}); err != nil {
				t.Fatal(err)
			}
		}
		deletes = append(deletes, keyOf("Zone", "", zone))
	}
	before := p.store.Config().View().Revision()
	p.must(p.put("/batch", batchOf(nil, deletes)), 200)
	if now := p.store.Config().View().Revision(); now != before+1 {
		t.Errorf("from revision %s to %s", before, now)
	}
	for _, v := range []store.View{p.store.Config().View(), p.store.Status().View()} {
		for _, zone := range []string{"zone-1", "zone-2"} {
			if c, _ := v.Cursor(zone); c != (store.Cursor{}) {
				t.Errorf("cursor of %s: %+v", zone, c)
			}
			for o := range v.Scan(store.Everything()) {
				if o.Origin == resource.Origin(zone) {
					t.Errorf("left: %s", o.Key)
				}
			}
		}
	}
}

// TestBatchWithAuthority: a mesh, its provided CA and the secrets of that come and go together.
func TestBatchWithAuthority(t *testing.T) {
	p := start(t, setup{})
	cert, key := providedFiles(t).read(t)
	secret := func(name string, data []byte) string {
		return fmt.Sprintf(`{"type":"Secret","mesh":"m","name":%q,"data":%q}`, name, base64.StdEncoding.EncodeToString(data))
	}
	mesh := `{"type":"Mesh","name":"m","mtls":{"enabledBackend":"p","backends":[{"name":"p","type":"provided","conf":{"cert":{"secret":"c"},"key":{"secret":"k"}}}]}}`
	a := p.must(p.put("/batch", batchOf([]string{mesh, secret("k", key)}, nil)), 400)
	if got := p.problem(a).Causes; len(got) == 0 || !strings.HasPrefix(got[0].Field, "put[0].mtls.backends[0].c") {
		t.Errorf("%+v", got)
	}
	p.must(p.put("/batch", batchOf([]string{secret("k", key), mesh, secret("c", cert)}, nil)), 200)
	p.must(p.put("/batch", batchOf(nil, []string{keyOf("Secret", "m", "c")})), 400)
	p.must(p.put("/batch", batchOf([]string{secret("k", []byte("x"))}, nil)), 400)
	p.must(p.put("/batch", batchOf([]string{`{"type":"Mesh","name":"m"}`}, []string{keyOf("Secret", "m", "c"), keyOf("Secret", "m", "k")})), 200)
}

// TestBatchKeepsKeys: a signing key that comes with its mesh, as in an export, is the one that the mesh has.
func TestBatchKeepsKeys(t *testing.T) {
	p := start(t, setup{})
	der, err := auth.NewRSAKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.ParseSigningKey(der)
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf(`{"type":"Secret","mesh":"m","name":"dataplane-token-signing-key-m","data":%q}`, base64.StdEncoding.EncodeToString(der))
	p.must(p.put("/batch", batchOf([]string{secret, `{"type":"Mesh","name":"m"}`}, nil)), 200)
	var ids []string
	for o := range p.store.Config().View().Scan(store.InScope(resource.KindPublicKey, "m")) {
		ids = append(ids, o.Key.Name)
	}
	if diff := cmp.Diff([]string{key.ID}, ids); diff != "" {
		t.Error(diff)
	}
}

// TestBatchesAtOnce: what many batches write to the same keys is at each revision the whole of one of them.
func TestBatchesAtOnce(t *testing.T) {
	p := start(t, setup{})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			connect := fmt.Sprintf("%ds", w+1)
			for range 10 {
				a := p.put("/batch", batchOf([]string{policyIn("default", "a", connect), policyIn("default", "b", connect)}, nil))
				if a.status != 200 && a.status != 409 {
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for looks := 0; ; looks++ {
		v := p.store.Config().View()
		a, okA := v.Get(resource.Key{Kind: "Timeout", Scope: "default", Name: "a"})
		b, okB := v.Get(resource.Key{Kind: "Timeout", Scope: "default", Name: "b"})
		if okA != okB || okA && (string(a.Spec) != string(b.Spec) || a.Revision != b.Revision) {
			t.Fatal("half of a batch is there")
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// TestBatchOfStrangers: who may write nothing takes no turn from those who may, for as long as a body takes.
func TestBatchOfStrangers(t *testing.T) {
	for name, c := range map[string]struct {
		setup  setup
		as     *auth.Caller
		status int
	}{
		"nobody":           {setup{}, &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1"), TLS: true}, http.StatusForbidden},
		"no user":          {setup{}, &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1"), TLS: true, Authorization: []string{"Bearer x"}}, http.StatusUnauthorized},
		"nothing is taken": {setup{api: api.Options{ReadOnly: true}}, nil, http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, c.setup)
			p.as = c.as
			w := httptest.NewRecorder()
			p.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/batch", unread{t}))
			if w.Code != c.status {
				t.Errorf("%d: %s", w.Code, w.Body)
			}
		})
	}
}
