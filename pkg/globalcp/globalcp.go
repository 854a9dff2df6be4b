// Package globalcp assembles the global control plane.
package globalcp

import (
	"context"
	"fmt"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/version"
)

// CP is a global control plane.
type CP struct {
	*controlplane.Base
}

// New opens the store and every port; Run serves. On failure nothing is left open.
func New(ctx context.Context, c *config.Global, log *slog.Logger) (_ *CP, err error) {
	base, err := controlplane.New(ctx, c.General, c.Store, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = base.Close()
		}
	}()
	base.Limits = c.Limits.Limits
	cp := &CP{base}
	k := c.Multizone.Global.KDS
	certs := controlplane.NewCertificates(c.General, c.APIServer.HTTPS.Interface, k.Interface)
	show, err := c.JSON()
	if err != nil {
		return nil, err
	}
	if err := base.ServeAPI(c.APIServer, certs, api.Options{Mode: api.Global, ConfigJSON: show}); err != nil {
		return nil, err
	}
	if err := base.ServeAdminPort(c.AdminServer); err != nil {
		return nil, err
	}
	if err := cp.serveKDS(ctx, k, c.Limits, certs); err != nil {
		return nil, err
	}
	if err := base.ServeDiagnostics(c.Diagnostics); err != nil {
		return nil, err
	}
	if err := base.API.EnsurePublicKeys(ctx); err != nil {
		return nil, err
	}
	if !c.Defaults.SkipMeshCreation {
		if err := base.API.EnsureDefaultMesh(ctx, []byte(c.Defaults.Mesh)); err != nil {
			return nil, err
		}
	}
	if err := base.API.EnsureAuthorities(ctx); err != nil {
		cp.Logger.Error("meshes stay without a CA until they are written again", "error", err)
	}
	return cp, nil
}

// serveKDS adds the port for zones.
func (cp *CP) serveKDS(ctx context.Context, c config.GlobalKDS, limits config.GlobalLimits, certs *controlplane.Certificates) error {
	t, err := cp.TLS(controlplane.Port{
		Name: "kds", CertKey: "multizone.global.kds.tlsCertFile", CertFile: c.TLSCertFile, KeyFile: c.TLSKeyFile,
		ClientCertsKey: "multizone.global.kds.clientCertsDir", ClientCertsDir: c.ClientCertsDir,
	}, certs)
	if err != nil {
		return err
	}
	traffic := &kds.Traffic{}
	controlplane.MeasureTraffic(cp.Base, traffic)
	v := version.Get()
	server, err := kds.NewServer(kds.ServerOptions{
		Traffic: traffic,
		Store:   cp.Store, Table: cp.Table, Instance: cp.Instance, Logger: cp.Logger,
		Accept: func(k resource.Key, origin resource.Origin, spec []byte) error {
			return cp.ObjectLimits().Accept(cp.Table, k, origin, spec)
		},
		Authenticator:  cp.zoneAuthenticator(c.Auth.Type),
		MaxZoneObjects: int(limits.ZoneObjects), MaxZoneBytes: int64(limits.ZoneBytes), ZoneRate: int(limits.ZoneChangesPerSecond),
		Version: kds.Version{Version: v.Version, GitTag: v.GitTag, GitCommit: v.GitCommit, BuildDate: v.BuildDate},
	})
	if err != nil {
		return err
	}
	cp.MeasureLag()
	cp.Gauge("meridian_zone_online", "Whether a zone has a session with this control plane.", []string{"zone"}, func(give func(float64, ...string)) {
		for o := range cp.Store.Config().View().Scan(store.OfKind(resource.KindZone)) {
			online := 0.0
			if server.IsOnline(o.Key.Name) {
				online = 1
			}
			give(online, o.Key.Name)
		}
	})
	if err := cp.API.ForgetDeletedZones(ctx); err != nil {
		cp.Logger.Warn("overviews may show zones that are no more", "error", err)
	}
	// A global control plane that died left its zones' sessions open.
	if err := server.CloseLeftovers(ctx); err != nil {
		return fmt.Errorf("end the sessions of earlier instances: %w", err)
	}
	l, err := cp.Set.TCP("kds", "multizone.global.kds.grpcPort", c.Interface, c.GRPCPort)
	if err != nil {
		return err
	}
	rpc := grpc.NewServer(append(append(cp.CallLimits(), kds.ServerGRPCOptions()...), grpc.Creds(credentials.NewTLS(t.Config("h2"))))...)
	server.Register(rpc)
	cp.API.Nudge = server.Nudge // before anything is served
	cp.Set.GRPC("kds", l, rpc, server.Close)
	return nil
}

// zoneAuthenticator says by a zone's credential which zone it is, and until when.
type zoneAuthenticator struct {
	*auth.ZoneAuthenticator
	cp *CP
}

func (cp *CP) zoneAuthenticator(mode string) zoneAuthenticator {
	a := auth.NewZoneAuthenticator(mode, controlplane.ZoneTokenKeys(cp.Store.Config()))
	a.Revoked = controlplane.Revoked(cp.Store.Config())
	return zoneAuthenticator{a, cp}
}

// AuthenticateZone implements kds.Authenticator.
func (a zoneAuthenticator) AuthenticateZone(ctx context.Context) (string, kds.Hold, error) {
	zone, c, err := a.ZoneAuthenticator.AuthenticateZone(ctx)
	return zone, a.cp.Hold(c), err
}
