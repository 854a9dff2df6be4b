package gateway_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// walkOf follows the links of a list, and gives what is on its pages, by mesh and name. between runs after each page.
func (p *plane) walkOf(t testing.TB, path string, size int, between func()) []string {
	var seen []string
	asked, err := url.Parse(path)
	if err != nil {
		t.Error(err)
		return nil
	}
	q := asked.Query()
	q.Set("size", fmt.Sprint(size))
	asked.RawQuery = q.Encode()
	for uri := asked.RequestURI(); uri != ""; {
		res, _ := p.serve(t, "GET", uri, "", "")
		var l listBody
		if err := json.Unmarshal(res.Body.Bytes(), &l); err != nil || res.Code != 200 {
			t.Errorf("%s: %d %s", uri, res.Code, res.Body)
			return seen
		}
		if len(l.Items) > size || l.Total < len(l.Items) {
			t.Errorf("%s: %d items of %d, next %v", uri, len(l.Items), l.Total, l.Next)
		}
		seen = append(seen, l.names()...)
		uri = ""
		if l.Next != nil {
			next, err := url.Parse(*l.Next)
			if err != nil {
				t.Error(err)
				return seen
			}
			left, right := next.Query(), asked.Query()
			left.Del("offset")
			if next.Scheme != "http" || next.Host != "localhost:5681" || next.Path != asked.Path || !cmp.Equal(left, right) {
				t.Errorf("the page after one of %s is %s", asked, *l.Next)
			}
			uri = next.RequestURI()
		}
		between()
	}
	return seen
}

// walkWorld is a global control plane with much that stays, and writes that go on beside it.
type walkWorld struct {
	*plane
	// stays are the items of each list that are there throughout.
	stays  map[string][]string
	rounds atomic.Int64
}

const (
	walkMeshes = 3
	// walkEach is how many policies and dataplanes stay in each mesh.
	walkEach = 400
	walkZone = "zone-1"
	// mostPages are followed of one list.
	mostPages = 90
)

// filterOfWalk selects every other dataplane.
const filterOfWalk = "?gateway=false&tag=" + resource.TagService + "%3Aeven"

func walkMesh(i int) string { return fmt.Sprintf("mesh-%d", i) }

// inBulk writes many objects past the API, a revision for all.
func (w *walkWorld) inBulk(log store.Log, puts ...store.Put) {
	if _, err := log.Apply(w.t.Context(), store.Batch{Puts: puts}); err != nil {
		w.t.Error(err)
	}
}

func walkPut(k resource.Key, origin resource.Origin, spec proto.Message) store.Put {
	b, err := resource.Encode(spec)
	if err != nil {
		panic(err) // a message of this test
	}
	return store.Put{Key: k, Origin: origin, Spec: b}
}

// proxyOf is a dataplane that came from a zone, and what was observed of it.
func proxyOf(mesh, zone, name, service string) (config, status store.Put) {
	k := resource.Key{Kind: resource.KindDataplane, Scope: mesh, Name: zone + "." + name}
	config = walkPut(k, resource.Origin(zone), &meshv1.Dataplane{Networking: &meshv1.Dataplane_Networking{
		Address: "10.0.0.1", Inbound: []*meshv1.Dataplane_Networking_Inbound{{Port: 80, Tags: map[string]string{resource.TagService: service}}},
	}})
	k.Kind = resource.KindDataplaneInsight
	return config, walkPut(k, resource.Origin(zone), streams(true))
}

