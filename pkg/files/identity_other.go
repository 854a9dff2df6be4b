//go:build !unix

package files

import "io/fs"

// identity has nothing to tell here: a file is told from another by its time and size.
func identity(fs.FileInfo) string { return "" }
