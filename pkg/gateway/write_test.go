package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

func timeoutOf(connect string) string {
	return strings.Replace(timeout, "7s", connect, 1)
}

func object(t testing.TB, body string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return out
}

func TestEntityTags(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/timeouts/t"
	made := p.must(p.put(path, timeout), 201)
	tag := `"` + made.header.Get("Meridian-Revision") + `"`
	if got := made.header.Get("ETag"); got != tag {
		t.Errorf("ETag of a PUT: %s, want %s", got, tag)
	}
	if got := p.must(p.do("GET", path, ""), 200).header.Get("ETag"); got != tag {
		t.Errorf("ETag of a GET: %s, want %s", got, tag)
	}
	if got := p.must(p.do("GET", path+"?status=true", ""), 200).header.Get("ETag"); got != tag {
		t.Errorf("ETag of a GET with its status: %s, want %s", got, tag)
	}
	again := p.must(p.put(path, timeout), 200).header.Get("ETag")
	if again == tag || again != p.do("GET", path, "").header.Get("ETag") {
		t.Errorf("ETag after a PUT of the same: %s, then %s", tag, again)
	}
}

func TestConditions(t *testing.T) {
	const there, absent = "/meshes/default/timeouts/there", "/meshes/default/timeouts/absent"
	for name, c := range map[string]struct {
		method, path string
		header       []string
		want         int
		details      string
	}{
		"of it":                     {"PUT", there, []string{"If-Match", `"TAG"`}, 200, ""},
		"one of a list":             {"PUT", there, []string{"If-Match", `"x,y" , W/"TAG",, "TAG"`}, 200, ""},
		"of another state":          {"PUT", there, []string{"If-Match", `"1"`}, 412, `If-Match does not hold: the resource is at "TAG"`},
		"weak":                      {"PUT", there, []string{"If-Match", `W/"TAG"`}, 412, `If-Match does not hold: the resource is at "TAG"`},
		"any":                       {"PUT", there, []string{"If-Match", `*`}, 200, ""},
		"any, where there is none":  {"PUT", absent, []string{"If-Match", `*`}, 412, "If-Match does not hold: there is no such resource"},
		"some where there is none":  {"PUT", absent, []string{"If-Match", `"TAG"`}, 412, "If-Match does not hold: there is no such resource"},
		"none":                      {"PUT", absent, []string{"If-None-Match", "*"}, 201, ""},
		"none, where there is one":  {"PUT", there, []string{"If-None-Match", "*"}, 412, `If-None-Match does not hold: the resource is at "TAG"`},
		"not that one":              {"PUT", there, []string{"If-None-Match", `W/"TAG"`}, 412, `If-None-Match does not hold: the resource is at "TAG"`},
		"not another":               {"PUT", there, []string{"If-None-Match", `"1"`}, 200, ""},
		"both":                      {"PUT", there, []string{"If-Match", `"TAG"`, "If-None-Match", "*"}, 412, `If-None-Match does not hold: the resource is at "TAG"`},
		"dry":                       {"PUT", there + "?dryRun=true", []string{"If-Match", `"1"`}, 412, `If-Match does not hold: the resource is at "TAG"`},
		"deletes it":                {"DELETE", there, []string{"If-Match", `"TAG"`}, 200, ""},
		"deletes another state":     {"DELETE", there, []string{"If-Match", `"1"`}, 412, `If-Match does not hold: the resource is at "TAG"`},
		"deletes none":              {"DELETE", there, []string{"If-None-Match", "*"}, 412, `If-None-Match does not hold: the resource is at "TAG"`},
		"deletes what is not there": {"DELETE", absent, []string{"If-Match", "*"}, 404, "Not found"},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, setup{})
			was := p.must(p.put(there, timeout), 201).header.Get("Meridian-Revision")
			header := []string{"Content-Type", "application/json"}
			for _, h := range c.header {
				header = append(header, strings.ReplaceAll(h, "TAG", was))
			}
			a := p.must(p.do(c.method, c.path, timeoutOf("6s"), header...), c.want)
			if c.details == "" {
				return
			}
			if diff := cmp.Diff(strings.ReplaceAll(c.details, "TAG", was), p.problem(a).Details); diff != "" {
				t.Error(diff)
			}
			if now := p.store.Config().View().Revision().String(); now != was {
				t.Errorf("refused, and the log went from %s to %s", was, now)
			}
		})
	}
}