func newWalkWorld(t *testing.T, s setup) *walkWorld {
	s.bare = true
	w := &walkWorld{plane: start(t, s), stays: map[string][]string{}}
	stay := func(path, mesh, name string) { w.stays[path] = append(w.stays[path], mesh+"/"+name) }
	var config, status []store.Put
	for i := range 60 {
		zone := fmt.Sprintf("zone-%02d", i)
		config = append(config, walkPut(resource.Key{Kind: resource.KindZone, Name: zone}, resource.Local, &systemv1.Zone{}))
		stay("/zones", "", zone)
		stay("/zones+insights", "default", zone)
		status = append(status, walkPut(resource.Key{Kind: resource.KindZoneInsight, Name: zone}, resource.Local, &systemv1.ZoneInsight{}))
		rejected := &systemv1.SyncRejection{Kind: "Timeout", Scope: walkMesh(0), Name: zone, Reason: "is bad"}
		config = append(config, walkPut(resource.Key{Kind: resource.KindSyncRejection, Name: walkZone + ".Timeout/" + walkMesh(0) + "/" + zone}, walkZone, rejected))
		stay("/rejections", walkMesh(0), zone)
	}
	timeout := &meshv1.Timeout{}
	for i := range walkMeshes {
		mesh := walkMesh(i)
		config = append(config, walkPut(resource.Key{Kind: resource.KindMesh, Name: mesh}, resource.Local, &meshv1.Mesh{}))
		stay("/meshes", "", mesh)
		stay("/mesh-insights", "", mesh)
		for j := range walkEach {
			// Each second one is of the same few services, which all stay.
			name, service := fmt.Sprintf("t%04d", j), fmt.Sprintf("s%04d", j)
			if j%2 == 0 {
				service = "even"
				stay("/dataplanes+insights"+filterOfWalk, mesh, walkZone+"."+name)
			} else {
				stay("/service-insights", mesh, service)
			}
			dp, insight := proxyOf(mesh, walkZone, name, service)
			config = append(config, dp, walkPut(resource.Key{Kind: resource.KindTimeout, Scope: mesh, Name: name}, resource.Local, timeout))
			status = append(status, insight)
			stay("/timeouts", mesh, name)
			for _, path := range []string{"/dataplanes", "/dataplanes+insights"} {
				stay(path, mesh, walkZone+"."+name)
			}
			if i == 1 {
				stay("/meshes/"+mesh+"/timeouts", mesh, name)
				stay("/meshes/"+mesh+"/dataplane+insights", mesh, walkZone+"."+name)
			}
		}
		stay("/service-insights", mesh, "even")
	}
	w.stays["/dataplane-insights"] = w.stays["/dataplanes"]
	w.inBulk(w.store.Config(), config...)
	w.inBulk(w.store.Status(), status...)
	return w
}

// write changes something at random that may come and go, or something that stays.
func (w *walkWorld) write() {
	n := w.rounds.Add(1)
	r := rand.New(rand.NewPCG(7, uint64(n)))
	mesh, at := walkMesh(r.IntN(walkMeshes)), r.IntN(walkEach)
	// Names that lie before, between and after those that stay.
	name := []string{"a", fmt.Sprintf("t%04d-between", at), fmt.Sprintf("t%04d-x%d", at, n), "z"}[r.IntN(4)]
	do := func(method, path, body string) {
		res, _ := w.serve(w.t, method, path, "application/json", body)
		// What another one deleted meanwhile is not there, and a mesh may be gone.
		if res.Code != 200 && res.Code != 201 && (method != "DELETE" || res.Code != 404) {
			w.t.Errorf("%s %s: %d %s", method, path, res.Code, res.Body)
		}
	}
	switch r.IntN(9) {
	case 0, 1:
		do("PUT", "/meshes/"+mesh+"/timeouts/"+name, timeoutOf("1s"))
	case 2:
		do("PUT", "/meshes/"+mesh+"/timeouts/"+fmt.Sprintf("t%04d", at), timeoutOf("2s"))
	case 3:
		do("DELETE", "/meshes/"+mesh+"/timeouts/"+name, "")
	case 4, 5: // a proxy comes, or is seen anew
		dp, insight := proxyOf(mesh, walkZone, name, []string{"even", "a", "z", name}[r.IntN(4)])
		w.inBulk(w.store.Config(), dp)
		w.inBulk(w.store.Status(), insight)
	case 6: // it goes
		k := resource.Key{Kind: resource.KindDataplane, Scope: mesh, Name: walkZone + "." + name}
		if _, err := w.store.Config().Apply(w.t.Context(), store.Batch{Deletes: []resource.Key{k}}); err != nil {
			w.t.Error(err)
		}
		k.Kind = resource.KindDataplaneInsight
		if _, err := w.store.Status().Apply(w.t.Context(), store.Batch{Deletes: []resource.Key{k}}); err != nil {
			w.t.Error(err)
		}
	case 7: // a mesh comes and goes with all that is in it
		gone := []string{"mesh-0-x", "a", "z"}[r.IntN(3)] + fmt.Sprint(n)
		w.inBulk(w.store.Config(), walkPut(resource.Key{Kind: resource.KindMesh, Name: gone}, resource.Local, &meshv1.Mesh{}))
		do("PUT", "/meshes/"+gone+"/timeouts/t", timeoutOf("1s"))
		do("DELETE", "/meshes/"+gone, "")
	case 8: // a zone comes and goes with its proxies
		gone := []string{"a", "zone-30-x", "zz"}[r.IntN(3)] + fmt.Sprint(n)
		do("PUT", "/zones/"+gone, `{}`)
		dp, _ := proxyOf(mesh, gone, name, "z")
		w.inBulk(w.store.Config(), dp)
		do("DELETE", "/zones/"+gone, "")
	}
}

