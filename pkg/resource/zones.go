package resource

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// CanonicalTags writes tags as "k1=v1,k2=v2", sorted by key. Equal texts mean equal tags: what no valid tag
// holds is quoted.
func CanonicalTags(tags map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(tags)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(quoteOdd(k))
		b.WriteByte('=')
		b.WriteString(quoteOdd(tags[k]))
	}
	return b.String()
}

func quoteOdd(s string) string {
	if strings.ContainsAny(s, "=,;\"{}") {
		return strconv.Quote(s)
	}
	return s
}

// ZoneServiceName is the name, in its own zone, of the ZoneService with these tags.
func ZoneServiceName(tags map[string]string) string {
	hash := sha256.Sum256([]byte(CanonicalTags(tags)))
	return hex.EncodeToString(hash[:16])
}

// validateZoneService also holds the name to the tags: a zone can't have two that mean the same.
func validateZoneService(k Key, m proto.Message) Violations {
	s, ok := m.(*systemv1.ZoneService)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	checkServiceTags(&v, "tags", s.GetTags())
	checkProtocol(&v, "tags", s.GetTags())
	if s.GetInstances() == 0 {
		v.Add("instances", mustBePositive)
	}
	if name := k.Name[strings.LastIndexByte(k.Name, '.')+1:]; name != ZoneServiceName(s.GetTags()) {
		v.Add("name", "is not that of the tags")
	}
	return v
}

func validateZoneIngress(_ Key, m proto.Message) Violations {
	i, ok := m.(*systemv1.ZoneIngress)
	if !ok {
		return wrongMessage(m)
	}
	var v Violations
	if !isHost(i.GetAddress()) {
		v.Add("address", mustBeIPOrDNS)
	}
	checkPort(&v, "port", i.GetPort())
	return v
}
