package gateway_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// hooked is a store whose config writes pass a hook first.
type hooked struct {
	store.Store
	hook func(store.Batch) error
}

func (h *hooked) Config() store.Log { return &hookedLog{h.Store.Config(), h} }

type hookedLog struct {
	store.Log
	h *hooked
}

func (l *hookedLog) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	if l.h.hook != nil {
		if err := l.h.hook(b); err != nil {
			return store.Result{}, err
		}
	}
	return l.Log.Apply(ctx, b)
}

type listBody struct {
	Total int
	Items []struct{ Type, Mesh, Name string }
	Next  *string
}

func (p *plane) list(path string) listBody {
	p.t.Helper()
	a := p.must(p.do("GET", path, ""), 200)
	var l listBody
	if err := json.Unmarshal([]byte(a.body), &l); err != nil {
		p.t.Fatalf("%v: %s", err, a.body)
	}
	return l
}

func (l listBody) names() []string {
	out := []string{}
	for _, i := range l.Items {
		out = append(out, i.Mesh+"/"+i.Name)
	}
	return out
}

func TestPaging(t *testing.T) {
	p := start(t, setup{})
	p.mesh("a")
	for _, n := range []string{"2", "1", "3"} {
		p.must(p.put("/meshes/default/timeouts/d"+n, timeout), 201)
		p.must(p.put("/meshes/a/timeouts/a"+n, timeout), 201)
	}
	for _, tc := range []struct {
		path, want string
		next       bool
	}{
		{"/timeouts", "a/a1 a/a2 a/a3 default/d1 default/d2 default/d3", false},
		{"/timeouts?size=0", "a/a1 a/a2 a/a3 default/d1 default/d2 default/d3", false},
		{"/timeouts?size=6", "a/a1 a/a2 a/a3 default/d1 default/d2 default/d3", false},
		{"/timeouts?size=5", "a/a1 a/a2 a/a3 default/d1 default/d2", true},
		{"/timeouts?size=2&offset=3", "default/d1 default/d2", true},
		{"/timeouts?offset=99", "", false},
		{"/meshes/default/timeouts?size=2", "default/d1 default/d2", true},
	} {
		l := p.list(tc.path)
		if got := strings.Join(l.names(), " "); got != tc.want || (l.Next != nil) != tc.next {
			t.Errorf("%s: %s, next %v", tc.path, got, l.Next)
		}
		if want := 6; !strings.HasPrefix(tc.path, "/meshes") && l.Total != want {
			t.Errorf("%s: total %d", tc.path, l.Total)
		}
	}

	next := *p.list("/timeouts/?size=2&z=1&tag=a:b").Next
	u, err := url.Parse(next)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(next, p.url+"/timeouts/?offset=") || u.Query().Get("tag") != "a:b" || !strings.HasSuffix(u.RawQuery, "&size=2&tag=a%3Ab&z=1") {
		t.Errorf("next is %s", next)
	}
}

