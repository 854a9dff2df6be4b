package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

func secretKey(mesh, name string) resource.Key {
	return resource.Key{Kind: resource.KindSecret, Scope: mesh, Name: name}
}

// secretOf gives the data of a secret, and when it was written.
func (p *plane) secretOf(mesh, name string) ([]byte, resource.Revision) {
	p.t.Helper()
	o, ok := p.store.Config().View().Get(secretKey(mesh, name))
	if !ok {
		p.t.Fatalf("secret %s is not there", name)
	}
	m, err := resource.Decode[systemv1.Secret](o)
	if err != nil {
		p.t.Fatal(err)
	}
	return m.GetData().GetValue(), o.Revision
}

// builtin gives the certificate and key of a builtin backend, which must belong together.
func (p *plane) builtin(mesh, backend string) (*x509.Certificate, resource.Revision) {
	p.t.Helper()
	cert, at := p.secretOf(mesh, mesh+".ca-builtin-cert-"+backend)
	key, also := p.secretOf(mesh, mesh+".ca-builtin-key-"+backend)
	if at != also {
		p.t.Errorf("certificate and key of %s are of revisions %s and %s", backend, at, also)
	}
	if _, err := ca.Parse(cert, key); err != nil {
		p.t.Error(err)
	}
	block, _ := pem.Decode(cert)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	return c, at
}

func mtls(enabled string, backends ...string) string {
	return fmt.Sprintf(`{"mtls":{"enabledBackend":%q,"backends":[%s]}}`, enabled, strings.Join(backends, ","))
}

func TestBuiltinAuthorities(t *testing.T) {
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	p := start(t, setup{bare: true, api: api.Options{Now: func() time.Time { return now }}})
	const (
		one   = `{"name":"ca-1","type":"builtin"}`
		two   = `{"name":"ca-2","type":"builtin","conf":{"caCert":{"RSAbits":2048,"expiration":"30d"}}}`
		three = `{"name":"","type":"builtin"}`
	)
	created := p.must(p.put("/meshes/m", mtls("ca-1", one, two)), 201)
	first, at := p.builtin("m", "ca-1")
	if got := created.header.Get("Meridian-Revision"); got != at.String() {
		t.Errorf("the CA is of revision %s, its mesh of %s", at, got)
	}
	if _, ok := first.PublicKey.(*ecdsa.PublicKey); !ok || first.URIs[0].String() != "spiffe://m" || first.Subject.CommonName != "m" {
		t.Errorf("%T, %v, %s", first.PublicKey, first.URIs, first.Subject)
	}
	if !first.NotBefore.Equal(now.Add(-10*time.Second)) || !first.NotAfter.Equal(now.Add(ca.DefaultCAValidity)) {
		t.Errorf("valid from %s to %s", first.NotBefore, first.NotAfter)
	}
	second, _ := p.builtin("m", "ca-2")
	if k, ok := second.PublicKey.(*rsa.PublicKey); !ok || k.N.BitLen() != 2048 || !second.NotAfter.Equal(now.Add(30*24*time.Hour)) {
		t.Errorf("%T until %s", second.PublicKey, second.NotAfter)
	}

	// A later write leaves what is there, and adds what is new, enabled or not.
	p.must(p.put("/meshes/m", mtls("ca-1", one, two, three)), 200)
	if again, written := p.builtin("m", "ca-1"); written != at || !again.Equal(first) {
		t.Error("an authority was made anew")
	}
	p.builtin("m", "")

	// In use they stay; taken out of the mesh they stay too, until they are deleted.
	const path = "/meshes/m/secrets/m.ca-builtin-key-ca-2"
	got := p.problem(p.must(p.do("DELETE", path, ""), 400))
	if len(got.Causes) != 1 || got.Causes[0].Field != "name" {
		t.Errorf("%+v", got)
	}
	p.must(p.put("/meshes/m", mtls("ca-1", one)), 200)
	if kept, _ := p.builtin("m", "ca-2"); !kept.Equal(second) {
		t.Error("another authority")
	}
	p.must(p.do("DELETE", path, ""), 200)

	// Half of an authority is none.
	p.must(p.put("/meshes/m", mtls("ca-1", one, two)), 200)
	if anew, _ := p.builtin("m", "ca-2"); anew.Equal(second) {
		t.Error("the certificate of a key that is gone was kept")
	}

	p.must(p.do("DELETE", "/meshes/m", ""), 200)
	if n := p.store.Config().View().Count(store.InScope(resource.KindSecret, "m")); n != 0 {
		t.Errorf("%d secrets outlive their mesh", n)
	}
}

