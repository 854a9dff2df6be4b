package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/model"
)

const (
	// schemaVersion is written to user_version, applicationID ("MRDN") to the file's header.
	schemaVersion = 2
	applicationID = 0x4d52444e

	pageSize = 4096
	// checkpointPages is about how many pages the write-ahead log holds when it is copied into the file.
	checkpointPages = 4096
)

const schema = `
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE head (revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
CREATE TABLE epochs (seq INTEGER PRIMARY KEY, id TEXT NOT NULL, first INTEGER NOT NULL, build TEXT NOT NULL DEFAULT '');
CREATE TABLE cursors (peer TEXT PRIMARY KEY, store TEXT NOT NULL, epoch TEXT NOT NULL, revision INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
	kind TEXT NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL,
	origin TEXT NOT NULL,
	revision INTEGER NOT NULL, spec_revision INTEGER NOT NULL,
	created TEXT NOT NULL, modified TEXT NOT NULL,
	deleted INTEGER NOT NULL, sealed INTEGER NOT NULL,
	spec BLOB,
	UNIQUE (kind, scope, name)
);
INSERT INTO head VALUES (0, 0);
`

const (
	upsertEntry = `INSERT INTO entries (kind, scope, name, origin, revision, spec_revision, created, modified, deleted, sealed, spec)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (kind, scope, name) DO UPDATE SET origin = excluded.origin, revision = excluded.revision,
		spec_revision = excluded.spec_revision, created = excluded.created, modified = excluded.modified,
		deleted = excluded.deleted, sealed = excluded.sealed, spec = excluded.spec`
	deleteEntry  = `DELETE FROM entries WHERE kind = ? AND scope = ? AND name = ?`
	upsertCursor = `INSERT OR REPLACE INTO cursors (peer, store, epoch, revision) VALUES (?, ?, ?, ?)`
	updateHead   = `UPDATE head SET revision = ?, compacted = ?`
	insertEpoch  = `INSERT INTO epochs (id, first, build) VALUES (?, ?, ?)`
	forgetEpochs = `DELETE FROM epochs WHERE seq IN (SELECT seq FROM epochs ORDER BY seq LIMIT ?)`
)

// file is one log's database. After open it is used by the log's writer alone, and implements model.Committer.
type file struct {
	path   string
	build  string
	sealer store.Sealer
	sealed func(resource.Kind) bool
	// onSync is told how long a commit took to be durable; nil: nobody is.
	onSync func(time.Duration)

	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	// dirty is about how many pages were written since the last checkpoint.
	dirty int
	// epoch is what the first commit has yet to note, where there was no space for it at open; noSpace says so.
	epoch   *opening
	noSpace error
}

// opening is an epoch to note, and how many of the oldest ones to forget.
type opening struct {
	store.Epoch
	forget int
}

// fileOptions are what the two files of a store differ in.
type fileOptions struct {
	path        string
	synchronous string
	// storeID that the file must belong to; empty: whatever it says.
	storeID string
	maxSize int64
	sealer  store.Sealer
	sealed  func(resource.Kind) bool
	build   string
	onSync  func(time.Duration)
}

// openFile opens or makes a log's file, and reads all of it. The id is the store's.
func openFile(ctx context.Context, o fileOptions) (f *file, l *model.Loader, id string, err error) {
	f, err = connect(ctx, o)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", o.path, classify(err))
			_ = f.close()
			f = nil
		}
	}()
	if err != nil {
		return f, nil, "", err
	}
	if err = f.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return f, nil, "", err
	}
	if l, id, err = f.load(ctx, o.storeID); err != nil {
		return f, nil, "", err
	}
	if err = f.exec(ctx, "COMMIT"); err != nil {
		return f, nil, "", err
	}
	if err = f.prepareStatements(ctx); err != nil {
		return f, nil, "", err
	}
	if err = f.noteEpoch(); err != nil {
		return f, nil, "", err
	}
	return f, l, id, nil
}

