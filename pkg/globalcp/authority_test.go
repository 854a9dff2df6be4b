package globalcp_test

import (
	"log/slog"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// TestAuthorityAtTheStart: a mesh that was stored before CAs were made with it has one after the next start.
func TestAuthorityAtTheStart(t *testing.T) {
	c := options(t, config.StoreSQLite)
	c.Defaults.SkipMeshCreation = true
	spec, err := resource.Encode(&meshv1.Mesh{Mtls: &meshv1.Mesh_Mtls{
		EnabledBackend: "ca-1", Backends: []*meshv1.CertificateAuthorityBackend{{Name: "ca-1", Type: "builtin"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var at resource.Revision
	for _, want := range []int{0, 2, 2} {
		g, err := globalcp.New(t.Context(), c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, g)
		view := g.Store.Config().View()
		if got := view.Count(store.InScope(resource.KindSecret, "old")); got != want {
			t.Errorf("%d secrets, want %d", got, want)
		}
		if want == 0 {
			_, err = g.Store.Config().Apply(t.Context(), store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindMesh, Name: "old"}, Spec: spec}}})
			if err != nil {
				t.Fatal(err)
			}
		} else if at != 0 && view.Revision() != at {
			t.Errorf("a start that had nothing to do wrote revision %s", view.Revision())
		} else {
			at = view.Revision()
		}
		stop()
	}
}