func TestPagingSurvivesWrites(t *testing.T) {
	p := start(t, setup{})
	for i := range 20 {
		p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: fmt.Sprintf("t%02d", 2*i)}, resource.Local, nil)
	}
	var seen []string
	path := "/meshes/default/timeouts?size=3"
	for i := 0; path != ""; i++ {
		l := p.list(path)
		seen = append(seen, l.names()...)
		path = ""
		if l.Next != nil {
			path = strings.TrimPrefix(*l.Next, p.url)
		}
		// One goes and one comes on the pages that were read, and the last item that was read goes.
		p.do("DELETE", fmt.Sprintf("/meshes/default/timeouts/t%02d", 2*i), "")
		p.do("DELETE", strings.Replace("/meshes/"+seen[len(seen)-1], "default/", "default/timeouts/", 1), "")
		p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: fmt.Sprintf("a%02d", i)}, resource.Local, nil)
	}
	want := []string{}
	for i := range 20 {
		want = append(want, fmt.Sprintf("default/t%02d", 2*i))
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

func TestPageEndsAtItsBytes(t *testing.T) {
	p := start(t, setup{api: api.Options{MaxPageBytes: 1 << 20}})
	spec := &systemv1.Secret{Data: wrapperspb.Bytes(make([]byte, 12<<10))}
	for i := range 80 {
		p.seed(resource.Key{Kind: resource.KindGlobalSecret, Name: fmt.Sprintf("s%02d", i)}, resource.Local, spec)
	}
	first := p.list("/global-secrets")
	if first.Next == nil || first.Total != 80 || len(first.Items) == 0 || len(first.Items) == 80 {
		t.Fatalf("%d of %d items, next %v", len(first.Items), first.Total, first.Next)
	}
	rest := p.list(strings.TrimPrefix(*first.Next, p.url))
	if len(first.Items)+len(rest.Items) != 80 || rest.Next != nil {
		t.Errorf("%d and %d items", len(first.Items), len(rest.Items))
	}
}

func TestMeshBirthAndDeath(t *testing.T) {
	p := start(t, setup{bare: true})
	before := p.store.Config().View().Revision()
	if got := revision(t, p.must(p.put("/meshes/m1", `{}`), 201)); got != uint64(before)+1 {
		t.Errorf("a mesh and what it brings took revision %d after %s", got, before)
	}
	if got := p.list("/meshes/m1/secrets").names(); !slices.Equal(got, []string{"m1/dataplane-token-signing-key-m1", "m1/envoy-admin-client-token-signing-key-m1"}) {
		t.Error(got)
	}
	for _, path := range []string{"traffic-permissions/allow-all-m1", "traffic-routes/route-all-m1", "timeouts/timeout-all-m1", "retries/retry-all-m1"} {
		p.must(p.do("GET", "/meshes/m1/"+path, ""), 200)
	}
	if n := p.store.Config().View().Count(store.InScope(resource.KindPublicKey, "m1")); n != 1 {
		t.Errorf("%d public keys", n)
	}
	// The defaults come once: what was deleted stays so.
	p.must(p.do("DELETE", "/meshes/m1/timeouts/timeout-all-m1", ""), 200)
	p.must(p.put("/meshes/m1", `{"networking":{"outbound":{"passthrough":false}}}`), 200)
	p.must(p.do("GET", "/meshes/m1/timeouts/timeout-all-m1", ""), 404)

	dp := resource.Key{Kind: resource.KindDataplane, Scope: "m1", Name: "zone-1.d"}
	p.seed(dp, "zone-1", &meshv1.Dataplane{})
	insight := resource.Key{Kind: resource.KindDataplaneInsight, Scope: "m1", Name: "zone-1.d"}
	p.seed(insight, "zone-1", nil)
	got := p.problem(p.must(p.do("DELETE", "/meshes/m1", ""), 400))
	if got.Title != "Could not delete a resource" || len(got.Causes) != 1 || got.Causes[0].Field != "mesh" {
		t.Errorf("%+v", got)
	}
	if _, err := p.store.Config().Apply(t.Context(), store.Batch{Deletes: []resource.Key{dp}}); err != nil {
		t.Fatal(err)
	}
	p.must(p.do("DELETE", "/meshes/m1", ""), 200)
	for o := range p.store.Config().View().Scan(store.Everything()) {
		t.Errorf("left: %s", o.Key)
	}
	if p.has(insight) {
		t.Error("the insight is left")
	}
}

func TestBackendSwitchIsRefused(t *testing.T) {
	p := start(t, setup{})
	mesh := func(enabled string) string {
		return `{"mtls":{"enabledBackend":"` + enabled + `","backends":[{"name":"a","type":"builtin"},{"name":"b","type":"builtin"}]}}`
	}
	p.must(p.put("/meshes/default", mesh("a")), 200)
	got := p.problem(p.must(p.put("/meshes/default", mesh("b")), 400))
	if got.Title != "Could not update a resource" || len(got.Causes) != 1 || got.Causes[0].Field != "mtls.enabledBackend" {
		t.Errorf("%+v", got)
	}
	p.must(p.put("/meshes/default", mesh("")), 200)
	p.must(p.put("/meshes/default", mesh("b")), 200)
}

func TestSecretsInUse(t *testing.T) {
	p := start(t, setup{})
	const mesh = `{"mtls":{"enabledBackend":"p","backends":[{"name":"p","type":"provided","conf":{"cert":{"secret":"c"},"key":{"secret":"k"}}}]}}`
	got := p.problem(p.must(p.put("/meshes/default", mesh), 400))
	if len(got.Causes) != 2 || got.Causes[0].Field != "mtls.backends[0].config.cert" || got.Causes[1].Field != "mtls.backends[0].config.key" {
		t.Errorf("%+v", got)
	}
	p.must(p.put("/meshes/default", strings.Replace(mesh, `"enabledBackend":"p",`, "", 1)), 200)
	p.must(p.put("/meshes/default/secrets/c", `{"data":"AA=="}`), 201)
	p.must(p.put("/meshes/default/secrets/k", `{"data":"AA=="}`), 201)
	p.must(p.put("/meshes/default/secrets/free", `{"data":"AA=="}`), 201)
	unreadable := func(mesh string) {
		t.Helper()
		got := p.problem(p.must(p.put("/meshes/default", mesh), 400))
		if len(got.Causes) != 2 || got.Causes[0].Field != "mtls.backends[0].config.cert" || got.Causes[1].Field != "mtls.backends[0].config.key" {
			t.Errorf("%+v", got)
		}
	}
	unreadable(mesh)
	dir := t.TempDir()
	if _, err := auth.EnsureServerCertificate(dir); err != nil {
		t.Fatal(err)
	}
	ca := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	p.must(p.put("/meshes/default/secrets/c", `{"data":"`+ca("ca.crt")+`"}`), 200)
	p.must(p.put("/meshes/default/secrets/k", `{}`), 200)
	unreadable(mesh)
	unreadable(strings.Replace(mesh, `"cert":{"secret":"c"}`, `"cert":{"inline":"`+ca("server.crt")+`"}`, 1))
	p.must(p.put("/meshes/default/secrets/k", `{"data":"`+ca("ca.key")+`"}`), 200)
	p.must(p.put("/meshes/default", strings.Replace(mesh, `"cert":{"secret":"c"}`, `"cert":{"inline":"`+ca("ca.crt")+`"}`, 1)), 200)
	p.must(p.put("/meshes/default", mesh), 200)
	for _, name := range []string{"c", "k"} {
		got := p.problem(p.must(p.do("DELETE", "/meshes/default/secrets/"+name, ""), 400))
		if got.Title != "Could not delete a resource" || len(got.Causes) != 1 || got.Causes[0].Field != "name" {
			t.Errorf("%+v", got)
		}
	}
	p.must(p.do("DELETE", "/meshes/default/secrets/free", ""), 200)
	p.must(p.put("/meshes/default", `{}`), 200)
	p.must(p.do("DELETE", "/meshes/default/secrets/c", ""), 200)
}

func TestPublicKeyFollowsItsSecret(t *testing.T) {
	p := start(t, setup{bare: true})
	p.must(p.put("/meshes/m", `{}`), 201)
	ids := func() (out []string) {
		for o := range p.store.Config().View().Scan(store.InScope(resource.KindPublicKey, "m")) {
			out = append(out, o.Key.Name)
		}
		return out
	}
	first := ids()
	data, err := auth.NewRSAKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.ParseSigningKey(data)
	if err != nil {
		t.Fatal(err)
	}
	const path = "/meshes/m/secrets/dataplane-token-signing-key-m"
	p.must(p.put(path, `{"data":"`+base64.StdEncoding.EncodeToString(data)+`"}`), 200)
	if got := ids(); !slices.Equal(got, []string{key.ID}) || slices.Equal(got, first) {
		t.Errorf("%v after %v, want %s", got, first, key.ID)
	}
	p.must(p.put(path, `{"data":"AAAA"}`), 200)
	if got := ids(); len(got) != 0 {
		t.Errorf("bytes that are no key have a public half: %v", got)
	}
	p.must(p.do("POST", "/tokens", `{"mesh":"m"}`), 404)
	p.must(p.put(path, `{"data":"`+base64.StdEncoding.EncodeToString(data)+`"}`), 200)
	p.must(p.do("DELETE", path, ""), 200)
	if got := ids(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func subscription(open bool) *systemv1.KDSSubscription {
	s := &systemv1.KDSSubscription{Id: "s", ConnectTime: timestamppb.New(time.Unix(1, 0)), Address: "10.0.0.1:4444"}
	if !open {
		s.DisconnectTime = timestamppb.New(time.Unix(2, 0))
	}
	return s
}

func TestZoneDeath(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/zones/zone-1", `{}`), 201)
	p.must(p.put("/zones/zone-10", `{}`), 201)
	insight := resource.Key{Kind: resource.KindZoneInsight, Name: "zone-1"}
	p.seed(insight, resource.Local, &systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{subscription(false), subscription(true)}})
	theirs := []resource.Key{
		{Kind: resource.KindDataplane, Scope: "default", Name: "zone-1.d"},
		{Kind: resource.KindSyncRejection, Name: "zone-1.Timeout/default/t"},
		{Kind: resource.KindDataplaneInsight, Scope: "default", Name: "zone-1.d"},
		{Kind: resource.KindProxyPosition, Scope: "default", Name: "zone-1.d"},
		{Kind: resource.KindProxyRejection, Name: "zone-1.Timeout/default/t"},
		{Kind: resource.KindZonePosition, Name: "zone-1.self"},
	}
	for _, k := range theirs {
		p.seed(k, "zone-1", nil)
	}
	other := resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "zone-10.d"}
	p.seed(other, "zone-10", nil)
	at := store.Cursor{Store: "z", Epoch: "e", Revision: 7}
	for _, log := range []store.Log{p.store.Config(), p.store.Status()} {
		if _, err := log.Apply(t.Context(), store.Batch{Cursor: &store.CursorMove{Peer: "zone-1", To: at}}); err != nil {
			t.Fatal(err)
		}
	}

	got := p.problem(p.must(p.do("DELETE", "/zones/zone-1", ""), 400))
	if len(got.Causes) != 1 || got.Causes[0].Field != "zone" {
		t.Errorf("%+v", got)
	}
	p.seed(insight, resource.Local, &systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{subscription(false)}})
	p.must(p.do("DELETE", "/meshes/default/zones/zone-1", ""), 200)
	for _, k := range append(theirs, insight) {
		if p.has(k) {
			t.Errorf("left: %s", k)
		}
	}
	if !p.has(other) {
		t.Error("another zone's dataplane is gone")
	}
	for _, v := range []store.View{p.store.Config().View(), p.store.Status().View()} {
		if c, _ := v.Cursor("zone-1"); c != (store.Cursor{}) {
			t.Errorf("what the zone had sent counts as taken still: %+v", c)
		}
	}
}

