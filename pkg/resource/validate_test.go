package resource

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// validate runs a kind's validator over a spec given as YAML.
func validate(t testing.TB, k Kind, body string) Violations {
	t.Helper()
	d := descriptor(t, k)
	in, err := DecodeYAML(d, []byte(body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	key := Key{Kind: k, Name: "x"}
	if d.Scope == ScopeMesh {
		key.Scope = "default"
	}
	return d.Validate(key, in.Spec)
}

// list writes violations one a line, which is what the tables below are of.
func list(v Violations) string {
	var b strings.Builder
	for _, x := range v {
		fmt.Fprintf(&b, "%s: %s\n", x.Field, x.Message)
	}
	return b.String()
}

const selectorsOK = "sources: [{match: {kuma.io/service: '*'}}]\ndestinations: [{match: {kuma.io/service: web}}]\n"

func TestValidators(t *testing.T) {
	for _, c := range []struct {
		name string
		kind Kind
		body string
		want string
	}{
		// Selectors.
		{"no selectors", KindTrafficPermission, `{}`, `
sources: must have at least one element
destinations: must have at least one element`},
		{"no tags", KindTrafficPermission, `{sources: [{}], destinations: [{match: {}}]}`, `
sources[0].match: must consist of exactly one tag "kuma.io/service"
sources[0].match: mandatory tag "kuma.io/service" is missing
destinations[0].match: must have at least one tag
destinations[0].match: mandatory tag "kuma.io/service" is missing`},
		{"a tag too many", KindTrafficPermission, `{sources: [{match: {extra: x}}, {match: {kuma.io/service: a, extra: x}}], destinations: [{match: {extra: x}}]}`, `
sources[0].match: must consist of exactly one tag "kuma.io/service"
sources[0].match["extra"]: tag "extra" is not allowed
sources[0].match: mandatory tag "kuma.io/service" is missing
sources[1].match: must consist of exactly one tag "kuma.io/service"
sources[1].match["extra"]: tag "extra" is not allowed
destinations[0].match: mandatory tag "kuma.io/service" is missing`},
		{"bad tags", KindTrafficPermission, `{sources: [{match: {kuma.io/service: a b}}], destinations: [{match: {kuma.io/service: '**', "": x, b%: y, c: "", d: 'a/b:c_d.e-f'}}]}`, `
sources[0].match["kuma.io/service"]: tag value must be "*", or consist of letters, digits, ".", "_", ":", "/" and "-"
destinations[0].match: tag name must be non-empty
destinations[0].match["b%"]: tag name must consist of letters, digits, ".", "_", ":", "/" and "-"
destinations[0].match["c"]: tag value must be non-empty
destinations[0].match["kuma.io/service"]: tag value must be "*", or consist of letters, digits, ".", "_", ":", "/" and "-"`},

		// TrafficRoute.
		{"route without conf", KindTrafficRoute, selectorsOK, `
conf: must have split
conf.split: must have at least one element`},
		{"route destinations", KindTrafficRoute, `{sources: [{match: {version: v1}}], destinations: [{match: {kuma.io/service: a, version: v1}}], conf: {split: [{destination: {kuma.io/service: a}}]}}`, `
sources[0].match: mandatory tag "kuma.io/service" is missing
destinations[0].match: must consist of exactly one tag "kuma.io/service"
destinations[0].match["version"]: tag "version" is not allowed`},
		{"route split", KindTrafficRoute, selectorsOK + `conf: {split: [{weight: 0}, {weight: 4294967295, destination: {version: v1}}, {weight: 1, destination: {kuma.io/service: 'a b'}}]}`, `
conf.split[0].destination: must have at least one tag
conf.split[0].destination: mandatory tag "kuma.io/service" is missing
conf.split[1].destination: mandatory tag "kuma.io/service" is missing
conf.split[2].destination["kuma.io/service"]: tag value must be "*", or consist of letters, digits, ".", "_", ":", "/" and "-"
conf.split: the weights must not add up to more than 4294967295`},
		{"route hash", KindTrafficRoute, selectorsOK + `conf: {split: [{destination: {kuma.io/service: a}}], loadBalancer: {ringHash: {minRingSize: 8388609, maxRingSize: 10}}}`, `
conf.loadBalancer.ringHash.hashFunction: has to be one of XX_HASH, MURMUR_HASH_2
conf.loadBalancer.ringHash.minRingSize: has to be at most 8388608
conf.loadBalancer.ringHash.minRingSize: has to be at most maxRingSize`},
		{"route ring too large", KindTrafficRoute, selectorsOK + `conf: {split: [{destination: {kuma.io/service: a}}], loadBalancer: {ringHash: {hashFunction: MURMUR_HASH_2, maxRingSize: 8388609}}}`, `
conf.loadBalancer.ringHash.maxRingSize: has to be at most 8388608`},
		{"route choice", KindTrafficRoute, selectorsOK + `conf: {split: [{destination: {kuma.io/service: a}}], loadBalancer: {leastRequest: {choiceCount: 1}}}`, `
conf.loadBalancer.leastRequest.choiceCount: has to be at least 2 when defined`},
		{"route defaults", KindTrafficRoute, selectorsOK + `conf: {split: [{destination: {kuma.io/service: a}}], loadBalancer: {leastRequest: {}}}`, ""},

		// Timeout.
		{"timeout without conf", KindTimeout, `{}`, `
sources: must have at least one element
destinations: must have at least one element
conf: has to be defined`},
		{"timeout empty sections", KindTimeout, selectorsOK + `conf: {tcp: {}, http: {}, grpc: {}}`, `
conf.tcp: cannot be empty
conf.http: cannot be empty
conf.grpc: cannot be empty`},
		{"timeout not positive", KindTimeout, selectorsOK + `conf: {connectTimeout: 0s, tcp: {idleTimeout: 0s}, http: {requestTimeout: -1s, idleTimeout: 0s}, grpc: {streamIdleTimeout: -1ns, maxStreamDuration: 0s}}`, `
conf.tcp.idleTimeout: has to be greater than 0 when defined
conf.http.requestTimeout: has to be greater than 0 when defined
conf.http.idleTimeout: has to be greater than 0 when defined
conf.grpc.streamIdleTimeout: has to be greater than 0 when defined
conf.grpc.maxStreamDuration: has to be greater than 0 when defined`},
		{"timeout empty conf", KindTimeout, selectorsOK + `conf: {}`, ""},

		// Retry.
		{"retry without conf", KindRetry, selectorsOK, `
conf: has to be defined`},
		{"retry without protocol", KindRetry, selectorsOK + `conf: {}`, `
conf: must have at least one of http, grpc, tcp`},
		{"retry empty", KindRetry, selectorsOK + `conf: {http: {}, grpc: {}, tcp: {}}`, `
conf.http: cannot be empty
conf.grpc: cannot be empty
conf.tcp.maxConnectAttempts: has to be greater than 0`},
		{"retry zeros", KindRetry, selectorsOK + `conf: {http: {numRetries: 0, perTryTimeout: 0s, backOff: {}}, grpc: {numRetries: 0, perTryTimeout: -1s, backOff: {baseInterval: 0s, maxInterval: 0s}}}`, `
conf.http.numRetries: has to be greater than 0 when defined
conf.http.perTryTimeout: has to be greater than 0 when defined
conf.http.backOff.baseInterval: has to be defined
conf.grpc.numRetries: has to be greater than 0 when defined
conf.grpc.perTryTimeout: has to be greater than 0 when defined
conf.grpc.backOff.baseInterval: has to be greater than 0
conf.grpc.backOff.maxInterval: has to be greater than 0 when defined`},
		{"retry intervals", KindRetry, selectorsOK + `conf: {http: {backOff: {baseInterval: 2s, maxInterval: 1s}}}`, `
conf.http.backOff.maxInterval: must not be less than baseInterval`},
		{"retry conditions", KindRetry, selectorsOK + `conf: {grpc: {retryOn: [cancelled, never, internal, cancelled, internal]}}`, `
conf.grpc.retryOn[1]: has to be one of cancelled, deadline_exceeded, internal, resource_exhausted, unavailable
conf.grpc.retryOn: repeated value "cancelled" at indexes [0, 3]
conf.grpc.retryOn: repeated value "internal" at indexes [2, 4]`},
		{"retry destinations", KindRetry, `{sources: [{match: {kuma.io/service: a}}], destinations: [{match: {kuma.io/protocol: http}}, {match: {kuma.io/service: a, kuma.io/protocol: http, x: y}}], conf: {tcp: {maxConnectAttempts: 1}}}`, `
destinations[0].match: mandatory tag "kuma.io/service" is missing
destinations[1].match: must consist of exactly one tag "kuma.io/service"
destinations[1].match["x"]: tag "x" is not allowed`},

		// ExternalService.
		{"external service empty", KindExternalService, `{}`, `
networking: has to be defined
tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing`},
		{"external service address", KindExternalService, `{networking: {}, tags: {kuma.io/service: a}}`, `
networking.address: cannot be empty`},
		{"external service no port", KindExternalService, `{networking: {address: example.com}, tags: {kuma.io/service: a}}`, `
networking.address: has to be HOST:PORT`},
		{"external service bad host and port", KindExternalService, `{networking: {address: "..:65536"}, tags: {kuma.io/service: a}}`, `
networking.address: host has to be a valid IP address or domain name
networking.address: port has to be in the range [1, 65535]`},
		{"external service bare IPv6", KindExternalService, `{networking: {address: "::1:80"}, tags: {kuma.io/service: a}}`, `
networking.address: has to be HOST:PORT`},
		{"external service tags", KindExternalService, `{networking: {address: "a:1"}, tags: {kuma.io/service: 'a/b', kuma.io/protocol: udp, x: ''}}`, `
tags["kuma.io/service"]: tag value must consist of letters, digits, ".", "_", ":" and "-"
tags["x"]: tag value must be non-empty
tags["kuma.io/protocol"]: tag "kuma.io/protocol" has an invalid value: it must be one of grpc, http, http2, kafka, tcp`},
		{"external service tls", KindExternalService, `{networking: {address: "a:1", tls: {caCert: {}, clientCert: {secret: ''}, clientKey: {inline: ''}}}, tags: {kuma.io/service: a}}`, `
networking.tls.caCert: must have one of secret, file, inline, inlineString
networking.tls.clientCert.secret: cannot be empty
networking.tls.clientKey.inline: cannot be empty`},
		{"external service with the mesh's own keys", KindExternalService, `{networking: {address: "a:1", tls: {caCert: {secret: default.ca-builtin-cert-a}, clientCert: {secret: dataplane-token-signing-key-default}, clientKey: {secret: default.ca-builtin-key-a}}}, tags: {kuma.io/service: a}}`, `
networking.tls.clientCert.secret: must not be a secret with a key of the mesh's own: it would go to proxies
networking.tls.clientKey.secret: must not be a secret with a key of the mesh's own: it would go to proxies`},
		{"external service sources", KindExternalService, `{networking: {address: "a:1", tls: {caCert: {file: ''}, clientCert: {inlineString: ''}}}, tags: {kuma.io/service: a}}`, `
networking.tls.caCert.file: cannot be empty
networking.tls.clientCert.inlineString: cannot be empty`},

		// Zone.
		{"zone", KindZone, `{enabled: false}`, ""},
		{"zone ingress", KindZone, `{ingress: {address: nowhere}}`, `
ingress.address: has to be HOST:PORT`},

		// Dataplane.
		{"dataplane empty", KindDataplane, `{}`, `
networking: has to be defined`},
		{"dataplane nothing in networking", KindDataplane, `{networking: {}}`, `
networking.address: cannot be empty
networking: has to contain at least one inbound interface or gateway`},
		{"dataplane inbound and gateway", KindDataplane, `{networking: {address: "..>_<..", gateway: {}, inbound: [{port: 1, tags: {kuma.io/service: a}}]}}`, `
networking.address: has to be a valid IP address or domain name
networking: inbound cannot be defined both with gateway
networking.gateway.tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing`},
		{"dataplane address of digits", KindDataplane, `{networking: {address: 1.2.3.400, gateway: {tags: {kuma.io/service: a, kuma.io/protocol: http}}}}`, `
networking.address: has to be a valid IP address or domain name
networking.gateway.tags["kuma.io/protocol"]: other values than tcp are not allowed`},
		{"dataplane inbound", KindDataplane, `{networking: {address: 10.0.0.1, inbound: [
  {port: 0, tags: {kuma.io/service: a}},
  {port: 65536, servicePort: 65536, serviceAddress: localhost, address: example.com},
  {port: 1, tags: {version: ''}},
  {port: 1, tags: {kuma.io/service: a, kuma.io/protocol: '', 'a b': 'c d'}},
  {port: 80, serviceAddress: 10.0.0.1, tags: {kuma.io/service: a}},
  {port: 80, servicePort: 80, address: 10.0.0.2, serviceAddress: 10.0.0.2, tags: {kuma.io/service: a}},
  {port: 80, servicePort: 81, address: 10.0.0.2, serviceAddress: 10.0.0.2, tags: {kuma.io/service: a, kuma.io/protocol: KAFKA}}]}}`, `
networking.inbound[0].port: has to be in the range [1, 65535]
networking.inbound[1].port: has to be in the range [1, 65535]
networking.inbound[1].servicePort: has to be in the range [0, 65535]
networking.inbound[1].serviceAddress: has to be a valid IP address
networking.inbound[1].address: has to be a valid IP address
networking.inbound[1].tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing
networking.inbound[2].tags["version"]: tag value must be non-empty
networking.inbound[2].tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing
networking.inbound[3].tags["a b"]: tag name must consist of letters, digits, ".", "_", ":", "/" and "-"
networking.inbound[3].tags["a b"]: tag value must consist of letters, digits, ".", "_", ":" and "-"
networking.inbound[3].tags["kuma.io/protocol"]: tag value must be non-empty
networking.inbound[3].tags["kuma.io/protocol"]: tag "kuma.io/protocol" has an invalid value: it must be one of grpc, http, http2, kafka, tcp
networking.inbound[4].serviceAddress: serviceAddress and servicePort have to differ from address and port
networking.inbound[5].serviceAddress: serviceAddress and servicePort have to differ from address and port`},
		{"dataplane probe of a service", KindDataplane, `{networking: {address: a, inbound: [{port: 1, tags: {kuma.io/service: a}, serviceProbe: {interval: 0s, timeout: -1s, unhealthyThreshold: 0, healthyThreshold: 0}}]}}`, `
networking.inbound[0].serviceProbe.interval: has to be greater than 0 when defined
networking.inbound[0].serviceProbe.timeout: has to be greater than 0 when defined
networking.inbound[0].serviceProbe.unhealthyThreshold: has to be greater than 0 when defined
networking.inbound[0].serviceProbe.healthyThreshold: has to be greater than 0 when defined`},
		{"dataplane outbound", KindDataplane, `{networking: {address: a, gateway: {tags: {kuma.io/service: a}}, outbound: [{}, {port: 65536, address: localhost, service: a}, {port: 1, tags: {version: v1}}, {port: 1, service: a, tags: {version: v1}}]}}`, `
networking.outbound[0].port: has to be in the range [1, 65535]
networking.outbound[0].kuma.io/service: cannot be empty
networking.outbound[1].port: has to be in the range [1, 65535]
networking.outbound[1].address: has to be a valid IP address
networking.outbound[2].tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing`},
		{"dataplane transparent proxying", KindDataplane, `{networking: {address: a, gateway: {tags: {kuma.io/service: a}}, transparentProxying: {redirectPortInbound: 65536, redirectPortOutbound: 65536, redirectPortInboundV6: 65536}}}`, `
networking.transparentProxying.redirectPortInbound: has to be in the range [0, 65535]
networking.transparentProxying.redirectPortOutbound: has to be in the range [0, 65535]
networking.transparentProxying.redirectPortInboundV6: has to be in the range [0, 65535]`},
		{"dataplane ingress", KindDataplane, `{networking: {ingress: {publicAddress: '-', availableServices: [{}, {tags: {kuma.io/service: a, b: ''}}]}, gateway: {}, outbound: [{}]}}`, `
networking: has to contain exactly one inbound interface in the ingress mode
networking: outbound cannot be defined in the ingress mode
networking: gateway cannot be defined in the ingress mode
networking.ingress.publicPort: has to be defined together with publicAddress
networking.ingress.publicAddress.address: has to be a valid IP address or domain name
networking.ingress.availableService[0].tags["kuma.io/service"]: mandatory tag "kuma.io/service" is missing
networking.ingress.availableService[1].tags["b"]: tag value must be non-empty`},
		{"dataplane ingress inbound", KindDataplane, `{networking: {address: '-', ingress: {publicPort: 65536}, inbound: [{port: 0, servicePort: 1, serviceAddress: 1.1.1.1, address: 1.1.1.1, tags: {a: '', kuma.io/protocol: http}}]}}`, `
networking.address: has to be a valid IP address or domain name
networking.inbound[0].port: has to be in the range [1, 65535]
networking.inbound[0].servicePort: cannot be defined in the ingress mode
networking.inbound[0].serviceAddress: cannot be defined in the ingress mode
networking.inbound[0].address: cannot be defined in the ingress mode
networking.inbound[0].tags.tags["a"]: tag value must be non-empty
tags["kuma.io/protocol"]: other values than tcp are not allowed
networking.ingress.publicAddress: has to be defined together with publicPort
networking.ingress.publicPort: has to be in the range [0, 65535]`},
		{"dataplane ingress bare", KindDataplane, `{networking: {ingress: {}, inbound: [{port: 1}]}}`, ""},
		{"dataplane metrics and probes", KindDataplane, `{networking: {address: a, gateway: {tags: {kuma.io/service: a}}}, metrics: {type: prometheus, conf: {port: 0, path: metrics, skipMTLS: maybe, tags: {a: 1, b: ''}}}, probes: {endpoints: [{inboundPort: 1, inboundPath: /a, path: /b}, {inboundPort: 65536, inboundPath: a}]}}`, `
metrics.conf.port: has to be in the range [1, 65535]
metrics.conf.path: has to be a valid URL path
metrics.conf.skipMTLS: must be a boolean
metrics.conf.tags.a: must be a string
metrics.conf.tags["b"]: tag value must be non-empty
probes.port: has to be in the range [1, 65535]
probes.endpoints[1].inboundPort: has to be in the range [1, 65535]
probes.endpoints[1].inboundPath: has to be a valid URL path
probes.endpoints[1].path: has to be a valid URL path`},
		{"dataplane metrics of another type", KindDataplane, `{networking: {address: a, gateway: {tags: {kuma.io/service: a}}}, metrics: {type: statsd, conf: {port: 0}}}`, ""},

		// Mesh.
		{"mesh", KindMesh, `{}`, ""},
		{"mesh mtls", KindMesh, `{mtls: {enabledBackend: c, backends: [{name: a, type: builtin, dpCert: {}}, {name: a, type: vault}, {type: builtin, dpCert: {rotation: {expiration: 1x}}}]}}`, `
mtls.dpcert.rotation.expiration: has to be a number and one of y, w, d, h, m, s, ms, such as 24h
mtls.backends[1].name: "a" is already the name of another backend
mtls.backends[1].type: has to be one of builtin, provided
mtls.dpcert.rotation.expiration: has to be a number and one of y, w, d, h, m, s, ms, such as 24h
mtls.enabledBackend: has to be set to one of the backends in the mesh`},
		{"mesh builtin", KindMesh, `{mtls: {backends: [{name: a, type: builtin, conf: {caCert: {rsaBits: 1024, expiration: 300y}}}, {name: b, type: builtin, conf: {caCert: {RSAbits: 2048.5, rsaBits: '4096', expiration: 10}}}, {name: c, type: builtin, conf: {caCert: 1}}, {name: d, type: builtin, conf: {caCert: {RSAbits: many}}}]}}`, `
mtls.backends[0].config.caCert.rsaBits: has to be a whole number from 2048 to 8192
mtls.backends[0].config.caCert.expiration: is longer than 292 years
mtls.backends[1].config.caCert.rsaBits: cannot be given together with RSAbits
mtls.backends[1].config.caCert.expiration: must be a string
mtls.backends[2].config.caCert: must be an object
mtls.backends[3].config.caCert.RSAbits: must be a number`},
		{"mesh provided", KindMesh, `{mtls: {backends: [{name: a, type: provided}, {name: b, type: provided, conf: {cert: {}, key: {secret: ''}}}, {name: c, type: provided, conf: {cert: {secret: a, file: b}, key: {inline: '!'}}}, {name: d, type: provided, conf: {cert: 1, key: {secret: 1}}}]}}`, `
mtls.backends[0].config.cert: has to be defined
mtls.backends[0].config.key: has to be defined
mtls.backends[1].config.cert.secret: cannot be empty
mtls.backends[1].config.key.secret: cannot be empty
mtls.backends[2].config.cert: must have only one of secret, file
mtls.backends[2].config.key.inline: must be base64 with padding
mtls.backends[3].config.cert: must be an object
mtls.backends[3].config.key.secret: must be a string`},
		{"mesh tracing", KindMesh, `{tracing: {defaultBackend: x, backends: [{type: zipkin, sampling: 100.1}, {name: b, type: jaeger, sampling: -1}, {name: b, type: zipkin, conf: {url: "http://zipkin/api", apiVersion: thrift, traceId128bit: 1, sharedSpanContext: 'yes'}}, {name: c, type: zipkin, conf: {url: "nothing"}}, {name: d, type: zipkin, conf: {url: ''}}, {name: e, type: zipkin, conf: {url: 1}}]}}`, `
tracing.backends[0].name: cannot be empty
tracing.backends[0].sampling: has to be in the range [0, 100]
tracing.backends[0].config.url: cannot be empty
tracing.backends[1].sampling: has to be in the range [0, 100]
tracing.backends[1].type: has to be zipkin
tracing.backends[2].name: "b" is already the name of another backend
tracing.backends[2].config.url: port has to be explicitly specified
tracing.backends[2].config.apiVersion: has to be one of httpJson, httpJsonV1, httpProto
tracing.backends[2].config.traceId128bit: must be a boolean
tracing.backends[2].config.sharedSpanContext: must be a boolean
tracing.backends[3].config.url: has to be a valid URL
tracing.backends[4].config.url: cannot be empty
tracing.backends[5].config.url: must be a string
tracing.defaultBackend: has to be set to one of the backends in the mesh`},
		{"mesh logging", KindMesh, `{logging: {defaultBackend: x, backends: [{type: file}, {name: b, type: tcp}, {name: b, type: syslog, format: "%"}, {name: c, type: tcp, format: "100%% %REQ(a)", conf: {address: x}}, {name: d, type: file, conf: {path: 1}}, {name: e, type: tcp, conf: {address: 1}}]}}`, `
logging.backends[0].name: cannot be empty
logging.backends[0].config.path: cannot be empty
logging.backends[1].config.address: cannot be empty
logging.backends[2].name: "b" is already the name of another backend
logging.backends[2].format: has a % that starts no command
logging.backends[2].type: has to be one of file, tcp
logging.backends[3].format: has a command REQ that is not closed by %
logging.backends[3].config.address: has to be HOST:PORT
logging.backends[4].config.path: must be a string
logging.backends[5].config.address: must be a string
logging.defaultBackend: has to be set to one of the backends in the mesh`},
		{"mesh metrics", KindMesh, `{metrics: {enabledBackend: x, backends: [{name: a, type: statsd}, {name: a, type: prometheus, conf: {port: 65536, path: 1, tags: x}}]}}`, `
metrics.backends[0].type: has to be prometheus
metrics.backends[1].name: "a" is already the name of another backend
metrics.backends[1].conf.port: has to be in the range [1, 65535]
metrics.backends[1].conf.path: must be a string
metrics.backends[1].conf.tags: must be an object
metrics.enabledBackend: has to be set to one of the backends in the mesh`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), strings.TrimSuffix(list(validate(t, c.kind, c.body)), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidatorsRefuseAnotherKindsMessage(t *testing.T) {
	for _, d := range NewTable().All() {
		if d.Validate == nil {
			continue
		}
		var other proto.Message = &systemv1.Secret{}
		if len(d.Validate(Key{Kind: d.Kind, Name: "x"}, other)) == 0 {
			t.Errorf("%s took a Secret", d.Kind)
		}
		if d.Default != nil {
			d.Default(Key{Kind: d.Kind, Name: "x"}, other)
		}
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		"web": true, "0-a_z": true, strings.Repeat("a", MaxNameLength): true,
		"": false, "Web": false, "a.b": false, "a b": false, "é": false, "a/b": false, strings.Repeat("a", MaxNameLength+1): false,
	} {
		v := ValidateName("name", name)
		if (len(v) == 0) != good {
			t.Errorf("%.20q: %v", name, v)
		}
		for _, x := range v {
			if x.Field != "name" {
				t.Error(x)
			}
		}
	}
	for name, good := range map[string]bool{
		"zone-1": true, "1": true, strings.Repeat("a", 63): true,
		"": false, "global": false, "-a": false, "a-": false, "a_b": false, "a.b": false, "A": false, strings.Repeat("a", 64): false,
	} {
		if v := ValidateZoneName("zone", name); (len(v) == 0) != good {
			t.Errorf("%.20q: %v", name, v)
		}
	}
}

func TestHostPorts(t *testing.T) {
	for s, good := range map[string]bool{
		"10.0.0.1:80": true, "[::1]:80": true, "example.com:65535": true, "redis_1.local.:1": true,
		"": false, ":80": false, "a:": false, "a:0": false, "a:-1": false, "a:+1": false, "a:http": false, "[a]:80": false, "[::1:80": false, "::1]:80": false,
		"a b:80": false, "fe80::1%eth0:80": false, "[fe80::1%eth0]:80": false, "1.2.3:80": false,
	} {
		var v Violations
		checkHostPort(&v, "x", s)
		if (len(v) == 0) != good {
			t.Errorf("%q: %v", s, v)
		}
	}
}

func TestParseExpiration(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"0": 0, "1y": 365 * day, "2w": 14 * day, "3d": 3 * day, "24h": day, "5m": 5 * time.Minute, "6s": 6 * time.Second, "7ms": 7 * time.Millisecond, "0s": 0,
	} {
		if got, err := ParseExpiration(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "1", "h", "-1h", "+1h", "1.5h", "1h30m", "1H", " 1h", "1hs", "293y", "99999999999999999999h"} {
		if got, err := ParseExpiration(s); err == nil {
			t.Errorf("%q: taken as %v", s, got)
		}
	}
}

func TestAccessLogFormats(t *testing.T) {
	for s, good := range map[string]bool{
		"": true, "plain": true, "100%%": true, "%RESPONSE_CODE%": true, "[%START_TIME(%s.%3f)%] %REQ(X-A?B):12%": true, "%KUMA_MESH%": true,
		"%": false, "%%%": false, "%a%": false, "%A": false, "%A(b%": false, "%A(b):%": false, "%A(b):x%": false, "%A b%": false,
	} {
		if message := accessLogFormat(s); (message == "") != good {
			t.Errorf("%q: %s", s, message)
		}
	}
}

func TestMeshChange(t *testing.T) {
	with := func(name string) *meshv1.Mesh { return &meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{EnabledBackend: name}} }
	for _, c := range []struct {
		before, after string
		want          string
	}{
		{"", "", ""},
		{"", "a", ""},
		{"a", "a", ""},
		{"a", "", ""},
		{"a", "b", "mtls.enabledBackend: cannot be changed from one backend to another: disable mutual TLS first\n"},
	} {
		if got := list(ValidateMeshChange(with(c.before), with(c.after))); got != c.want {
			t.Errorf("%q to %q: %q", c.before, c.after, got)
		}
	}
	if v := ValidateMeshChange(&meshv1.Mesh{}, with("a")); v != nil {
		t.Error(v)
	}
}
