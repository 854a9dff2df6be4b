package gateway_test

import (
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
