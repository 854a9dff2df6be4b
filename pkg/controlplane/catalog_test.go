package controlplane_test

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
)

// catalog asks a control plane by a name of its machine.
func (w *world) catalog(b *controlplane.Base, host string) map[string]string {
	w.t.Helper()
	r := w.do(call{base: "http://" + b.Addrs()["http"], method: "GET", path: "/catalog", host: host})
	if r.status != 200 {
		w.t.Fatalf("%d %s", r.status, r.body)
	}
	var c struct {
		APIs map[string]map[string]string `json:"apis"`
	}
	if err := json.Unmarshal([]byte(r.body), &c); err != nil {
		w.t.Fatal(err)
	}
	out := map[string]string{}
	for api, urls := range c.APIs {
		for k, v := range urls {
			out[api+"."+k] = v
		}
	}
	return out
}

func portOf(b *controlplane.Base, name string) string {
	_, port, _ := net.SplitHostPort(b.Addrs()[name])
	return port
}

// TestOldClients goes through the doors of clients of 0.3 to 0.6: the catalog, the admin port, its public form, and the
// bootstrap beside it.
func TestOldClients(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(g *config.Global, z *config.Zone) {
		g.AdminServer.Local.Enabled, g.AdminServer.Local.Port = true, 0
		z.DPServer.Interface, z.General.AdvertisedHostname = "0.0.0.0", "cp.example.org"
	})
	public := "https://" + w.global.Addrs()["https"]
	local := "http://localhost:" + portOf(w.global, "admin")
	want := map[string]string{
		"bootstrap.url": "", "monitoringAssignment.url": "",
		"admin.localUrl": local, "admin.publicUrl": public, "dataplaneToken.localUrl": local, "dataplaneToken.publicUrl": public,
	}
	if diff := cmp.Diff(want, w.catalog(w.global, "")); diff != "" {
		t.Error(diff)
	}
	// Where there is no admin port, the API does the same. Ports on all interfaces are told by the advertised name.
	local, public = "http://localhost:"+portOf(w.zone, "http"), "https://"+w.zone.Addrs()["https"]
	want = map[string]string{
		"bootstrap.url": "https://cp.example.org:" + portOf(w.zone, "dpServer"), "monitoringAssignment.url": "",
		"admin.localUrl": local, "admin.publicUrl": public, "dataplaneToken.localUrl": local, "dataplaneToken.publicUrl": public,
	}
	if diff := cmp.Diff(want, w.catalog(w.zone, "other.example.org:1")); diff != "" {
		t.Error(diff)
	}

	if host, _, _ := net.SplitHostPort(w.global.Addrs()["admin"]); host != "127.0.0.1" {
		t.Errorf("the admin port is on %s", host)
	}
	if at, ok := w.zone.Addrs()["admin"]; ok {
		t.Errorf("an admin port that nobody asked for: %s", at)
	}
	admin := "http://" + w.global.Addrs()["admin"]
	token := w.do(call{base: admin, method: "POST", path: "/tokens", body: `{"name": "dp-1", "mesh": "default"}`})
	if token.status != 200 {
		t.Fatalf("%d %s", token.status, token.body)
	}
	if r := w.do(call{base: admin, method: "GET", path: "/meshes"}); r.status != 404 {
		t.Errorf("the API on the admin port: %d", r.status)
	}
	for cert, want := range map[bool]int{true: 200, false: 403} {
		c := call{base: "https://" + w.global.Addrs()["https"], method: "POST", path: "/tokens", body: `{"name": "dp-1", "mesh": "default"}`, remote: true}
		if cert {
			c.cert = &w.cert
		}
		if r := w.do(c); r.status != want {
			t.Errorf("with a certificate %t: %d %s", cert, r.status, r.body)
		}
		c.method, c.path, c.body = "GET", "/meshes/default/ca/provided/certificates", ""
		if r := w.do(c); r.status != want {
			t.Errorf("with a certificate %t: %d %s", cert, r.status, r.body)
		}
	}
	// What is written elsewhere is said to be.
	r := w.do(call{base: "http://" + w.zone.Addrs()["http"], method: "POST", path: "/meshes/default/ca/provided/certificates", body: "{}"})
	if r.status != 405 || !strings.Contains(r.body, "on the global control plane (grpcs://") {
		t.Errorf("%d %s", r.status, r.body)
	}

	w.synced()
	body := fmt.Sprintf(`{"mesh": "default", "name": "dp-1", "dataplaneToken": %q, "dataplaneResource": %q}`,
		w.mustZone("POST", "/tokens", `{"name": "dp-1", "mesh": "default"}`),
		`{"type":"Dataplane","mesh":"default","name":"dp-1","networking":{"address":"127.0.0.1","inbound":[{"port":1,"tags":{"kuma.io/service":"x"}}]}}`)
	r = w.do(call{base: "https://" + w.zone.Addrs()["https"], method: "POST", path: "/bootstrap", body: body})
	if r.status != 200 || !regexp.MustCompile(`"port_value": *`+portOf(w.zone, "dpServer")).MatchString(r.body) {
		t.Errorf("%d %s", r.status, r.body)
	}
	for at, base := range map[string]string{"plain": "http://" + w.zone.Addrs()["http"], "global": "https://" + w.global.Addrs()["https"]} {
		if r := w.do(call{base: base, method: "POST", path: "/bootstrap", body: body}); r.status != 404 {
			t.Errorf("%s: %d %s", at, r.status, r.body)
		}
	}
}
