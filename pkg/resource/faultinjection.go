package resource

import (
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

func validateFaultInjection(_ Key, m proto.Message) Violations {
	f, ok := m.(*meshv1.FaultInjection)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", f.GetSources(), anyTags())
	checkSelectors(&v, "destinations", f.GetDestinations(), anyTags())
	for i, s := range f.GetDestinations() {
		path := indexPath("destinations", i) + ".match"
		switch protocol, given := s.GetMatch()[TagProtocol]; {
		case !given:
			v.Add(path, "protocol must be specified")
		case protocol != "http" && protocol != "http2" && protocol != "grpc":
			v.Add(keyPath(path, TagProtocol), "must be one of http, http2, grpc")
		}
	}
	conf := f.GetConf()
	faults := 0
	if d := conf.GetDelay(); d.GetPercentage() != nil || d.GetValue() != nil {
		faults++
		checkShare(&v, "conf.delay.percentage", d.GetPercentage())
		checkRequiredPositive(&v, "conf.delay.value", d.GetValue())
	}
	if a := conf.GetAbort(); a.GetPercentage() != nil || a.GetHttpStatus() != nil {
		faults++
		checkShare(&v, "conf.abort.percentage", a.GetPercentage())
		// Envoy answers nothing below 200.
		if s := a.GetHttpStatus(); s == nil {
			v.Add("conf.abort.httpStatus", mustBeDefined)
		} else if s.GetValue() < http.StatusOK || s.GetValue() > math.MaxInt16 || http.StatusText(int(s.GetValue())) == "" {
			v.Add("conf.abort.httpStatus", "has to be a known status of HTTP, 200 or above")
		}
	}
	if b := conf.GetResponseBandwidth(); b.GetPercentage() != nil || b.GetLimit() != nil {
		faults++
		checkShare(&v, "conf.responseBandwidth.percentage", b.GetPercentage())
		if l := b.GetLimit(); l == nil {
			v.Add("conf.responseBandwidth.limit", mustBeDefined)
		} else if _, err := ParseBandwidth(l.GetValue()); err != nil {
			v.Add("conf.responseBandwidth.limit", err.Error())
		}
	}
	if faults == 0 {
		v.Add("conf", "must have at least one of the faults configured")
	}
	return v
}

// anyTags asks for at least one tag, which need not be the service.
func anyTags() tagRules { return tagRules{selector: true, needTag: true} }

func checkShare(v *Violations, path string, p *wrapperspb.DoubleValue) {
	if p == nil {
		v.Add(path, mustBeDefined)
		return
	}
	checkPercentage(v, path, p.GetValue())
}

// bandwidth is looked for anywhere in a text, as in the published release.
var bandwidth = regexp.MustCompile(`([0-9]+)\s?([kmg])bps`)

// ParseBandwidth reads digits and kbps, mbps or gbps, such as "50 mbps", as kilobits in a second, at least 1.
func ParseBandwidth(s string) (uint64, error) {
	found := bandwidth.FindStringSubmatch(s)
	if found == nil {
		return 0, fmt.Errorf("has to be a number and one of kbps, mbps, gbps")
	}
	unit := map[string]uint64{"k": 1, "m": 1e3, "g": 1e6}[found[2]]
	n, err := strconv.ParseUint(found[1], 10, 64)
	if err != nil || n == 0 || n > math.MaxUint64/unit {
		return 0, fmt.Errorf("is out of range")
	}
	return n * unit, nil
}

func validateTrafficLog(_ Key, m proto.Message) Violations {
	l, ok := m.(*meshv1.TrafficLog)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", l.GetSources(), anySource())
	checkSelectors(&v, "destinations", l.GetDestinations(), serviceOnly())
	return v
}

func validateTrafficTrace(_ Key, m proto.Message) Violations {
	t, ok := m.(*meshv1.TrafficTrace)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "selectors", t.GetSelectors(), anyTags())
	return v
}
