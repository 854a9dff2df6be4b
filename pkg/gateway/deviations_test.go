package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/api"
)

// TestDeviations: where the published system differs from its documents, both are taken, and answered as the documents
// say. Each is written in one form and read in another.
func TestDeviations(t *testing.T) {
	t.Parallel()
	const (
		everything = `"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}]`
		permission = `{"type":"TrafficPermission","mesh":"default","name":"x",` + everything + `}`
	)
	for name, c := range map[string]struct {
		write, body, read string
		want              []string
	}{
		"a global secret called a secret": {
			"/global-secrets/x", `{"type":"Secret","name":"x","data":"dGVzdAo="}`, "/global-secrets/x", []string{`"type":"GlobalSecret"`, `"data":"dGVzdAo="`},
		},
		"a global secret called one": {"/global-secrets/x", `{"type":"GlobalSecret","name":"x"}`, "/global-secrets/x", []string{`"type":"GlobalSecret"`}},
		"a zone below a mesh": {
			"/meshes/default/zones/x", `{"type":"Zone","name":"x","enabled":true}`, "/zones/x", []string{`"type":"Zone"`, `"enabled":true`},
		},
		"a zone with its mesh": {"/meshes/default/zones/x", `{"type":"Zone","mesh":"default","name":"x"}`, "/meshes/default/zones/x", []string{`"type":"Zone"`}},
		"a zone's ingress": {
			"/zones/x", `{"type":"Zone","name":"x","ingress":{"address":"192.168.0.1:10000"}}`, "/meshes/default/zones+insights/x",
			[]string{`"mesh":"default"`, `"ingress":{"address":"192.168.0.1:10000"}`},
		},
		"a permission by the name in the text": {"/meshes/default/trafficpermissions/x", permission, "/meshes/default/traffic-permissions/x", []string{`"TrafficPermission"`}},
		"bits of RSA as they are written": {
			"/meshes/x", `{"type":"Mesh","name":"x","mtls":{"backends":[{"name":"a","type":"builtin","conf":{"caCert":{"RSAbits":2048}}}]}}`, "/meshes/x", []string{`"RSAbits":2048`},
		},
		"bits of RSA as they are documented": {
			"/meshes/x", `{"type":"Mesh","name":"x","mtls":{"backends":[{"name":"a","type":"builtin","conf":{"caCert":{"rsaBits":2048}}}]}}`, "/meshes/x", []string{`2048`},
		},
		"a health check over HTTP/1": {
			"/meshes/default/health-checks/x",
			`{"type":"HealthCheck","mesh":"default","name":"x",` + everything + `,"conf":{"interval":"1s","timeout":"1s","unhealthyThreshold":1,"healthyThreshold":1,"http":{"path":"/","useHttp1":true}}}`,
			"/meshes/default/health-checks/x",
			[]string{`"useHttp1":true`},
		},
		"tags without a prefix": {
			"/meshes/default/dataplanes/x",
			`{"type":"Dataplane","mesh":"default","name":"x","networking":{"address":"1.2.3.4","inbound":[{"port":1,"tags":{"service":"a","protocol":"http","zone":"z"}}]}}`,
			"/meshes/default/dataplane+insights/x",
			[]string{`"kuma.io/service":"a"`, `"kuma.io/protocol":"http"`, `"kuma.io/zone":"z"`},
		},
		"an outbound by its service": {
			"/meshes/default/dataplanes/x",
			`{"type":"Dataplane","mesh":"default","name":"x","networking":{"address":"1.2.3.4","inbound":[{"port":1,"tags":{"kuma.io/service":"a"}}],"outbound":[{"port":2,"service":"b"}]}}`,
			"/dataplanes",
			[]string{`"service":"b"`},
		},
		"a retry by protocol": {
			"/meshes/default/retries/x",
			`{"type":"Retry","mesh":"default","name":"x","sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*","kuma.io/protocol":"http"}}],"conf":{"http":{"numRetries":1}}}`,
			"/meshes/default/retries/x",
			[]string{`"kuma.io/protocol":"http"`},
		},
		"what is in the path":              {"/meshes/default/timeouts/x", `{` + everything + `,"conf":{"connectTimeout":"1s"}}`, "/timeouts", []string{`"type":"Timeout"`, `"mesh":"default"`, `"name":"x"`}},
		"what is in the path, and no mesh": {"/meshes/x", `{}`, "/meshes", []string{`"name":"x"`}},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, setup{api: api.Options{Mode: api.Standalone, Zone: "z"}})
			// With a content type, and without one.
			p.must(p.put(c.write, c.body), http.StatusCreated)
			p.must(p.do("PUT", c.write, c.body), http.StatusOK)
			got := compact(t, p.must(p.do("GET", c.read, ""), http.StatusOK).body)
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %s in %s", want, got)
				}
			}
			p.must(p.do("DELETE", c.write, ""), http.StatusOK)
			p.must(p.do("GET", c.write, ""), http.StatusNotFound)
		})
	}
}
