// Package bootstrap answers the first question of a proxy: with what configuration to start Envoy.
package bootstrap

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds"
)

// Leaver takes a proxy's leave: *xds.Server.
type Leaver interface {
	Goodbye(ctx context.Context, proxy resource.Key) error
}

// Options are what the handler needs. All are required but those that say otherwise.
type Options struct {
	Store store.Store
	Table *resource.Table
	// Zone is the name of the own zone.
	Zone          string
	Authenticator xds.Authenticator
	Leaver        Leaver
	Logger        *slog.Logger
	// CA is what the proxies verify the control plane by where their request brings no caCert: PEM.
	CA []byte
	// RequireToken refuses a bootstrap without a token (dpServer.auth.type is not none).
	RequireToken bool
	// ServerNames says whether the server's certificate holds for a host name or IP; nil: for any.
	ServerNames func(host string) bool
	// XDSHost and XDSPort, if set, are what proxies dial in place of the request's Host.
	XDSHost string
	XDSPort uint32
	// AdminAddress is where Envoy's admin listens (default 127.0.0.1).
	AdminAddress string
	// NodeMetadata limits the size of an inline dataplane in bytes (default 256 KiB).
	NodeMetadata int
}

// Handler serves POST /bootstrap and POST /goodbye.
func Handler(o Options) http.Handler {
	return http.NotFoundHandler()
}
