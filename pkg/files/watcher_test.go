package files

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a watcher that runs, and what it reads of a path with each change.
type watched struct {
	t    *testing.T
	path string
	read chan string
	log  *bytes.Buffer
}

// watch runs a watcher of one path until the test ends.
func watch(t *testing.T, path string) *watched {
	t.Helper()
	w := &watched{t: t, path: path, read: make(chan string, 100), log: &bytes.Buffer{}}
	fw := NewWatcher(slog.New(slog.NewTextHandler(w.log, nil)))
	fw.Add(func() { w.read <- content(path) }, path)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
		if w.log.Len() > 0 {
			t.Errorf("log: %s", w.log)
		}
	})
	w.until(content(path)) // The first look; from here on there are events.
	return w
}

// content is that of a file, or the names in a directory.
func content(path string) string {
	if entries, err := os.ReadDir(path); err == nil {
		names := ""
		for _, e := range entries {
			names += e.Name() + " "
		}
		return names
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "nothing"
	}
	return string(b)
}

func (w *watched) until(want string) {
	w.t.Helper()
	late := time.After(10 * time.Second)
	for last := "no word"; last != want; {
		select {
		case last = <-w.read:
		case <-late:
			w.t.Fatalf("%s was never seen, but %s; the file has %s", want, last, content(w.path))
		}
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }

func TestFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	do(t, write(path, "1"))
	w := watch(t, path)
	do(t, write(path, "2"))
	w.until("2")
	do(t, write(path+".new", "3"), os.Rename(path+".new", path))
	w.until("3")
	do(t, os.Remove(path))
	w.until("nothing")
	do(t, write(path, "4"))
	w.until("4")
}

// A file is written in place with as many bytes as before.
func TestSameSize(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	do(t, write(path, "a"))
	w := watch(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	do(t, err)
	_, err = f.WriteString("b")
	do(t, err, f.Close())
	w.until("b")
}

// What else happens where a file is, is no change of it.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	do(t, write(path, "1"))
	w := watch(t, path)
	for range 100 {
		do(t, write(filepath.Join(dir, "other"), "x"), os.Remove(filepath.Join(dir, "other")))
	}
	do(t, write(path, "2"))
	w.until("2")
	if n := len(w.read); n > 0 {
		t.Errorf("%d changes more", n)
	}
}

// A volume of Kubernetes: links over a link that is replaced as a whole, and what it led to is removed.
func TestSwappedLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	version := func(name, text string) {
		t.Helper()
		do(t, os.Mkdir(filepath.Join(dir, name), 0o700), write(filepath.Join(dir, name, "f"), text),
			os.Symlink(name, filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	}
	version("..1", "1")
	path := filepath.Join(dir, "f")
	do(t, os.Symlink(filepath.Join("..data", "f"), path))
	w := watch(t, path)
	version("..2", "2")
	w.until("2")
	do(t, os.RemoveAll(filepath.Join(dir, "..1")))
	version("..3", "3")
	w.until("3")
	// In place, behind both links.
	do(t, write(filepath.Join(dir, "..3", "f"), "4"))
	w.until("4")
}

// A link that leads elsewhere, as those of certificates that are renewed under new names.
func TestLinkElsewhere(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	do(t, write(filepath.Join(other, "f1"), "1"), os.Symlink(filepath.Join(other, "f1"), filepath.Join(dir, "f")))
	w := watch(t, filepath.Join(dir, "f"))
	do(t, write(filepath.Join(other, "f1"), "2"))
	w.until("2")
	do(t, write(filepath.Join(other, "f2"), "3"), os.Remove(filepath.Join(dir, "f")), os.Symlink(filepath.Join(other, "f2"), filepath.Join(dir, "f")))
	w.until("3")
}

// A directory is replaced as a whole, goes and comes back.
func TestDirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "d")
	do(t, os.Mkdir(dir, 0o700), write(filepath.Join(dir, "a"), "1"))
	w := watch(t, dir)
	do(t, write(filepath.Join(dir, "b"), "1"))
	w.until("a b ")
	do(t, os.Remove(filepath.Join(dir, "a")))
	w.until("b ")
	do(t, os.Mkdir(filepath.Join(root, "new"), 0o700), write(filepath.Join(root, "new", "c"), "1"),
		os.Rename(dir, filepath.Join(root, "old")), os.Rename(filepath.Join(root, "new"), dir))
	w.until("c ")
	do(t, write(filepath.Join(dir, "d"), "1"))
	w.until("c d ")
	do(t, os.RemoveAll(dir))
	w.until("nothing")
	do(t, os.MkdirAll(dir, 0o700), write(filepath.Join(dir, "e"), "1"))
	w.until("e ")
}

// What stands above a file is replaced, and comes later than the watcher.
func TestAbove(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	path := filepath.Join(root, "a", "b", "f")
	w := watch(t, path)
	do(t, os.MkdirAll(filepath.Dir(path), 0o700), write(path, "1"))
	w.until("1")
	do(t, os.RemoveAll(filepath.Join(root, "a")))
	w.until("nothing")
	do(t, os.MkdirAll(filepath.Dir(path), 0o700), write(path, "2"))
	w.until("2")
}

// Links that lead in a circle end.
func TestCircle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	do(t, os.Symlink("f", path))
	if diff := cmp.Diff([]string{dir}, directories(path)); diff != "" {
		t.Error(diff)
	}
	w := watch(t, path)
	do(t, os.Remove(path), write(path, "1"))
	w.until("1")
}

// Who watches nothing costs nothing, and ends.
func TestNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := NewWatcher(slog.New(slog.DiscardHandler)).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
