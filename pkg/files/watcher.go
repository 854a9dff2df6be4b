// Package files tells when files have changed, by the events of the system.
package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long is waited after the first of several events: a file is written, or a pair of them replaced, in
	// several steps.
	quiet = 100 * time.Millisecond
	// maxLinks bounds the symbolic links of one path.
	maxLinks = 40
)

// Watcher calls functions when files have changed. Files are added before it runs.
type Watcher struct {
	logger *slog.Logger
	sets   []*set
}

// set are files that are read together.
type set struct {
	paths   []string
	changed func()
	seen    string
}

// NewWatcher makes a watcher of nothing.
func NewWatcher(logger *slog.Logger) *Watcher { return &Watcher{logger: logger} }

// Add has changed called when one of the paths has: a file, or a directory with what is in it, not below. It is called
// once soon after the start too, for what has changed since the caller has read them. A path may be a symbolic link, or
// lead over some, and may be missing at times. changed runs on the goroutine of Run, one at a time.
func (w *Watcher) Add(changed func(), paths ...string) {
	w.sets = append(w.sets, &set{paths: paths, changed: changed})
}

// Run watches until ctx ends. Where nothing was added it only waits for that.
func (w *Watcher) Run(ctx context.Context) error {
	if len(w.sets) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer func() { _ = notify.Close() }()
	w.look(notify)
	pause := time.NewTimer(0)
	<-pause.C
	waiting := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-notify.Events:
		case err := <-notify.Errors:
			// Events were lost: a look finds what they would have told.
			w.logger.WarnContext(ctx, "events of files were lost", "error", err)
		case <-pause.C:
			waiting = false
			w.look(notify)
			continue
		}
		if !waiting {
			waiting = true
			pause.Reset(quiet)
		}
	}
}

// look watches the directories that the paths lead over now, and calls those whose files have changed. The directories
// come first: what changes after the look at a file is an event.
func (w *Watcher) look(notify *fsnotify.Watcher) {
	needed := map[string]bool{}
	for _, s := range w.sets {
		for _, p := range s.paths {
			for _, dir := range directories(p) {
				needed[dir] = true
			}
		}
	}
	for _, dir := range notify.WatchList() {
		if !needed[dir] {
			_ = notify.Remove(dir) // It may have gone by itself.
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(needed)) {
		// Those that are watched too: there may be another directory of that name.
		if err := notify.Add(dir); err != nil {
			w.logger.Warn("a directory cannot be watched, so that changes in it are seen with the next restart only", "directory", dir, "error", err)
		}
	}
	for _, s := range w.sets {
		if now := s.look(); now != s.seen {
			s.seen = now
			s.changed()
		}
	}
}

// look describes the files so that a change shows.
func (s *set) look() string {
	var b strings.Builder
	describe := func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %t\n", path, errors.Is(err, fs.ErrNotExist))
			return
		}
		real, _ := filepath.EvalSymlinks(path)
		fmt.Fprintf(&b, "%s: %s %s %d %d %s\n", path, real, info.Mode(), info.Size(), info.ModTime().UnixNano(), identity(info))
	}
	for _, p := range s.paths {
		describe(p)
		entries, err := os.ReadDir(p)
		if err != nil {
			continue // no directory
		}
		for _, e := range entries {
			describe(filepath.Join(p, e.Name()))
		}
	}
	return b.String()
}

// directories are those in which an event may change what a path leads to: where it is, and where each symbolic link on
// the way to it is. For one that is not there, it is the next one above that is.
func directories(path string) []string {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	var out []string
	add := func(dir string) {
		for {
			if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
				break
			}
			dir = filepath.Dir(dir)
		}
		if !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	for range maxLinks {
		link, rest := firstLink(path)
		if link == "" {
			break
		}
		add(filepath.Dir(link))
		target, err := os.Readlink(link)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		path = filepath.Join(target, rest)
	}
	add(filepath.Dir(path))
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		add(path)
	}
	return out
}

// firstLink takes a path apart at its first symbolic link; "" if it has none.
func firstLink(path string) (link, rest string) {
	parts := strings.Split(path, string(filepath.Separator))
	for i := 2; i <= len(parts); i++ {
		p := strings.Join(parts[:i], string(filepath.Separator))
		info, err := os.Lstat(p)
		if err != nil {
			return "", ""
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return p, filepath.Join(parts[i:]...)
		}
	}
	return "", ""
}
