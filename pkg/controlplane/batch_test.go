package controlplane_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// TestBatchReachesZones: what one batch wrote is in the zone all at once, and goes all at once.
func TestBatchReachesZones(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.synced()
	const n = 2000
	items := []string{}
	for i := range n {
		items = append(items, fmt.Sprintf(`{"type":"ExternalService","mesh":"many","name":"t-%d","tags":{"kuma.io/service":"web-%d"},"networking":{"address":"web.example:%d"}}`, i, i, 1+i))
	}
	log, within := w.zone.Store.Config(), store.InScope(resource.KindExternalService, "many")
	watch, err := log.Watch(store.Everything(), log.View().At())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watch.Close() }()
	seen := make(chan map[int]bool, 1)
	go func() {
		counts := map[int]bool{}
		for end := false; !end; {
			c, err := watch.Next(t.Context())
			if err != nil {
				t.Error(err)
				break
			}
			counts[c.View.Count(within)] = true
			_, end = c.View.Get(resource.Key{Kind: resource.KindMesh, Name: "end"})
		}
		seen <- counts
	}()
	var answer struct {
		Results []struct{ Result string }
	}
	body := w.must("PUT", "/batch", `{"put":[`+strings.Join(append(items, `{"type":"Mesh","name":"many"}`), ",")+`]}`)
	if err := json.Unmarshal([]byte(body), &answer); err != nil || len(answer.Results) != n+1 {
		t.Fatalf("%d results, %v", len(answer.Results), err)
	}
	w.synced()
	if got := log.View().Count(within); got != n {
		t.Errorf("the zone has %d of %d", got, n)
	}
	w.must("PUT", "/batch", `{"delete":[{"type":"Mesh","name":"many"}]}`)
	w.must("PUT", "/meshes/end", `{}`)
	for count := range <-seen {
		if count != 0 && count != n {
			t.Errorf("the zone had %d of %d", count, n)
		}
	}
}
