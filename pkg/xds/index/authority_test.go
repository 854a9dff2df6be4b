package index

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const otherMesh = `
type: Mesh
name: other
---
type: Dataplane
mesh: other
name: lonely
networking:
  address: 10.9.0.1
  inbound: [{port: 80, tags: {kuma.io/service: lonely}}]
`

func newCA(t *testing.T) (cert, key []byte) {
	t.Helper()
	cert, key, err := ca.Generate(ca.Config{Mesh: "default", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func putSecret(log *indextest.Log, name string, data []byte) {
	log.PutMessage(resource.Key{Kind: resource.KindSecret, Scope: "default", Name: name}, resource.Local, time.Time{}, &systemv1.Secret{Data: wrapperspb.Bytes(data)})
}

func putMesh(t *testing.T, log *indextest.Log, mtls string) {
	t.Helper()
	if err := log.PutYAML("type: Mesh\nname: default\n" + mtls); err != nil {
		t.Fatal(err)
	}
}

// A mesh's CA touches the proxies of the mesh and no others; what has nothing to do with it touches nobody.
func TestAuthorityTouchesItsMesh(t *testing.T) {
	const builtin = "mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}, {name: spare, type: builtin}]}\n"
	mesh := []string{"backend", "mobile", "shop", "web"}
	log, ix := start(t, base+"---"+otherMesh)
	authority := func() *Authority {
		p, _ := ix.Proxy(dp("web"))
		return p.Mesh.Authority
	}
	destination := func() string {
		p, _ := ix.Proxy(dp("web"))
		return p.Destination(0).MTLS
	}
	if authority() != nil || destination() != "" {
		t.Error("mTLS is on")
	}
	cert, key := newCA(t)
	cert2, key2 := newCA(t)
	const certName, keyName = "default.ca-builtin-cert-ca", "default.ca-builtin-key-ca"
	for _, step := range []struct {
		name    string
		change  func()
		want    []string
		mtls    bool
		problem string
	}{
		{"secrets without mTLS", func() { putSecret(log, certName, cert) }, nil, false, ""},
		{"mTLS with half a CA", func() { putMesh(t, log, builtin) }, mesh, true, `secret "` + keyName + `" is not in mesh "default"`},
		{"the other half", func() { putSecret(log, keyName, key) }, mesh, true, ""},
		{"the same again", func() { putSecret(log, keyName, key) }, nil, true, ""},
		{"an endpoint", func() {
			_ = log.PutYAML("type: Dataplane\nmesh: default\nname: alone\nnetworking: {address: 10.0.0.9, inbound: [{port: 80, tags: {kuma.io/service: alone}}]}\n")
		}, []string{"alone"}, true, ""},
		{"no more of it", func() { log.Delete(dp("alone")) }, []string{"alone"}, true, ""},
		{"another secret", func() { putSecret(log, "api-key", []byte("x")) }, nil, true, ""},
		{"the spare backend's", func() { putSecret(log, "default.ca-builtin-cert-spare", cert2) }, nil, true, ""},
		{"a certificate of another key", func() { putSecret(log, certName, cert2) }, mesh, true, "do not belong together"},
		{"its key", func() { putSecret(log, keyName, key2) }, mesh, true, ""},
		{"a key that goes", func() { log.Delete(resource.Key{Kind: resource.KindSecret, Scope: "default", Name: keyName}) }, mesh, true, "is not in mesh"},
		{"both anew, at once", func() { putSecret(log, certName, cert); putSecret(log, keyName, key) }, mesh, true, ""},
		{"a backend that there is not", func() { putMesh(t, log, "mtls: {enabledBackend: none}\n") }, mesh, true, `no mTLS backend "none"`},
		{"off", func() { putMesh(t, log, "") }, mesh, false, ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			if diff := gocmp.Diff(step.want, apply(t, log, ix, step.change)); diff != "" {
				t.Errorf("dirty (-want +got):\n%s", diff)
			}
			a := authority()
			if (a != nil) != step.mtls || (destination() == "default") != step.mtls {
				t.Fatalf("authority %v, destination %q", a, destination())
			}
			if a == nil {
				return
			}
			if step.problem == "" != a.Usable() || !strings.Contains(a.Problem, step.problem) {
				t.Errorf("problem: %q, want %q", a.Problem, step.problem)
			}
			if a.Usable() != (len(a.Cert) > 0 && len(a.Key) > 0) {
				t.Error("usable and without a key, or the other way round")
			}
			// A fresh index sees the same.
			p, _ := New("zone-1", log.View()).Proxy(dp("web"))
			if !p.Mesh.Authority.same(a) {
				t.Errorf("a fresh index has %v", p.Mesh.Authority)
			}
		})
	}
}

// A provided CA is found where its mesh says, and the lifetime is the backend's.
func TestProvidedAuthority(t *testing.T) {
	cert, key := newCA(t)
	b64 := base64.StdEncoding.EncodeToString
	for name, conf := range map[string]string{
		"secrets": "cert: {secret: c}, key: {secret: k}",
		"inline":  fmt.Sprintf("cert: {inline: %s}, key: {inline: %s}", b64(cert), b64(key)),
		"mixed":   fmt.Sprintf("cert: {inline: %s}, key: {secret: k}", b64(cert)),
	} {
		t.Run(name, func(t *testing.T) {
			log := indextest.New()
			putSecret(log, "c", cert)
			putSecret(log, "k", key)
			if err := log.PutYAML(base); err != nil {
				t.Fatal(err)
			}
			putMesh(t, log, "mtls: {enabledBackend: ca, backends: [{name: ca, type: provided, dpCert: {rotation: {expiration: 2h}}, conf: {"+conf+"}}]}\n")
			p, _ := New("zone-1", log.View()).Proxy(dp("web"))
			a := p.Mesh.Authority
			if !a.Usable() || !slices.Equal(a.Cert, cert) || !slices.Equal(a.Key, key) || a.Lifetime != 2*time.Hour || a.Backend != "ca" {
				t.Errorf("authority: %q, lifetime %v", a.Problem, a.Lifetime)
			}
		})
	}
}

// TestAuthorityStaysWithControlPlanes: an external service is called with no key of the mesh's own, whoever names its
// secret, and from the moment in which it is one.
func TestAuthorityStaysWithControlPlanes(t *testing.T) {
	cert, key := newCA(t)
	const given = "mtls: {backends: [{name: ca, type: provided, conf: {cert: {secret: c}, key: {secret: k}}}]}\n"
	log, ix := start(t, base+`
---
type: Dataplane
mesh: default
name: caller
networking:
  address: 10.0.0.7
  gateway: {tags: {kuma.io/service: caller}}
  outbound: [{port: 10001, tags: {kuma.io/service: api}}]
`)
	keys := []string{"k", "default.ca-builtin-key-ca", "default.ca-provided-key-gone", "dataplane-token-signing-key-default-2"}
	apply(t, log, ix, func() {
		for _, name := range []string{"c", "default.ca-builtin-cert-ca"} {
			putSecret(log, name, cert)
		}
		for _, name := range keys {
			putSecret(log, name, key)
		}
	})
	call := func(key string) {
		if err := log.PutYAML(`
type: ExternalService
mesh: default
name: api
networking: {address: "api.test:443", tls: {enabled: true, caCert: {secret: default.ca-builtin-cert-ca}, clientCert: {secret: c}, clientKey: {secret: ` + key + `}}}
tags: {kuma.io/service: api, kuma.io/protocol: http}
`); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(key string, want bool) {
		t.Helper()
		p, _ := ix.Proxy(dp("caller"))
		e := p.Destination(0).Targets[0].Group.Endpoints()
		got := len(e.Items) == 0 && len(e.Problems) == 1 && strings.Contains(e.Problems[0].Text, "which no proxy is given")
		if got != want || !want && (len(e.Items) != 1 || len(e.Problems) != 0) {
			t.Errorf("with %s: %+v", key, e)
		}
	}
	for _, name := range keys {
		apply(t, log, ix, func() { call(name) })
		refused(name, name != "k")
	}
	apply(t, log, ix, func() { call("k") })
	refused("k", false)
	apply(t, log, ix, func() { putMesh(t, log, given) })
	refused("k of a backend", true)
	apply(t, log, ix, func() { putMesh(t, log, "") })
	refused("k of nobody", false)
}
