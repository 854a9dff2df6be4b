//go:build unix

package files

import (
	"io/fs"
	"strconv"
	"syscall"
)

// identity tells a file from another one of the same name.
func identity(info fs.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(s.Ino, 10)
	}
	return ""
}
