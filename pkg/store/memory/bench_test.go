package memory_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
)

// BenchmarkWake is the time from a write to the last of n watches having it.
func BenchmarkWake(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("watches=%d", n), func(b *testing.B) {
			s := memory.New(memory.Options{})
			defer s.Close()
			var woken, all sync.WaitGroup
			for range n {
				w, err := s.Config().Watch(store.Everything(), s.Config().View().At())
				if err != nil {
					b.Fatal(err)
				}
				all.Go(func() {
					for range b.N {
						if _, err := w.Next(b.Context()); err != nil {
							b.Error(err)
						}
						woken.Done()
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				woken.Add(n)
				put := store.Put{Key: resource.Key{Kind: "Timeout", Scope: "default", Name: fmt.Sprint(i % 1000)}}
				if _, err := s.Config().Apply(b.Context(), store.Batch{Puts: []store.Put{put}}); err != nil {
					b.Fatal(err)
				}
				woken.Wait()
			}
			all.Wait()
		})
	}
}
