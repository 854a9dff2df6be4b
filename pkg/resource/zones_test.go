package resource

import (
	"strings"
	"testing"

	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// What a zone says of itself is taken only under its own name, and as it should be.
func TestAcceptOfZones(t *testing.T) {
	table := NewTable()
	tags := map[string]string{TagService: "backend", "version": "v1"}
	name := ZoneServiceName(tags)
	encode := func(s *systemv1.ZoneService) []byte {
		b, err := Encode(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ingress, err := Encode(&systemv1.ZoneIngress{Address: "ingress.test", Port: 10001})
	if err != nil {
		t.Fatal(err)
	}
	nowhere, err := Encode(&systemv1.ZoneIngress{Address: "ingress.test"})
	if err != nil {
		t.Fatal(err)
	}
	good := encode(&systemv1.ZoneService{Tags: tags, Instances: 2})
	tests := map[string]struct {
		kind   Kind
		scope  string
		name   string
		origin Origin
		spec   []byte
		want   string
	}{
		"a service of a zone":       {KindZoneService, "default", "zone-1." + name, "zone-1", good, ""},
		"a service from global":     {KindZoneService, "default", "zone-1." + name, Global, good, ""},
		"a service born here":       {KindZoneService, "default", name, Local, good, ""},
		"another zone's":            {KindZoneService, "default", "zone-2." + name, "zone-1", good, `is not of zone "zone-1"`},
		"of no mesh":                {KindZoneService, "", "zone-1." + name, "zone-1", good, "mesh"},
		"under another name":        {KindZoneService, "default", "zone-1.x", "zone-1", good, "not that of the tags"},
		"without instances":         {KindZoneService, "default", "zone-1." + name, "zone-1", encode(&systemv1.ZoneService{Tags: tags}), "instances"},
		"an ingress":                {KindZoneIngress, "", "zone-1.default.in", "zone-1", ingress, ""},
		"another zone's ingress":    {KindZoneIngress, "", "zone-2.default.in", "zone-1", ingress, `is not of zone "zone-1"`},
		"an ingress without a port": {KindZoneIngress, "", "zone-1.default.in", "zone-1", nowhere, "port"},
	}
	for what, tt := range tests {
		err := Accept(table, Key{Kind: tt.kind, Scope: tt.scope, Name: tt.name}, tt.origin, tt.spec)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", what, err, tt.want)
		}
	}
}
