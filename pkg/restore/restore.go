// Package restore makes the store of a control plane that is not running out of a backup.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"github.com/meridian-mesh/meridian/pkg/backup"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	backupv1 "github.com/meridian-mesh/meridian/proto/meridian/backup/v1"
)

// Result says what was restored.
type Result struct {
	// Role is backup.Global or backup.Zone; Zone the zone's name.
	Role, Zone string
	// Store is the identity of the store, Path its file.
	Store, Path string
	Revision    uint64
	Objects     int
}

// File restores the backup in the file name into the directory workDir, which must be empty or absent, and may not
// lie below a running control plane. keyFile, if not empty, is the store's key: it is checked and copied beside the
// store; without it the key must be put there before the control plane starts.
//
// The backup is read to its end, and its checksum verified, before anything is written. Where File fails there is
// no store, and nothing that it has made.
func File(ctx context.Context, name, workDir, keyFile string) (Result, error) {
	f, err := os.Open(name)
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = f.Close() }()
	header, _, err := backup.Verify(f)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
	file, err := storeFile(header)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
	key, err := loadKey(header, keyFile)
	if err != nil {
		return Result{}, err
	}
	if err := empty(workDir); err != nil {
		return Result{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Result{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := os.MkdirAll(workDir, 0o700); err != nil {
		return Result{}, err
	}
	r := Result{
		Role: header.GetRole(), Zone: header.GetZone(), Store: header.GetStore(),
		Path: filepath.Join(workDir, file), Revision: header.GetRevision(),
	}
	keyPath := filepath.Join(workDir, "store.key")
	if key != nil {
		if err := os.WriteFile(keyPath, key, 0o600); err != nil {
			return Result{}, errors.Join(err, os.Remove(keyPath))
		}
	}
	if err := create(ctx, f, &r); err != nil {
		if key != nil {
			err = errors.Join(err, os.Remove(keyPath))
		}
		return Result{}, fmt.Errorf("restore %s: %w", name, err)
	}
	return r, nil
}

// storeFile is the name that the control plane's store has by default.
func storeFile(h *backupv1.Header) (string, error) {
	switch h.GetRole() {
	case backup.Global:
		return "global-cp.db", nil
	case backup.Zone:
		return "zone-cp.db", nil
	}
	return "", fmt.Errorf("%w: it is of a %q", backup.ErrFormat, h.GetRole())
}

// loadKey gives the bytes of a key file that fits the backup; nil where there is none.
func loadKey(h *backupv1.Header, file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	key, err := store.LoadKey(file)
	if err != nil {
		return nil, fmt.Errorf("--key-file: %w", err)
	}
	sealer, err := store.NewAESSealer(key)
	if err != nil {
		return nil, fmt.Errorf("--key-file: %w", err)
	}
	if err := store.CheckKey(sealer, h.GetKeyCheck()); err != nil {
		return nil, fmt.Errorf("--key-file: %s is not the key of this backup: %w", file, err)
	}
	return os.ReadFile(file)
}

// empty refuses a directory in which there is anything.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("--work-dir: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("--work-dir: %s is not empty, there is %s: restore into an empty directory", dir, entries[0].Name())
	}
	return nil
}

func create(ctx context.Context, in io.Reader, r *Result) error {
	b, err := backup.NewReader(in)
	if err != nil {
		return err
	}
	h := b.Header()
	return sqlite.Create(ctx, r.Path, sqlite.Image{
		Store: h.GetStore(), KeyCheck: h.GetKeyCheck(),
		Revision: resource.Revision(h.GetRevision()), Compacted: resource.Revision(h.GetCompacted()),
		Rows: rows(b, &r.Objects),
	})
}

// rows are the records of a backup as a store takes them.
func rows(b *backup.Reader, objects *int) iter.Seq2[sqlite.ImageRow, error] {
	return func(yield func(sqlite.ImageRow, error) bool) {
		for {
			rec, err := b.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			row := sqlite.ImageRow{}
			if err == nil {
				row, err = rowOf(rec)
			}
			if row.Object != nil {
				*objects++
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

func rowOf(rec *backupv1.Record) (sqlite.ImageRow, error) {
	switch k := rec.GetKind().(type) {
	case *backupv1.Record_Epoch:
		return sqlite.ImageRow{Epoch: &store.Epoch{ID: k.Epoch.GetId(), First: resource.Revision(k.Epoch.GetFirst())}}, nil
	case *backupv1.Record_Cursor:
		c := k.Cursor
		return sqlite.ImageRow{Peer: c.GetPeer(), Cursor: store.Cursor{
			Store: c.GetStore(), Epoch: c.GetEpoch(), Revision: resource.Revision(c.GetRevision()),
		}}, nil
	case *backupv1.Record_Object:
		o := k.Object
		return sqlite.ImageRow{Sealed: o.GetSealed(), Object: &resource.Object{
			Key:    resource.Key{Kind: resource.Kind(o.GetKind()), Scope: o.GetScope(), Name: o.GetName()},
			Origin: resource.Origin(o.GetOrigin()), Revision: resource.Revision(o.GetRevision()), SpecRevision: resource.Revision(o.GetSpecRevision()),
			Created: o.GetCreated().AsTime(), Modified: o.GetModified().AsTime(), Spec: o.GetSpec(),
		}}, nil
	case *backupv1.Record_Tombstone:
		t := k.Tombstone
		return sqlite.ImageRow{Tomb: &store.Tombstone{
			Key:    resource.Key{Kind: resource.Kind(t.GetKind()), Scope: t.GetScope(), Name: t.GetName()},
			Origin: resource.Origin(t.GetOrigin()), Revision: resource.Revision(t.GetRevision()), Deleted: t.GetDeleted().AsTime(),
		}}, nil
	}
	return sqlite.ImageRow{}, fmt.Errorf("%w: it holds a kind of record that this program does not know", backup.ErrFormat)
}
