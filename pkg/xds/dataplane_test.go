package xds

import (
	"testing"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

func TestParseNodeID(t *testing.T) {
	for id, want := range map[string]resource.Key{
		"default.web":   dataplane("web"),
		"default.web.1": dataplane("web.1"),
	} {
		if got, err := ParseNodeID(id); err != nil || got != want {
			t.Errorf("%q: %v, %v", id, got, err)
		}
	}
	for _, id := range []string{"", ".", "default", "default.", ".web"} {
		if got, err := ParseNodeID(id); err == nil {
			t.Errorf("%q gives %v", id, got)
		}
	}
}

// Whatever a node brings, it is refused or gives a dataplane that can be stored.
func FuzzInline(f *testing.F) {
	f.Add("default.web", inline("web", 80))
	f.Add("default.web", "networking: {address: 1.2.3.4, gateway: {tags: {service: edge}}}")
	f.Add("default.in", `{"networking":{"address":"1.2.3.4","ingress":{},"inbound":[{"port":1}]}}`)
	f.Add("a.b", "{")
	t := resource.NewTable()
	f.Fuzz(func(tt *testing.T, id, body string) {
		k, err := ParseNodeID(id)
		if err != nil {
			return
		}
		dp, err := DecodeInline(t, "zone-1", k, []byte(body))
		if err != nil {
			return
		}
		spec, err := resource.Encode(dp)
		if err != nil {
			tt.Fatal(err)
		}
		if err := resource.Accept(t, k, resource.Local, spec); err != nil {
			tt.Errorf("accepted inline, and refused afterwards: %v", err)
		}
	})
}
