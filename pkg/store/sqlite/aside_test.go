package sqlite_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
)

// A damaged store that was set aside is there as it was, and an empty one takes its place.
func TestSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone.db")
	s := open(t, sqlite.Options{Path: path})
	id := s.ID()
	mustApply(t, s.Config(), put("a", "1"))
	mustApply(t, s.Status(), put("a", "1"))
	mustClose(t, s)
	damaged := []byte(strings.Repeat("no database", 1000))
	check(t, os.WriteFile(path, damaged, 0o600))
	if _, err := sqlite.Open(t.Context(), sqlite.Options{Path: path}); !errors.Is(err, store.ErrCorrupt) {
		t.Fatal(err)
	}
	aside, err := sqlite.SetAside(path)
	check(t, err)
	if got, err := os.ReadFile(aside); err != nil || string(got) != string(damaged) {
		t.Errorf("%s holds %d bytes, %v", aside, len(got), err)
	}
	s = open(t, sqlite.Options{Path: path})
	if s.ID() == id || s.Config().View().Revision() != 0 || s.Status().View().Revision() != 0 {
		t.Errorf("store %s at %s and %s", s.ID(), s.Config().View().Revision(), s.Status().View().Revision())
	}
	if _, err := sqlite.SetAside(filepath.Join(t.TempDir(), "none.db")); err == nil {
		t.Error("what there is not was set aside")
	}
}
