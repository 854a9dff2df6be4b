package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/meridian-mesh/meridian/e2e/harness"
)

const (
	// counted dataplanes are in the mesh whose insight is measured, fewCounted in the one beside it.
	counted, fewCounted = 10_000, 10
	// perService of them offer the same service.
	perService = 10
	// perBatch are written at once, before anything is measured.
	perBatch = 1000
)

// insights measures what a MeshInsight costs to keep: a proxy of a large mesh gets ready, or is so no longer, and the
// insight is asked for, next to the same in a small mesh of the same control plane.
func (r rest) insights(ctx context.Context) error {
	ports, err := harness.Ports{}.Free()
	if err != nil {
		return err
	}
	zone, err := r.programs.Zone(filepath.Join(r.dir, "insights"), ports, harness.ZoneOptions{})
	if err != nil {
		return err
	}
	zone.Env = []string{"MERIDIAN_STORE_TYPE=memory", "MERIDIAN_DIAGNOSTICS_DEBUG_ENDPOINTS=true"}
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := zone.Start(ready); err != nil {
		return err
	}
	defer func() { _ = zone.Stop() }()
	to := server{addr: zone.Addr("http"), pid: zone.Process().Pid(), diagnostics: zone.Addr("diagnostics")}
	for _, n := range []int{fewCounted, counted} {
		if err := r.upkeep(ctx, zone, to, n); err != nil {
			return fmt.Errorf("a mesh of %d dataplanes: %w", n, err)
		}
	}
	return nil
}

func (r rest) upkeep(ctx context.Context, zone *harness.ControlPlane, to server, n int) error {
	mesh := fmt.Sprintf("of-%d", n)
	if _, err := zone.Client().Put(ctx, "/meshes/"+mesh, `{}`); err != nil {
		return err
	}
	type batch struct {
		Put []json.RawMessage `json:"put"`
	}
	for begin := 0; begin < n; begin += perBatch {
		var b batch
		for i := begin; i < min(n, begin+perBatch); i++ {
			b.Put = append(b.Put, json.RawMessage(proxy(mesh, i, false)))
		}
		if _, _, err := zone.Client().Do(ctx, http.MethodPut, "/batch", b); err != nil {
			return err
		}
	}
	insight := request("GET", "/mesh-insights/"+mesh, "")
	change := func(i int) []byte {
		return request("PUT", fmt.Sprintf("/meshes/%s/dataplanes/dp-%05d", mesh, i/2%n), proxy(mesh, i/2%n, i/2/n%2 == 0))
	}
	answer, err := once(ctx, to.addr, insight)
	if err != nil {
		return err
	}
	var all struct{ Dataplanes struct{ Total int } }
	if err := json.Unmarshal(answer, &all); err != nil || all.Dataplanes.Total != n {
		return errors.Join(err, fmt.Errorf("the insight counts %d dataplanes", all.Dataplanes.Total))
	}
	// A change and the insight after it, by turns.
	took, _, cpu, err := drive(ctx, to, 1, func(_, i int) []byte {
		if i%2 == 0 {
			return change(i)
		}
		return insight
	})
	if err != nil {
		return err
	}
	r.report.add(fmt.Sprintf("MeshInsight upkeep at %d dataplanes", n), round(2*cpu),
		fmt.Sprintf("of the server's CPU for a PUT of a dataplane and its GET, n %d", len(took)/2), "")
	return nil
}

// proxy is a dataplane with two inbounds, the second of which is ready or not.
func proxy(mesh string, i int, ready bool) string {
	return fmt.Sprintf(`{"type":"Dataplane","mesh":%q,"name":"dp-%05d","networking":{"address":"10.0.0.1","inbound":[`+
		`{"port":80,"tags":{"kuma.io/service":"service-%d"}},{"port":81,"tags":{"kuma.io/service":"admin-%d"},"health":{"ready":%t}}]}}`,
		mesh, i, i/perService, i/perService, ready)
}