// connect opens or makes a file, and keeps every other process out of it. What it returns must be closed, also where
// it fails.
func connect(ctx context.Context, o fileOptions) (*file, error) {
	f := &file{path: o.path, build: o.build, sealer: o.sealer, sealed: o.sealed, onSync: o.onSync, stmts: map[string]*sql.Stmt{}}
	if f.sealed == nil {
		f.sealed = func(resource.Kind) bool { return false }
	}
	if err := prepare(o.path); err != nil {
		return f, err
	}
	dsn := url.URL{Scheme: "file", Path: o.path}
	var err error
	if f.db, err = sql.Open("sqlite", dsn.String()); err != nil {
		return f, err
	}
	f.db.SetMaxOpenConns(1)
	if f.conn, err = f.db.Conn(ctx); err != nil {
		return f, err
	}
	// The exclusive mode keeps every other process out for as long as this one lives, and comes first: the
	// write-ahead log's index is then held in memory. Checkpoints are made by hand, for SQLite does not report
	// the errors of its own.
	if err := f.exec(ctx, "PRAGMA locking_mode = EXCLUSIVE"); err != nil {
		return f, err
	}
	var mode string
	if err := f.conn.QueryRowContext(ctx, "PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return f, err
	}
	if mode != "wal" {
		return f, fmt.Errorf("the file system takes no write-ahead log: journal mode is %q", mode)
	}
	pragmas := []string{
		"synchronous = " + o.synchronous,
		"wal_autocheckpoint = 0", "journal_size_limit = 67108864", "temp_store = MEMORY",
	}
	if o.maxSize > 0 {
		pragmas = append(pragmas, fmt.Sprintf("max_page_count = %d", max(o.maxSize/pageSize, 16)))
	}
	for _, p := range pragmas {
		if err := f.exec(ctx, "PRAGMA "+p); err != nil {
			return f, err
		}
	}
	return f, nil
}

// prepareStatements makes the statements that run takes.
func (f *file) prepareStatements(ctx context.Context) error {
	for _, q := range []string{"BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", upsertEntry, deleteEntry, upsertCursor, updateHead, insertEpoch, forgetEpochs} {
		var err error
		if f.stmts[q], err = f.conn.PrepareContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// noteEpoch makes the opening durable. A full disk does not keep a store from being read: its first commit
// then notes the epoch.
func (f *file) noteEpoch() error {
	err := f.transact(f.writeEpoch)
	switch {
	case err == nil:
		f.epoch = nil
	case errors.Is(err, store.ErrNoSpace):
		f.noSpace = fmt.Errorf("%s: note epoch: %w", f.path, err)
	default:
		return fmt.Errorf("note epoch: %w", err)
	}
	return nil
}

func (f *file) writeEpoch() error {
	if f.epoch == nil {
		return nil
	}
	if err := f.run(insertEpoch, f.epoch.ID, int64(f.epoch.First), f.build); err != nil || f.epoch.forget == 0 {
		return err
	}
	return f.run(forgetEpochs, f.epoch.forget)
}

// prepare makes the file if it is not there, and keeps others from reading it. An existing file is not
// opened: closing it again would drop the locks that this process may hold on it.
func prepare(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return os.Chmod(path, 0o600)
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), store.SyncDir(dir))
}

// load reads the log, or lays out an empty one, and begins a new epoch.
func (f *file) load(ctx context.Context, storeID string) (*model.Loader, string, error) {
	if err := f.checkSchema(ctx); err != nil {
		return nil, "", err
	}
	id, err := f.identify(ctx, storeID)
	if err != nil {
		return nil, "", err
	}
	if err := f.checkKey(ctx); err != nil {
		return nil, "", err
	}
	l := model.NewLoader(id)
	var revision, compacted int64
	if err := f.conn.QueryRowContext(ctx, "SELECT revision, compacted FROM head").Scan(&revision, &compacted); err != nil {
		return nil, "", fmt.Errorf("read head: %w", err)
	}
	l.Head(resource.Revision(revision), resource.Revision(compacted))
	if err := f.loadEntries(ctx, l); err != nil {
		return nil, "", fmt.Errorf("read entries: %w", err)
	}
	if err := f.loadCursors(ctx, l); err != nil {
		return nil, "", fmt.Errorf("read cursors: %w", err)
	}
	epochs, err := f.loadEpochs(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("read epochs: %w", err)
	}
	opened, forget := l.Open(epochs)
	f.epoch = &opening{opened, forget}
	return l, id, nil
}