func TestGuardsHoldUnderRaces(t *testing.T) {
	// Between the decision and the write the mesh goes.
	var p *plane
	var once sync.Once
	p = start(t, setup{wrap: func(s store.Store) store.Store {
		h := &hooked{Store: s}
		h.hook = func(b store.Batch) error {
			if len(b.Puts) == 1 && b.Puts[0].Key.Kind == resource.KindTimeout {
				once.Do(func() {
					_, err := s.Config().Apply(t.Context(), store.Batch{Deletes: []resource.Key{{Kind: resource.KindMesh, Name: "default"}}})
					if err != nil {
						t.Error(err)
					}
				})
			}
			return nil
		}
		return h
	}})
	got := p.problem(p.must(p.put("/meshes/default/timeouts/t", timeout), 400))
	if got.Details != "Mesh is not found" {
		t.Errorf("%+v", got)
	}
}

func TestOneOfManyCreates(t *testing.T) {
	p := start(t, setup{})
	var wg sync.WaitGroup
	answers := make([]answer, 32)
	for i := range answers {
		wg.Go(func() { answers[i] = p.put("/meshes/default/timeouts/t", timeout) })
	}
	wg.Wait()
	created, seen := 0, map[uint64]bool{}
	for _, a := range answers {
		if a.status == 201 {
			created++
		} else if a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		seen[revision(t, a)] = true
	}
	if created != 1 || len(seen) != len(answers) {
		t.Errorf("%d created, %d revisions", created, len(seen))
	}
}

