package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
)

// older copies the files that a build with an older schema has left.
func older(t *testing.T, schema string) sqlite.Options {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", schema))); err != nil {
		t.Fatal(err)
	}
	return sqlite.Options{
		Path: filepath.Join(dir, "zone.db"), Build: "1.2.3",
		Sealer: newSealer(t, 1), Sealed: func(k resource.Kind) bool { return k == "Secret" },
	}
}

// inside runs statements on a store's file and gives the result of the last one, a query.
func inside(t *testing.T, path string, statements ...string) (result string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	last := len(statements) - 1
	for _, q := range statements[:last] {
		if _, err := db.Exec(q); err != nil {
			t.Fatal(q, err)
		}
	}
	if err := db.QueryRow(statements[last]).Scan(&result); err != nil {
		t.Fatal(statements[last], err)
	}
	return result
}

// TestMigrates: a file of every older schema is brought up to this build's, and nothing of it is lost.
func TestMigrates(t *testing.T) {
	schemas, err := os.ReadDir("testdata")
	if err != nil || len(schemas) == 0 {
		t.Fatal("no files of older builds", err)
	}
	for _, schema := range schemas {
		t.Run(schema.Name(), func(t *testing.T) {
			o := older(t, schema.Name())
			for range 2 { // the second start finds a file of today
				s := open(t, o)
				v := s.Config().View()
				var objects, tombs []string
				for o := range v.Scan(store.Everything()) {
					objects = append(objects, o.Key.String()+"@"+o.Revision.String()+" "+string(o.Spec))
				}
				for tomb := range v.History().Tombstones() {
					tombs = append(tombs, tomb.Key.String()+"@"+tomb.Revision.String())
				}
				if d := cmp.Diff([]string{"Secret default/s@3 hidden", "Timeout default/b@2 2"}, objects); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff([]string{"Timeout default/a@4"}, tombs); d != "" {
					t.Error(d)
				}
				if c, _ := v.Cursor("global"); c != (store.Cursor{Store: "other", Epoch: "e", Revision: 77}) {
					t.Errorf("cursor %+v", c)
				}
				// Who follows this log goes on where it was.
				old := store.Cursor{Store: s.ID(), Epoch: "446a1f08-cd24-48d1-9814-fbd29c35d4c1", Revision: 3}
				if w, err := s.Config().Watch(store.Everything(), old); err != nil {
					t.Error(err)
				} else {
					_ = w.Close()
				}
				if n := s.Status().View().Count(store.Everything()); n != 1 {
					t.Errorf("the status log has %d objects", n)
				}
				mustClose(t, s)
			}
			if got := inside(t, o.Path, "SELECT group_concat(build, ',') FROM epochs"); got != ",,1.2.3,1.2.3" {
				t.Errorf("builds %q", got)
			}
		})
	}
}

// TestMigrationIsWhole: a step that fails leaves the file as it was.
func TestMigrationIsWhole(t *testing.T) {
	o := older(t, "schema1")
	inside(t, o.Path, "ALTER TABLE epochs ADD COLUMN build TEXT", "SELECT count(*) FROM epochs") // so that the step can't
	_, err := sqlite.Open(context.Background(), o)
	if err == nil || !strings.Contains(err.Error(), "migrate the schema from version 1 to 2") {
		t.Errorf("%v", err)
	}
	if got := inside(t, o.Path, "SELECT user_version || ' ' || (SELECT count(*) FROM epochs) FROM pragma_user_version"); got != "1 2" {
		t.Errorf("version and epochs after the failure: %s", got)
	}
}

// TestNewerSchema: a file of a newer build is left alone, and the error names both versions in one line.
func TestNewerSchema(t *testing.T) {
	o := older(t, "schema1")
	mustClose(t, open(t, o))
	inside(t, o.Path, "UPDATE epochs SET build = '9.9.9' WHERE seq = (SELECT max(seq) FROM epochs)", "PRAGMA user_version = 99", "SELECT 1")
	before, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(context.Background(), o)
	const want = "store has a newer schema: it has version 99, written by 9.9.9, this program (1.2.3) knows versions up to 2"
	if !errors.Is(err, store.ErrSchema) || !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got  %v\nwant … %s", err, want)
	}
	if after, err := os.ReadFile(o.Path); err != nil || string(after) != string(before) {
		t.Errorf("the file was changed: %v", err)
	}
	inside(t, o.Path, "ALTER TABLE epochs RENAME TO gone", "SELECT 1")
	_, err = sqlite.Open(context.Background(), o)
	if !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "version 99, this program") {
		t.Errorf("without a known table: %v", err)
	}
}
