package sqlite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	"github.com/meridian-mesh/meridian/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, o sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(name string, spec string) store.Batch {
	return store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: "Timeout", Scope: "default", Name: name}, Spec: []byte(spec)}}}
}

func backend() storetest.Backend {
	return storetest.Backend{Durable: true, Rounds: 500, Open: func(t testing.TB, dir string, o storetest.Options) store.Store {
		return open(t, sqlite.Options{Path: filepath.Join(dir, "zone.db"), Retention: o.Retention})
	}}
}

func TestConformance(t *testing.T) { storetest.Run(t, backend()) }

func BenchmarkApply(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, sqlite.Options{Path: filepath.Join(b.TempDir(), "a.db")})
			spec := string(make([]byte, 1024))
			var n atomic.Int64
			var wg sync.WaitGroup
			start := time.Now()
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := s.Config().Apply(context.Background(), put(fmt.Sprintf("t%d", i%5000), spec)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "writes/s")
		})
	}
}
