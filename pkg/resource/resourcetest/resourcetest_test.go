package resourcetest

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// TestCovering: every field of every kind that is written can be had in a valid object, and a seed means one object.
func TestCovering(t *testing.T) {
	for _, d := range Written(resource.NewTable()) {
		k := resource.Key{Kind: d.Kind, Name: "n"}
		if d.Scope == resource.ScopeMesh {
			k.Scope = "default"
		}
		all := Covering(t, d, k)
		if n := len(all); n == 0 || n > 30 {
			t.Errorf("%d of %s", n, d.Kind)
		}
		if !proto.Equal(Valid(t, d, k, 7), Valid(t, d, k, 7)) {
			t.Errorf("a %s of one seed is not always the same", d.Kind)
		}
	}
}
