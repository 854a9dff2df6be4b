package resource

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

// eras are bodies in the shapes of older documents, the present shape of each, and what is said of it.
var eras = []struct {
	name       string
	kind       Kind
	older, now string
	warnings   []string
}{
	{
		"tags of inbounds and outbounds, 0.3 to 0.6", KindDataplane,
		`{networking: {address: 10.0.0.1, inbound: [{port: 1, servicePort: 2, tags: {service: a, protocol: http, zone: z, version: v}}], outbound: [{port: 3, service: b}, {port: 4, tags: {service: c}}]}}`,
		`{networking: {address: 10.0.0.1, inbound: [{port: 1, servicePort: 2, tags: {kuma.io/service: a, kuma.io/protocol: http, kuma.io/zone: z, version: v}}], outbound: [{port: 3, service: b}, {port: 4, tags: {kuma.io/service: c}}]}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`, `the tag "protocol" is read as "kuma.io/protocol"`, `the tag "zone" is read as "kuma.io/zone"`},
	},
	{
		"tags of a gateway and of an ingress", KindDataplane,
		`{networking: {address: 10.0.0.1, gateway: {tags: {service: a}}, ingress: {availableServices: [{tags: {service: b}, mesh: default}]}}}`,
		`{networking: {address: 10.0.0.1, gateway: {tags: {kuma.io/service: a}}, ingress: {availableServices: [{tags: {kuma.io/service: b}, mesh: default}]}}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`},
	},
	{
		"tags of selectors and splits", KindTrafficRoute,
		`{sources: [{match: {service: a}}], destinations: [{match: {service: b}}], conf: {split: [{weight: 1, destination: {service: c, version: v1}}]}}`,
		`{sources: [{match: {kuma.io/service: a}}], destinations: [{match: {kuma.io/service: b}}], conf: {split: [{weight: 1, destination: {kuma.io/service: c, version: v1}}]}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`},
	},
	{
		"tags of an external service", KindExternalService,
		`{networking: {address: "a:1"}, tags: {service: a, protocol: tcp}}`, `{networking: {address: "a:1"}, tags: {kuma.io/service: a, kuma.io/protocol: tcp}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`, `the tag "protocol" is read as "kuma.io/protocol"`},
	},
	{
		"selectors of the other policies", KindTrafficTrace,
		`{selectors: [{match: {service: "*", zone: z}}]}`, `{selectors: [{match: {kuma.io/service: "*", kuma.io/zone: z}}]}`,
		[]string{`the tag "service" is read as "kuma.io/service"`, `the tag "zone" is read as "kuma.io/zone"`},
	},
	{
		"tags in the metrics of a mesh", KindMesh,
		`{metrics: {backends: [{name: a, type: prometheus, conf: {port: 1, tags: {service: x, zone: z, other: y}}}]}}`,
		`{metrics: {backends: [{name: a, type: prometheus, conf: {port: 1, tags: {kuma.io/service: x, kuma.io/zone: z, other: y}}}]}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`, `the tag "zone" is read as "kuma.io/zone"`},
	},
	{
		"tags in the metrics of a proxy", KindDataplane,
		`{metrics: {type: prometheus, conf: {tags: {service: x}}}}`, `{metrics: {type: prometheus, conf: {tags: {kuma.io/service: x}}}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`},
	},
	{
		"inbound interfaces, 0.3", KindDataplane,
		`{networking: {inbound: [{interface: "10.0.0.1:1:2", tags: {version: a}}, {interface: "10.0.0.1:3:4"}, {interface: "[fd00::1]:5:6"}]}}`,
		`{networking: {address: 10.0.0.1, inbound: [{port: 1, servicePort: 2, tags: {version: a}}, {port: 3, servicePort: 4}, {address: "fd00::1", port: 5, servicePort: 6}]}}`,
		[]string{
			"networking.inbound[0].interface is read as address, port and servicePort", "networking.inbound[1].interface is read as address, port and servicePort",
			"networking.inbound[2].interface is read as address, port and servicePort",
		},
	},
	{
		"an inbound interface of version 6 first", KindDataplane,
		`{networking: {inbound: [{interface: "[fd00::1]:1:2"}]}}`, `{networking: {address: "fd00::1", inbound: [{port: 1, servicePort: 2}]}}`,
		[]string{"networking.inbound[0].interface is read as address, port and servicePort"},
	},
	{
		"outbound interfaces, 0.3 and 0.4", KindDataplane,
		`{networking: {address: 10.0.0.1, outbound: [{interface: ":1", service: a}, {interface: "127.0.0.2:2", service: b}, {interface: "[::1]:3", service: c}]}}`,
		`{networking: {address: 10.0.0.1, outbound: [{port: 1, service: a}, {address: 127.0.0.2, port: 2, service: b}, {address: "::1", port: 3, service: c}]}}`,
		[]string{"networking.outbound[0].interface is read as address and port", "networking.outbound[1].interface is read as address and port", "networking.outbound[2].interface is read as address and port"},
	},
	{
		"address, port and servicePort, 0.4", KindDataplane,
		`{networking: {address: 10.0.0.1, inbound: [{port: 1, servicePort: 2, tags: {service: a}}]}}`, `{networking: {address: 10.0.0.1, inbound: [{port: 1, servicePort: 2, tags: {kuma.io/service: a}}]}}`,
		[]string{`the tag "service" is read as "kuma.io/service"`},
	},
	{
		"a gateway without an address", KindDataplane,
		`{networking: {gateway: {tags: {service: a}}, outbound: [{interface: ":1", service: b}]}}`,
		`{networking: {address: 127.0.0.1, gateway: {tags: {kuma.io/service: a}}, outbound: [{port: 1, service: b}]}}`,
		[]string{"networking.outbound[0].interface is read as address and port", "networking.address is missing: the gateway gets 127.0.0.1", `the tag "service" is read as "kuma.io/service"`},
	},
	{
		"one redirected port", KindDataplane,
		`{networking: {transparentProxying: {redirectPort: 15001}}}`, `{networking: {transparentProxying: {redirectPortInbound: 15001, redirectPortOutbound: 15001}}}`,
		[]string{"networking.transparentProxying.redirectPort is read as redirectPortInbound and redirectPortOutbound"},
	},
	{
		"builtin CA, enabled", KindMesh,
		`{mtls: {enabled: true, ca: {builtin: {}}}}`, `{mtls: {enabledBackend: builtin, backends: [{name: builtin, type: builtin}]}}`,
		[]string{"mtls.enabled and mtls.ca is read as enabledBackend and backends"},
	},
	{
		"no CA, enabled", KindMesh,
		`{mtls: {enabled: true}}`, `{mtls: {enabledBackend: builtin, backends: [{name: builtin, type: builtin}]}}`,
		[]string{"mtls.enabled and mtls.ca is read as enabledBackend and backends"},
	},
	{
		"builtin CA, not enabled", KindMesh,
		`{mtls: {enabled: false, ca: {builtin: {}}}}`, `{mtls: {backends: [{name: builtin, type: builtin}]}}`,
		[]string{"mtls.enabled and mtls.ca is read as enabledBackend and backends"},
	},
	{
		"nothing that is off", KindMesh, `{mtls: {enabled: false, ca: {}}}`, `{}`,
		[]string{"mtls is read as mutual TLS that is off"},
	},
	{
		"provided CA", KindMesh,
		`{name: m, mtls: {enabled: true, ca: {provided: {}}}}`,
		`{name: m, mtls: {enabledBackend: provided, backends: [{name: provided, type: provided, conf: {cert: {secret: m.ca-provided-cert-provided}, key: {secret: m.ca-provided-key-provided}}}]}}`,
		[]string{"mtls.enabled and mtls.ca is read as enabledBackend and backends"},
	},
	{
		"metrics", KindMesh,
		`{metrics: {prometheus: {port: 1234, path: /m}}}`, `{metrics: {enabledBackend: prometheus, backends: [{name: prometheus, type: prometheus, conf: {port: 1234, path: /m}}]}}`,
		[]string{"metrics.prometheus is read as enabledBackend and backends"},
	},
	{
		"logging", KindMesh,
		`{logging: {defaultBackend: f, backends: [{name: f, format: x, file: {path: /a}}, {name: t, tcp: {address: "a:1"}}, {file: {path: /b}}]}}`,
		`{logging: {defaultBackend: f, backends: [{name: f, format: x, type: file, conf: {path: /a}}, {name: t, type: tcp, conf: {address: "a:1"}}, {name: file, type: file, conf: {path: /b}}]}}`,
		[]string{"logging.backends[0].file is read as type and conf", "logging.backends[1].tcp is read as type and conf", "logging.backends[2].file is read as type and conf"},
	},
	{
		"tracing", KindMesh,
		`{tracing: {defaultBackend: z, backends: [{name: z, sampling: 50, zipkin: {url: "http://a:1/", traceId128bit: true, apiVersion: httpJson}}, {zipkin: {url: "http://b:1/"}}]}}`,
		`{tracing: {defaultBackend: z, backends: [{name: z, sampling: 50, type: zipkin, conf: {url: "http://a:1/", traceId128bit: true, apiVersion: httpJson}}, {name: zipkin, type: zipkin, conf: {url: "http://b:1/"}}]}}`,
		[]string{"tracing.backends[0].zipkin is read as type and conf", "tracing.backends[1].zipkin is read as type and conf"},
	},
	{
		"route", KindTrafficRoute,
		`{conf: [{weight: 90, destination: {version: a}}, {weight: 10, destination: {version: b}}]}`, `{conf: {split: [{weight: 90, destination: {version: a}}, {weight: 10, destination: {version: b}}]}}`,
		[]string{"conf is read as conf.split"},
	},
	{
		"health check, 0.3 to 0.5", KindHealthCheck,
		`{conf: {activeChecks: {interval: 1s, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 4}}}`, `{conf: {interval: 1s, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 4}}`,
		[]string{"conf.activeChecks is read as conf"},
	},
	{"zone, 0.7", KindZone, `{ingress: {address: "10.0.0.1:10001"}}`, `{ingress: {address: "10.0.0.1:10001"}}`, nil},
	{
		"retry with a protocol, 1.1", KindRetry,
		`{destinations: [{match: {service: a, protocol: http}}]}`, `{destinations: [{match: {kuma.io/service: a, kuma.io/protocol: http}}]}`,
		[]string{`the tag "service" is read as "kuma.io/service"`, `the tag "protocol" is read as "kuma.io/protocol"`},
	},
	{
		"types of secrets", KindGlobalSecret, `{type: Secret, data: AQID}`, `{type: GlobalSecret, data: AQID}`, nil,
	},
}

