package resource

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

func validateTrafficPermission(_ Key, m proto.Message) Violations {
	p, ok := m.(*meshv1.TrafficPermission)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", p.GetSources(), serviceOnly())
	checkSelectors(&v, "destinations", p.GetDestinations(), anySource())
	return v
}

// maxRingSize is Envoy's bound for the rings of consistent hashing.
const maxRingSize = 8 << 20

func validateTrafficRoute(_ Key, m proto.Message) Violations {
	r, ok := m.(*meshv1.TrafficRoute)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", r.GetSources(), anySource())
	checkSelectors(&v, "destinations", r.GetDestinations(), serviceOnly())
	split := r.GetConf().GetSplit()
	if len(split) == 0 {
		v.Add("conf", "must have split")
		v.Add("conf.split", "must have at least one element")
	}
	var total uint64
	for i, s := range split {
		anySource().check(&v, indexPath("conf.split", i)+".destination", s.GetDestination())
		total += uint64(s.GetWeight())
	}
	if total > math.MaxUint32 {
		v.Add("conf.split", fmt.Sprintf("the weights must not add up to more than %d", uint32(math.MaxUint32)))
	}
	checkLoadBalancer(&v, r.GetConf().GetLoadBalancer())
	return v
}

func checkLoadBalancer(v *Violations, lb *meshv1.TrafficRoute_LoadBalancer) {
	if lb.GetLeastRequest().GetChoiceCount() == 1 {
		v.Add("conf.loadBalancer.leastRequest.choiceCount", "has to be at least 2 when defined")
	}
	ring := lb.GetRingHash()
	if ring == nil {
		return
	}
	const path = "conf.loadBalancer.ringHash"
	switch ring.GetHashFunction() {
	case "XX_HASH", "MURMUR_HASH_2":
	default:
		v.Add(path+".hashFunction", "has to be one of XX_HASH, MURMUR_HASH_2")
	}
	if ring.GetMinRingSize() > maxRingSize {
		v.Add(path+".minRingSize", fmt.Sprintf("has to be at most %d", maxRingSize))
	}
	if ring.GetMaxRingSize() > maxRingSize {
		v.Add(path+".maxRingSize", fmt.Sprintf("has to be at most %d", maxRingSize))
	}
	if ring.GetMaxRingSize() != 0 && ring.GetMinRingSize() > ring.GetMaxRingSize() {
		v.Add(path+".minRingSize", "has to be at most maxRingSize")
	}
}

func validateTimeout(_ Key, m proto.Message) Violations {
	t, ok := m.(*meshv1.Timeout)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", t.GetSources(), anySource())
	checkSelectors(&v, "destinations", t.GetDestinations(), serviceOnly())
	conf := t.GetConf()
	if conf == nil {
		v.Add("conf", mustBeDefined)
		return v
	}
	if s := conf.GetTcp(); s != nil {
		checkTimeouts(&v, "conf.tcp", namedDuration{"idleTimeout", s.GetIdleTimeout()})
	}
	if s := conf.GetHttp(); s != nil {
		checkTimeouts(&v, "conf.http", namedDuration{"requestTimeout", s.GetRequestTimeout()}, namedDuration{"idleTimeout", s.GetIdleTimeout()})
	}
	if s := conf.GetGrpc(); s != nil {
		checkTimeouts(&v, "conf.grpc", namedDuration{"streamIdleTimeout", s.GetStreamIdleTimeout()}, namedDuration{"maxStreamDuration", s.GetMaxStreamDuration()})
	}
	return v
}

type namedDuration struct {
	name  string
	value *durationpb.Duration
}

// checkTimeouts looks at a section that was given: it must say something.
func checkTimeouts(v *Violations, path string, all ...namedDuration) {
	empty := true
	for _, d := range all {
		empty = empty && d.value == nil
		checkPositive(v, path+"."+d.name, d.value)
	}
	if empty {
		v.Add(path, cannotBeEmpty)
	}
}

func validateRetry(_ Key, m proto.Message) Violations {
	r, ok := m.(*meshv1.Retry)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkSelectors(&v, "sources", r.GetSources(), anySource())
	// A protocol among the destinations is what the newest document shows.
	checkSelectors(&v, "destinations", r.GetDestinations(), serviceOnly(TagProtocol))
	conf := r.GetConf()
	switch {
	case conf == nil:
		v.Add("conf", mustBeDefined)
	case conf.GetHttp() == nil && conf.GetGrpc() == nil && conf.GetTcp() == nil:
		v.Add("conf", "must have at least one of http, grpc, tcp")
	}
	if h := conf.GetHttp(); h != nil {
		if h.GetNumRetries() == nil && h.GetPerTryTimeout() == nil && h.GetBackOff() == nil && len(h.GetRetriableStatusCodes()) == 0 {
			v.Add("conf.http", cannotBeEmpty)
		}
		checkRetries(&v, "conf.http", h.GetNumRetries(), h.GetPerTryTimeout(), h.GetBackOff())
	}
	if g := conf.GetGrpc(); g != nil {
		if g.GetNumRetries() == nil && g.GetPerTryTimeout() == nil && g.GetBackOff() == nil && len(g.GetRetryOn()) == 0 {
			v.Add("conf.grpc", cannotBeEmpty)
		}
		checkRetryOn(&v, "conf.grpc.retryOn", g.GetRetryOn())
		checkRetries(&v, "conf.grpc", g.GetNumRetries(), g.GetPerTryTimeout(), g.GetBackOff())
	}
	if t := conf.GetTcp(); t != nil && t.GetMaxConnectAttempts() == 0 {
		v.Add("conf.tcp.maxConnectAttempts", mustBePositive)
	}
	return v
}

func checkRetries(v *Violations, path string, number *wrapperspb.UInt32Value, perTry *durationpb.Duration, b *meshv1.Retry_BackOff) {
	if number != nil && number.GetValue() == 0 {
		v.Add(path+".numRetries", mustBePositive+" when defined")
	}
	checkPositive(v, path+".perTryTimeout", perTry)
	if b == nil {
		return
	}
	low, high := b.GetBaseInterval(), b.GetMaxInterval()
	switch {
	case low == nil:
		v.Add(path+".backOff.baseInterval", mustBeDefined)
	case !isPositive(low):
		v.Add(path+".backOff.baseInterval", mustBePositive)
	}
	checkPositive(v, path+".backOff.maxInterval", high)
	// Envoy refuses it, and would refuse all that comes in the same response.
	if isPositive(low) && isPositive(high) && high.AsDuration() < low.AsDuration() {
		v.Add(path+".backOff.maxInterval", "must not be less than baseInterval")
	}
}

func checkRetryOn(v *Violations, path string, on []string) {
	places := map[string][]string{}
	for i, name := range on {
		switch name {
		case "cancelled", "deadline_exceeded", "internal", "resource_exhausted", "unavailable":
			places[name] = append(places[name], fmt.Sprint(i))
		default:
			v.Add(indexPath(path, i), "has to be one of cancelled, deadline_exceeded, internal, resource_exhausted, unavailable")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(places)) {
		if len(places[name]) > 1 {
			shown := places[name][:min(len(places[name]), 10)]
			v.Add(path, fmt.Sprintf("repeated value %q at indexes [%s]", name, strings.Join(shown, ", ")))
		}
	}
}
