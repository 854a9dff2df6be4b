package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// sent is one server-sent event; without a name it is a comment.
type sent struct{ event, id, data string }

// brief is "put Timeout default/t1", "delete Mesh /a", "synced 4", "reset" or "comment".
func (e sent) brief(t testing.TB) string {
	t.Helper()
	if e.event == "" {
		return "comment"
	}
	var of struct{ Type, Mesh, Name, Revision string }
	if err := json.Unmarshal([]byte(e.data), &of); err != nil {
		t.Fatalf("%v: %q", err, e.data)
	}
	switch e.event {
	case "reset":
		return e.event
	case "synced":
		return e.event + " " + of.Revision
	}
	return e.event + " " + of.Type + " " + of.Mesh + "/" + of.Name
}

// events reads a stream of events as the standard says, but for the types of line that the server has no use for.
type events struct {
	t testing.TB
	r *bufio.Reader
}

// next reads up to the next empty line; it fails with io.EOF where the stream ends.
func (s *events) next() (sent, error) {
	var e sent
	var data []string
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			e.data = strings.Join(data, "\n")
			return e, nil
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
		case "event":
			e.event = value
		case "id":
			e.id = value
		case "data":
			data = append(data, value)
		default:
			s.t.Fatalf("a line %q", line)
		}
	}
}

func (s *events) must() sent {
	s.t.Helper()
	e, err := s.next()
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// toSynced reads up to where all has come that was there.
func (s *events) toSynced() (all []sent) {
	s.t.Helper()
	for {
		e := s.must()
		all = append(all, e)
		if e.event == "synced" {
			return all
		}
	}
}

func briefs(t testing.TB, all []sent) string {
	t.Helper()
	var out []string
	for _, e := range all {
		out = append(out, e.brief(t))
	}
	return strings.Join(out, ", ")
}

// open begins a watch that must be taken.
func (p *plane) open(path string, header ...string) (*events, context.CancelFunc) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	p.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = res.Body.Close() })
	if res.StatusCode != 200 {
		b, _ := io.ReadAll(res.Body)
		p.t.Fatalf("%s: %d %s", path, res.StatusCode, b)
	}
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := res.Header.Get(name); got != want {
			p.t.Errorf("%s: %q", name, got)
		}
	}
	return &events{p.t, bufio.NewReader(res.Body)}, cancel
}

// populate gives a plane something of each sort.
func (p *plane) populate() {
	p.mesh("other")
	key := func(k resource.Kind, mesh, name string) resource.Key {
		return resource.Key{Kind: k, Scope: mesh, Name: name}
	}
	for _, k := range []resource.Key{
		key(resource.KindTimeout, "default", "t1"), key(resource.KindTimeout, "default", "t2"), key(resource.KindTimeout, "other", "t1"),
		key(resource.KindSecret, "default", "s"), key(resource.KindGlobalSecret, "", "g"), key(resource.KindZone, "", "z"),
		key(resource.KindDataplane, "default", "dp"), key(resource.KindDataplaneInsight, "default", "dp"),
		key(resource.KindZoneInsight, "", "z"), key(resource.KindZonePosition, "", "z"), key(resource.KindPublicKey, "default", "k"),
	} {
		p.seed(k, resource.Local, nil)
	}
}

