package gateway_test

import (
	"fmt"
	"net/http"
	"testing"
)

func BenchmarkGet(b *testing.B) {
	p := start(b, setup{})
	p.must(p.put("/meshes/default/timeouts/t", timeout), 201)
	b.ReportAllocs()
	for b.Loop() {
		if w, _ := p.serve(b, http.MethodGet, "/meshes/default/timeouts/t", "", ""); w.Code != 200 {
			b.Fatal(w.Code)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	p := start(b, setup{})
	b.ReportAllocs()
	for b.Loop() {
		if w, _ := p.serve(b, http.MethodPut, "/meshes/default/timeouts/t", "application/json", timeout); w.Code != 200 && w.Code != 201 {
			b.Fatal(w.Code)
		}
	}
}

// BenchmarkBatch writes 10,000 routes at one revision.
func BenchmarkBatch(b *testing.B) {
	p := start(b, setup{})
	puts := make([]string, 10_000)
	for i := range puts {
		puts[i] = fmt.Sprintf(`{"type":"TrafficRoute","mesh":"default","name":"route-%d","sources":[{"match":{"kuma.io/service":"web-%d"}}],"destinations":[{"match":{"kuma.io/service":"backend-%d"}}],`+
			`"conf":{"split":[{"weight":90,"destination":{"kuma.io/service":"backend-%d","version":"v1"}},{"weight":10,"destination":{"kuma.io/service":"backend-%d","version":"v2"}}]}}`, i, i, i, i, i)
	}
	body := batchOf(puts, nil)
	for name, path := range map[string]string{"dry": "/batch?dryRun=true", "stored": "/batch"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w, _ := p.serve(b, http.MethodPut, path, "application/json", body); w.Code != 200 {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
