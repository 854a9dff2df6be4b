package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
	"github.com/meridian-mesh/meridian/pkg/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func backend() storetest.Backend {
	return storetest.Backend{Open: func(_ testing.TB, _ string, o storetest.Options) store.Store {
		return memory.New(memory.Options{Retention: o.Retention})
	}}
}

func TestConformance(t *testing.T) { storetest.Run(t, backend()) }

func TestProperty(t *testing.T) { storetest.Property(t, backend()) }
