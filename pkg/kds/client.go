package kds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/pkg/store"
)

// ClientOptions of a zone's end.
type ClientOptions struct {
	Store store.Store
	Table Table
	// Accept judges what the global control plane sends.
	Accept Accept
	// Zone is the zone's name.
	Zone string
	// Address of the global control plane: host:port, with or without "grpcs://" before it.
	Address string
	// TLS of the connection, with the client certificate if there is one. Nil: none, for tests.
	TLS *tls.Config
	// Token gives the zone token and is asked at each connect. Nil: none is sent.
	Token   func() (string, error)
	Version Version
	Logger  *slog.Logger
	// DiscardLocal replaces policies that were born in this zone, while it was standalone, by the global
	// control plane's; without it the zone does not join.
	DiscardLocal bool
	// AcceptOtherStore takes a copy of another global store than the one that this zone followed before.
	AcceptOtherStore bool
	// OnCursor is told, if not nil, after each move of the config cursor. It must not block.
	OnCursor func()
	// Dial opens the connection below TLS; nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// State is how the zone stands with the global control plane.
type State struct {
	Connected bool
	// Err is why not, or why not before; empty while connected.
	Err string
	// Since is when it became so.
	Since time.Time
}

// Client follows a global control plane for one zone.
type Client struct {
	opts ClientOptions
}

// NewClient makes a client. It does nothing before Run.
func NewClient(opts ClientOptions) (*Client, error) {
	if err := ValidateZoneName(opts.Zone); err != nil {
		return nil, err
	}
	opts.Address = strings.TrimPrefix(opts.Address, "grpcs://")
	if _, _, err := net.SplitHostPort(opts.Address); err != nil {
		return nil, fmt.Errorf("address of the global control plane: %w", err)
	}
	for _, f := range []struct {
		name string
		have bool
	}{
		{"Store", opts.Store != nil}, {"Table", opts.Table != nil}, {"Accept", opts.Accept != nil}, {"Logger", opts.Logger != nil},
	} {
		if !f.have {
			return nil, fmt.Errorf("kds client options: %w", errors.New(f.name+" is missing"))
		}
	}
	return &Client{opts: opts}, nil
}