// checkSchema makes the tables of a new file, and refuses what is not a store of this build or an older one.
func (f *file) checkSchema(ctx context.Context) error {
	var version, application, tables int
	for q, to := range map[string]*int{
		"PRAGMA user_version": &version, "PRAGMA application_id": &application, "SELECT count(*) FROM sqlite_schema": &tables,
	} {
		if err := f.conn.QueryRowContext(ctx, q).Scan(to); err != nil {
			return fmt.Errorf("read schema version: %w", err)
		}
	}
	if tables == 0 && application == 0 {
		for _, q := range []string{schema, fmt.Sprintf("PRAGMA application_id = %d", applicationID), fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)} {
			if err := f.exec(ctx, q); err != nil {
				return fmt.Errorf("make tables: %w", err)
			}
		}
		return nil
	}
	if application != applicationID {
		return fmt.Errorf("%w: it is a database of another program", store.ErrCorrupt)
	}
	if version > schemaVersion {
		return fmt.Errorf("%w: it has version %d%s, this program%s knows versions up to %d", store.ErrSchema,
			version, f.writtenBy(ctx), named(" (%s)", f.build), schemaVersion)
	}
	var verdict string
	if err := f.conn.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", store.ErrCorrupt, strings.Join(strings.Fields(verdict), " "))
	}
	return f.migrate(ctx, version)
}

// identify reads the store's id, or gives the file the one that is wanted.
func (f *file) identify(ctx context.Context, want string) (string, error) {
	var id string
	err := f.conn.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'store'").Scan(&id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if id = want; id == "" {
			id = newID()
		}
		if err := f.exec(ctx, "INSERT INTO meta VALUES ('store', ?)", id); err != nil {
			return "", fmt.Errorf("write store id: %w", err)
		}
	case err != nil:
		return "", fmt.Errorf("read store id: %w", err)
	case want != "" && id != want:
		return "", fmt.Errorf("%w: it belongs to the store %s, not to %s", errForeign, id, want)
	}
	return id, nil
}

// errForeign: a status file was made beside another config file.
var errForeign = errors.New("file of another store")

// checkKey finds a wrong encryption key before anything is read or written with it.
func (f *file) checkKey(ctx context.Context) error {
	var sealed []byte
	err := f.conn.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'key'").Scan(&sealed)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		if f.sealer == nil {
			return nil
		}
		if sealed, err = store.NewKeyCheck(f.sealer); err != nil {
			return err
		}
		if err := f.exec(ctx, "INSERT INTO meta VALUES ('key', ?)", sealed); err != nil {
			return fmt.Errorf("write key check: %w", err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read key check: %w", err)
	case f.sealer == nil:
		return fmt.Errorf("%w: the store is encrypted, and no key was given", store.ErrKey)
	}
	return store.CheckKey(f.sealer, sealed)
}

func (f *file) loadEntries(ctx context.Context, l *model.Loader) error {
	rows, err := f.conn.QueryContext(ctx, `SELECT kind, scope, name, origin, revision, spec_revision, created, modified, deleted, sealed, spec FROM entries`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			key                   resource.Key
			origin                resource.Origin
			revision, specRev     int64
			created, modified     string
			deleted, sealed       bool
			spec                  []byte
			createdAt, modifiedAt time.Time
		)
		if err := rows.Scan(&key.Kind, &key.Scope, &key.Name, &origin, &revision, &specRev, &created, &modified, &deleted, &sealed, &spec); err != nil {
			return err
		}
		if modifiedAt, err = time.Parse(time.RFC3339Nano, modified); err != nil {
			return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, key, err)
		}
		if deleted {
			l.Add(model.Row{Key: key, Tomb: &model.Tomb{Key: key, Origin: origin, Revision: resource.Revision(revision), Deleted: modifiedAt}})
			continue
		}
		if createdAt, err = time.Parse(time.RFC3339Nano, created); err != nil {
			return fmt.Errorf("%w: %s: %w", store.ErrCorrupt, key, err)
		}
		if sealed {
			if f.sealer == nil {
				return fmt.Errorf("%s: %w: it is encrypted, and no key was given", key, store.ErrKey)
			}
			if spec, err = f.sealer.Open(key, spec); err != nil {
				return err
			}
		}
		l.Add(model.Row{Key: key, Object: &resource.Object{
			Key: key, Origin: origin, Revision: resource.Revision(revision), SpecRevision: resource.Revision(specRev),
			Created: createdAt, Modified: modifiedAt, Spec: spec,
		}})
	}
	return rows.Err()
}

func (f *file) loadCursors(ctx context.Context, l *model.Loader) error {
	rows, err := f.conn.QueryContext(ctx, "SELECT peer, store, epoch, revision FROM cursors")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var peer string
		var c store.Cursor
		var revision int64
		if err := rows.Scan(&peer, &c.Store, &c.Epoch, &revision); err != nil {
			return err
		}
		c.Revision = resource.Revision(revision)
		l.Cursor(peer, c)
	}
	return rows.Err()
}