// TestWatchPaths: a path is watched with all that is below it, in both logs, and nobody is shown what is not for them.
func TestWatchPaths(t *testing.T) {
	p := start(t, setup{})
	p.populate()
	for _, tc := range []struct{ path, want string }{
		{"/timeouts?watch=true", "put Timeout default/t1, put Timeout default/t2, put Timeout other/t1, synced 10"},
		{"/meshes/default/timeouts?watch=true", "put Timeout default/t1, put Timeout default/t2, synced 10"},
		{"/meshes/default/timeouts/t2?watch=true", "put Timeout default/t2, synced 10"},
		{"/meshes/default/timeouts/none?watch=true", "synced 10"},
		{"/meshes?watch=true", "put Mesh /default, put Mesh /other, synced 10"},
		{"/meshes/other?watch=true", "put Mesh /other, put Timeout other/t1, synced 10"},
		{"/meshes/none?watch=true", "synced 10"},
		{"/meshes/default?watch=true", "put Dataplane default/dp, put DataplaneInsight default/dp, put Mesh /default, put Secret default/s, put Timeout default/t1, put Timeout default/t2, synced 10"},
		{"/dataplane-insights?watch=true", "put DataplaneInsight default/dp, synced 3"},
		{"/zones?watch=true", "put Zone /z, synced 10"},
		{"/meshes/default/zones?watch=true", "put Zone /z, synced 10"},
		{"/zones/z?watch=true", "put Zone /z, synced 10"},
		{"/secrets?watch=true", "put Secret default/s, synced 10"},
		{"/?watch=true", "put Dataplane default/dp, put DataplaneInsight default/dp, put GlobalSecret /g, put Mesh /default, put Mesh /other, " +
			"put Secret default/s, put Timeout default/t1, put Timeout default/t2, put Timeout other/t1, put Zone /z, put ZoneInsight /z, synced 10"},
	} {
		s, end := p.open(tc.path)
		if got := briefs(t, s.toSynced()); got != tc.want {
			t.Errorf("%s: %s", tc.path, got)
		}
		end()
	}
	p.as = &auth.Caller{}
	for path, want := range map[string]string{
		"/?watch=true": "put Dataplane default/dp, put DataplaneInsight default/dp, put Mesh /default, put Mesh /other, " +
			"put Timeout default/t1, put Timeout default/t2, put Timeout other/t1, put Zone /z, put ZoneInsight /z",
		"/meshes/default?watch=true": "put Dataplane default/dp, put DataplaneInsight default/dp, put Mesh /default, put Timeout default/t1, put Timeout default/t2",
	} {
		s, end := p.open(path)
		if got, _, _ := strings.Cut(briefs(t, s.toSynced()), ", synced "); got != want {
			t.Errorf("anonymous, %s: %s", path, got)
		}
		// Neither later: a secret that changes is passed over.
		p.seed(resource.Key{Kind: resource.KindSecret, Scope: "default", Name: "s"}, resource.Local, nil)
		p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t1"}, resource.Local, nil)
		if got := s.must().brief(t); got != "put Timeout default/t1" {
			t.Errorf("anonymous, %s: %s", path, got)
		}
		end()
	}
}

