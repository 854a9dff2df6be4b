package resource_test

import (
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

const benchTimeout = `{"type":"Timeout","mesh":"default","name":"t","sources":[{"match":{"kuma.io/service":"other"}}],` +
	`"destinations":[{"match":{"kuma.io/service":"another"}}],"conf":{"connectTimeout":"7ms"}}`

// BenchmarkEncode is what an item of a list costs.
func BenchmarkEncode(b *testing.B) {
	d, in := benchInput(b)
	spec, err := resource.Encode(in.Spec)
	if err != nil {
		b.Fatal(err)
	}
	o := &resource.Object{Key: resource.Key{Kind: d.Kind, Scope: in.Mesh, Name: in.Name}, Spec: spec, Created: time.Now(), Modified: time.Now()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := resource.EncodeJSON(d, o); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDecode is what the body of a write costs.
func BenchmarkDecode(b *testing.B) {
	d, _ := benchInput(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := resource.DecodeJSON(d, []byte(benchTimeout)); err != nil {
			b.Fatal(err)
		}
	}
}

func benchInput(b *testing.B) (*resource.Descriptor, resource.Input) {
	b.Helper()
	d, ok := resource.NewTable().ByKind(resource.KindTimeout)
	if !ok {
		b.Fatal("no Timeout")
	}
	in, err := resource.DecodeJSON(d, []byte(benchTimeout))
	if err != nil {
		b.Fatal(err)
	}
	return d, in
}
