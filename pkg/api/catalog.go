package api

import (
	"context"

	"github.com/meridian-mesh/meridian/pkg/auth"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// Catalog says where a control plane's APIs are, by URLs; an empty one is not served.
type Catalog struct {
	// Bootstrap is the base of /bootstrap, for proxies.
	Bootstrap string
	// TokensLocal and TokensPublic are bases of /tokens, AdminLocal and AdminPublic of what else administrators ask
	// for: for callers of this machine, and for others.
	TokensLocal, TokensPublic string
	AdminLocal, AdminPublic   string
	// Monitoring is where Prometheus asks what to scrape.
	Monitoring string
}

// GetCatalog implements the ControlPlaneService.
func (s *Service) GetCatalog(ctx context.Context, _ *apiv1.GetCatalogRequest) (*apiv1.GetCatalogResponse, error) {
	var c Catalog
	if s.Catalog != nil {
		caller, _ := auth.CallerFrom(ctx)
		c = s.Catalog(caller.Host)
	}
	return &apiv1.GetCatalogResponse{Apis: &apiv1.GetCatalogResponse_Apis{
		Bootstrap:            &apiv1.GetCatalogResponse_Endpoint{Url: c.Bootstrap},
		DataplaneToken:       &apiv1.GetCatalogResponse_Reach{LocalUrl: c.TokensLocal, PublicUrl: c.TokensPublic},
		Admin:                &apiv1.GetCatalogResponse_Reach{LocalUrl: c.AdminLocal, PublicUrl: c.AdminPublic},
		MonitoringAssignment: &apiv1.GetCatalogResponse_Endpoint{Url: c.Monitoring},
	}}, nil
}
