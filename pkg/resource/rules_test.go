package resource

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRulesTake holds validators to what they must not refuse: rules with an edge, and what clients of older releases
// send.
func TestRulesTake(t *testing.T) {
	const proxy = `networking: {address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: a`
	for _, c := range []struct {
		name string
		kind Kind
		body string
	}{
		// Tags and selectors.
		{"a pattern in a source", KindTrafficPermission, `{sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: a/b, version: '*', 'a.b_c:d/e-f': x}}]}`},
		{"sources by any tags", KindFaultInjection, `{sources: [{match: {version: v1}}], destinations: [{match: {kuma.io/protocol: grpc}}], conf: {delay: {percentage: 0, value: 1ns}}}`},
		{"selectors by any tags", KindTrafficTrace, `{selectors: [{match: {version: '*'}}]}`},
		{"no selectors", KindProxyTemplate, `{conf: {imports: [default-proxy]}}`},
		{"nothing but selectors", KindProxyTemplate, `{selectors: [{match: {kuma.io/service: a}}]}`},
		{"a protocol among the destinations of a retry", KindRetry, `{sources: [{match: {kuma.io/service: a}}], destinations: [{match: {kuma.io/service: a, kuma.io/protocol: http}}], conf: {tcp: {maxConnectAttempts: 1}}}`},

		// Mesh.
		{"a lifetime for ever", KindMesh, `{mtls: {backends: [{name: a, type: builtin, dpCert: {rotation: {expiration: "0"}}, conf: {caCert: {expiration: 0s}}}]}}`},
		{"each unit of a lifetime", KindMesh, `{mtls: {backends: [{name: a, type: builtin, dpCert: {rotation: {expiration: 1y}}}, {name: b, type: builtin, dpCert: {rotation: {expiration: 1w}}}, {name: c, type: builtin, dpCert: {rotation: {expiration: 1000ms}}}]}}`},
		{"a backend without a name", KindMesh, `{mtls: {backends: [{type: builtin}]}, metrics: {backends: [{type: prometheus}]}}`},
		{"backends that are not enabled", KindMesh, `{mtls: {backends: [{name: a, type: provided, conf: {cert: {secret: a}, key: {secret: b}}}]}, tracing: {backends: [{name: a, type: zipkin, conf: {url: "http://a:9411/api"}}]}}`},
		{"many keys to make", KindMesh, `{mtls: {backends: [` + builtins(maxBuiltin) + `]}}`},
		{"RSAbits as a text", KindMesh, `{mtls: {backends: [{name: a, type: builtin, conf: {caCert: {RSAbits: "2048"}}}]}}`},
		{"any share of traces", KindMesh, `{tracing: {backends: [{name: a, type: zipkin, sampling: 0, conf: {url: "http://a:1"}}, {name: b, type: zipkin, sampling: 100, conf: {url: "https://[::1]:1/x", apiVersion: ""}}]}}`},
		{"log formats", KindMesh, `{logging: {backends: [{name: a, type: file, format: "%START_TIME% %KUMA_MESH%", conf: {path: /a}}, {name: b, type: tcp, conf: {address: "[::1]:5000"}}]}}`},
		{"the other settings", KindMesh, `{networking: {outbound: {passthrough: false}}, routing: {localityAwareLoadBalancing: true}}`},

		// Dataplane.
		{"a name for an address", KindDataplane, `{networking: {address: proxy-1.example.com, gateway: {tags: {kuma.io/service: a, kuma.io/protocol: TCP}}}}`},
		{"protocols in any case", KindDataplane, "{" + proxy + `, kuma.io/protocol: HTTP2}}, {port: 81, tags: {kuma.io/service: a, kuma.io/protocol: kafka}}]}}`},
		{"another service address", KindDataplane, "{" + proxy + `}, serviceAddress: 127.0.0.1}, {port: 81, servicePort: 82, serviceAddress: 10.0.0.1, tags: {kuma.io/service: a}}]}}`},
		{"a service that is not ready", KindDataplane, "{" + proxy + `}, health: {ready: false}, serviceProbe: {tcp: {}}}]}}`},
		{"both ways of an outbound", KindDataplane, "{" + proxy + `}}], outbound: [{port: 1, service: b}, {port: 2, address: "::1", tags: {kuma.io/service: b, version: v1}}]}}`},
		{"an ingress without a service or an address", KindDataplane, `{networking: {ingress: {}, inbound: [{port: 10001}]}}`},
		{"a public name of an ingress", KindDataplane, `{networking: {ingress: {publicAddress: in.example.com, publicPort: 65535}, inbound: [{port: 10001, tags: {kuma.io/protocol: tcp}}]}}`},
		{"all services without an outbound", KindDataplane, "{" + proxy + `}}], transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001, redirectPortInboundV6: 15010, directAccessServices: ["*"]}}}`},
		{"probes with queries", KindDataplane, "{" + proxy + `}}]}, probes: {port: 9000, endpoints: [{inboundPort: 8080, inboundPath: "/a?b=c", path: "/8080/a?b=c"}]}}`},

		// Policies.
		{"weights of any sum", KindTrafficRoute, selectorsOK + `conf: {split: [{weight: 0, destination: {kuma.io/service: a}}, {weight: 7, destination: {kuma.io/service: b, version: '*'}}]}`},
		{"a route whose weights are all 0", KindTrafficRoute, selectorsOK + `conf: {split: [{destination: {kuma.io/service: a}}]}`},
		{"each load balancer", KindTrafficRoute, selectorsOK + `conf: {split: [{destination: {kuma.io/service: a}}], loadBalancer: {ringHash: {hashFunction: XX_HASH}}}`},
		{"no connect timeout", KindTimeout, selectorsOK + `conf: {connectTimeout: 0s}`},
		{"a timeout of one protocol", KindTimeout, selectorsOK + `conf: {grpc: {maxStreamDuration: 1h}}`},
		{"only some of a retry", KindRetry, selectorsOK + `conf: {http: {retriableStatusCodes: [500]}, grpc: {retryOn: [internal]}}`},
		{"a health check of bytes", KindHealthCheck, selectorsOK + `conf: {interval: 1ns, timeout: 1s, unhealthyThreshold: 1, healthyThreshold: 1, healthyPanicThreshold: 0, tcp: {send: AQID, receive: [AQID, ""]}}`},
		{"a health check of HTTP", KindHealthCheck, selectorsOK + `conf: {interval: 1s, timeout: 1s, unhealthyThreshold: 1, healthyThreshold: 1, http: {path: /, useHttp1: true, requestHeadersToAdd: [{header: {key: a}, append: false}], expectedStatuses: [100, 599]}}`},
		{"a detector with nothing in it", KindCircuitBreaker, selectorsOK + `conf: {detectors: {totalErrors: {}}}`},
		{"a threshold of 0", KindCircuitBreaker, selectorsOK + `conf: {maxEjectionPercent: 0, thresholds: {maxConnections: 0}}`},
		{"a fault next to empty ones", KindFaultInjection, `{sources: [{match: {kuma.io/service: a}}], destinations: [{match: {kuma.io/protocol: http2}}], conf: {delay: {}, abort: {}, responseBandwidth: {percentage: 100, limit: at most 5 mbps}}}`},
		{"a log without a backend", KindTrafficLog, selectorsOK},
		{"a trace of a backend that is nowhere", KindTrafficTrace, `{selectors: [{match: {kuma.io/service: a}}], conf: {backend: nowhere}}`},
		{"external services", KindExternalService, `{networking: {address: "[fd00::1]:443", tls: {enabled: true, caCert: {inline: AQID}, clientCert: {file: /a}, clientKey: {secret: s}}}, tags: {kuma.io/service: a, kuma.io/protocol: Grpc}}`},
		{"a zone that is nothing yet", KindZone, `{}`},
		{"a zone's ingress", KindZone, `{enabled: true, ingress: {address: "in.example.com:10001"}}`},
		{"a revocation", KindRevocation, `{note: ` + strings.Repeat("x", 1024) + `}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if v := validate(t, c.kind, c.body); v != nil {
				t.Error(v)
			}
		})
	}
}

// builtins are so many backends.
func builtins(n int) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("{name: b%d, type: builtin}", i)
	}
	return strings.Join(all, ", ")
}

// TestRulesRefuse has the rules that the tables beside each kind leave out, and those that several parts of one object
// break, in their order.
func TestRulesRefuse(t *testing.T) {
	for _, c := range []struct {
		name string
		kind Kind
		body string
		want string
	}{
		{"a lifetime too short", KindMesh, `{mtls: {backends: [{name: a, type: builtin, dpCert: {rotation: {expiration: 999ms}}}, {name: b, type: builtin, dpCert: {rotation: {}}}]}}`, `
mtls.dpcert.rotation.expiration: has to be at least 1s
mtls.dpcert.rotation.expiration: has to be a number and one of y, w, d, h, m, s, ms, such as 24h`},
		{"a backend whose secrets can have no name", KindMesh, `{mtls: {backends: [{name: "A b", type: builtin}, {name: "A b c", type: provided, conf: {cert: {file: /a}, key: {secret: k}}}]}}`, `
mtls.backends[0].name: its CA lies in secrets named after it: valid are digits, lower-case letters, "-", "_" and ".", for a name of at most 298 characters
mtls.backends[1].name: its CA lies in secrets named after it: valid are digits, lower-case letters, "-", "_" and ".", for a name of at most 298 characters`},
		{"too many keys to make", KindMesh, `{mtls: {backends: [` + builtins(maxBuiltin+1) + `]}}`, `
mtls.backends: must not have more than 32 of type builtin`},
		{"all parts of a mesh", KindMesh, `{metrics: {backends: [{name: a, type: x}]}, logging: {defaultBackend: a}, tracing: {backends: [{name: a}]}, mtls: {enabledBackend: a}}`, `
mtls.enabledBackend: has to be set to one of the backends in the mesh
tracing.backends[0].type: has to be zipkin
logging.defaultBackend: has to be set to one of the backends in the mesh
metrics.backends[0].type: has to be prometheus`},
		{"all parts of a dataplane", KindDataplane, `{probes: {endpoints: [{}]}, metrics: {type: prometheus, conf: {port: 65536}}, networking: {outbound: [{}], inbound: [{}], address: ""}}`, `
networking.address: cannot be empty
networking.inbound[0].port: has to be in the range [1, 65535]
networking.inbound[0].tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing
networking.outbound[0].port: has to be in the range [1, 65535]
networking.outbound[0].kuma.io/service: cannot be empty
metrics.conf.port: has to be in the range [1, 65535]
probes.port: has to be in the range [1, 65535]
probes.endpoints[0].inboundPort: has to be in the range [1, 65535]
probes.endpoints[0].inboundPath: has to be a valid URL path
probes.endpoints[0].path: has to be a valid URL path`},
		{"keys that must be quoted", KindTrafficPermission, `{sources: [{match: {kuma.io/service: a, 'a"b\c': x}}], destinations: [{match: {kuma.io/service: a, "☃\n": y}}]}`, `
sources[0].match: must consist of exactly one tag "kuma.io/service"
sources[0].match["a\"b\\c"]: tag "a\"b\\c" is not allowed
sources[0].match["a\"b\\c"]: tag name must consist of letters, digits, ".", "_", ":", "/" and "-"
destinations[0].match["☃\n"]: tag name must consist of letters, digits, ".", "_", ":", "/" and "-"`},
		{"a long note", KindRevocation, `{note: ` + strings.Repeat("x", 1025) + `}`, `
note: is longer than 1024 bytes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), strings.TrimSuffix(list(validate(t, c.kind, c.body)), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}