func TestPolicyAgainstMesh(t *testing.T) {
	p := start(t, setup{bare: true})
	var wg sync.WaitGroup
	for round := range 50 {
		p.mesh("m")
		for i := range 4 {
			wg.Go(func() {
				if a := p.put(fmt.Sprintf("/meshes/m/timeouts/t%d", i), timeout); a.status != 201 && a.status != 400 {
					t.Errorf("PUT: %d %s", a.status, a.body)
				}
			})
		}
		wg.Go(func() {
			if a := p.do("DELETE", "/meshes/m", ""); a.status != 200 {
				t.Errorf("DELETE: %d %s", a.status, a.body)
			}
		})
		wg.Wait()
		for o := range p.store.Config().View().Scan(store.Everything()) {
			t.Fatalf("round %d: orphan %s", round, o.Key)
		}
	}
}

func TestStoreFaults(t *testing.T) {
	var h *hooked
	p := start(t, setup{wrap: func(s store.Store) store.Store { h = &hooked{Store: s}; return h }})
	for _, tc := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("write: %w", store.ErrNoSpace), 503},
		{store.ErrClosed, 503},
		{&store.ConflictError{}, 409},
		{store.ErrCorrupt, 500},
	} {
		tries := 0
		h.hook = func(store.Batch) error { tries++; return tc.err }
		a := p.must(p.put("/meshes/default/timeouts/t", timeout), tc.status)
		if got := p.problem(a); got.Title == "" || got.Details == "" {
			t.Errorf("%v: %s", tc.err, a.body)
		}
		if tc.status == 409 && tries < 2 || tries > 100 {
			t.Errorf("%d tries", tries)
		}
		if strings.Contains(a.body, tc.err.Error()) && tc.status == 500 {
			t.Errorf("an internal error shows: %s", a.body)
		}
	}
	h.hook = nil
	p.must(p.do("GET", "/meshes/default", ""), 200)
}