// TestWalkDuringWrites follows the pages of all sorts of lists while all sorts of things are written: what was there
// throughout is on exactly one page, and nothing is on two.
func TestWalkDuringWrites(t *testing.T) {
	durable := setup{wrap: func(store.Store) store.Store {
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(t.TempDir(), "cp.db")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}}
	for name, on := range map[string]struct {
		setup
		sizes []int
	}{
		"memory": {setup{}, []int{1, 7, 100, 1000}},
		"sqlite": {durable, []int{30, 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWalkWorld(t, on.setup)
			// Of each list there are pages of one size, and each size is that of several lists; the fewer pages,
			// the more is written between two.
			var walkers sync.WaitGroup
			for path, stays := range w.stays {
				for _, size := range on.sizes {
					if size > 1 && size > len(stays) || len(stays)/size > mostPages {
						continue
					}
					walkers.Go(func() {
						seen := w.walkOf(t, path, size, func() {
							for range 1 + min(size/10, 10) {
								w.write()
							}
						})
						checkWalk(t, fmt.Sprintf("%s, %d on a page", path, size), seen, stays)
					})
				}
			}
			walkers.Wait()
			if n := w.rounds.Load(); n < 1000 {
				t.Errorf("%d writes are few", n)
			}
		})
	}
}

// checkWalk holds what a walk saw against what was there throughout.
func checkWalk(t testing.TB, what string, seen, stays []string) {
	times := map[string]int{}
	for i, item := range seen {
		if times[item]++; times[item] > 1 {
			t.Errorf("%s: %s is there %d times", what, item, times[item])
		}
		if i > 0 && !inOrder(seen[i-1], item) && what[:len("/rejections")] != "/rejections" {
			t.Errorf("%s: %s comes behind %s", what, item, seen[i-1])
		}
	}
	lost := 0
	for _, item := range stays {
		if times[item] == 0 {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%s: %d of %d that were there throughout are on no page", what, lost, len(stays))
	}
}

// inOrder compares by mesh, then by name.
func inOrder(a, b string) bool {
	am, an, _ := strings.Cut(a, "/")
	bm, bn, _ := strings.Cut(b, "/")
	return am < bm || am == bm && an < bn
}

// TestOffsets: the place where a page begins is the next of the one before, or an index, and nothing else; it stays
// the same as long as the page does, and leads nowhere but into the list that is asked for.
func TestOffsets(t *testing.T) {
	p := start(t, setup{})
	p.mesh("other")
	for _, mesh := range []string{"default", "other"} {
		for _, name := range []string{"a", "b", "c"} {
			p.seed(resource.Key{Kind: resource.KindTimeout, Scope: mesh, Name: name}, resource.Local, nil)
		}
	}
	const path = "/meshes/default/timeouts?size=1"
	offset := func(path string) string {
		t.Helper()
		next := p.list(path).Next
		if next == nil {
			t.Fatalf("%s is the last page", path)
		}
		u, err := url.Parse(*next)
		if err != nil {
			t.Fatal(err)
		}
		return u.Query().Get("offset")
	}
	first := offset(path)
	p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "0"}, resource.Local, nil)
	p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "a"}, resource.Local, nil)
	if again := offset("/meshes/default/timeouts?size=2"); again != first {
		t.Errorf("after the same item, %q and %q", first, again)
	}
	for _, tc := range []struct {
		list, offset, want string
	}{
		{"/meshes/default/timeouts", "0", "default/0 default/a default/b default/c"},
		{"/meshes/default/timeouts", "003", "default/c"},
		{"/meshes/default/timeouts", "4", ""},
		{"/meshes/default/timeouts", "2147483648", ""},
		{"/meshes/default/timeouts", "99999999999999999999999", ""},
		{"/meshes/default/timeouts", first, "default/b default/c"},
		// Of another list it is a place in the order all the same, but what is listed is what was asked for.
		{"/meshes/other/timeouts", first, "other/a other/b other/c"},
		{"/meshes/default/retries", first, ""},
		{"/meshes", first, ""},
		{"/secrets", first, ""},
		{"/timeouts", offset("/timeouts?size=6"), "other/c"},
		{"/meshes/default/timeouts", offset("/meshes/other/timeouts?size=1"), ""},
	} {
		l := p.list(tc.list + "?offset=" + tc.offset)
		if got := strings.Join(l.names(), " "); got != tc.want || l.Next != nil {
			t.Errorf("%s from %q: %s", tc.list, tc.offset, got)
		}
		if whole := p.list(tc.list); whole.Total != l.Total {
			t.Errorf("%s from %q: total %d of %d", tc.list, tc.offset, l.Total, whole.Total)
		}
	}
	for _, wrong := range []string{
		"-1", "+1", "1.0", "0x1", "1e3", "١", "k", "K" + first[1:], first[1:], first + "A", first + "=", first[:len(first)-1], first + "\n", " 1", "null",
	} {
		for _, path := range []string{
			"/timeouts", "/meshes/default/timeouts", "/meshes", "/zones", "/secrets", "/dataplanes", "/dataplanes+insights", "/meshes/default/dataplane+insights", "/zones+insights",
			"/meshes/default/zones", "/mesh-insights", "/service-insights", "/meshes/default/service-insights", "/rejections", "/meshes/default/rejections", "/zone-insights",
		} {
			a := p.do("GET", path+"?offset="+url.QueryEscape(wrong), "")
			if got := p.problem(p.must(a, 400)); len(got.Causes) != 1 || got.Causes[0].Field != "offset" || got.Details != "Invalid offset" {
				t.Errorf("%s from %q: %+v", path, wrong, got)
			}
		}
	}
}

