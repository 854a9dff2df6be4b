package resource

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidateProbesBreakersAndFaults(t *testing.T) {
	const required = "interval: 10s, timeout: 2s, unhealthyThreshold: 3, healthyThreshold: 1"
	const faulty = "sources: [{match: {version: v1}}]\ndestinations: [{match: {kuma.io/protocol: http}}]\n"
	for _, c := range []struct {
		name string
		kind Kind
		body string
		want string
	}{
		// HealthCheck.
		{"health check empty", KindHealthCheck, `{}`, `
sources: must have at least one element
destinations: must have at least one element
conf: has to be defined`},
		{"health check selectors", KindHealthCheck, `{sources: [{match: {version: v1}}], destinations: [{match: {kuma.io/service: a, version: v1}}], conf: {` + required + `}}`, `
sources[0].match: mandatory tag "kuma.io/service" is missing
destinations[0].match: must consist of exactly one tag "kuma.io/service"
destinations[0].match["version"]: tag "version" is not allowed`},
		{"health check empty conf", KindHealthCheck, selectorsOK + `conf: {}`, `
conf.interval: has to be defined
conf.timeout: has to be defined
conf.unhealthyThreshold: has to be greater than 0
conf.healthyThreshold: has to be greater than 0`},
		{"health check bounds", KindHealthCheck, selectorsOK + `conf: {interval: 0s, timeout: -1s, unhealthyThreshold: 0, healthyThreshold: 1, initialJitter: 0s, intervalJitter: -1s, noTrafficInterval: 0s, healthyPanicThreshold: 100.5}`, `
conf.interval: has to be greater than 0
conf.timeout: has to be greater than 0
conf.unhealthyThreshold: has to be greater than 0
conf.initialJitter: has to be greater than 0 when defined
conf.intervalJitter: has to be greater than 0 when defined
conf.noTrafficInterval: has to be greater than 0 when defined
conf.healthyPanicThreshold: has to be in the range [0, 100]`},
		{"health check http", KindHealthCheck, selectorsOK + `conf: {` + required + `, http: {requestHeadersToAdd: [{}, {header: {}}, {header: {key: "a b", value: "a\nb"}}, {header: {key: accept}}], expectedStatuses: [99, 100, 599, 600]}}`, `
conf.http.path: cannot be empty
conf.http.requestHeadersToAdd[0].header: has to be defined
conf.http.requestHeadersToAdd[1].header.key: cannot be empty
conf.http.requestHeadersToAdd[2].header.key: has to be the name of a header
conf.http.requestHeadersToAdd[2].header.value: cannot hold control characters, nor be longer than 16384 bytes
conf.http.expectedStatuses[0]: has to be in the range [100, 599]
conf.http.expectedStatuses[3]: has to be in the range [100, 599]`},
		{"health check path", KindHealthCheck, selectorsOK + `conf: {` + required + `, http: {path: "/\r\n"}}`, `
conf.http.path: cannot hold control characters, nor be longer than 16384 bytes`},
		{"health check tcp", KindHealthCheck, selectorsOK + `conf: {` + required + `, tcp: {}}`, ""},

		// CircuitBreaker.
		{"circuit breaker empty", KindCircuitBreaker, `{}`, `
sources: must have at least one element
destinations: must have at least one element
conf: must have at least one of the detectors or thresholds configured`},
		{"circuit breaker nothing", KindCircuitBreaker, selectorsOK + `conf: {interval: 0s, detectors: {}, thresholds: {}}`, `
conf: must have at least one of the detectors or thresholds configured
conf.interval: has to be greater than 0 when defined`},
		{"circuit breaker no detectors", KindCircuitBreaker, selectorsOK + `conf: {detectors: {}, thresholds: {maxRetries: 0}}`, `
conf.detectors: cannot be empty`},
		{"circuit breaker no thresholds", KindCircuitBreaker, selectorsOK + `conf: {detectors: {localErrors: {}}, thresholds: {}}`, `
conf.thresholds: cannot be empty`},
		{"circuit breaker bounds", KindCircuitBreaker, selectorsOK + `conf: {baseEjectionTime: -1s, maxEjectionPercent: 101, detectors: {standardDeviation: {factor: -1}, failure: {threshold: 101}}}`, `
conf.baseEjectionTime: has to be greater than 0 when defined
conf.maxEjectionPercent: has to be in the range [0, 100]
conf.detectors.standardDeviation.factor: has to be in the range [0, 4294967]
conf.detectors.failure.threshold: has to be in the range [0, 100]`},

		// FaultInjection.
		{"fault injection empty", KindFaultInjection, `{}`, `
sources: must have at least one element
destinations: must have at least one element
conf: must have at least one of the faults configured`},
		{"fault injection protocols", KindFaultInjection, `{sources: [{match: {}}], destinations: [{}, {match: {kuma.io/service: a}}, {match: {kuma.io/protocol: tcp}}, {match: {kuma.io/protocol: '*'}}, {match: {kuma.io/protocol: grpc}}, {match: {kuma.io/protocol: http2}}], conf: {delay: {percentage: 0, value: 1s}}}`, `
sources[0].match: must have at least one tag
destinations[0].match: must have at least one tag
destinations[0].match: protocol must be specified
destinations[1].match: protocol must be specified
destinations[2].match["kuma.io/protocol"]: must be one of http, http2, grpc
destinations[3].match["kuma.io/protocol"]: must be one of http, http2, grpc`},
		{"fault injection empty faults", KindFaultInjection, faulty + `conf: {delay: {}, abort: {}, responseBandwidth: {}}`, `
conf: must have at least one of the faults configured`},
		{"fault injection one fault", KindFaultInjection, faulty + `conf: {delay: {}, abort: {percentage: 100, httpStatus: 503}}`, ""},
		{"fault injection halves", KindFaultInjection, faulty + `conf: {delay: {percentage: 50.5}, abort: {percentage: 50}, responseBandwidth: {percentage: 50}}`, `
conf.delay.value: has to be defined
conf.abort.httpStatus: has to be defined
conf.responseBandwidth.limit: has to be defined`},
		{"fault injection other halves", KindFaultInjection, faulty + `conf: {delay: {value: 0s}, abort: {httpStatus: 600}, responseBandwidth: {limit: 50 bps}}`, `
conf.delay.percentage: has to be defined
conf.delay.value: has to be greater than 0
conf.abort.percentage: has to be defined
conf.abort.httpStatus: has to be a known status of HTTP, 200 or above
conf.responseBandwidth.percentage: has to be defined
conf.responseBandwidth.limit: has to be a number and one of kbps, mbps, gbps`},
		{"fault injection bounds", KindFaultInjection, faulty + `conf: {delay: {percentage: -1, value: 1s}, abort: {percentage: 101, httpStatus: 299}, responseBandwidth: {percentage: 100.1, limit: 0 kbps}}`, `
conf.delay.percentage: has to be in the range [0, 100]
conf.abort.percentage: has to be in the range [0, 100]
conf.abort.httpStatus: has to be a known status of HTTP, 200 or above
conf.responseBandwidth.percentage: has to be in the range [0, 100]
conf.responseBandwidth.limit: is out of range`},

		// TrafficLog, TrafficTrace.
		{"traffic log empty", KindTrafficLog, `{}`, `
sources: must have at least one element
destinations: must have at least one element`},
		{"traffic log destinations", KindTrafficLog, `{sources: [{match: {kuma.io/service: a, version: v1}}], destinations: [{match: {kuma.io/service: a, version: v1}}]}`, `
destinations[0].match: must consist of exactly one tag "kuma.io/service"
destinations[0].match["version"]: tag "version" is not allowed`},
		{"traffic log of a backend nowhere", KindTrafficLog, selectorsOK + `conf: {backend: nowhere}`, ""},
		{"traffic trace empty", KindTrafficTrace, `{}`, `
selectors: must have at least one element`},
		{"traffic trace selectors", KindTrafficTrace, `{selectors: [{}, {match: {version: v1}}, {match: {a: ''}}]}`, `
selectors[0].match: must have at least one tag
selectors[2].match["a"]: tag value must be non-empty`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), strings.TrimSuffix(list(validate(t, c.kind, c.body)), "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestValidateProxyTemplates(t *testing.T) {
	for _, c := range []struct {
		name, body, want string
	}{
		{"empty", `{}`, ""},
		{"selectors", `{selectors: [{}, {match: {version: v1}}, {match: {kuma.io/service: '*'}}]}`, `
selectors[0].match: must have at least one tag
selectors[0].match: mandatory tag "kuma.io/service" is missing
selectors[1].match: mandatory tag "kuma.io/service" is missing`},
		{"imports", `{conf: {imports: [default-proxy, ingress, '']}}`, `
conf.imports[1]: has to be default-proxy
conf.imports[2]: cannot be empty`},
		{"resources", `{conf: {resources: [{}, {name: a, version: b, resource: "["}, {name: a, version: b, resource: "[]"}, {name: a, version: b, resource: "name: x"}, {name: a, version: b, resource: "{\"@type\": \"type.googleapis.com/google.protobuf.Any\"}"}, {name: a, version: b, resource: "'@type': type.googleapis.com/envoy.api.v2.Cluster"}]}}`, `
conf.resources[0].name: cannot be empty
conf.resources[0].version: cannot be empty
conf.resources[0].resource: cannot be empty
conf.resources[1].resource
conf.resources[2].resource: has to be an Envoy resource as YAML: it is a list
conf.resources[3].resource: has to have "@type", with a value that starts with "type.googleapis.com/envoy."
conf.resources[4].resource: has to have "@type", with a value that starts with "type.googleapis.com/envoy."`},
		{"nothing modified", `{conf: {modifications: [{}]}}`, `
conf.modifications[0]: must have one of cluster, listener, networkFilter, httpFilter, virtualHost`},
		{"clusters", `{conf: {modifications: [{cluster: {}}, {cluster: {operation: add, match: {}, value: "name: a"}}, {cluster: {operation: addFirst}}, {cluster: {operation: patch}}, {cluster: {operation: remove, match: {name: a}}}, {cluster: {operation: patch, match: {origin: inbound}, value: "- a"}}]}}`, `
conf.modifications[0].cluster.operation: has to be one of add, remove, patch
conf.modifications[1].cluster.match: cannot be defined
conf.modifications[2].cluster.operation: has to be one of add, remove, patch
conf.modifications[3].cluster.value: cannot be empty
conf.modifications[5].cluster.value: has to be an Envoy resource as YAML: it is a list`},
		{"listeners", `{conf: {modifications: [{listener: {operation: add, match: {name: a}}}, {listener: {operation: remove}}]}}`, `
conf.modifications[0].listener.match: cannot be defined
conf.modifications[0].listener.value: cannot be empty`},
		{"filters", `{conf: {modifications: [{networkFilter: {operation: add, value: "a: b"}}, {networkFilter: {operation: addBefore, value: "a: b"}}, {networkFilter: {operation: addFirst, value: "a: b"}}, {httpFilter: {operation: addAfter, match: {listenerName: x}, value: "a: b"}}, {httpFilter: {operation: patch}}, {httpFilter: {operation: remove}}]}}`, `
conf.modifications[0].networkFilter.operation: has to be one of addFirst, addLast, addBefore, addAfter, remove, patch
conf.modifications[1].networkFilter.match.name: cannot be empty
conf.modifications[3].httpFilter.match.name: cannot be empty
conf.modifications[4].httpFilter.match.name: cannot be empty
conf.modifications[4].httpFilter.value: cannot be empty`},
		{"virtual hosts", `{conf: {modifications: [{virtualHost: {operation: add, match: {name: a}, value: "a: b"}}, {virtualHost: {operation: add, match: {routeConfigurationName: a}, value: "a: b"}}, {virtualHost: {operation: addLast}}]}}`, `
conf.modifications[0].virtualHost.match.name: cannot be defined
conf.modifications[2].virtualHost.operation: has to be one of add, remove, patch`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := list(validate(t, KindProxyTemplate, c.body))
			// What the YAML parser says is its own.
			lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
			var kept []string
			for _, l := range lines {
				if strings.Contains(l, "as YAML: line") {
					l, _, _ = strings.Cut(l, ":")
				} else if !strings.HasPrefix(l, "conf.") && !strings.HasPrefix(l, "selectors") {
					continue
				}
				kept = append(kept, l)
			}
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), strings.Join(kept, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBandwidths(t *testing.T) {
	for s, want := range map[string]uint64{"50 mbps": 50_000, "1kbps": 1, "2 gbps": 2_000_000, "about 3mbps or so": 3000} {
		if got, err := ParseBandwidth(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "mbps", "5", "5 bps", "5  mbps", "5 tbps", "0 gbps", "18446744073709551615 mbps", "18446744073709551616 kbps"} {
		if got, err := ParseBandwidth(s); err == nil {
			t.Errorf("%q: taken as %d", s, got)
		}
	}
	if got, err := ParseBandwidth("18446744073709551615kbps"); err != nil || got != math.MaxUint64 {
		t.Error(got, err)
	}
}
