// Package zonecp assembles the zone control plane, joined or standalone.
package zonecp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/telemetry"
	"github.com/meridian-mesh/meridian/pkg/version"
	"github.com/meridian-mesh/meridian/pkg/xds"
	"github.com/meridian-mesh/meridian/pkg/xds/bootstrap"
	"github.com/meridian-mesh/meridian/pkg/xds/index/dns"
	"github.com/meridian-mesh/meridian/pkg/zones"
)

const (
	// Buffers of a proxy's connection: most of the time there is nothing to read or to send on it.
	readBuffer, writeBuffer = 4 << 10, 16 << 10
	// window is what a proxy may send ahead: some requests with all that it says of itself.
	window = 1 << 20
	// proxyPing and proxyPingTimeout find proxies that are gone without a word.
	proxyPing, proxyPingTimeout = 30 * time.Second, 10 * time.Second
)

// CP is a zone control plane.
type CP struct {
	*controlplane.Base
}

// New opens the store and every port; Run serves. On failure nothing is left open.
func New(ctx context.Context, c *config.Zone, log *slog.Logger) (_ *CP, err error) {
	base, err := open(ctx, c, log)
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
	certs := controlplane.NewCertificates(c.General, c.APIServer.HTTPS.Interface, c.DPServer.Interface)
	show, err := c.JSON()
	if err != nil {
		return nil, err
	}
	zone := c.Multizone.Zone
	mode := api.Zone
	if c.Mode == config.ModeStandalone {
		mode = api.Standalone
	}
	if err := base.ServeAPI(c.APIServer, certs, api.Options{
		Mode: mode, Zone: zone.Name, GlobalAddress: zone.GlobalAddress, ConfigJSON: show,
	}); err != nil {
		return nil, err
	}
	if err := base.ServeAdminPort(c.AdminServer); err != nil {
		return nil, err
	}
	peer := ""
	if mode == api.Zone {
		peer = string(resource.Global)
	}
	recorder, err := cp.record(ctx, peer)
	if err != nil {
		return nil, err
	}
	if err := cp.serveProxies(c, certs, newTally(observer{recorder})); err != nil {
		return nil, err
	}
	base.Set.Task("zones", zones.New(zones.Options{Log: base.Store.Config(), Zone: zone.Name, Logger: log}).Run)
	if mode == api.Zone {
		if err := cp.follow(zone, recorder); err != nil {
			return nil, err
		}
	}
	if err := base.ServeDiagnostics(c.Diagnostics); err != nil {
		return nil, err
	}
	if mode == api.Standalone {
		base.MeasureLag()
	}
	if mode == api.Standalone && !c.Defaults.SkipMeshCreation {
		if err := base.API.EnsureDefaultMesh(ctx, []byte(c.Defaults.Mesh)); err != nil {
			return nil, err
		}
	}
	if mode == api.Standalone {
		if err := base.API.EnsureAuthorities(ctx); err != nil {
			cp.Logger.Error("meshes stay without a CA until they are written again", "error", err)
		}
	}
	return cp, nil
}

// serveProxies adds the port for proxies.
func (cp *CP) serveProxies(c *config.Zone, certs *controlplane.Certificates, o *tally) error {
	t, err := cp.TLS(controlplane.Port{
		Name: "dpServer", CertKey: "dpServer.tlsCertFile", CertFile: c.DPServer.TLSCertFile, KeyFile: c.DPServer.TLSKeyFile,
	}, certs)
	if err != nil {
		return err
	}
	who := cp.authenticator(c.DPServer.Auth)
	resolver := dns.New(dns.System(), cp.Logger)
	server, err := xds.NewServer(xds.Options{
		Store: cp.Store, Table: cp.Table, Zone: c.Multizone.Zone.Name, Instance: cp.Instance,
		Authenticator: who, Observer: o, Logger: cp.Logger, Resolver: resolver,
		Limits: xds.Limits{Streams: int(c.Limits.ADSStreams), NodeMetadata: int(c.Limits.NodeMetadataBytes)},
	})
	if err != nil {
		return err
	}
	cp.measure(o, server.Plans)
	cp.Set.Task("dns", resolver.Run)
	options := bootstrap.Options{
		Store: cp.Store, Table: cp.Table, Zone: c.Multizone.Zone.Name,
		Authenticator: who, Leaver: server, Logger: cp.Logger, CA: func() []byte { return t.Certificate().CA },
		RequireToken: c.DPServer.Auth.Type != config.None, NodeMetadata: int(c.Limits.NodeMetadataBytes), Body: int64(c.Limits.BodyBytes),
		ServerNames: func(host string) bool { return t.Certificate().Certificate.Leaf.VerifyHostname(host) == nil },
	}
	rpc, err := cp.SharedPort("dpServer", "dpServer.port", c.DPServer.Interface, c.DPServer.Port, t.Config(), bootstrap.Handler(options),
		grpc.ReadBufferSize(readBuffer), grpc.WriteBufferSize(writeBuffer),
		// A window of a fixed size: else every ACK of every proxy is answered by a ping that measures the connection.
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: proxyPing, Timeout: proxyPingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		return err
	}
	server.Register(rpc)
	// On the API's port too, where older documents have it; Envoy dials this one.
	if at, ok := cp.Set.Addr("dpServer").(*net.TCPAddr); ok {
		options.XDSPort = uint32(at.Port)
	}
	elsewhere := bootstrap.Handler(options)
	cp.BesideHTTPS("/bootstrap", elsewhere)
	cp.BesideHTTPS("/goodbye", elsewhere)
	cp.Set.Task("xds", server.Run)
	return nil
}

