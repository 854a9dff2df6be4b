package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/gateway"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// TestOrigins: an entry is a domain, an origin, or an expression over the whole of either.
func TestOrigins(t *testing.T) {
	for entry, c := range map[string]struct{ in, out string }{
		"example.com": {
			"http://example.com https://example.com https://EXAMPLE.com https://example.com:8443",
			"https://example.com.evil.org https://evil-example.com https://sub.example.com https://exampleXcom https://example.co https://evil.org/example.com https://example.com@evil.org null https://example.com/ example.com //example.com",
		},
		"https://example.com": {
			"https://example.com",
			"http://example.com https://example.com:8443 https://example.com.evil.org https://exampleXcom",
		},
		"example.com:8443":            {"https://example.com:8443 http://example.com:8443", "https://example.com https://example.com:84431"},
		`example\.com`:                {"https://example.com", "https://exampleXcom https://example.com.evil.org https://a.example.com"},
		`.*\.example\.com`:            {"https://a.example.com https://a.b.example.com:1", "https://example.com https://a.example.com.evil.org https://evil.org?.example.com"},
		`https://[a-z]+\.example.com`: {"https://a.example.com", "http://a.example.com https://1.example.com"},
		"a.com|b.com":                 {"https://a.com https://b.com", "https://a.com.evil.org https://evilb.com"},
		`(?m)^a\.com$`:                {"https://a.com", "https://a.com.evil.org"},
		".*":                          {"https://anything.example http://localhost:3000 http://[::1]:1", "null file:// garbage"},
		"localhost":                   {"http://localhost:3000", "http://localhost.evil.org"},
	} {
		p := start(t, setup{cors: []string{"unused.example", entry}, bare: true})
		for want, list := range map[bool]string{true: c.in, false: c.out} {
			for origin := range strings.FieldsSeq(list) {
				a := p.do("GET", "/meshes", "", "Origin", origin)
				got := a.header.Get("Access-Control-Allow-Origin")
				if want && got != origin || !want && got != "" || a.header.Get("Vary") != "Origin" {
					t.Errorf("%s: %s is answered %q, Vary %q", entry, origin, got, a.header.Get("Vary"))
				}
				if (a.header.Get("Access-Control-Expose-Headers") != "") != want {
					t.Errorf("%s: %s may read %q", entry, origin, a.header.Get("Access-Control-Expose-Headers"))
				}
				if a.header.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%s: %s brings the browser's credentials", entry, origin)
				}
			}
		}
	}
	for _, entry := range []string{"(", "a)(b", "*.example.com", "", "[z-a]"} {
		_, err := gateway.New(gateway.Options{
			Conn: gateway.NewConn(), Table: resource.NewTable(), Logger: slog.New(slog.DiscardHandler), CORSAllowedDomains: []string{"good.example", entry},
			Identify: func(r *http.Request) context.Context { return r.Context() },
		})
		if err == nil || !strings.Contains(err.Error(), "corsAllowedDomains[1]") {
			t.Errorf("%q: %v", entry, err)
		}
	}
}

// TestPreflight asks for what our pages need of each path, and for what none may.
func TestPreflight(t *testing.T) {
	p := start(t, setup{cors: []string{"gui.example"}})
	ask := func(origin, path, method, headers string) answer {
		return p.do("OPTIONS", path, "", "Origin", origin, "Access-Control-Request-Method", method, "Access-Control-Request-Headers", headers)
	}
	const gui = "https://gui.example"
	for path, methods := range map[string]string{
		"/meshes": "GET", "/meshes/default": "PUT,DELETE,GET", "/meshes/default/timeouts/x": "PUT,DELETE,GET", "/batch": "PUT", "/tokens": "POST,PUT",
		"/meshes/default/ca/provided/certificates": "POST,GET", "/catalog": "GET",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST", "PATCH"} {
			a := p.must(ask(gui, path, method, "content-type"), http.StatusOK)
			want := ""
			if slices.Contains(strings.Split(methods, ","), method) {
				want = methods
			}
			if got := a.header.Get("Access-Control-Allow-Methods"); got != want || (a.header.Get("Access-Control-Allow-Origin") == gui) != (want != "") {
				t.Errorf("%s %s: methods %q, origin %q", method, path, got, a.header.Get("Access-Control-Allow-Origin"))
			}
			if a.header.Get("Vary") != "Origin" || a.body != "" {
				t.Errorf("%s %s: Vary %q, %q", method, path, a.header.Get("Vary"), a.body)
			}
		}
	}
	for headers, want := range map[string]bool{
		"": true, "content-type": true, "authorization,content-type,if-match": true, "If-None-Match, Last-Event-ID": true, "meridian-min-revision,x-request-id": true,
		"x-other": false, "content-type,cookie": false, "if-match,*": false,
	} {
		a := p.must(ask(gui, "/meshes/default", "PUT", headers), http.StatusOK)
		allowed := strings.Split(strings.ToLower(a.header.Get("Access-Control-Allow-Headers")), ", ")
		for name := range strings.SplitSeq(headers, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); want && name != "" && !slices.Contains(allowed, name) {
				t.Errorf("%q is not among %v", name, allowed)
			}
		}
		if got := a.header.Get("Access-Control-Allow-Origin") == gui; got != want {
			t.Errorf("%q: %t", headers, got)
		}
	}
	if a := ask("https://gui.example.evil.org", "/meshes", "GET", ""); a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("%+v", a)
	}
	p.must(ask(gui, "/nowhere", "GET", ""), http.StatusNotFound)
	p.must(p.do("OPTIONS", "/meshes", "", "Origin", gui), http.StatusMethodNotAllowed)

	a := p.must(p.do("PUT", "/meshes/default", "{}", "Origin", gui), http.StatusForbidden) // a page of another site is nobody
	if !strings.Contains(a.body, "from a page of another site") {
		t.Errorf("who is refused is not told why: %s", a.body)
	}
	exposed := strings.Split(a.header.Get("Access-Control-Expose-Headers"), ", ")
	for _, name := range []string{"ETag", "Warning", "Location", "Meridian-Revision", "Meridian-Dry-Run", "X-Request-Id"} {
		if !slices.Contains(exposed, name) {
			t.Errorf("%s is not among %v", name, exposed)
		}
	}

	none := start(t, setup{})
	for _, a := range []answer{
		none.do("GET", "/meshes", "", "Origin", gui), none.do("OPTIONS", "/meshes", "", "Origin", gui, "Access-Control-Request-Method", "GET"),
	} {
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
				t.Errorf("%s: %s", name, a.header.Get(name))
			}
		}
	}
}