// TestAuthorityRotation is the procedure of docs/security.md: from one CA to another through none.
func TestAuthorityRotation(t *testing.T) {
	p := start(t, setup{})
	const one, two = `{"name":"ca-1","type":"builtin"}`, `{"name":"ca-2","type":"builtin"}`
	p.must(p.put("/meshes/default", mtls("ca-1", one)), 200)
	old, _ := p.builtin("default", "ca-1")
	p.must(p.put("/meshes/default", mtls("ca-1", one, two)), 200)
	got := p.problem(p.must(p.put("/meshes/default", mtls("ca-2", one, two)), 400))
	if len(got.Causes) != 1 || got.Causes[0].Field != "mtls.enabledBackend" {
		t.Errorf("%+v", got)
	}
	p.must(p.put("/meshes/default", mtls("", one, two)), 200)
	p.must(p.put("/meshes/default", mtls("ca-2", two)), 200)
	for _, half := range []string{"cert", "key"} {
		p.must(p.do("DELETE", "/meshes/default/secrets/default.ca-builtin-"+half+"-ca-1", ""), 200)
	}
	if now, _ := p.builtin("default", "ca-2"); now.Equal(old) {
		t.Error("the old authority under a new name")
	}
	// The first name may come back; it stands for another authority then.
	p.must(p.put("/meshes/default", mtls("ca-2", one, two)), 200)
	if now, _ := p.builtin("default", "ca-1"); now.Equal(old) {
		t.Error("the old authority is back")
	}
}

func TestBackendNamesThatCannotNameSecrets(t *testing.T) {
	p := start(t, setup{})
	file := `{"name":%q,"type":"provided","conf":{"cert":{"file":"/c"},"key":{"file":"/k"}}}`
	for _, c := range []struct {
		backend string
		status  int
	}{
		{`{"name":"CA","type":"builtin"}`, 400},
		{`{"name":"a/b","type":"builtin"}`, 400},
		{`{"name":"` + strings.Repeat("a", 300) + `","type":"builtin"}`, 400},
		{fmt.Sprintf(file, "CA"), 400},
		{fmt.Sprintf(file, "a.b-c_1"), 200},
		{`{"name":"a.b-c_1","type":"builtin"}`, 200},
		{`{"name":"CA","type":"provided","conf":{"cert":{"secret":"c"},"key":{"secret":"k"}}}`, 200},
	} {
		a := p.must(p.put("/meshes/default", mtls("", c.backend)), c.status)
		if c.status == 400 {
			if got := p.problem(a); len(got.Causes) != 1 || got.Causes[0].Field != "mtls.backends[0].name" {
				t.Errorf("%s: %+v", c.backend, got)
			}
		}
	}
}

