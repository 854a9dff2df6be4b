package api

import (
	"context"
	"iter"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// tagline is the name of the protocol spoken; clients insist on it.
const tagline = "Kuma"

// GetInfo implements the ControlPlaneService.
func (s *Service) GetInfo(context.Context, *apiv1.GetInfoRequest) (*apiv1.GetInfoResponse, error) {
	return &apiv1.GetInfoResponse{Hostname: s.Hostname, Tagline: tagline, Version: s.Version, InstanceId: s.InstanceID}, nil
}

// GetConfig implements the ControlPlaneService.
func (s *Service) GetConfig(context.Context, *apiv1.GetConfigRequest) (*apiv1.GetConfigResponse, error) {
	return &apiv1.GetConfigResponse{Json: s.ConfigJSON}, nil
}

// GetVersions implements the ControlPlaneService.
func (s *Service) GetVersions(context.Context, *apiv1.GetVersionsRequest) (*apiv1.GetVersionsResponse, error) {
	rows := map[string]*apiv1.GetVersionsResponse_Compatible{}
	for _, r := range []struct {
		envoy   string
		proxies []string
	}{
		// What the published releases of the protocol's proxies go with, then our own.
		{"1.16.0", []string{"1.0.0", "1.0.1"}},
		{"1.16.1", []string{"1.0.2", "1.0.3", "1.0.4"}},
		{"1.16.2", []string{"1.0.5", "1.0.6", "1.0.7", "1.0.8"}},
		{"~1.17.0", []string{"1.1.0", "1.1.1", "1.1.2", "1.1.3", "1.1.4", "1.1.5"}},
		{"~1.40.0", []string{s.Version}},
	} {
		for _, p := range r.proxies {
			rows[p] = &apiv1.GetVersionsResponse_Compatible{Envoy: r.envoy}
		}
	}
	return &apiv1.GetVersionsResponse{KumaDp: rows}, nil
}

// ListZoneStatus implements the InspectService.
func (s *Service) ListZoneStatus(ctx context.Context, _ *apiv1.ListZoneStatusRequest) (*apiv1.ListZoneStatusResponse, error) {
	config, observed, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	res := &apiv1.ListZoneStatusResponse{}
	if s.Mode == Zone {
		return res, nil // the sessions are the global control plane's: here each zone, our own too, would seem inactive
	}
	for o := range config.Scan(store.OfKind(resource.KindZone)) {
		zone, err := resource.Decode[systemv1.Zone](o)
		if err != nil {
			return nil, s.storeError(err, titleList)
		}
		insight, err := find[systemv1.ZoneInsight](observed, resource.Key{Kind: resource.KindZoneInsight, Name: o.Key.Name})
		if err != nil {
			return nil, s.storeError(err, titleList)
		}
		row := &apiv1.ZoneStatus{Name: o.Key.Name}
		open := openSession(insight)
		enabled := zone.GetEnabled() == nil || zone.GetEnabled().GetValue()
		row.Active = open != nil && enabled
		last := open
		if subs := insight.GetSubscriptions(); last == nil && len(subs) > 0 {
			last = subs[len(subs)-1]
		}
		if a := last.GetAddress(); a != "" {
			row.Url = "grpcs://" + a
		}
		res.Zones = append(res.Zones, row)
	}
	return res, nil
}

// ListRejections implements the InspectService.
func (s *Service) ListRejections(ctx context.Context, req *apiv1.ListRejectionsRequest) (*apiv1.ListRejectionsResponse, error) {
	w, err := s.window(ctx, titleList, req.GetSize(), req.GetOffset())
	if err != nil {
		return nil, err
	}
	config, observed, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	var failed error
	// Key order: a ProxyRejection comes before a SyncRejection.
	objects := func(yield func(*resource.Object) bool) {
		for _, part := range []iter.Seq[*resource.Object]{
			observed.Scan(store.OfKind(resource.KindProxyRejection)),
			config.Scan(store.OfKind(resource.KindSyncRejection)),
		} {
			for o := range part {
				r, err := s.rejection(o)
				if err != nil {
					failed = err
					return
				}
				if req.GetMesh() != "" && r.Mesh != req.GetMesh() && (r.Kind != string(resource.KindMesh) || r.Name != req.GetMesh()) {
					continue
				}
				if !yield(o) {
					return
				}
			}
		}
	}
	p, err := paginate(w, objects, -1, func(o *resource.Object) (*apiv1.Rejection, int, error) {
		r, err := s.rejection(o)
		return r, len(o.Spec), err
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, s.storeError(err, titleList)
	}
	return &apiv1.ListRejectionsResponse{Total: p.total, Items: p.items, Next: p.next}, nil
}

func (s *Service) rejection(o *resource.Object) (*apiv1.Rejection, error) {
	zone := s.Zone
	if s.Mode == Global {
		zone = string(o.Origin)
	}
	if o.Key.Kind == resource.KindProxyRejection {
		r, err := resource.Decode[systemv1.ProxyRejection](o)
		if err != nil {
			return nil, err
		}
		return &apiv1.Rejection{
			Type: string(o.Key.Kind), Kind: r.GetKind(), Mesh: r.GetScope(), Name: r.GetName(), Revision: r.GetRevision(), Reason: r.GetReason(), Zone: zone,
			Count: r.GetCount(), Proxies: r.GetProxies(), ResourceType: r.GetResourceType(), ResourceName: r.GetResourceName(), Last: r.GetLast(),
		}, nil
	}
	r, err := resource.Decode[systemv1.SyncRejection](o)
	if err != nil {
		return nil, err
	}
	if s.Mode == Global && o.Origin == resource.Local {
		// What the global control plane itself refused came from the zone that its name starts with.
		zone, _, _ = strings.Cut(r.GetName(), ".")
	}
	return &apiv1.Rejection{Type: string(o.Key.Kind), Kind: r.GetKind(), Mesh: r.GetScope(), Name: r.GetName(), Revision: r.GetRevision(), Reason: r.GetReason(), Zone: zone}, nil
}
