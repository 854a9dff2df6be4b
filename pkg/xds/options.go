// Package xds serves a zone's proxies: it follows the config log, keeps each connected proxy's configuration
// up to date over delta ADS, and says how far each has come.
package xds

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// Authenticator says who may be a proxy.
type Authenticator interface {
	// AuthenticateProxy checks a token (empty: none was given) against the proxy that its bearer wants to be:
	// its key, the values of each tag over all its inbounds, and whether it is an ingress. The error's text is
	// shown to the bearer. A stream lasts for as long as hold says; nil: there is nothing that could end.
	AuthenticateProxy(ctx context.Context, token string, proxy resource.Key, tags map[string][]string, ingress bool) (hold Hold, err error)
}

// Hold has end called, once at most and perhaps at once, when a token does not hold any more: it has expired or was
// taken back. The function that it returns must be called when that is of no interest any more.
type Hold = func(end func(reason error)) (release func())

// Limits bound what proxies may cost. A zero field takes its default.
type Limits struct {
	// Streams is the number of ADS streams at one time (default 20,000).
	Streams int
	// NodeMetadata is the size of a node's metadata in bytes (default 256 KiB).
	NodeMetadata int
	// Subscriptions is the number of names that a stream may subscribe to for one type (default 100,000).
	Subscriptions int
	// FirstRequest is how long a stream may stay silent after it was opened (default 10 s).
	FirstRequest time.Duration
	// Grace is how long an inline dataplane outlives its last stream (default 2 s).
	Grace time.Duration
	// Return is how long inline dataplanes have to come back after a start (default 60 s).
	Return time.Duration
}

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		at *int
		to int
	}{{&l.Streams, 20_000}, {&l.NodeMetadata, 256 << 10}, {&l.Subscriptions, 100_000}} {
		if *f.at == 0 {
			*f.at = f.to
		}
	}
	for _, f := range []struct {
		at *time.Duration
		to time.Duration
	}{{&l.FirstRequest, 10 * time.Second}, {&l.Grace, 2 * time.Second}, {&l.Return, time.Minute}} {
		if *f.at == 0 {
			*f.at = f.to
		}
	}
	return l
}

// Options are what a Server needs. All but Resolver, Issuer and Limits are required.
type Options struct {
	Store store.Store
	Table *resource.Table
	// Zone is the name of the own zone.
	Zone string
	// Instance names this control plane in its responses.
	Instance      string
	Authenticator Authenticator
	Observer      Observer
	Logger        *slog.Logger
	// Resolver finds out what DNS names in dataplanes stand for; nil: they stay without endpoints. Whoever
	// made it runs it.
	Resolver index.Resolver
	// Issuer makes what issues workload certificates from a mesh's CA, both parts PEM; nil: ca.Parse.
	Issuer func(certPEM, keyPEM []byte) (ca.Issuer, error)
	Limits Limits
}

// check names what is missing.
func (o Options) check() error {
	switch {
	case o.Store == nil:
		return errors.New("xds: no store")
	case o.Table == nil:
		return errors.New("xds: no table of kinds")
	case o.Zone == "":
		return errors.New("xds: no zone")
	case o.Authenticator == nil:
		return errors.New("xds: no authenticator")
	case o.Observer == nil:
		return errors.New("xds: no observer")
	case o.Logger == nil:
		return errors.New("xds: no logger")
	}
	return nil
}
