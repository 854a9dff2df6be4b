package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/meridian-mesh/meridian/pkg/store"
)

// SetAside renames the config log's file of a store, and what SQLite keeps beside it, so that the next Open makes an
// empty store. It gives the new name of the file. The status file stays: Open makes it anew, as it is that of another
// store then. No process may hold the store; of one that can't be read none does.
func SetAside(path string) (aside string, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("set a damaged store aside: %w", err)
	}
	aside = path + time.Now().UTC().Format(".damaged-20060102T150405.000000000Z")
	// The log that is not yet in the file goes first: a file without it is no less damaged, but the log without its
	// file would be taken for that of the new one.
	for _, beside := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+beside, aside+beside); err != nil && (beside == "" || !errors.Is(err, fs.ErrNotExist)) {
			return "", fmt.Errorf("set a damaged store aside: %w", err)
		}
	}
	if err := store.SyncDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("set a damaged store aside: %w", err)
	}
	return aside, nil
}