func TestMalformedConditions(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/timeouts/t"
	p.must(p.put(path, timeout), 201)
	for _, value := range []string{"", "1", `"1`, `"1" "2"`, `W/1`, `w/"1"`, `*, "1"`, `"1", *`, `"a b"`, ",", "\"\xff\""} {
		for _, header := range []string{"If-Match", "If-None-Match"} {
			for _, method := range []string{"PUT", "DELETE"} {
				a := p.must(p.do(method, path, timeout, header, value, "Content-Type", "application/json"), 400)
				if got := p.problem(a).Causes; len(got) != 1 || got[0].Field != header {
					t.Errorf("%s %s: %q: %+v", method, header, value, got)
				}
			}
		}
	}
}

// TestOnlyOneWins: of many writers who have read the same state, one writes.
func TestOnlyOneWins(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/timeouts/t"
	for range 20 {
		tag := p.put(path, timeout).header.Get("ETag")
		codes := make([]int, 8)
		var wg sync.WaitGroup
		for i := range codes {
			wg.Go(func() {
				method := "PUT"
				if i%4 == 3 {
					method = "DELETE"
				}
				codes[i] = p.do(method, path, timeout, "If-Match", tag).status
			})
		}
		wg.Wait()
		won := 0
		for i, c := range codes {
			switch {
			case c == 200:
				won++
			case c != 412 && (i%4 != 3 || c != 404):
				t.Errorf("status %d", c)
			}
		}
		if won != 1 {
			t.Fatalf("%d of them won: %v", won, codes)
		}
	}
}

func TestOnlyOneMakes(t *testing.T) {
	p := start(t, setup{})
	codes := make([]int, 16)
	var wg sync.WaitGroup
	for i := range codes {
		wg.Go(func() { codes[i] = p.do("PUT", "/meshes/default/timeouts/new", timeout, "If-None-Match", "*").status })
	}
	wg.Wait()
	made := 0
	for _, c := range codes {
		if c == 201 {
			made++
		} else if c != 412 {
			t.Errorf("status %d", c)
		}
	}
	if made != 1 {
		t.Errorf("%d of them made it", made)
	}
}

func TestWarnings(t *testing.T) {
	p := start(t, setup{})
	old := `{"type":"TrafficRoute","name":"r","sources":[{"match":{"service":"*"}}],"destinations":[{"match":{"service":"b"}}],"conf":[{"weight":100,"destination":{"kuma.io/service":"b"}}]}`
	a := p.must(p.put("/meshes/default/traffic-routes/r", old), 201)
	want := []string{`299 - "conf is read as conf.split"`, `299 - "the tag \"service\" is read as \"kuma.io/service\""`}
	if diff := cmp.Diff(want, a.header.Values("Warning")); diff != "" {
		t.Error(diff)
	}
	if got := p.must(p.put("/meshes/default/timeouts/t", timeout), 201).header.Values("Warning"); len(got) > 0 {
		t.Errorf("a body of today: %q", got)
	}
}

