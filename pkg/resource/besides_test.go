package resource

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBesides: a body that can't be read whole is told all the same what else is wrong with it, and nothing that may
// only follow from what could not be read.
func TestBesides(t *testing.T) {
	table := NewTable()
	for _, tc := range []struct {
		kind       Kind
		body, want string
	}{
		{KindTimeout, `{"conf":{"connectTimeout":5},"sources":[]}`, "conf.connectTimeout sources destinations"},
		{KindTimeout, `{"conf":5,"destinations":[{"match":{}}]}`, `conf sources destinations[0].match destinations[0].match`},
		{KindTimeout, `{"sources":5,"destinations":[{"match":{"kuma.io/service":"a"}}],"conf":{"connectTimeout":"1s"}}`, "sources"},
		{KindTrafficRoute, `{"sources":[{"match":{"kuma.io/service":"*"},"x":1}],"conf":{"split":[{"wait":1}]}}`, "sources[0].x conf.split[0].wait destinations conf.split[0].destination conf.split[0].destination"},
		{KindMesh, `{"mtls":{"enabledBackend":"b","bogus":1},"x":1}`, "mtls.bogus x mtls.enabledBackend"},
		{KindZone, `{"x":1}`, "x"},
	} {
		d, ok := table.ByKind(tc.kind)
		if !ok {
			t.Fatal(tc.kind)
		}
		in, err := DecodeJSON(d, []byte(tc.body))
		v, ok := d.Besides(Key{Kind: tc.kind, Scope: "default", Name: "x"}, in, err).(Violations) //nolint:errorlint // it is given as it is
		if !ok {
			t.Fatalf("%s: %v", tc.body, err)
		}
		var fields []string
		for _, x := range v {
			fields = append(fields, x.Field)
		}
		if diff := cmp.Diff(tc.want, strings.Join(fields, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.body, diff)
		}
	}
}