// TestWatchRefuses: what cannot be watched, or not so, is said before a stream begins.
func TestWatchRefuses(t *testing.T) {
	p := start(t, setup{})
	for _, tc := range []struct {
		path, accept string
		status       int
		field        string
	}{
		{"/timeouts?watch=yes", "", 400, "watch"},
		{"/timeouts?watch=true&size=3", "", 400, "size"},
		{"/timeouts?watch=true&tag=a:b", "", 400, "tag"},
		{"/meshes/default/timeouts/t?watch=true&status=true", "", 400, "status"},
		{"/timeouts?watch=true&after=x", "", 400, "after"},
		{"/timeouts?watch=true&after=" + strings.Repeat("A", 1000), "", 400, "after"},
		{"/dataplanes+insights?watch=true", "", 400, "watch"},
		{"/meshes/default/dataplanes+insights/dp?watch=true", "", 400, "watch"},
		{"/mesh-insights?watch=true", "", 400, "watch"},
		{"/meshes/default/service-insights?watch=true", "", 400, "watch"},
		{"/positions?watch=true&revision=1", "", 400, "watch"},
		{"/config?watch=true", "", 400, "watch"},
		{"/backup?watch=true", "", 400, "watch"},
		{"/zone-positions?watch=true", "", 404, ""},
		{"/meshes/default/meshes?watch=true", "", 404, ""},
		{"/timeouts?watch=true", "application/json", 406, ""},
		{"/timeouts?watch=true", "text/html, text/event-stream;q=0", 406, ""},
	} {
		a := p.do("GET", tc.path, "", "Accept", tc.accept)
		if a.status != tc.status {
			t.Errorf("%s: %d %s", tc.path, a.status, a.body)
		}
		if tc.field != "" && (len(p.problem(a).Causes) != 1 || p.problem(a).Causes[0].Field != tc.field) {
			t.Errorf("%s: %s", tc.path, a.body)
		}
	}
	if a := p.do("GET", "/timeouts?watch=true", "", "Last-Event-ID", "x"); a.status != 400 || p.problem(a).Causes[0].Field != "after" {
		t.Errorf("a bad Last-Event-ID: %d %s", a.status, a.body)
	}
	for _, path := range []string{"/timeouts?watch=false", "/timeouts?watch=&size=1", "/timeouts?watches=true"} {
		if a := p.do("GET", path, ""); a.status != 200 || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	p.must(p.put("/meshes/default/timeouts/t?watch=true", timeout), 400)
	p.as = &auth.Caller{}
	for _, path := range []string{"/secrets?watch=true", "/meshes/default/secrets/s?watch=true", "/global-secrets?watch=true", "/revocations?watch=true"} {
		p.must(p.do("GET", path, ""), 403)
	}
}

// TestWatchGoesOn: what is written comes as GET shows it, what is deleted by its key, in the order of the log; and each
// id leads back to where it was given.
func TestWatchGoesOn(t *testing.T) {
	p := start(t, setup{})
	p.must(p.put("/meshes/default/timeouts/t0", timeout), 201)
	s, end := p.open("/timeouts?watch=true")
	first := s.toSynced()
	want := strings.TrimSpace(p.must(p.do("GET", "/meshes/default/timeouts/t0", ""), 200).body)
	if len(first) != 2 || first[0].data != want {
		t.Fatalf("%+v", first)
	}
	all := first
	var puts []string
	for i := range 3 {
		path := fmt.Sprintf("/meshes/default/timeouts/t%d", i)
		p.must(p.put(path, strings.Replace(timeout, "7s", fmt.Sprintf("%ds", 10+i), 1)), []int{200, 201, 201}[i])
		puts = append(puts, strings.TrimSpace(p.must(p.do("GET", path, ""), 200).body))
		e := s.must()
		if all = append(all, e); e.event != "put" || e.data != puts[i] {
			t.Fatalf("%d: %+v", i, e)
		}
	}
	r := revision(t, p.must(p.do("DELETE", "/meshes/default/timeouts/t0", ""), 200))
	e := s.must()
	if want := fmt.Sprintf(`{"type":"Timeout","mesh":"default","name":"t0","revision":"%d"}`, r); e.event != "delete" || e.data != want {
		t.Fatalf("%+v", e)
	}
	all = append(all, e)
	end()
	// The first one was given in the middle of the state at the beginning. That comes to its end, and what follows may
	// come again.
	s, end = p.open("/timeouts?watch=true&after=" + all[0].id)
	middle := append(s.toSynced(), s.must(), s.must(), s.must())
	if got, want := briefs(t, middle), "put Timeout default/t1, put Timeout default/t2, synced 2, put Timeout default/t1, put Timeout default/t2, delete Timeout default/t0"; got != want {
		t.Errorf("after the first event: %s", got)
	}
	end()
	rest := []string{"put Timeout default/t1", "put Timeout default/t2", "delete Timeout default/t0", fmt.Sprintf("synced %d", r)}
	for i, n := range map[int]int{1: 0, 2: 0, 3: 1, 4: 2, 5: 3} {
		for _, how := range []func() *events{
			func() *events { s, _ := p.open("/timeouts?watch=true&after=" + all[i].id); return s },
			func() *events { s, _ := p.open("/timeouts?watch=true", "Last-Event-ID", all[i].id); return s },
			func() *events { s, _ := p.open("/timeouts?watch=true&after=x", "Last-Event-ID", all[i].id); return s },
		} {
			if got, want := briefs(t, how().toSynced()), strings.Join(rest[n:], ", "); got != want {
				t.Errorf("after event %d: %s, want %s", i, got, want)
			}
		}
	}
	// What an id is of, it can be used for only.
	for _, path := range []string{"/retries", "/meshes/default/timeouts", "/", "/meshes/default/timeouts/t1"} {
		s, end := p.open(path + "?watch=true&after=" + e.id)
		if got := briefs(t, s.toSynced()); !strings.HasPrefix(got, "reset, put ") && got != fmt.Sprintf("reset, synced %d", r) {
			t.Errorf("%s: %s", path, got)
		}
		end()
	}
	// Another store knows nothing of it.
	q := start(t, setup{})
	for _, id := range []string{e.id, all[0].id} {
		s, _ = q.open("/timeouts?watch=true&after=" + id)
		if got := briefs(t, s.toSynced()); got != "reset, synced 1" {
			t.Error(got)
		}
	}
}

// TestWatchesEnd: only so many may be open; one that ends makes room; and the end of the process ends them all.
func TestWatchesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := piped(t, setup{api: api.Options{MaxWatches: 2}})
		first := p.follow("/timeouts?watch=true")
		second := p.follow("/?watch=true")
		first.toSynced()
		second.toSynced()
		a := p.dial("/meshes?watch=true")
		body, _ := io.ReadAll(a.res.Body)
		if a.res.StatusCode != 429 || !strings.Contains(string(body), "2 watches are open already (limits.watches)") {
			t.Errorf("the third: %d %s", a.res.StatusCode, body)
		}
		_ = a.conn.Close()
		_ = first.conn.Close()
		synctest.Wait()
		if n := p.service.OpenWatches(); n != 1 {
			t.Errorf("%d are open", n)
		}
		third := p.follow("/meshes?watch=true")
		third.toSynced()
		p.service.StopWatches()
		for _, s := range []*pipedEvents{second, third} {
			if e := s.must(); e.event != "" {
				t.Errorf("%+v", e)
			}
			if _, err := s.next(); !errors.Is(err, io.EOF) {
				t.Errorf("it ends with %v", err)
			}
		}
		synctest.Wait()
		if n := p.service.OpenWatches(); n != 0 {
			t.Errorf("%d are open", n)
		}
		late := p.dial("/meshes?watch=true")
		if late.res.StatusCode != 503 {
			t.Errorf("one that comes late: %d", late.res.StatusCode)
		}
		_ = late.conn.Close()
	})
}