func TestMinRevision(t *testing.T) {
	p := start(t, setup{})
	r := revision(t, p.must(p.put("/meshes/default/timeouts/t", timeout), 201))
	for _, path := range []string{"/meshes/default/timeouts/t", "/timeouts", "/status/zones", "/zones+insights", "/dataplanes+insights", "/rejections"} {
		p.must(p.do("GET", path, "", "Meridian-Min-Revision", fmt.Sprint(r)), 200)
	}
	done := make(chan answer)
	go func() {
		done <- p.do("GET", "/meshes/default/timeouts/late", "", "Meridian-Min-Revision", fmt.Sprint(r+1))
	}()
	p.must(p.put("/meshes/default/timeouts/late", timeout), 201)
	p.must(<-done, 200)
}

func TestMinRevisionGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plane{t: t, store: newMemory(t)}
		svc, err := api.New(api.Options{Store: p.store, Table: resource.NewTable(), Mode: api.Global, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("meridian-min-revision", "1000"))
		_, err = svc.List(ctx, &apiv1.ListRequest{Plural: "meshes"})
		if status.Code(err) != codes.Unavailable || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestAdminRules(t *testing.T) {
	local := auth.Caller{Remote: netip.MustParseAddrPort("127.0.0.1:1"), Host: "localhost:5681"}
	remote := auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1"), Host: "cp:5681"}
	page := local
	page.Origin = "http://evil.example"
	cert := remote
	cert.TLS, cert.Certificate = true, &x509.Certificate{}
	off := auth.AdminPolicy{AllowRemoteWrites: true}
	on := auth.AdminPolicy{AllowFromLocalhost: true}
	open := auth.AdminPolicy{AllowFromLocalhost: true, AllowRemoteWrites: true}
	zone := api.Options{Mode: api.Zone, Zone: "zone-1"}
	const secret, global, policy, dp = "/meshes/default/secrets/s", "/global-secrets/s", "/meshes/default/timeouts/t", "/meshes/default/dataplanes/d"
	bodies := map[string]string{secret: `{"data":"AA=="}`, global: `{"type":"Secret","data":"AA=="}`, policy: timeout, dp: dataplane, "/tokens": `{"mesh":"none"}`, "/tokens/zone": `{"zone":"zone-1"}`}
	for _, tc := range []struct {
		name         string
		o            api.Options
		policy       auth.AdminPolicy
		as           auth.Caller
		method, path string
		status       int
	}{
		{"local writes a secret", api.Options{}, on, local, "PUT", secret, 201},
		{"local reads secrets", api.Options{}, on, local, "GET", "/secrets", 200},
		{"local writes a global secret", api.Options{}, on, local, "PUT", global, 201},
		{"localhost is not allowed", api.Options{}, off, local, "PUT", secret, 403},
		{"localhost is not allowed to read", api.Options{}, off, local, "GET", "/meshes/default/secrets", 403},
		{"a page is not localhost", api.Options{}, on, page, "GET", secret, 403},
		{"a page writes no policy", api.Options{}, on, page, "PUT", policy, 403},
		{"remote reads no secret", api.Options{}, on, remote, "GET", global, 403},
		{"remote lists no secret", api.Options{}, on, remote, "GET", "/global-secrets", 403},
		{"remote deletes no secret", api.Options{}, open, remote, "DELETE", secret, 403},
		{"remote reads a policy", api.Options{}, on, remote, "GET", "/timeouts", 200},
		{"remote writes no policy", api.Options{}, on, remote, "PUT", policy, 403},
		{"remote writes allowed", api.Options{}, open, remote, "PUT", policy, 201},
		{"remote writes allowed, secrets not", api.Options{}, open, remote, "PUT", secret, 403},
		{"certificate writes a secret", api.Options{}, on, cert, "PUT", secret, 201},
		{"certificate writes a policy", api.Options{}, on, cert, "PUT", policy, 201},
		{"read-only comes before who", api.Options{ReadOnly: true}, on, remote, "PUT", secret, 405},
		{"nobody", api.Options{}, on, auth.Caller{}, "PUT", policy, 403},
		{"tokens from remote", api.Options{}, on, remote, "POST", "/tokens", 403},
		{"zone tokens from remote", api.Options{}, on, remote, "PUT", "/tokens/zone", 403},
		{"tokens from local", api.Options{}, on, local, "POST", "/tokens", 404},
		{"tokens by certificate", api.Options{}, on, cert, "PUT", "/tokens", 404},
		{"a zone shows no secret", zone, on, local, "GET", "/secrets", 403},
		{"a zone shows secrets to a certificate", zone, on, cert, "GET", "/secrets", 200},
		{"a zone takes local dataplanes", zone, on, local, "PUT", dp, 201},
		{"a zone takes no remote dataplanes", zone, on, remote, "PUT", dp, 403},
		{"a zone gives no zone tokens", zone, on, local, "POST", "/tokens/zone", 405},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := tc.o
			o.Policy = tc.policy
			p := start(t, setup{api: o})
			p.as = &tc.as
			a := p.must(p.do(tc.method, tc.path, bodies[tc.path], "Content-Type", "application/json"), tc.status)
			if tc.status == 403 && (a.header.Get("Content-Type") != "text/plain" || a.body == "") {
				t.Errorf("%q %q", a.header.Get("Content-Type"), a.body)
			}
		})
	}
	p := start(t, setup{})
	p.must(p.put(global, bodies[global]), 201)
	if a := p.do("GET", global, ""); !strings.Contains(a.body, `"type": "GlobalSecret"`) {
		t.Error(a.body)
	}
}

