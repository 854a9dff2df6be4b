package kds

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/meridian-mesh/meridian/pkg/store"
)

// ServerOptions of the global control plane's end. All fields are needed.
type ServerOptions struct {
	Store store.Store
	Table Table
	// Accept judges what zones send.
	Accept        Accept
	Authenticator Authenticator
	// Instance names this process in ZoneInsights.
	Instance string
	Version  Version
	Logger   *slog.Logger
}

// Server serves the zones of a global control plane.
type Server struct {
	opts ServerOptions
}

// NewServer makes a server. It starts nothing; Close waits for what its sessions have started.
func NewServer(opts ServerOptions) (*Server, error) {
	for _, f := range []struct {
		name string
		have bool
	}{
		{"Store", opts.Store != nil}, {"Table", opts.Table != nil}, {"Accept", opts.Accept != nil},
		{"Authenticator", opts.Authenticator != nil}, {"Instance", opts.Instance != ""}, {"Logger", opts.Logger != nil},
	} {
		if !f.have {
			return nil, fmt.Errorf("kds server options: %w", errors.New(f.name+" is missing"))
		}
	}
	return &Server{opts: opts}, nil
}
