package api

import (
	"context"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Insights sums up what was observed, at the newest state of the store or a later one. It is safe for concurrent use.
type Insights interface {
	// Mesh sums up a mesh; nil where there is none.
	Mesh(ctx context.Context, mesh string) (*meshv1.MeshInsight, error)
	// Service sums up the proxies of a service; nil where it has none.
	Service(ctx context.Context, mesh, service string) (*meshv1.ServiceInsight, error)
	// Services is Service for all services of one mesh, or of all meshes if it is empty, by mesh and name, and how
	// many there are.
	Services(ctx context.Context, mesh string) (int, iter.Seq2[resource.Key, *meshv1.ServiceInsight], error)
}

// titleServiceInsights is the published one for a bad page of service insights.
const titleServiceInsights = "Could not paginate resources"

// GetMeshInsight implements the InspectService.
func (s *Service) GetMeshInsight(ctx context.Context, req *apiv1.GetMeshInsightRequest) (*apiv1.GetMeshInsightResponse, error) {
	config, _, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	mesh, ok := config.Get(resource.Key{Kind: resource.KindMesh, Name: req.GetName()})
	if !ok || s.Insights == nil {
		return nil, notFound(titleGet)
	}
	b, err := s.meshInsight(ctx, mesh)
	if err != nil {
		return nil, s.storeError(err, titleGet)
	}
	return &apiv1.GetMeshInsightResponse{Json: b}, nil
}

// ListMeshInsights implements the InspectService.
func (s *Service) ListMeshInsights(ctx context.Context, req *apiv1.ListMeshInsightsRequest) (*apiv1.ListMeshInsightsResponse, error) {
	w, err := s.window(ctx, titleList, req.GetSize(), req.GetOffset())
	if err != nil {
		return nil, err
	}
	config, _, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	if s.Insights == nil {
		return nil, notFound(titleList)
	}
	done, err := s.turn(ctx, titleList)
	if err != nil {
		return nil, err
	}
	defer done()
	meshes := store.OfKind(resource.KindMesh)
	p, err := paginate(w, w.rest(config, meshes), config.Count(meshes), func(o *resource.Object) ([]byte, int, error) {
		b, err := s.meshInsight(ctx, o)
		return b, len(b), err
	})
	if err != nil {
		return nil, s.storeError(err, titleList)
	}
	return &apiv1.ListMeshInsightsResponse{Total: p.total, Items: p.items, Next: p.next}, nil
}

// meshInsight writes the insight of a mesh. Clients rely on all of its keys, also where there is nothing to count.
func (s *Service) meshInsight(ctx context.Context, mesh *resource.Object) ([]byte, error) {
	in, err := s.Insights.Mesh(ctx, mesh.Key.Name)
	if err != nil {
		return nil, err
	}
	if in == nil { // the mesh is gone by now
		in = &meshv1.MeshInsight{LastSync: timestamppb.New(mesh.Modified)}
	}
	policies, err := mapJSON(in.GetPolicies())
	if err != nil {
		return nil, err
	}
	proxies, err := mapJSON(in.GetDpVersions().GetKumaDp())
	if err != nil {
		return nil, err
	}
	envoys, err := mapJSON(in.GetDpVersions().GetEnvoy())
	if err != nil {
		return nil, err
	}
	return resource.Overview{
		Type: "MeshInsight", Name: mesh.Key.Name, Created: mesh.Created, Modified: in.GetLastSync().AsTime(),
		Parts: []resource.Part{
			{Name: "lastSync", Message: in.GetLastSync()},
			{Name: "dataplanes", Message: orEmpty(in.GetDataplanes())},
			{Name: "policies", Raw: policies},
			{Name: "dpVersions", Raw: slices.Concat([]byte(`{"kumaDp":`), proxies, []byte(`,"envoy":`), envoys, []byte(`}`))},
		},
	}.JSON()
}

// mapJSON is a map as JSON, by its keys; {} where it is empty.
func mapJSON[M proto.Message](m map[string]M) (json.RawMessage, error) {
	b := []byte{'{'}
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		value, err := resource.EncodeSpec(m[k])
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}

// GetServiceInsight implements the InspectService. A service that nobody offers is no error in a mesh that is there.
func (s *Service) GetServiceInsight(ctx context.Context, req *apiv1.GetServiceInsightRequest) (*apiv1.GetServiceInsightResponse, error) {
	config, _, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	mesh, ok := config.Get(resource.Key{Kind: resource.KindMesh, Name: req.GetMesh()})
	if !ok || s.Insights == nil {
		return nil, notFound(titleGet)
	}
	in, err := s.Insights.Service(ctx, req.GetMesh(), req.GetName())
	if err != nil {
		return nil, s.storeError(err, titleGet)
	}
	b, err := serviceInsight(mesh, req.GetName(), in)
	if err != nil {
		return nil, s.storeError(err, titleGet)
	}
	return &apiv1.GetServiceInsightResponse{Json: b}, nil
}

// ListServiceInsights implements the InspectService.
func (s *Service) ListServiceInsights(ctx context.Context, req *apiv1.ListServiceInsightsRequest) (*apiv1.ListServiceInsightsResponse, error) {
	w, err := s.window(ctx, titleServiceInsights, req.GetSize(), req.GetOffset())
	if err != nil {
		return nil, err
	}
	config, _, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	if s.Insights == nil {
		return nil, notFound(titleList)
	}
	done, err := s.turn(ctx, titleServiceInsights)
	if err != nil {
		return nil, err
	}
	defer done()
	total, all, err := s.Insights.Services(ctx, req.GetMesh())
	if err != nil {
		return nil, s.storeError(err, titleServiceInsights)
	}
	// A page writes each item before it takes the next one.
	var in *meshv1.ServiceInsight
	services := func(yield func(*resource.Object) bool) {
		for k, next := range all {
			in = next
			if !yield(&resource.Object{Key: k}) {
				return
			}
		}
	}
	p, err := paginate(w, services, total, func(o *resource.Object) ([]byte, int, error) {
		mesh, ok := config.Get(resource.Key{Kind: resource.KindMesh, Name: o.Key.Scope})
		if !ok { // it came since
			at := in.GetLastSync().AsTime()
			mesh = &resource.Object{Key: resource.Key{Kind: resource.KindMesh, Name: o.Key.Scope}, Created: at, Modified: at}
		}
		b, err := serviceInsight(mesh, o.Key.Name, in)
		return b, len(b), err
	})
	if err != nil {
		return nil, s.storeError(err, titleServiceInsights)
	}
	return &apiv1.ListServiceInsightsResponse{Total: p.total, Items: p.items, Next: p.next}, nil
}

// serviceInsight writes the insight of a service. It is as old as its mesh; nil stands for a service without proxies.
func serviceInsight(mesh *resource.Object, name string, in *meshv1.ServiceInsight) ([]byte, error) {
	out := resource.Overview{Type: "ServiceInsight", Mesh: mesh.Key.Name, Name: name, Created: mesh.Created, Modified: mesh.Modified}
	if in != nil {
		out.Modified = in.GetLastSync().AsTime()
		out.Parts = append(out.Parts, resource.Part{Name: "status", Raw: strconv.AppendQuote(nil, in.GetStatus())})
	}
	out.Parts = append(out.Parts, resource.Part{Name: "dataplanes", Message: orEmpty(in.GetDataplanes())})
	return out.JSON()
}