// TestEras reads every older shape as the present one, and says so.
func TestEras(t *testing.T) {
	for _, c := range eras {
		t.Run(c.name, func(t *testing.T) {
			d := descriptor(t, c.kind)
			older, err := DecodeYAML(d, []byte(c.older))
			if err != nil {
				t.Fatal(err)
			}
			now, err := DecodeYAML(d, []byte(c.now))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(now.Spec, older.Spec, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.warnings, older.Warnings); diff != "" {
				t.Error(diff)
			}
			if len(now.Warnings) > 0 {
				t.Errorf("of the present shape it says %q", now.Warnings)
			}
		})
	}
}

// TestNothingOlderIsLost puts a field that no era knows into every object of every older shape, and gives every field
// of it twice: each is refused by its name.
func TestNothingOlderIsLost(t *testing.T) {
	for _, c := range eras {
		d := descriptor(t, c.kind)
		root, err := parseYAML([]byte(c.older), Limits{}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		places := 0
		var walk func(v *value, free bool)
		refused := func(what, name string) {
			t.Helper()
			places++
			_, err := decodeInput(d, root, Limits{}.withDefaults())
			var v Violations
			if !errors.As(err, &v) || !slices.ContainsFunc(v, func(x Violation) bool {
				return strings.Contains(x.Field, name) || strings.Contains(x.Field, WellKnownTag(name))
			}) {
				t.Errorf("%s: %s %q: %v", c.name, what, name, err)
			}
		}
		walk = func(v *value, free bool) {
			for i := range v.items {
				walk(&v.items[i], false)
			}
			if v.shape != shapeObject {
				return
			}
			old := v.members
			if !free {
				v.members = append(slices.Clone(old), member{"stranger", value{shape: shapeNumber, text: "1"}})
				refused("a stranger", "stranger")
			}
			for _, m := range old {
				v.members = append(slices.Clone(old), m)
				refused("twice", m.name)
			}
			v.members = old
			for i := range old {
				walk(&old[i].value, slices.Contains([]string{"tags", "match", "destination"}, old[i].name))
			}
		}
		walk(&root, false)
		if places == 0 {
			t.Errorf("%s: nothing was tried", c.name)
		}
	}
}

// TestErasDoNotMix refuses what is given in two shapes at once, at the older one.
func TestErasDoNotMix(t *testing.T) {
	for _, c := range []struct {
		kind        Kind
		body, field string
	}{
		{KindDataplane, `{networking: {inbound: [{tags: {service: a, kuma.io/service: a}}]}}`, `networking.inbound[0].tags["service"]`},
		{KindDataplane, `{networking: {outbound: [{tags: {kuma.io/zone: a, zone: b}}]}}`, `networking.outbound[0].tags["zone"]`},
		{KindDataplane, `{networking: {address: 1.1.1.1, inbound: [{interface: "1.1.1.1:1:2"}]}}`, "networking.inbound[0].interface"},
		{KindDataplane, `{networking: {inbound: [{interface: "1.1.1.1:1:2", address: 1.1.1.1}]}}`, "networking.inbound[0].interface"},
		{KindDataplane, `{networking: {inbound: [{interface: "1.1.1.1:1:2", serviceAddress: 1.1.1.1}]}}`, "networking.inbound[0].interface"},
		{KindDataplane, `{networking: {outbound: [{interface: ":1", port: 1}]}}`, "networking.outbound[0].interface"},
		{KindDataplane, `{networking: {transparentProxying: {redirectPort: 1, redirectPortInbound: 1}}}`, "networking.transparentProxying.redirectPort"},
		{KindDataplane, `{metrics: {type: prometheus, conf: {tags: {service: a, kuma.io/service: b}}}}`, `metrics.conf.tags["service"]`},
		{KindMesh, `{metrics: {backends: [{name: a, type: prometheus, conf: {tags: {kuma.io/service: a, service: a}}}]}}`, `metrics.backends[0].conf.tags["service"]`},
		{KindMesh, `{mtls: {enabled: true, enabledBackend: builtin}}`, "mtls.enabled"},
		{KindMesh, `{mtls: {enabled: false, backends: []}}`, "mtls.enabled"},
		{KindMesh, `{mtls: {ca: {builtin: {}}, backends: [{name: a, type: builtin}]}}`, "mtls.ca"},
		{KindMesh, `{mtls: {ca: {builtin: {}, provided: {}}}}`, "mtls.ca.provided"},
		{KindMesh, `{metrics: {prometheus: {}, backends: []}}`, "metrics.prometheus"},
		{KindMesh, `{logging: {backends: [{name: a, type: file, file: {path: /a}}]}}`, "logging.backends[0].file"},
		{KindMesh, `{logging: {backends: [{name: a, conf: {path: /a}, tcp: {address: "a:1"}}]}}`, "logging.backends[0].tcp"},
		{KindMesh, `{tracing: {backends: [{name: a, type: zipkin, zipkin: {}}]}}`, "tracing.backends[0].zipkin"},
		{KindTrafficRoute, `{conf: [], conf: {split: []}}`, "conf"},
		{KindHealthCheck, `{conf: {activeChecks: {interval: 1s}, timeout: 1s}}`, "conf.activeChecks"},
	} {
		_, err := DecodeYAML(descriptor(t, c.kind), []byte(c.body))
		var v Violations
		if !errors.As(err, &v) || !slices.ContainsFunc(v, func(x Violation) bool { return x.Field == c.field }) {
			t.Errorf("%s: %v", c.body, fmt.Sprint(err))
		}
	}
}
