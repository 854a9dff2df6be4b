package sqlite

import (
	"context"
	"fmt"
)

// migrations lead from one version of the schema to the next: the first from 1 to 2. They run in the transaction
// that reads the file, so a file is in one version or the other, whatever happens. A step is never changed once it
// was released; files of every older version are kept in testdata.
func migrations() []string {
	return []string{
		// The build that wrote the file, so that one that is too old for it can say which it takes.
		`ALTER TABLE epochs ADD COLUMN build TEXT NOT NULL DEFAULT ''`,
	}
}

// migrate brings a file of an older version up to this build's.
func (f *file) migrate(ctx context.Context, version int) error {
	if version == schemaVersion {
		return nil
	}
	if version < 1 {
		return fmt.Errorf("read schema version: there is no version %d", version)
	}
	for i, step := range migrations()[version-1:] {
		if err := f.exec(ctx, step); err != nil {
			return fmt.Errorf("migrate the schema from version %d to %d: %w", version+i, version+i+1, err)
		}
	}
	if err := f.exec(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
		return fmt.Errorf("migrate the schema to version %d: %w", schemaVersion, err)
	}
	return nil
}

// writtenBy names the build that opened the file last, as far as it can be told: the file's schema is newer.
func (f *file) writtenBy(ctx context.Context) string {
	var build string
	if err := f.conn.QueryRowContext(ctx, "SELECT build FROM epochs ORDER BY seq DESC LIMIT 1").Scan(&build); err != nil {
		return ""
	}
	return named(", written by %s", build)
}

func named(format, name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf(format, name)
}
