package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/e2e/sample"
)

// ownCA writes a CA of the user's into files, and gives its serial number.
func ownCA(t *testing.T) (certFile, keyFile, serial string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(0x7eed), Subject: pkix.Name{CommonName: "mine"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "default"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, b []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("ca.crt", "CERTIFICATE", cert), write("ca.key", "EC PRIVATE KEY", der), "7eed"
}

// pairOf starts two proxies of a zone, which speak by the provided CA of this serial number.
func pairOf(t *testing.T, zone controlPlane, token, serial string) *pair {
	t.Helper()
	p, w := &pair{zone: zone}, processes{}
	in, out := freePort(t), freePort(t)
	p.inbound, p.outbound = fmt.Sprintf("127.0.0.1:%d", in), fmt.Sprintf("127.0.0.1:%d", out)
	p.callee = w.proxy(t, zone, proxyOptions{token: token, dataplane: fmt.Sprintf(`type: Dataplane
mesh: default
name: callee
networking:
  address: 127.0.0.1
  inbound:
  - {port: %d, servicePort: %d, tags: {kuma.io/service: backend, kuma.io/protocol: http}}
`, in, serve(t, sample.Service{Service: "backend", Version: "v1"}))}).(*envoyProxy)
	p.caller = w.proxy(t, zone, proxyOptions{token: token, dataplane: web(t, "caller", out)}).(*envoyProxy)
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, false)
	if got := p.callee.authority(t); got != serial {
		t.Errorf("the callee trusts %s, not %s", got, serial)
	}
	return p
}

// A CA that lies in files of the global reaches a zone, which has no such files, and stays when they are gone. The
// zone issues while the global is away, and no certificate outlives the CA.
func TestProvidedCAInFiles(t *testing.T) {
	envoy(t)
	w := processes{}
	global := w.global(t)
	zone := w.zone(t, zoneOptions{name: "zone-1", global: global})
	certFile, keyFile, serial := ownCA(t)
	rev := put(t, global, "/meshes/default", fmt.Sprintf(`{"type": "Mesh", "name": "default", "mtls": {"enabledBackend": "mine", "backends": [
{"name": "mine", "type": "provided", "conf": {"cert": {"file": %q}, "key": {"file": %q}}}]}}`, certFile, keyFile))
	live(t, global, "zone-1", rev, 5*time.Second)
	for _, f := range []string{certFile, keyFile} {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	token := dataplaneToken(t, zone, "")
	global.kill(t)

	p := pairOf(t, zone, token, serial)
	ends, err := time.Parse(time.RFC3339, p.caller.certificate(t).Expires)
	if err != nil || time.Until(ends) > time.Hour {
		t.Errorf("the caller's certificate ends at %s, %v", ends, err)
	}
}
