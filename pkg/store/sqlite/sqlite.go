// Package sqlite is the embedded, durable store, and the default. A store is two files: `<path>` with the
// config log, each commit of which is synced to disk before it is answered, and `<name>-status.db` beside it
// with the status log, which a power cut may cost its last seconds. All reading is from memory.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/model"
)

// Options of a store.
type Options struct {
	// Path of the config log's file. Its directory is made if need be.
	Path      string
	Retention store.Retention
	// Sealer encrypts the specs of the kinds that Sealed names; nil: nothing is encrypted. A store that was
	// written with a sealer opens only with the same key.
	Sealer store.Sealer
	Sealed func(resource.Kind) bool
	// Logger gets what the store does by itself, and a line for each config batch that has an author; nil: nothing.
	Logger *slog.Logger
	// OnFatal is told, at most once for each log, that nothing more can be made durable (a failed fsync, say).
	// The process should end. It is called by a goroutine of the store and must not wait for Close.
	OnFatal func(error)
	// MaxSize of the config log's file in bytes, beyond which writes fail with store.ErrNoSpace; 0: none.
	MaxSize int64
	// Build of this program. It is written beside each opening, for a build that is too old to read the file.
	Build string
	// OnSync is told for each commit of a log ("config" or "status") how long it took to be durable. It is called
	// by the log's writer and must not block; nil: nobody is told.
	OnSync func(log string, took time.Duration)
}

// syncOf is OnSync for one log.
func (o Options) syncOf(log string) func(time.Duration) {
	if o.OnSync == nil {
		return nil
	}
	return func(took time.Duration) { o.OnSync(log, took) }
}

// Store implements store.Store.
type Store struct {
	id                     string
	config, status         *model.Log
	configFile, statusFile *file
	closeOnce              sync.Once
	closeErr               error
}

var _ store.Store = (*Store)(nil)

// StatusPath is where the status log of a store at path is.
func StatusPath(path string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + "-status.db"
}

func newID() string { return uuid.NewString() }

// Open opens or makes a store and reads all of it. It fails at once with store.ErrLocked when another process
// holds the store, with store.ErrSchema, store.ErrCorrupt or store.ErrKey when it can't be read, each with the
// file's name.
func Open(ctx context.Context, opts Options) (*Store, error) {
	path, err := filepath.Abs(opts.Path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{}
	var config, status *model.Loader
	s.configFile, config, s.id, err = openFile(ctx, fileOptions{
		path: path, synchronous: "FULL", maxSize: opts.MaxSize, sealer: opts.Sealer, sealed: opts.Sealed,
		build: opts.Build, onSync: opts.syncOf("config"),
	})
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.statusFile, status, err = openStatus(ctx, StatusPath(path), s.id, opts, logger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.configFile.close())
	}
	s.config = config.Start(s.configFile, model.Options{
		Name: "config", Retention: opts.Retention, Audit: opts.Logger, OnFatal: opts.OnFatal,
		Health: s.configFile.noSpace,
	})
	s.status = status.Start(s.statusFile, model.Options{
		Name: "status", Retention: opts.Retention, OnFatal: opts.OnFatal, Health: s.statusFile.noSpace,
	})
	return s, nil
}

// openStatus opens the status log's file, and makes it anew where it is damaged or another store's: what is
// observed will be observed again.
func openStatus(ctx context.Context, path, id string, opts Options, logger *slog.Logger) (*file, *model.Loader, error) {
	o := fileOptions{path: path, synchronous: "NORMAL", storeID: id, sealer: opts.Sealer, sealed: opts.Sealed, build: opts.Build, onSync: opts.syncOf("status")}
	f, l, _, err := openFile(ctx, o)
	if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, errForeign) && !errors.Is(err, store.ErrKey) {
		return f, l, err
	}
	logger.WarnContext(ctx, "the status file is made anew", "path", path, "reason", err.Error())
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("remove damaged status file: %w", err)
		}
	}
	f, l, _, err = openFile(ctx, o)
	return f, l, err
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
	s.closeOnce.Do(func() {
		s.config.Close()
		s.status.Close()
		if err := errors.Join(s.configFile.close(), s.statusFile.close()); err != nil {
			s.closeErr = fmt.Errorf("close store: %w", err)
		}
	})
	return s.closeErr
}