// TestWatchQuiet: after 15 s without an event there is a comment, whatever happens that is not watched; and nothing
// ends the stream however long it lasts.
func TestWatchQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := piped(t, setup{})
		s := p.follow("/?watch=true")
		one := p.follow("/retries?watch=true")
		began := time.Now()
		s.toSynced()
		one.toSynced()
		for i := range 300 {
			if e := s.must(); e.event != "" || time.Since(began) != time.Duration(i+1)*15*time.Second {
				t.Fatalf("after %s: %+v", time.Since(began), e)
			}
			if e := one.must(); e.event != "" {
				t.Fatalf("%+v", e)
			}
		}
		began = time.Now()
		for i := range 14 {
			time.Sleep(time.Second)
			p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "t"}, resource.Local, nil)
			if e := s.must(); e.event != "put" {
				t.Fatalf("%d: %+v", i, e)
			}
		}
		// It has moved on though there was nothing to send, which is noted with the comment.
		e := one.must()
		if e.event != "" || time.Since(began) != 15*time.Second {
			t.Fatalf("after %s: %+v", time.Since(began), e)
		}
		_ = one.conn.Close()
		back := p.follow("/retries?watch=true&after=" + e.id)
		if got := briefs(t, back.toSynced()); got != "synced 15" {
			t.Error(got)
		}
		if e := s.must(); e.event != "" || time.Since(began) != 29*time.Second {
			t.Fatalf("after %s: %+v", time.Since(began), e)
		}
	})
}

// TestWatchSlow: who takes no events holds up nobody, and gets then of each resource only what it has become; who takes
// nothing for long is cut off.
func TestWatchSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := piped(t, setup{})
		s := p.follow("/timeouts?watch=true")
		s.toSynced()
		for i := range 1000 {
			p.timeout(fmt.Sprint("t", i%300), i)
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		last := map[string]string{}
		n := 0
		for len(last) < 300 || last["t299"] != "0.899s" || last["t99"] != "0.999s" {
			e := s.must()
			var of struct {
				Name string
				Conf struct{ ConnectTimeout string }
			}
			if err := json.Unmarshal([]byte(e.data), &of); err != nil {
				t.Fatal(err)
			}
			last[of.Name] = of.Conf.ConnectTimeout
			n++
		}
		for i := range 300 {
			want := fmt.Sprintf("0.%03ds", 900+i)
			if i >= 100 {
				want = fmt.Sprintf("0.%03ds", 600+i)
			}
			if last[fmt.Sprint("t", i)] != want {
				t.Errorf("t%d is %s", i, last[fmt.Sprint("t", i)])
			}
		}
		if n > 600 { // one message may have been on its way, and one more been made
			t.Errorf("1,000 changes of 300 resources were %d events", n)
		}
		began := time.Now()
		p.timeout("t0", 1)
		synctest.Wait()
		for p.service.OpenWatches() > 0 && time.Since(began) < time.Hour {
			time.Sleep(time.Second)
		}
		if d := time.Since(began); d > 2*time.Minute {
			t.Errorf("it was cut off after %s", d)
		}
	})
}