func (f *file) loadEpochs(ctx context.Context) ([]store.Epoch, error) {
	rows, err := f.conn.QueryContext(ctx, "SELECT id, first FROM epochs ORDER BY seq")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var epochs []store.Epoch
	for rows.Next() {
		var e store.Epoch
		var first int64
		if err := rows.Scan(&e.ID, &first); err != nil {
			return nil, err
		}
		e.First = resource.Revision(first)
		epochs = append(epochs, e)
	}
	return epochs, rows.Err()
}

func (f *file) exec(ctx context.Context, q string, args ...any) error {
	_, err := f.conn.ExecContext(ctx, q, args...)
	return err
}

// run executes a prepared statement. A commit is not to be interrupted, so there is no context.
func (f *file) run(q string, args ...any) error {
	_, err := f.stmts[q].ExecContext(context.Background(), args...)
	return err
}

// transact makes what do writes durable, all of it or nothing.
func (f *file) transact(do func() error) error {
	err := f.run("BEGIN IMMEDIATE")
	if err == nil {
		err = do()
	}
	if err == nil {
		began := time.Now()
		if err = f.run("COMMIT"); err == nil && f.onSync != nil {
			f.onSync(time.Since(began))
		}
	}
	if err != nil {
		// SQLite may have rolled back by itself. If it has not and can't, the next BEGIN says so.
		_ = f.run("ROLLBACK")
		return classify(err)
	}
	return nil
}

// Commit implements model.Committer.
func (f *file) Commit(g *model.Group) error {
	if err := f.transact(func() error { return f.write(g) }); err != nil {
		return fmt.Errorf("%s: commit: %w", f.path, err)
	}
	f.epoch = nil
	return nil
}

func (f *file) write(g *model.Group) error {
	for i := range g.Rows {
		if err := f.writeRow(&g.Rows[i]); err != nil {
			return err
		}
	}
	for peer, c := range g.Cursors {
		if err := f.run(upsertCursor, peer, c.Store, c.Epoch, int64(c.Revision)); err != nil {
			return err
		}
	}
	if err := f.run(updateHead, int64(g.Revision), int64(g.Compacted)); err != nil {
		return err
	}
	f.dirty += 1 + len(g.Cursors)
	return f.writeEpoch()
}

func (f *file) writeRow(r *model.Row) error {
	k := r.Key
	switch {
	case r.Object != nil:
		o := r.Object
		spec, seal := o.Spec, f.sealer != nil && f.sealed(k.Kind)
		if seal {
			var err error
			if spec, err = f.sealer.Seal(k, spec); err != nil {
				return err
			}
		}
		f.dirty += 2 + len(spec)/pageSize
		return f.run(upsertEntry, string(k.Kind), k.Scope, k.Name, string(o.Origin), int64(o.Revision), int64(o.SpecRevision),
			o.Created.Format(time.RFC3339Nano), o.Modified.Format(time.RFC3339Nano), 0, flag(seal), spec)
	case r.Tomb != nil:
		t := r.Tomb
		f.dirty += 2
		return f.run(upsertEntry, string(k.Kind), k.Scope, k.Name, string(t.Origin), int64(t.Revision), 0,
			"", t.Deleted.Format(time.RFC3339Nano), 1, 0, nil)
	default:
		f.dirty += 2
		return f.run(deleteEntry, string(k.Kind), k.Scope, k.Name)
	}
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Settle implements model.Committer: it copies a long write-ahead log into the file.
func (f *file) Settle() error {
	if f.dirty < checkpointPages {
		return nil
	}
	var busy, length, copied int
	if err := f.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &length, &copied); err != nil {
		return fmt.Errorf("%s: checkpoint: %w", f.path, classify(err))
	}
	f.dirty = 0
	return nil
}

// close lets go of the file. What is committed stays, whatever it returns.
func (f *file) close() error {
	var errs []error
	for _, s := range f.stmts {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if f.conn != nil {
		errs = append(errs, f.conn.Close())
	}
	if f.db != nil {
		errs = append(errs, f.db.Close())
	}
	return errors.Join(errs...)
}

// classify gives SQLite's errors the names of the contract.
func classify(err error) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w", store.ErrLocked, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	default:
		return err
	}
}
