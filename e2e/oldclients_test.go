package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/e2e/sample"
)

// TestOldClients goes the way of the manual of 0.3 and 0.4 with real proxies: a mesh with a provided CA, which comes by
// the admin port, tokens from there, dataplanes of that time, and proxies that know the API's address only.
func TestOldClients(t *testing.T) {
	envoy(t)
	w := processes{}
	zone := w.zone(t, zoneOptions{more: fmt.Sprintf("adminServer: {local: {enabled: true, port: %d}}\n", freePort(t))})
	admin := harness.NewClient(zone.addr("admin"))
	t.Cleanup(admin.Close)
	put(t, zone, "/meshes/default", `{"type": "Mesh", "name": "default", "mtls": {"enabled": true, "ca": {"provided": {}}}}`)

	start := func(name, networking string) *envoyProxy {
		t.Helper()
		token, _, err := admin.Do(t.Context(), http.MethodPost, "/tokens", fmt.Sprintf(`{"name": %q, "mesh": "default"}`, name))
		must(t, token, err)
		return w.proxy(t, zone, proxyOptions{catalog: true, token: string(token), dataplane: fmt.Sprintf("type: Dataplane\nmesh: default\nname: %s\nnetworking:\n%s", name, networking)}).(*envoyProxy)
	}
	p := &pair{zone: zone}
	in, out := freePort(t), freePort(t)
	p.inbound, p.outbound = fmt.Sprintf("127.0.0.1:%d", in), fmt.Sprintf("127.0.0.1:%d", out)
	p.callee = start("callee", fmt.Sprintf(`  inbound:
  - interface: 127.0.0.1:%d:%d
    tags: {service: backend, protocol: http}
`, in, serve(t, sample.Service{Service: "backend", Version: "v1"})))
	p.caller = start("caller", fmt.Sprintf(`  inbound:
  - interface: 127.0.0.1:%d:%d
    tags: {service: web, protocol: http}
  outbound:
  - interface: :%d
    service: backend
`, freePort(t), freePort(t), out))
	// Nobody has a certificate yet.
	p.answers(t, p.outbound, false)

	certFile, keyFile, serial := ownCA(t)
	cert, err := os.ReadFile(certFile)
	must(t, cert, err)
	key, err := os.ReadFile(keyFile)
	must(t, key, err)
	const certificates = "/meshes/default/ca/provided/certificates"
	raw, _, err := admin.Do(t.Context(), http.MethodPost, certificates, map[string]string{"cert": string(cert), "key": string(key)})
	must(t, raw, err)
	var added struct{ ID, Cert string }
	if err := json.Unmarshal(raw, &added); err != nil || added.Cert != string(cert) {
		t.Fatalf("%s, %v", raw, err)
	}
	p.answers(t, p.outbound, true)
	p.answers(t, p.inbound, false)
	if got := p.callee.authority(t); got != serial {
		t.Errorf("the callee trusts %s, not %s", got, serial)
	}
	if _, _, err := admin.Do(t.Context(), http.MethodDelete, certificates+"/"+added.ID, nil); status(err) != http.StatusBadRequest {
		t.Errorf("the CA of living proxies is deleted: %v", err)
	}
}
