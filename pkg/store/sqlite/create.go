package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/model"
)

// Image is a whole config log.
type Image struct {
	// Store is the store's identity.
	Store string
	// KeyCheck is what store.NewKeyCheck gave for the key of sealed rows; empty: there are none.
	KeyCheck            []byte
	Revision, Compacted resource.Revision
	// Rows yields what the log holds, until an error ends everything.
	Rows iter.Seq2[ImageRow, error]
}

// ImageRow is one of an epoch, a cursor, an object or a tombstone.
type ImageRow struct {
	// Epoch is one of those that the log has lived through; they come oldest first.
	Epoch *store.Epoch
	// Peer and Cursor say how far the store has taken in a peer's log.
	Peer   string
	Cursor store.Cursor
	// Object, whose Spec is encrypted where Sealed says so.
	Object *resource.Object
	Sealed bool
	Tomb   *store.Tombstone
}

// Create makes a new store's config log at path, with all of an image in it or, where it fails, no file at all. The
// next Open adds an epoch, by which whoever followed the log further than the image goes finds out. It fails with
// fs.ErrExist where there is a file.
func Create(ctx context.Context, path string, m Image) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", path, errors.Join(err, fs.ErrExist))
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".restore-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tmp := filepath.Join(dir, filepath.Base(path))
	if err := fill(ctx, tmp, m); err != nil {
		return err
	}
	if err := flush(tmp); err != nil {
		return err
	}
	if err := os.Link(tmp, path); err != nil { // not Rename, which would replace what has come meanwhile
		return err
	}
	return store.SyncDir(filepath.Dir(path))
}

func flush(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// fill makes the file and closes it, so that nothing of it is left in a write-ahead log.
func fill(ctx context.Context, path string, m Image) (err error) {
	f, err := connect(ctx, fileOptions{path: path, synchronous: "FULL"})
	defer func() { err = errors.Join(err, f.close()) }()
	if err != nil {
		return err
	}
	if err := f.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return classify(err)
	}
	if err := f.fill(ctx, m); err != nil {
		return classify(err)
	}
	return classify(f.exec(ctx, "COMMIT"))
}

func (f *file) fill(ctx context.Context, m Image) error {
	if err := f.checkSchema(ctx); err != nil {
		return err
	}
	if _, err := f.identify(ctx, m.Store); err != nil {
		return err
	}
	if len(m.KeyCheck) > 0 {
		if err := f.exec(ctx, "INSERT INTO meta VALUES ('key', ?)", m.KeyCheck); err != nil {
			return err
		}
	}
	if err := f.prepareStatements(ctx); err != nil {
		return err
	}
	for row, err := range m.Rows {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = f.writeImageRow(row)
		}
		if err != nil {
			return err
		}
	}
	return f.run(updateHead, int64(m.Revision), int64(m.Compacted))
}

func (f *file) writeImageRow(r ImageRow) error {
	switch {
	case r.Epoch != nil:
		return f.run(insertEpoch, r.Epoch.ID, int64(r.Epoch.First), "")
	case r.Peer != "":
		return f.run(upsertCursor, r.Peer, r.Cursor.Store, r.Cursor.Epoch, int64(r.Cursor.Revision))
	case r.Object != nil && r.Sealed:
		o := r.Object
		return f.run(upsertEntry, string(o.Key.Kind), o.Key.Scope, o.Key.Name, string(o.Origin), int64(o.Revision), int64(o.SpecRevision),
			o.Created.Format(time.RFC3339Nano), o.Modified.Format(time.RFC3339Nano), 0, 1, o.Spec)
	case r.Object != nil:
		return f.writeRow(&model.Row{Key: r.Object.Key, Object: r.Object})
	default:
		return f.writeRow(&model.Row{Key: r.Tomb.Key, Tomb: r.Tomb})
	}
}