// follow joins the global control plane.
func (cp *CP) follow(c config.ZoneMultizoneZone, recorder *insight.Recorder) error {
	// Read anew at each connect; what is wrong at the start ends it.
	connection := func() (*tls.Config, error) { return clientTLS(c.KDS) }
	if _, err := connection(); err != nil {
		return err
	}
	traffic := &kds.Traffic{}
	controlplane.MeasureTraffic(cp.Base, traffic)
	v := version.Get()
	client, err := kds.NewClient(kds.ClientOptions{
		Traffic: traffic,
		Store:   cp.Store, Table: cp.Table, Zone: c.Name, Address: c.GlobalAddress, TLS: connection, Token: zoneToken(c.KDS.TokenFile),
		Accept: func(k resource.Key, origin resource.Origin, spec []byte) error {
			return cp.ObjectLimits().Accept(cp.Table, k, origin, spec)
		},
		Version: kds.Version{Version: v.Version, GitTag: v.GitTag, GitCommit: v.GitCommit, BuildDate: v.BuildDate},
		Logger:  cp.Logger, OnCursor: recorder.CursorMoved, OnSession: recorder.SessionBegun,
		DiscardLocal: c.KDS.DiscardLocal, AcceptOtherStore: c.KDS.Resync,
	})
	if err != nil {
		return fmt.Errorf("multizone.zone: %w", err)
	}
	cp.measureSession(client.State, zoneToken(c.KDS.TokenFile))
	cp.OnReady(func(h *telemetry.Health) {
		var ails error
		if s := client.State(); !s.Connected {
			ails = fmt.Errorf("not connected since %s: %s", s.Since.UTC().Format(time.RFC3339), s.Err)
		}
		h.Set("global control plane", ails)
	})
	cp.Set.Task("kds", client.Run)
	return nil
}

func clientTLS(c config.ZoneKDS) (*tls.Config, error) {
	t := &tls.Config{
		MinVersion: tls.VersionTLS12,
		//nolint:gosec // only where the user asks for it by name
		InsecureSkipVerify: c.TLSSkipVerify,
	}
	if c.RootCAFile != "" {
		pem, err := os.ReadFile(c.RootCAFile)
		if err != nil {
			return nil, fmt.Errorf("multizone.zone.kds.rootCaFile: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("multizone.zone.kds.rootCaFile: %s holds no certificate", c.RootCAFile)
		}
	}
	if c.TLSCertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("multizone.zone.kds.tlsCertFile: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// zoneToken reads the token file, anew at each connect: it may come later, or be replaced.
func zoneToken(file string) func() (string, error) {
	if file == "" {
		return nil
	}
	return func() (string, error) {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("multizone.zone.kds.tokenFile: %w", err)
		}
		return strings.TrimSpace(string(data)), nil
	}
}

// authenticator says by a dataplane token who may be a proxy, and until when.
type authenticator struct {
	*auth.ProxyAuthenticator
	cp *CP
}

func (cp *CP) authenticator(c config.DPAuthType) authenticator {
	a := auth.NewProxyAuthenticator(c.Type, controlplane.DataplaneTokenKeys(cp.Store.Config()))
	a.Revoked = controlplane.Revoked(cp.Store.Config())
	if c.AcceptLegacyTokens {
		a.Legacy = controlplane.LegacyTokenSecret(cp.Store.Config())
		cp.Logger.Warn("dpServer.auth.acceptLegacyTokens: proxies may show tokens that never end; turn it off once they have others")
	}
	return authenticator{a, cp}
}

// AuthenticateProxy implements xds.Authenticator.
func (a authenticator) AuthenticateProxy(ctx context.Context, token string, proxy resource.Key, tags map[string][]string, ingress bool) (xds.Hold, error) {
	c, err := a.ProxyAuthenticator.AuthenticateProxy(ctx, token, proxy.Scope, proxy.Name, tags, ingress)
	if err == nil && c.Legacy != "" {
		a.cp.Logger.WarnContext(ctx, "a proxy shows a legacy token", "proxy", proxy.String(), "secret", c.Legacy, "id", c.ID, "kid", c.Key)
	}
	return a.cp.Hold(c), err
}
