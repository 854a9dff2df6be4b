package resource

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

func TestWarningsSayWhatWasConverted(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		body string
		want []string
	}{
		{KindMesh, `{mtls: {enabled: true}}`, []string{"mtls.enabled and mtls.ca is read as enabledBackend and backends"}},
		{KindMesh, `{mtls: {enabled: false, ca: {}}}`, []string{"mtls is read as mutual TLS that is off"}},
		{KindMesh, `{mtls: {}, metrics: {}, logging: {}, tracing: {}}`, nil},
		{KindMesh, `{metrics: {prometheus: {}}}`, []string{"metrics.prometheus is read as enabledBackend and backends"}},
		{KindMesh, `{logging: {backends: [{name: a, type: file, conf: {path: /a}}, {name: b, file: {path: /b}}]}}`, []string{"logging.backends[1].file is read as type and conf"}},
		{KindMesh, `{tracing: {backends: [{zipkin: {url: "http://a:1/"}}]}}`, []string{"tracing.backends[0].zipkin is read as type and conf"}},
		{KindDataplane, `{networking: {gateway: {tags: {service: a}}}}`, []string{
			"networking.address is missing: the gateway gets 127.0.0.1", `the tag "service" is read as "kuma.io/service"`,
		}},
		{KindDataplane, `{networking: {address: 10.0.0.1, outbound: [{interface: ":1", service: a}], transparentProxying: {redirectPort: 1}}}`, []string{
			"networking.outbound[0].interface is read as address and port",
			"networking.transparentProxying.redirectPort is read as redirectPortInbound and redirectPortOutbound",
		}},
		{KindTrafficRoute, `{conf: []}`, []string{"conf is read as conf.split"}},
		{KindHealthCheck, `{conf: {activeChecks: {}, passiveChecks: {}}}`, []string{"conf.activeChecks is read as conf"}},
	} {
		in, err := DecodeYAML(descriptor(t, c.kind), []byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", c.body, err)
		}
		if diff := cmp.Diff(c.want, in.Warnings); diff != "" {
			t.Errorf("%s: %s", c.body, diff)
		}
	}
}