func TestNoHeaderMakesAnAdmin(t *testing.T) {
	p := start(t, setup{})
	p.as = &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1")}
	a := p.do("DELETE", "/meshes/default", "", "X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1", "Forwarded", "for=127.0.0.1",
		"Grpc-Metadata-Meridian-Min-Revision", "x", "Grpc-Timeout", "1n", "X-Http-Method-Override", "GET", "Authorization", "x")
	p.must(a, 403)
}

func TestDataplaneTokens(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	clock := func() time.Time { return now }
	p := start(t, setup{bare: true, api: api.Options{Now: clock}})
	p.must(p.put("/meshes/m", `{}`), 201)
	a := p.must(p.do("PUT", "/tokens", `{"name":"d","mesh":"m","tags":{"kuma.io/service":["web","api"]},"type":"ingress","validFor":"1h"}`), 200)
	if a.header.Get("Content-Type") != "text/plain" {
		t.Error(a.header)
	}
	token, err := auth.VerifyDataplaneToken(a.body, publicKeys(t, p, "m"), now)
	if err != nil {
		t.Fatal(err)
	}
	want := auth.DataplaneClaims{Name: "d", Mesh: "m", Tags: map[string][]string{"kuma.io/service": {"api", "web"}}, Type: "ingress"}
	if diff := cmp.Diff(want, token.DataplaneClaims); diff != "" || !token.Expires.Equal(now.Add(time.Hour)) {
		t.Error(diff, token.Expires)
	}
	// What follows the object would be dropped silently.
	p.must(p.do("POST", "/tokens", `{"mesh":"m"}{"validFor":"1h"}`), 400)
	a = p.must(p.do("POST", "/tokens", `{"mesh":"m"}`), 200)
	if token, err = auth.VerifyDataplaneToken(a.body, publicKeys(t, p, "m"), now); err != nil || !token.Expires.Equal(now.Add(87600*time.Hour)) {
		t.Error(err, token.Expires)
	}

	// A zone that has joined makes a key of its own, once.
	p = start(t, setup{api: api.Options{Mode: api.Zone, Zone: "zone-1", Now: clock}})
	p.must(p.do("POST", "/tokens", `{"mesh":"none"}`), 404)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			a := p.do("POST", "/tokens", `{"name":"d","mesh":"default"}`)
			if _, err := auth.VerifyDataplaneToken(a.body, publicKeys(t, p, "default"), now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.store.Config().View().Count(store.OfKind(resource.KindPublicKey)); n != 1 {
		t.Errorf("%d keys", n)
	}
}

func publicKeys(t testing.TB, p *plane, mesh string) auth.KeySet {
	t.Helper()
	set := auth.KeySet{}
	for o := range p.store.Config().View().Scan(store.InScope(resource.KindPublicKey, mesh)) {
		k, err := resource.Decode[systemv1.PublicKey](o)
		if err != nil {
			t.Error(err)
			continue
		}
		id, key, err := auth.ParsePublicKey(k.GetDer())
		if err != nil || id != o.Key.Name || k.GetUse() != "dataplane" || k.GetKeyId() != id || o.Origin != resource.Local {
			t.Errorf("%v: %s is %s", err, o.Key, id)
		}
		set[id] = key
	}
	return set
}

func TestZoneTokens(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	p := start(t, setup{api: api.Options{Now: func() time.Time { return now }}})
	for body, life := range map[string]time.Duration{`{"zone":"zone-1"}`: 720 * time.Hour, `{"zone":"zone-1","validFor":"87600h"}`: 87600 * time.Hour} {
		a := p.must(p.do("POST", "/tokens/zone", body), 200)
		o, ok := p.store.Config().View().Get(resource.Key{Kind: resource.KindGlobalSecret, Name: "zone-token-signing-key"})
		if !ok {
			t.Fatal("no key")
		}
		secret, err := resource.Decode[systemv1.Secret](o)
		if err != nil {
			t.Fatal(err)
		}
		key, err := auth.ParseSigningKey(secret.GetData().GetValue())
		if err != nil {
			t.Fatal(err)
		}
		token, err := auth.VerifyZoneToken(a.body, auth.KeySet{key.ID: key.Signer.Public()}, now)
		if err != nil || token.Zone != "zone-1" || !token.Expires.Equal(now.Add(life)) {
			t.Errorf("%+v %v", token, err)
		}
	}
	p.must(p.do("GET", "/zones/zone-1", ""), 404)
	p.must(p.put("/global-secrets/zone-token-signing-key", `{"data":"AAAA"}`), 200)
	p.must(p.do("POST", "/tokens/zone", `{"zone":"zone-1"}`), 404)
}

func TestEnsureDefaultMesh(t *testing.T) {
	p := start(t, setup{bare: true})
	if err := p.service.EnsureDefaultMesh(t.Context(), []byte("type: Mesh\nname: default\nnetworking:\n  outbound:\n    passthrough: false\n")); err != nil {
		t.Fatal(err)
	}
	r := p.store.Config().View().Revision()
	if err := p.service.EnsureDefaultMesh(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := p.store.Config().View().Revision(); got != r {
		t.Error("it was made twice")
	}
	if a := p.do("GET", "/meshes/default", ""); !strings.Contains(a.body, `"passthrough": false`) {
		t.Error(a.body)
	}
	p.must(p.do("GET", "/meshes/default/timeouts/timeout-all-default", ""), 200)
	for _, bad := range []string{"name: other", "bogus: 1", "- x", "mtls: {enabledBackend: x}"} {
		q := start(t, setup{bare: true})
		if err := q.service.EnsureDefaultMesh(t.Context(), []byte(bad)); err == nil || !strings.Contains(err.Error(), "defaults.mesh") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