// TestNextIsTheClientsOwnURL: the next page is where the client has found this one, as it named it: its host, path and
// parameters, and https where it came by TLS. What proxies say of themselves is not looked at.
func TestNextIsTheClientsOwnURL(t *testing.T) {
	p := start(t, setup{})
	for _, name := range []string{"a", "b"} {
		p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: name}, resource.Local, nil)
		p.seed(resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name}, "zone-1", service(resource.TagService+"=web"))
		p.seed(resource.Key{Kind: resource.KindZone, Name: name}, resource.Local, nil)
	}
	p.mesh("other")
	for path, want := range map[string]string{
		"/meshes/default/timeouts?size=1":                                                                          "/meshes/default/timeouts?offset=OFFSET&size=1",
		"/meshes/default/timeouts/?size=1&x=%2F%26":                                                                "/meshes/default/timeouts/?offset=OFFSET&size=1&x=%2F%26",
		"/meshes/default/dataplane+insights?size=1&tag=a:b&tag=*":                                                  "",
		"/meshes/default/dataplanes%2Binsights?size=1&tag=kuma.io/service:web&tag=kuma.io/service:*&gateway=false": "/meshes/default/dataplanes%2Binsights?gateway=false&offset=OFFSET&size=1&tag=kuma.io%2Fservice%3Aweb&tag=kuma.io%2Fservice%3A%2A",
		"/meshes/default/zones?size=1":                                                                             "/meshes/default/zones?offset=OFFSET&size=1",
		"/zones+insights?size=1&offset=0":                                                                          "/zones+insights?offset=OFFSET&size=1",
		"/meshes?size=1":                                                                                           "/meshes?offset=OFFSET&size=1",
		"/mesh-insights?size=1":                                                                                    "/mesh-insights?offset=OFFSET&size=1",
		"/meshes/default/timeouts?size=2":                                                                          "",
		"/meshes/default/service-insights":                                                                         "",
		"/dataplanes?size=1&b=x&a=":                                                                                "/dataplanes?a=&b=x&offset=OFFSET&size=1",
	} {
		for scheme, state := range map[string]*tls.ConnectionState{"http": nil, "https": {}} {
			req := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
			req.Host, req.TLS, req.RemoteAddr = "cp.example:8443", state, "127.0.0.1:1"
			req.Header.Set("X-Forwarded-Host", "elsewhere.example")
			req.Header.Set("X-Forwarded-Proto", "gopher")
			res := httptest.NewRecorder()
			p.handler.ServeHTTP(res, req)
			var l listBody
			if err := json.Unmarshal(res.Body.Bytes(), &l); err != nil || res.Code != 200 {
				t.Fatalf("%s: %d %s", path, res.Code, res.Body)
			}
			got := ""
			if l.Next != nil {
				u, err := url.Parse(*l.Next)
				if err != nil {
					t.Fatal(err)
				}
				got = strings.Replace(*l.Next, "offset="+u.Query().Get("offset"), "offset=OFFSET", 1)
			}
			if want != "" && got != scheme+"://cp.example:8443"+want || want == "" && got != "" {
				t.Errorf("%s: next is %s", path, got)
			}
		}
	}
}

// TestPageSizes: spec 0.7.
func TestPageSizes(t *testing.T) {
	p := start(t, setup{})
	var puts []store.Put
	for i := range 10_001 {
		puts = append(puts, walkPut(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: fmt.Sprintf("t%05d", i)}, resource.Local, &meshv1.Timeout{}))
	}
	if _, err := p.store.Config().Apply(t.Context(), store.Batch{Puts: puts}); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]int{"": 1000, "?size=": 1000, "?size=1": 1, "?size=10000": 10_000, "?size=0": 10_000} {
		if l := p.list("/meshes/default/timeouts" + query); len(l.Items) != want || l.Total != 10_001 || l.Next == nil {
			t.Errorf("%q: %d of %d, next %v", query, len(l.Items), l.Total, l.Next)
		}
	}
	for _, wrong := range []string{"-1", "10001", "1.0", "ten", "+1", "99999999999999999999", "1e2"} {
		got := p.problem(p.must(p.do("GET", "/meshes/default/timeouts?size="+url.QueryEscape(wrong), ""), 400))
		if len(got.Causes) != 1 || got.Causes[0].Field != "size" || got.Details != "Invalid page size" {
			t.Errorf("%q: %+v", wrong, got)
		}
	}
}