func TestWarningsAreFew(t *testing.T) {
	body := `{networking: {inbound: [` + strings.Repeat(`{interface: "10.0.0.1:1:2"},`, 100) + `]}}`
	in, err := DecodeYAML(descriptor(t, KindDataplane), []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(in.Warnings); n != maxWarnings+1 {
		t.Errorf("%d warnings", n)
	}
}

func TestConvertersRefuseWhatTheyCannotKeep(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		body string
		want string
	}{
		// Dataplane.
		{KindDataplane, `{networking: {inbound: [{interface: 1}, {interface: "1:2:3"}, {interface: "10.0.0.1:2"}, {interface: "10.0.0.1:0:1"}, {interface: "10.0.0.1:1:65536"}, {interface: "::1:1:2"}, {interface: "[10.0.0.1]:1:2"}, {interface: ":1:2"}, {interface: "a:1:2"}, {interface: ""}]}}`, `
networking.inbound[0].interface: must be a string, not a number
networking.inbound[1].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[2].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[3].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[4].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[5].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[6].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[7].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[8].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT
networking.inbound[9].interface: has to be IP:DATAPLANE_PORT:SERVICE_PORT`},
		{KindDataplane, `{networking: {address: 10.0.0.1, inbound: [{interface: "10.0.0.1:1:2"}]}}`, `
networking.inbound[0].interface: cannot be given together with "networking.address"`},
		{KindDataplane, `{networking: {inbound: [{interface: "10.0.0.1:1:2", port: 1}, {interface: "10.0.0.1:1:2", service_port: 1}, {interface: "10.0.0.1:1:2", interface: "10.0.0.1:1:2"}]}}`, `
networking.inbound[0].interface: cannot be given together with "port"
networking.inbound[1].interface: cannot be given together with "servicePort"
networking.inbound[2].interface: given more than once`},
		{KindDataplane, `{networking: {address: a, outbound: [{interface: ":0"}, {interface: "a:1"}, {interface: "[]:1"}, {interface: "10.0.0.1"}, {interface: ":1", port: 1}, {interface: ":1", address: 10.0.0.1}]}}`, `
networking.outbound[0].interface: has to be [IP]:PORT
networking.outbound[1].interface: has to be [IP]:PORT
networking.outbound[2].interface: has to be [IP]:PORT
networking.outbound[3].interface: has to be [IP]:PORT
networking.outbound[4].interface: cannot be given together with "port"
networking.outbound[5].interface: cannot be given together with "address"`},
		{KindDataplane, `{networking: {transparentProxying: {redirectPort: 1, redirectPortOutbound: 2}}}`, `
networking.transparentProxying.redirectPort: cannot be given together with "redirectPortOutbound"`},
		{KindDataplane, `{networking: {address: "", address: x, gateway: {tags: {service: a}}}}`, `
networking.address: given more than once`},
		{KindDataplane, `{networking: [], networking: {inbound: {interface: "10.0.0.1:1:2"}, outbound: [1]}}`, `
networking: must be an object, not a list
networking: given more than once`},

		// Mesh.
		{KindMesh, `{mtls: {enabled: 1, ca: []}}`, `
mtls.enabled: must be a boolean, not a number
mtls.ca: must be an object, not a list`},
		{KindMesh, `{mtls: {enabled: true, ca: {builtin: {a: 1}, provided: {b: 2}, c: 3}}}`, `
mtls.ca.c: unknown field
mtls.ca.builtin.a: unknown field
mtls.ca.provided.b: unknown field
mtls.ca.provided: cannot be given together with "builtin"`},
		{KindMesh, `{mtls: {enabled: true, enabledBackend: a}}`, `
mtls.enabled: cannot be given together with "enabledBackend"`},
		{KindMesh, `{mtls: {ca: {builtin: {}}, backends: []}}`, `
mtls.ca: cannot be given together with "backends"`},
		{KindMesh, `{mtls: {enabled: true, enabled: false, foo: 1}}`, `
mtls.enabled: given more than once
mtls.foo: unknown field`},
		{KindMesh, `{metrics: {prometheus: {port: 1, tags: {}}, enabledBackend: a}}`, `
metrics.prometheus: cannot be given together with "enabledBackend"`},
		{KindMesh, `{metrics: {prometheus: {port: 1, tags: {}}}}`, `
metrics.prometheus.tags: unknown field`},
		{KindMesh, `{logging: {backends: [{file: {path: /a, foo: 1}, tcp: {}}, {file: {}, type: file}, {tcp: {}, conf: {}}, {file: /a}]}}`, `
logging.backends[0].file: cannot be given together with "tcp"
logging.backends[1].file: cannot be given together with "type"
logging.backends[2].tcp: cannot be given together with "conf"
logging.backends[3].file: must be an object, not a string`},
		{KindMesh, `{tracing: {backends: [{zipkin: {url: a, sharedSpanContext: true}}]}}`, `
tracing.backends[0].zipkin.sharedSpanContext: unknown field`},

		// TrafficRoute, HealthCheck.
		{KindTrafficRoute, `{conf: [{weight: 1, foo: 1}, 2]}`, `
conf.split[0].foo: unknown field
conf.split[1]: must be an object, not a number`},
		{KindHealthCheck, `{conf: {activeChecks: {interval: 1s, tcp: {}}}}`, `
conf.activeChecks.tcp: unknown field`},
		{KindHealthCheck, `{conf: {activeChecks: {interval: 1s}, interval: 1s}}`, `
conf.activeChecks: cannot be given together with "interval"`},
		{KindHealthCheck, `{conf: {passiveChecks: {unhealthyThreshold: 1, penaltyInterval: 1s, foo: 1}}}`, `
conf.passiveChecks.foo: unknown field
conf.passiveChecks: are circuit breakers now: use conf.detectors.totalErrors and conf.baseEjectionTime of a CircuitBreaker`},
	} {
		_, err := DecodeYAML(descriptor(t, c.kind), []byte(c.body))
		v, ok := err.(Violations) //nolint:errorlint // what it is, not what it wraps
		if !ok {
			t.Errorf("%s: %v", c.body, err)
			continue
		}
		if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), strings.TrimSuffix(list(v), "\n")); diff != "" {
			t.Errorf("%s: %s", c.body, diff)
		}
	}
}

