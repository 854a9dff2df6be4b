package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSmoke(t *testing.T) {
	s := memory.New(memory.Options{})
	defer s.Close()
	w, err := s.Config().Watch(store.Everything(), s.Config().View().At())
	if err != nil {
		t.Fatal(err)
	}
	k := resource.Key{Kind: "Mesh", Name: "m"}
	res, err := s.Config().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: k, Spec: []byte("x")}}})
	if err != nil || res.Revision != 1 {
		t.Fatal(res, err)
	}
	c, err := w.Next(t.Context())
	if err != nil || c.To != 1 || len(c.Items) != 1 || c.View.Count(store.Everything()) != 1 {
		t.Fatal(c, err)
	}
}
