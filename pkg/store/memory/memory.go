// Package memory is the store that forgets: for tests, demos, and control planes whose state is elsewhere.
package memory

import (
	"errors"
	"log/slog"

	"github.com/google/uuid"

	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/model"
)

// Options of a store; the zero value is ready to use.
type Options struct {
	// ID of the store; empty: a random one.
	ID        string
	Retention store.Retention
	// Audit gets a line for each config batch that has an author; nil: none.
	Audit *slog.Logger
}

// Store implements store.Store. It holds two goroutines until it is closed.
type Store struct {
	id             string
	config, status *model.Log
}

var _ store.Store = (*Store)(nil)

// New makes an empty store.
func New(opts Options) *Store {
	if opts.ID == "" {
		opts.ID = uuid.NewString()
	}
	start := func(name string, audit *slog.Logger) *model.Log {
		l := model.NewLoader(opts.ID)
		l.Open(nil)
		return l.Start(nil, model.Options{Name: name, Retention: opts.Retention, Audit: audit})
	}
	return &Store{id: opts.ID, config: start("config", opts.Audit), status: start("status", nil)}
}

// ID implements store.Store.
func (s *Store) ID() string { return s.id }

// Config implements store.Store.
func (s *Store) Config() store.Log { return s.config }

// Status implements store.Store.
func (s *Store) Status() store.Log { return s.status }

// Health implements store.Store.
func (s *Store) Health() error { return errors.Join(s.config.Health(), s.status.Health()) }

// Close implements store.Store.
func (s *Store) Close() error {
	s.config.Close()
	s.status.Close()
	return nil
}
