package gateway_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

// stranger may write, and is no administrator.
func stranger() *auth.Caller {
	return &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1000")}
}

// confidential is a plane with a private key in every place where a kind may have one.
type confidential struct {
	*plane
	log bytes.Buffer
	// forms of the keys, none of which may come out.
	forms []string
	// bodies by path, as they were written.
	bodies map[string]string
}

func newConfidential(t *testing.T, mode api.Mode) *confidential {
	t.Helper()
	c := &confidential{}
	c.plane = start(t, setup{api: api.Options{
		Mode: mode, Zone: "zone-1",
		Policy: auth.AdminPolicy{AllowFromLocalhost: true, AllowRemoteWrites: true},
		Logger: slog.New(slog.NewTextHandler(&c.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}})
	c.mesh("m1")
	c.mesh("m2")
	cert, key := providedFiles(t).read(t)
	b64 := base64.StdEncoding.EncodeToString
	c.forms = append(c.forms, strings.Split(string(key), "\n")[1], b64(key)[:60], b64(key)[60:120])
	tls := func(key string) string {
		return fmt.Sprintf(`{"networking":{"address":"a.example:443","tls":{"enabled":true,"caCert":{"inline":%q},"clientCert":{"inlineString":%q},"clientKey":%s}},"tags":{"kuma.io/service":"a"}}`,
			b64(cert), cert, key)
	}
	c.bodies = map[string]string{
		"/meshes/m1":                           providedMesh(source("inline", b64(cert)), source("inline", b64(key))),
		"/meshes/m2":                           providedMesh(source("inlineString", string(cert)), source("inlineString", string(key))),
		"/meshes/default/external-services/e1": tls(source("inline", b64(key))),
		"/meshes/default/external-services/e2": tls(source("inlineString", string(key))),
	}
	return c
}

func (c *confidential) write() {
	c.t.Helper()
	for path, body := range c.bodies {
		if a := c.put(path, body); a.status/100 != 2 {
			c.t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// checkHidden fails where a key stands in what came out.
func (c *confidential) checkHidden(what, text string) {
	c.t.Helper()
	for _, form := range c.forms {
		if strings.Contains(text, form) {
			c.t.Errorf("%s shows a key", what)
		}
	}
}

func (c *confidential) shows(text string) bool {
	for _, form := range c.forms {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// TestKeysAreHidden: private keys that stand in a mesh or an external service are shown to administrators, and to
// others in no answer.
func TestKeysAreHidden(t *testing.T) {
	c := newConfidential(t, api.Global)
	c.write()
	reads := []string{"/meshes", "/external-services", "/meshes/default/external-services", "/export", "/mesh-insights"}
	for path := range c.bodies {
		reads = append(reads, path, path+"?status=true")
	}
	shown := map[string]string{}
	for _, path := range reads {
		shown[path] = c.must(c.do("GET", path, ""), 200).body
		if item := c.bodies[strings.TrimSuffix(path, "?status=true")] != ""; item != c.shows(shown[path]) && (item || strings.Contains(path, "export") || strings.Contains(path, "insights")) {
			t.Errorf("an administrator is shown in %s: %t", path, !item)
		}
	}
	if !c.shows(c.must(c.do("GET", "/export?secrets=true", ""), 200).body) {
		t.Error("an export with secrets has no keys")
	}

	c.as = stranger()
	for _, path := range reads {
		a := c.must(c.do("GET", path, ""), 200)
		c.checkHidden(path, a.body)
		if hides := strings.Contains(a.body, `"*****"`); hides != !strings.Contains(path, "insights") {
			t.Errorf("%s hides something: %t", path, hides)
		}
	}
	for _, q := range []string{"", "?dryRun=true"} {
		for path, body := range c.bodies {
			c.checkHidden("PUT "+path+q, c.must(c.put(path+q, body), 200).body)
			bad := c.must(c.put(path+q, strings.Replace(body, "{", `{"unknown":1,`, 1)), 400)
			c.checkHidden("refused PUT "+path+q, bad.body)
			c.checkHidden("torn PUT "+path+q, c.must(c.put(path+q, body[:len(body)-9]), 400).body)
		}
	}
	c.checkHidden("log", c.log.String())

	// With administrators nothing has changed.
	c.as = nil
	for _, path := range reads {
		if c.bodies[path] != "" {
			if diff := cmp.Diff(without(t, shown[path], "modificationTime"), without(t, c.do("GET", path, "").body, "modificationTime")); diff != "" {
				t.Errorf("%s: %s", path, diff)
			}
		}
	}
}

// TestHiddenKeysAreKept: what others were shown can be written again, and changes nothing.
func TestHiddenKeysAreKept(t *testing.T) {
	c := newConfidential(t, api.Global)
	c.write()
	stored := func(path string) string {
		t.Helper()
		c.as = nil
		defer func() { c.as = stranger() }()
		return without(t, c.must(c.do("GET", path, ""), 200).body, "modificationTime")
	}
	for path := range c.bodies {
		before := stored(path)
		got := c.must(c.do("GET", path, ""), 200)
		tag := got.header.Get("ETag")

		// A dry run says what would be stored, with the keys hidden.
		dry := c.must(c.put(path+"?dryRun=true", got.body), 200)
		c.checkHidden("dry run of "+path, dry.body)
		if !strings.Contains(dry.body, `"*****"`) {
			t.Errorf("dry run of %s: %s", path, dry.body)
		}

		again := c.must(c.do("PUT", path, got.body, "If-Match", tag), 200)
		c.checkHidden("PUT of "+path, again.body)
		if diff := cmp.Diff(before, stored(path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		c.must(c.do("PUT", path, got.body, "If-Match", tag), 412)

		// The same in YAML and in a batch, which says that nothing has changed.
		c.must(c.do("PUT", path, got.body, "Content-Type", "application/yaml"), 200)
		b := c.batch(c.do("PUT", "/batch", `{"put":[`+got.body+`]}`))
		if len(b.Results) != 1 || b.Results[0]["result"] != "unchanged" {
			t.Errorf("%s: %+v", path, b)
		}
		if diff := cmp.Diff(before, stored(path)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}

	// What else has changed is stored, with the key.
	path := "/meshes/default/external-services/e1"
	body := strings.Replace(c.must(c.do("GET", path, ""), 200).body, "a.example:443", "b.example:443", 1)
	c.must(c.put(path, body), 200)
	if now := stored(path); !strings.Contains(now, "b.example") || !c.shows(now) {
		t.Error(now)
	}
	c.checkHidden("log", c.log.String())
}

// TestHiddenKeysThatAreNotThere: there must be a key to keep.
func TestHiddenKeysThatAreNotThere(t *testing.T) {
	c := newConfidential(t, api.Global)
	c.write()
	c.as = stranger()
	read := func(path string) string { return c.must(c.do("GET", path, ""), 200).body }
	e1 := read("/meshes/default/external-services/e1")
	m1 := read("/meshes/m1")
	for _, x := range []struct{ path, body, fields string }{
		{"/meshes/default/external-services/new", strings.Replace(e1, `"e1"`, `"new"`, 1), "networking.tls.clientKey.inline"},
		{"/meshes/default/external-services/e2", strings.Replace(e1, `"e1"`, `"e2"`, 1), "networking.tls.clientKey.inline"},
		{"/meshes/m3", strings.Replace(m1, `"m1"`, `"m3"`, 1), "mtls.backends[0].config.key.inline"},
		{"/meshes/m1", strings.ReplaceAll(m1, `"p"`, `"q"`), "mtls.backends[0].config.key.inline"},
		{"/meshes/default", strings.Replace(m1, `"m1"`, `"default"`, 1), "mtls.backends[0].config.key.inline"},
		// With whatever else is wrong.
		{"/meshes/m4", strings.Replace(strings.Replace(m1, `"m1"`, `"m4"`, 1), `"mtls"`, `"tracing":{"defaultBackend":"x"},"mtls"`, 1), "mtls.backends[0].config.key.inline tracing.defaultBackend"},
		{"/meshes/default/external-services/new", strings.Replace(strings.Replace(e1, `"e1"`, `"new"`, 1), "a.example:443", "nowhere", 1), "networking.tls.clientKey.inline networking.address"},
	} {
		before := c.store.Config().View().Revision()
		a := c.must(c.put(x.path, x.body), 400)
		if fields := strings.Join(c.fieldsOf(a), " "); fields != x.fields || !strings.Contains(c.problem(a).Causes[0].Message, "*****") {
			t.Errorf("%s: %s", x.path, a.body)
		}
		a = c.must(c.do("PUT", "/batch", `{"put":[`+x.body+`]}`), 400)
		if fields := strings.ReplaceAll(strings.Join(c.fieldsOf(a), " "), "put[0].", ""); fields != x.fields {
			t.Errorf("%s in a batch: %s", x.path, a.body)
		}
		if now := c.store.Config().View().Revision(); now != before {
			t.Errorf("%s: a refused write changed something", x.path)
		}
	}
}

// TestKeysOfTheGlobalAreHiddenInZones: who is on the machine of a joined zone's control plane is shown neither
// secrets nor keys, as both are the global's.
func TestKeysOfTheGlobalAreHiddenInZones(t *testing.T) {
	g := newConfidential(t, api.Global)
	g.write()
	z := start(t, setup{bare: true, api: api.Options{Mode: api.Zone, Zone: "zone-1"}})
	table := resource.NewTable()
	for path := range g.bodies {
		key := resource.Key{Kind: resource.KindMesh, Name: strings.TrimPrefix(path, "/meshes/")}
		if scope, name, ok := strings.Cut(key.Name, "/external-services/"); ok {
			key = resource.Key{Kind: resource.KindExternalService, Scope: scope, Name: name}
		}
		o, ok := g.store.Config().View().Get(key)
		if !ok {
			t.Fatal(key)
		}
		d, _ := table.ByKind(key.Kind)
		m, err := o.Message(d)
		if err != nil {
			t.Fatal(err)
		}
		z.seed(key, resource.Global, m)
		g.checkHidden("zone's "+path, z.must(z.do("GET", path, ""), 200).body)
		z.as = &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1"), TLS: true, User: &auth.UserToken{Name: "ann", Role: auth.RoleAdmin}}
		if !g.shows(z.must(z.do("GET", path, ""), 200).body) {
			t.Errorf("an administrator is not shown the key of %s", path)
		}
		z.as = nil
	}
}

// TestKeysAreHiddenFromWatches: in what is there, and in what comes.
func TestKeysAreHiddenFromWatches(t *testing.T) {
	c := newConfidential(t, api.Global)
	for _, as := range []*auth.Caller{nil, stranger()} {
		c.as = nil
		c.write()
		c.as = as
		for _, path := range []string{"/?watch=true", "/meshes?watch=true", "/external-services?watch=true"} {
			stream, stop := c.open(path)
			all := stream.toSynced()
			c.as = nil
			c.write()
			c.as = as
			for !strings.HasPrefix(all[len(all)-1].event, "put") {
				all = append(all, stream.must())
			}
			stop()
			shown, hidden := 0, 0
			for _, e := range all {
				if c.shows(e.data) {
					shown++
				}
				if strings.Contains(e.data, `"*****"`) {
					hidden++
				}
			}
			if admin := as == nil; (shown >= 3) != admin || (hidden >= 3) == admin || shown > 0 && !admin {
				t.Errorf("%s for %v: %d shown, %d hidden", path, as, shown, hidden)
			}
		}
	}
}