func TestDryRun(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/traffic-routes/r"
	old := `{"type":"TrafficRoute","name":"r","sources":[{"match":{"service":"*"}}],"destinations":[{"match":{"service":"b"}}],"conf":[{"weight":100,"destination":{"kuma.io/service":"b"}}]}`
	at := p.store.Config().View().Revision().String()
	would := p.must(p.put(path+"?dryRun=true", old), 201)
	for header, want := range map[string]string{"Meridian-Dry-Run": "true", "Meridian-Revision": at, "Content-Type": "application/json", "ETag": ""} {
		if got := would.header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if len(would.header.Values("Warning")) != 2 {
		t.Errorf("warnings: %q", would.header.Values("Warning"))
	}
	p.must(p.do("GET", path, ""), 404)
	p.must(p.put(path, would.body), 201)
	stored := object(t, p.must(p.do("GET", path, ""), 200).body)
	delete(stored, "creationTime")
	delete(stored, "modificationTime")
	if diff := cmp.Diff(stored, object(t, would.body)); diff != "" {
		t.Error(diff)
	}

	at = p.store.Config().View().Revision().String()
	p.must(p.put(path+"?dryRun=true", old), 200)
	p.must(p.put(path+"?dryRun=true", `{"type":"TrafficRoute","name":"r"}`), 400)
	p.must(p.put("/meshes/nowhere/timeouts/t?dryRun=true", timeout), 400)
	gone := p.must(p.do("DELETE", path+"?dryRun=true", ""), 200)
	if gone.header.Get("Meridian-Dry-Run") != "true" || gone.body != "" {
		t.Errorf("dry DELETE: %v %q", gone.header, gone.body)
	}
	p.must(p.do("DELETE", "/meshes/default/timeouts/absent?dryRun=true", ""), 404)
	p.must(p.do("GET", path, ""), 200)
	if now := p.store.Config().View().Revision().String(); now != at {
		t.Errorf("the log went from %s to %s", at, now)
	}
	for _, method := range []string{"PUT", "DELETE"} {
		a := p.must(p.do(method, path+"?dryRun=maybe", old), 400)
		if got := p.problem(a).Causes; len(got) != 1 || got[0].Field != "dryRun" {
			t.Errorf("%s: %+v", method, got)
		}
		p.must(p.do(method, path+"?dryRun=false", old), 200)
		_ = p.put(path, old)
	}
}

// TestDryMesh: nothing of what a mesh brings is made.
func TestBatchHasNoConditions(t *testing.T) {
	p := start(t, setup{})
	for _, header := range []string{"If-Match", "If-None-Match"} {
		a := p.must(p.do("PUT", "/batch", batchOf([]string{policyIn("default", "t", "9s")}, nil), header, "*"), 400)
		if got := p.problem(a).Causes; len(got) != 1 || got[0].Field != header {
			t.Errorf("%s: %+v", header, got)
		}
	}
	p.must(p.do("GET", "/meshes/default/timeouts/t", ""), 404)
}

// TestParametersOfWrites asks for dry runs in ways that are none: nothing may be stored.
func TestParametersOfWrites(t *testing.T) {
	p := start(t, setup{})
	const path = "/meshes/default/timeouts/t"
	p.must(p.put(path, timeout), 201)
	at := p.store.Config().View().Revision().String()
	for query, want := range map[string]string{
		"dryrun=true":              "dryrun",
		"dry_run=true":             "dry_run",
		"dryRun":                   "dryRun",
		"dryRun=":                  "dryRun",
		"dryRun=false&dryRun=true": "dryRun",
		"dryRun=false&force=true":  "force",
		"dryRun=true;a=b":          "query",
		"dryRun=%zz":               "query",
		"status=true":              "status",
	} {
		for _, w := range []struct{ method, path, body string }{
			{"PUT", path, timeoutOf("9s")},
			{"DELETE", path, ""},
			{"PUT", "/batch", batchOf([]string{policyIn("default", "t", "9s")}, nil)},
		} {
			a := p.must(p.do(w.method, w.path+"?"+query, w.body), 400)
			if got := p.problem(a).Causes; len(got) != 1 || got[0].Field != want {
				t.Errorf("%s %s?%s: %+v, want a cause at %s", w.method, w.path, query, got, want)
			}
		}
	}
	if now := p.store.Config().View().Revision().String(); now != at {
		t.Errorf("the log went from %s to %s", at, now)
	}
	p.must(p.do("GET", path+"?dryrun=true", ""), 200)
}

func TestDryMesh(t *testing.T) {
	p := start(t, setup{})
	body := `{"type":"Mesh","name":"m","mtls":{"enabledBackend":"ca","backends":[{"name":"ca","type":"builtin"}]}}`
	p.must(p.put("/meshes/m?dryRun=true", body), 201)
	if p.has(resource.Key{Kind: resource.KindMesh, Name: "m"}) {
		t.Error("it is stored")
	}
	p.must(p.put("/meshes/m", body), 201)
	p.must(p.do(http.MethodDelete, "/meshes/m?dryRun=true", ""), 200)
	p.must(p.do("GET", "/meshes/m", ""), 200)
}