// TestOneAuthorityForManyWriters: however many write a mesh at once, it gets one CA, and every answer holds for it.
func TestOneAuthorityForManyWriters(t *testing.T) {
	p := start(t, setup{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for i := range 16 {
		wg.Go(func() {
			var a answer
			if i%4 == 0 {
				if err := p.service.EnsureAuthorities(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
			if a = p.put("/meshes/default", mtls("ca-1", `{"name":"ca-1","type":"builtin"}`)); a.status != 200 {
				t.Errorf("%d: %s", a.status, a.body)
				return
			}
			o, ok := p.store.Config().View().Get(secretKey("default", "default.ca-builtin-cert-ca-1"))
			if !ok {
				t.Error("a write was answered before its authority was there")
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[string(o.Spec)] = true
		})
	}
	wg.Wait()
	p.builtin("default", "ca-1")
	if len(seen) != 1 {
		t.Errorf("%d authorities were seen", len(seen))
	}
}

// TestAuthorityAgainstOthers: what others write between a mesh's decision and its write is seen.
func TestAuthorityAgainstOthers(t *testing.T) {
	const one = `{"name":"ca-1","type":"builtin"}`
	old := &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{Backends: []*meshv1.CertificateAuthorityBackend{{Name: "ca-1", Type: "builtin"}}}}
	for _, c := range []struct {
		name   string
		before func(p *plane)
		// meanwhile gives the certificate that must stay; nil: any.
		meanwhile func(p *plane) *x509.Certificate
	}{
		{
			"another start makes the CA of an old mesh", func(p *plane) {
				p.seed(resource.Key{Kind: resource.KindMesh, Name: "default"}, resource.Local, old)
			},
			func(p *plane) *x509.Certificate {
				if err := p.service.EnsureAuthorities(p.t.Context()); err != nil {
					p.t.Error(err)
				}
				made, _ := p.builtin("default", "ca-1")
				return made
			},
		},
		{
			"the CA that a backend left is deleted as it comes back", func(p *plane) {
				p.must(p.put("/meshes/default", mtls("", one)), 200)
				p.must(p.put("/meshes/default", `{}`), 200)
			},
			func(p *plane) *x509.Certificate {
				p.must(p.do("DELETE", "/meshes/default/secrets/default.ca-builtin-key-ca-1", ""), 200)
				return nil
			},
		},
		{
			"another request makes it", func(*plane) {},
			func(p *plane) *x509.Certificate {
				p.must(p.put("/meshes/default", mtls("", one)), 200)
				made, _ := p.builtin("default", "ca-1")
				return made
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h *hooked
			p := start(t, setup{wrap: func(s store.Store) store.Store { h = &hooked{Store: s}; return h }})
			c.before(p)
			done := false
			var want *x509.Certificate
			h.hook = func(b store.Batch) error {
				if !done && len(b.Puts) > 0 && b.Puts[0].Key.Kind == resource.KindMesh {
					done = true
					want = c.meanwhile(p)
				}
				return nil
			}
			p.must(p.put("/meshes/default", mtls("ca-1", one)), 200)
			if got, _ := p.builtin("default", "ca-1"); !done || want != nil && !got.Equal(want) {
				t.Error("the mesh's CA was replaced")
			}
		})
	}
}

func TestEnsureAuthorities(t *testing.T) {
	p := start(t, setup{bare: true})
	with := func(enabled string) *meshv1.Mesh {
		return &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{EnabledBackend: enabled, Backends: []*meshv1.CertificateAuthorityBackend{{Name: "ca-1", Type: "builtin"}}}}
	}
	mesh := func(name string) resource.Key { return resource.Key{Kind: resource.KindMesh, Name: name} }
	p.seed(mesh("old"), resource.Local, with("ca-1"))
	p.seed(mesh("off"), resource.Local, with(""))
	p.seed(mesh("plain"), resource.Local, nil)
	p.seed(mesh("foreign"), resource.Global, with("ca-1"))
	if err := p.service.EnsureAuthorities(t.Context()); err != nil {
		t.Fatal(err)
	}
	first, _ := p.builtin("old", "ca-1")
	p.builtin("off", "ca-1")
	for _, name := range []string{"plain", "foreign"} {
		if n := p.store.Config().View().Count(store.InScope(resource.KindSecret, name)); n != 0 {
			t.Errorf("mesh %s got %d secrets", name, n)
		}
	}
	// Once they are there, nothing is written, neither at the next start nor at the next write.
	before := p.store.Config().View().Revision()
	if err := p.service.EnsureAuthorities(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := p.store.Config().View().Revision(); now != before {
		t.Errorf("revision %s after %s", now, before)
	}
	p.must(p.put("/meshes/old", mtls("ca-1", `{"name":"ca-1","type":"builtin"}`)), 200)
	if again, _ := p.builtin("old", "ca-1"); !again.Equal(first) {
		t.Error("another authority")
	}
}

// files are a CA's certificate and key in a directory.
type files struct{ cert, key string }

func providedFiles(t *testing.T) files {
	t.Helper()
	dir := t.TempDir()
	f := files{filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")}
	f.renew(t)
	return f
}

func (f files) renew(t *testing.T) {
	t.Helper()
	cert, key, err := ca.Generate(ca.Config{Mesh: "mine", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{f.cert: cert, f.key: key} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (f files) read(t *testing.T) (cert, key []byte) {
	t.Helper()
	for _, x := range []struct {
		name string
		to   *[]byte
	}{{f.cert, &cert}, {f.key, &key}} {
		b, err := os.ReadFile(x.name)
		if err != nil {
			t.Fatal(err)
		}
		*x.to = b
	}
	return cert, key
}

func source(kind, value string) string { return fmt.Sprintf(`{%q:%q}`, kind, value) }

func providedMesh(cert, key string) string {
	return mtls("p", fmt.Sprintf(`{"name":"p","type":"provided","conf":{"cert":%s,"key":%s}}`, cert, key))
}

// TestProvidedAuthorities takes a CA from each of the sources, and from two at once.
func TestProvidedAuthorities(t *testing.T) {
	p := start(t, setup{})
	f := providedFiles(t)
	cert, key := f.read(t)
	b64 := base64.StdEncoding.EncodeToString
	p.must(p.put("/meshes/default/secrets/c", `{"data":"`+b64(cert)+`"}`), 201)
	p.must(p.put("/meshes/default/secrets/k", `{"data":"`+b64(key)+`"}`), 201)
	certs := []string{source("secret", "c"), source("file", f.cert), source("inline", b64(cert)), source("inlineString", string(cert))}
	keys := []string{source("secret", "k"), source("file", f.key), source("inline", b64(key)), source("inlineString", string(key))}
	d, _ := resource.NewTable().ByKind(resource.KindMesh)
	for i, c := range certs {
		for j, k := range keys {
			body := providedMesh(c, k)
			p.must(p.put("/meshes/default", body), 200)
			o, _ := p.store.Config().View().Get(resource.Key{Kind: resource.KindMesh, Name: "default"})
			m, err := resource.Decode[meshv1.Mesh](o)
			if err != nil {
				t.Fatal(err)
			}
			// What is stored leads to the same bytes, without the files.
			certAt, keyAt := resource.CASources("default", resource.EnabledCA(m))
			for _, half := range []struct {
				at   resource.CASource
				want []byte
			}{{certAt, cert}, {keyAt, key}} {
				got, err := half.at.Read(p.store.Config().View().Get)
				if err != nil || !bytes.Equal(got, half.want) {
					t.Errorf("certificate %d, key %d: other bytes, %v", i, j, err)
				}
			}
			// The mesh says what was asked for.
			in, err := resource.DecodeJSON(d, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if want, _ := resource.Encode(in.Spec); !bytes.Equal(o.Spec, want) {
				t.Errorf("certificate %d, key %d: the mesh was rewritten", i, j)
			}
		}
	}
}

// TestProvidedAuthorityInFiles: the bytes are the mesh's own secrets from the write on.
func TestProvidedAuthorityInFiles(t *testing.T) {
	p := start(t, setup{api: api.Options{Policy: auth.AdminPolicy{AllowFromLocalhost: true, AllowRemoteWrites: true}}})
	f := providedFiles(t)
	body := providedMesh(source("file", f.cert), source("file", f.key))
	const certName, keyName = "default.ca-provided-cert-p", "default.ca-provided-key-p"

	// Off, nothing is read.
	p.must(p.put("/meshes/default", strings.Replace(body, `"enabledBackend":"p"`, `"enabledBackend":""`, 1)), 200)
	if p.has(secretKey("default", certName)) {
		t.Error("the files of a backend that is off were read")
	}

	enabled := p.must(p.put("/meshes/default", body), 200)
	cert, key := f.read(t)
	got, at := p.secretOf("default", certName)
	if !bytes.Equal(got, cert) || enabled.header.Get("Meridian-Revision") != at.String() {
		t.Errorf("other bytes, or of revision %s", at)
	}
	if got, _ := p.secretOf("default", keyName); !bytes.Equal(got, key) {
		t.Error("other bytes")
	}
	for _, name := range []string{certName, keyName} {
		a := p.problem(p.must(p.do("DELETE", "/meshes/default/secrets/"+name, ""), 400))
		if len(a.Causes) != 1 || a.Causes[0].Field != "name" {
			t.Errorf("%+v", a)
		}
	}

	// The same bytes are not written again, others are, and bad ones change nothing.
	p.must(p.put("/meshes/default", body), 200)
	if _, now := p.secretOf("default", certName); now != at {
		t.Error("what had not changed was written")
	}
	f.renew(t)
	p.must(p.put("/meshes/default", body), 200)
	cert, _ = f.read(t)
	if got, now := p.secretOf("default", certName); now == at || !bytes.Equal(got, cert) {
		t.Error("the new file was not taken")
	}
	before := p.store.Config().View().Revision()
	if err := os.Remove(f.key); err != nil {
		t.Fatal(err)
	}
	p.must(p.put("/meshes/default", body), 400)
	if now := p.store.Config().View().Revision(); now != before {
		t.Error("a refused write changed something")
	}

	// Who may write but not administrate cannot have files read, and need not where they have been.
	p.as = &auth.Caller{Remote: netip.MustParseAddrPort("192.0.2.1:1000")}
	p.must(p.put("/meshes/default", body), 200)
	p.must(p.put("/meshes/default", `{}`), 200)
	a := p.problem(p.must(p.put("/meshes/default", strings.ReplaceAll(body, `"p"`, `"q"`)), 400))
	if len(a.Causes) != 2 || !strings.Contains(a.Causes[0].Message, "administrators") {
		t.Errorf("%+v", a)
	}
}

// TestProvidedAuthorityIsRefused: each reason is said at the certificate and at the key, without a word of either.
func TestProvidedAuthorityIsRefused(t *testing.T) {
	var log bytes.Buffer
	p := start(t, setup{api: api.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}})
	good, other := providedFiles(t), providedFiles(t)
	cert, key := good.read(t)
	_, otherKey := other.read(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	b64 := base64.StdEncoding.EncodeToString
	p.must(p.put("/meshes/default/secrets/empty", `{}`), 201)
	const together = "the certificate and its key cannot be read, or do not belong together"
	for _, c := range []struct{ name, cert, key, want string }{
		{"no file", source("file", filepath.Join(dir, "none")), source("file", good.key), "is not there"},
		{"no key file", source("file", good.cert), source("file", filepath.Join(dir, "none")), "of the key is not there"},
		{"directory", source("file", dir), source("file", good.key), "is no regular file"},
		{"device", source("file", "/dev/zero"), source("file", good.key), "is no regular file"},
		{"large file", source("file", write("large", make([]byte, 16<<10+1))), source("file", good.key), "is larger than 16384 bytes"},
		{"empty file", source("file", write("empty", nil)), source("file", good.key), "is empty"},
		{"path with a zero byte", `{"file":"a\u0000b"}`, source("file", good.key), "cannot be read"},
		{"foreign key file", source("file", good.cert), source("file", other.key), together},
		{"foreign inline key", source("inlineString", string(cert)), source("inline", b64(otherKey)), together},
		{"torn inline key", source("inlineString", string(cert)), source("inlineString", string(key[:len(key)/2])), together},
		{"empty secret", source("secret", "empty"), source("file", good.key), "the certificate is not PEM"},
		{"certificate as key", source("file", good.cert), source("file", good.cert), together},
	} {
		before := p.store.Config().View().Revision()
		a := p.must(p.put("/meshes/default", providedMesh(c.cert, c.key)), 400)
		got := p.problem(a)
		var fields []string
		for _, cause := range got.Causes {
			fields = append(fields, cause.Field)
			if !strings.Contains(cause.Message, c.want) {
				t.Errorf("%s: %s, want %s", c.name, cause.Message, c.want)
			}
		}
		if diff := cmp.Diff([]string{"mtls.backends[0].config.cert", "mtls.backends[0].config.key"}, fields); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if now := p.store.Config().View().Revision(); now != before {
			t.Errorf("%s: a refused write changed something", c.name)
		}
		for _, secret := range [][]byte{key, otherKey} {
			block, _ := pem.Decode(secret)
			for _, form := range []string{strings.Split(string(secret), "\n")[1], b64(secret)[:40], string(block.Bytes)} {
				if strings.Contains(a.body, form) || strings.Contains(log.String(), form) {
					t.Errorf("%s: the answer or the log holds a key", c.name)
				}
			}
		}
	}

	// The other backends are looked at when they are enabled.
	off := mtls("", fmt.Sprintf(`{"name":"p","type":"provided","conf":{"cert":%s,"key":%s}}`, source("file", "/none"), source("secret", "none")))
	p.must(p.put("/meshes/default", off), 200)

	// Older documents bring the halves after the mesh.
	p.must(p.put("/meshes/default", `{"mtls":{"enabled":true,"ca":{"provided":{}}}}`), 200)
}

// TestDefaultMeshWithAuthority: the default mesh of the configuration has its CA from the start.
func TestDefaultMeshWithAuthority(t *testing.T) {
	p := start(t, setup{bare: true})
	if err := p.service.EnsureDefaultMesh(t.Context(), []byte("mtls: {enabledBackend: ca-1, backends: [{name: ca-1, type: builtin}]}")); err != nil {
		t.Fatal(err)
	}
	p.builtin("default", "ca-1")
}

// TestSecretOfTheEnabledAuthority: no write of a secret takes a usable CA from its mesh; one that is not usable is
// mended half by half.
func TestSecretOfTheEnabledAuthority(t *testing.T) {
	p := start(t, setup{})
	f := providedFiles(t)
	cert, key := f.read(t)
	f.renew(t)
	otherCert, otherKey := f.read(t)
	put := func(name string, data []byte, status int) answer {
		t.Helper()
		return p.must(p.put("/meshes/default/secrets/"+name, `{"data":"`+base64.StdEncoding.EncodeToString(data)+`"}`), status)
	}
	put("c", cert, 201)
	put("k", key, 201)
	p.must(p.put("/meshes/default", providedMesh(source("secret", "c"), source("secret", "k"))), 200)
	before := p.store.Config().View().Revision()
	for _, c := range []struct {
		name string
		data []byte
	}{{"c", otherCert}, {"k", otherKey}, {"c", nil}, {"k", []byte("x")}, {"c", key}} {
		a := put(c.name, c.data, 400)
		got := p.problem(a)
		if len(got.Causes) != 1 || got.Causes[0].Field != "data" || !strings.Contains(got.Causes[0].Message, `mTLS backend "p"`) {
			t.Errorf("%+v", got)
		}
		if strings.Contains(a.body, strings.Split(string(otherKey), "\n")[1]) {
			t.Error("the answer holds a key")
		}
	}
	if now := p.store.Config().View().Revision(); now != before {
		t.Error("a refused write changed something")
	}
	put("c", cert, 200)
	put("free", otherCert, 201)

	// Another CA comes in other secrets, with one write of the mesh; one that is off is nobody's.
	put("k2", otherKey, 201)
	p.must(p.put("/meshes/default", providedMesh(source("secret", "free"), source("secret", "k2"))), 200)
	put("c", otherCert, 200)
	p.must(p.put("/meshes/default", strings.Replace(providedMesh(source("secret", "free"), source("secret", "k2")), `"enabledBackend":"p"`, `"enabledBackend":""`, 1)), 200)
	put("free", cert, 200)

	// As older control planes left it: enabled, and of no use.
	m := &meshv1.Mesh{}
	o, _ := p.store.Config().View().Get(resource.Key{Kind: resource.KindMesh, Name: "default"})
	if stored, err := resource.Decode[meshv1.Mesh](o); err != nil {
		t.Fatal(err)
	} else {
		m.Mtls = &meshv1.Mesh_Mtls{EnabledBackend: "p", Backends: stored.GetMtls().GetBackends()}
	}
	p.seed(o.Key, resource.Local, m)
	put("k2", []byte("x"), 200)
	put("k2", key, 200)
	put("k2", otherKey, 400)
}
