package resource

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

func validateHealthCheck(_ Key, m proto.Message) Violations {
	h, ok := m.(*meshv1.HealthCheck)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", h.GetSources(), anySource())
	checkSelectors(&v, "destinations", h.GetDestinations(), serviceOnly())
	conf := h.GetConf()
	if conf == nil {
		v.Add("conf", mustBeDefined)
		return v
	}
	checkRequiredPositive(&v, "conf.interval", conf.GetInterval())
	checkRequiredPositive(&v, "conf.timeout", conf.GetTimeout())
	checkAboveZero(&v, "conf.unhealthyThreshold", conf.GetUnhealthyThreshold())
	checkAboveZero(&v, "conf.healthyThreshold", conf.GetHealthyThreshold())
	checkPositive(&v, "conf.initialJitter", conf.GetInitialJitter())
	checkPositive(&v, "conf.intervalJitter", conf.GetIntervalJitter())
	checkPositive(&v, "conf.noTrafficInterval", conf.GetNoTrafficInterval())
	if p := conf.GetHealthyPanicThreshold(); p != nil {
		checkPercentage(&v, "conf.healthyPanicThreshold", p.GetValue())
	}
	if http := conf.GetHttp(); http != nil {
		checkHTTPProbe(&v, "conf.http", http)
	}
	return v
}

func checkHTTPProbe(v *Violations, path string, http *meshv1.HealthCheck_Conf_Http) {
	switch {
	case http.GetPath() == "":
		v.Add(path+".path", cannotBeEmpty)
	case !isHeaderValue(http.GetPath()):
		v.Add(path+".path", noControlCharacters)
	}
	for i, option := range http.GetRequestHeadersToAdd() {
		at := indexPath(path+".requestHeadersToAdd", i) + ".header"
		header := option.GetHeader()
		switch key := header.GetKey(); {
		case header == nil:
			v.Add(at, mustBeDefined)
		case key == "":
			v.Add(at+".key", cannotBeEmpty)
		case !isHeaderName(key):
			v.Add(at+".key", "has to be the name of a header")
		}
		if !isHeaderValue(header.GetValue()) {
			v.Add(at+".value", noControlCharacters)
		}
	}
	for i, status := range http.GetExpectedStatuses() {
		if status < 100 || status > 599 {
			v.Add(indexPath(path+".expectedStatuses", i), "has to be in the range [100, 599]")
		}
	}
}

// Envoy takes no more of one header.
const maxHeaderBytes = 16 << 10

const noControlCharacters = "cannot hold control characters, nor be longer than 16384 bytes"

func isHeaderName(s string) bool {
	return len(s) <= maxHeaderBytes && isTagText(strings.TrimPrefix(s, ":"), "!#$%&'*+-.^_|~`")
}

func isHeaderValue(s string) bool {
	return len(s) <= maxHeaderBytes && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// checkRequiredPositive looks at a duration that must be given. The published release takes negative ones,
// which Envoy refuses together with all that comes in the same response.
func checkRequiredPositive(v *Violations, path string, d *durationpb.Duration) {
	switch {
	case d == nil:
		v.Add(path, mustBeDefined)
	case !isPositive(d):
		v.Add(path, mustBePositive)
	}
}

func checkAboveZero(v *Violations, path string, n uint32) {
	if n == 0 {
		v.Add(path, mustBePositive)
	}
}

func checkPercentage(v *Violations, path string, p float64) {
	if !(p >= 0 && p <= 100) {
		v.Add(path, "has to be in the range [0, 100]")
	}
}

func validateCircuitBreaker(_ Key, m proto.Message) Violations {
	c, ok := m.(*meshv1.CircuitBreaker)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", c.GetSources(), anySource())
	checkSelectors(&v, "destinations", c.GetDestinations(), serviceOnly())
	conf := c.GetConf()
	d, t := conf.GetDetectors(), conf.GetThresholds()
	detectors := d.GetTotalErrors() != nil || d.GetGatewayErrors() != nil || d.GetLocalErrors() != nil || d.GetStandardDeviation() != nil || d.GetFailure() != nil
	thresholds := t.GetMaxConnections() != nil || t.GetMaxPendingRequests() != nil || t.GetMaxRetries() != nil || t.GetMaxRequests() != nil
	switch {
	case !detectors && !thresholds:
		v.Add("conf", "must have at least one of the detectors or thresholds configured")
	case d != nil && !detectors:
		v.Add("conf.detectors", cannotBeEmpty)
	case t != nil && !thresholds:
		v.Add("conf.thresholds", cannotBeEmpty)
	}
	checkPositive(&v, "conf.interval", conf.GetInterval())
	checkPositive(&v, "conf.baseEjectionTime", conf.GetBaseEjectionTime())
	if p := conf.GetMaxEjectionPercent(); p != nil {
		checkPercentage(&v, "conf.maxEjectionPercent", float64(p.GetValue()))
	}
	if f := d.GetStandardDeviation().GetFactor(); f != nil && !(f.GetValue() >= 0 && f.GetValue() <= maxDeviationFactor) {
		v.Add("conf.detectors.standardDeviation.factor", fmt.Sprintf("has to be in the range [0, %d]", maxDeviationFactor))
	}
	if p := d.GetFailure().GetThreshold(); p != nil {
		checkPercentage(&v, "conf.detectors.failure.threshold", float64(p.GetValue()))
	}
	return v
}

// maxDeviationFactor is what still fits, in thousandths, into the 32 bits that Envoy has for it.
const maxDeviationFactor = 4_294_967