// TestWatchWaitsForRevision: a watch can be asked for a state at least.
func TestWatchWaitsForRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := piped(t, setup{})
		began := time.Now()
		a := p.dial("/timeouts?watch=true", "Meridian-Min-Revision: 2")
		if a.res.StatusCode != 503 || time.Since(began) != 5*time.Second {
			t.Errorf("%d after %s", a.res.StatusCode, time.Since(began))
		}
		_ = a.conn.Close()
		written := make(chan struct{})
		time.AfterFunc(time.Second, func() {
			defer close(written)
			p.timeout("t", 1)
		})
		s := p.follow("/timeouts?watch=true", "Meridian-Min-Revision: 2")
		if got := briefs(t, s.toSynced()); got != "put Timeout default/t, synced 2" {
			t.Error(got)
		}
		<-written // it may be seen before its writer is told
		a = p.dial("/timeouts?watch=true", "Meridian-Min-Revision: x")
		if a.res.StatusCode != 400 {
			t.Errorf("%d", a.res.StatusCode)
		}
		_ = a.conn.Close()
	})
}

// pipedPlane is a plane in a bubble, whose connections are pipes.
type pipedPlane struct {
	*plane
	pipes *pipes
}

func piped(t *testing.T, s setup) *pipedPlane {
	t.Helper()
	p := &pipedPlane{assemble(t, s), &pipes{make(chan net.Conn), make(chan struct{})}}
	p.mesh("default")
	srv := &http.Server{Handler: p.handler, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(p.pipes) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		synctest.Wait()
		if n := p.service.OpenWatches(); n != 0 {
			t.Errorf("%d watches outlive the server", n)
		}
	})
	return p
}

func (p *plane) timeout(name string, ms int) {
	p.t.Helper()
	p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: name}, resource.Local, &meshv1.Timeout{
		Conf: &meshv1.Timeout_Conf{ConnectTimeout: durationpb.New(time.Duration(ms) * time.Millisecond)},
	})
}

type pipedEvents struct {
	events
	conn net.Conn
	res  *http.Response
}

// dial sends a request on a connection of its own.
func (p *pipedPlane) dial(path string, header ...string) *pipedEvents {
	p.t.Helper()
	client, server := net.Pipe()
	p.t.Cleanup(func() { _ = client.Close() })
	p.pipes.conns <- server
	if _, err := io.WriteString(client, strings.Join(append([]string{"GET " + path + " HTTP/1.1", "Host: localhost"}, header...), "\r\n")+"\r\n\r\n"); err != nil {
		p.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return &pipedEvents{events{p.t, bufio.NewReader(res.Body)}, client, res}
}

// follow is dial for a watch that must be taken.
func (p *pipedPlane) follow(path string, header ...string) *pipedEvents {
	p.t.Helper()
	s := p.dial(path, header...)
	if s.res.StatusCode != 200 {
		b, _ := io.ReadAll(s.res.Body)
		p.t.Fatalf("%s: %d %s", path, s.res.StatusCode, b)
	}
	return s
}

// TestWatchesHoldLittle: many clients that take nothing of a large resource do not have a copy of it each.
func TestWatchesHoldLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := piped(t, setup{})
		spec := &meshv1.Timeout{}
		for i := range 10_000 {
			spec.Sources = append(spec.Sources, &meshv1.Selector{Match: map[string]string{"kuma.io/service": fmt.Sprint("service-", i)}})
		}
		p.seed(resource.Key{Kind: resource.KindTimeout, Scope: "default", Name: "large"}, resource.Local, spec)
		heap := func() uint64 {
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapInuse
		}
		const clients = 64
		p.follow("/timeouts?watch=true") // the JSON itself is made
		before := heap()
		for range clients {
			p.follow("/timeouts?watch=true")
		}
		if each := (int64(heap()) - int64(before)) / clients; each > 128<<10 {
			t.Errorf("each client costs %d KiB", each>>10)
		}
	})
}