// A null says nothing, in whatever era its field was.
func TestConvertersTakeNullAsAbsent(t *testing.T) {
	for body, kind := range map[string]Kind{
		`{networking: {inbound: [{interface: null}], transparentProxying: {redirectPort: null}}}`:                                        KindDataplane,
		`{mtls: {enabled: true, ca: null, backends: null}, metrics: {prometheus: null}, logging: {backends: [{file: null, tcp: {}}]}}`:   KindMesh,
		`{mtls: {enabled: null, ca: {provided: {}, builtin: null}}, tracing: {backends: [{zipkin: null, type: zipkin}]}, metrics: null}`: KindMesh,
		`{conf: {activeChecks: null, passiveChecks: null}}`:                                                                              KindHealthCheck,
	} {
		if _, err := DecodeYAML(descriptor(t, kind), []byte(body)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
	in, err := DecodeYAML(descriptor(t, KindMesh), []byte(`{mtls: {enabled: true, ca: null, backends: null}}`))
	if err != nil {
		t.Fatal(err)
	}
	if mesh, ok := in.Spec.(*meshv1.Mesh); !ok || mesh.GetMtls().GetEnabledBackend() != backendBuiltin || len(mesh.GetMtls().GetBackends()) != 1 {
		t.Error("mutual TLS was turned off", in.Spec)
	}
}

// The secrets of a provided CA are named after the mesh, which a body need not name.
func TestProvidedCAWithoutAName(t *testing.T) {
	d := descriptor(t, KindMesh)
	for _, body := range []string{`{mtls: {ca: {provided: {}}}}`, `{mtls: {ca: {provided: {}}}, name: m}`} {
		in, err := DecodeYAML(d, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		k := Key{Kind: KindMesh, Name: "m"}
		d.Default(k, in.Spec)
		if v := d.Validate(k, in.Spec); v != nil {
			t.Error(v)
		}
		mesh := in.Spec.(*meshv1.Mesh)
		conf := mesh.GetMtls().GetBackends()[0].GetConf().AsMap()
		want := map[string]any{"cert": map[string]any{"secret": "m.ca-provided-cert-provided"}, "key": map[string]any{"secret": "m.ca-provided-key-provided"}}
		if diff := cmp.Diff(want, conf); diff != "" || mesh.GetMtls().GetEnabledBackend() != "" {
			t.Error(diff, mesh)
		}
	}
}

// Wherever a field that no era knows is put into a body, it is refused, and named.
func TestNoUnknownFieldIsLost(t *testing.T) {
	paths, err := filepath.Glob("testdata/roundtrip/*.in.json")
	if err != nil {
		t.Fatal(err)
	}
	places := 0
	for _, path := range paths {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var root any
		if err := json.Unmarshal(body, &root); err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(filepath.Base(path), ".")
		kind, _, _ = strings.Cut(kind, "-")
		d := descriptor(t, Kind(kind))
		var walk func(at string, x any)
		walk = func(at string, x any) {
			switch x := x.(type) {
			case []any:
				for i, y := range x {
					walk(fmt.Sprintf("%s[%d]", at, i), y)
				}
			case map[string]any:
				const stranger = "a_stranger"
				x[stranger] = 1
				changed, err := json.Marshal(root)
				if err != nil {
					t.Fatal(err)
				}
				delete(x, stranger)
				places++
				if _, err := DecodeJSON(d, changed); err == nil || !strings.Contains(err.Error(), stranger) {
					t.Errorf("%s: %s.%s: %v", path, at, stranger, err)
				}
				for k, y := range x {
					switch k {
					case "tags", "match", "destination", "stat", "kumaDp", "services": // any key
					default:
						walk(at+"."+k, y)
					}
				}
			}
		}
		walk("", root)
	}
	t.Logf("%d places", places)
}

func TestNamesInTheSchema(t *testing.T) {
	for _, c := range []struct {
		key, name string
		want      bool
	}{
		{"interval", "interval", true},
		{"active_checks", "activeChecks", true},
		{"trace_id_128bit", "traceId128bit", true},
		{"activeChecks", "activeChecks", true},
		{"active_check", "activeChecks", false},
		{"activechecks", "activeChecks", false},
		{"active_checks_", "activeChecks", false},
		{"_", "", false},
		{"", "a", false},
		{"file_", "files", false},
	} {
		if named(c.key, c.name) != c.want {
			t.Errorf("%q, %q", c.key, c.name)
		}
	}
}
