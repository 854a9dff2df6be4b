package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
)

// TestDiskFull fills a real file system, in a mount namespace of a child's own.
func TestDiskFull(t *testing.T) {
	cmd := child(t, "fill", filepath.Join(t.TempDir(), "disk", "zone.db"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), errMount.Error()) {
		t.Skipf("needs the right to mount a tmpfs (run as root, or allow user namespaces): %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

var errMount = errors.New("mount a small file system")

// childFill mounts a small file system, fills it by writing, and sees the store come back when there is room.
func childFill(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("%w: %w", errMount, err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=12m"); err != nil {
		return fmt.Errorf("%w: %w", errMount, err)
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		return err
	}
	var fatal error
	opts := sqlite.Options{Path: path, OnFatal: func(err error) { fatal = err }}
	ctx := context.Background()
	s, err := sqlite.Open(ctx, opts)
	if err != nil {
		return err
	}
	answered := 0
	var full error
	for answered < 1000 && full == nil {
		if _, full = s.Config().Apply(ctx, put(fmt.Sprint(answered), strings.Repeat("x", 20_000))); full == nil {
			answered++
		}
	}
	if !errors.Is(full, store.ErrNoSpace) || answered < 10 {
		return fmt.Errorf("after %d writes: %w", answered, full)
	}
	if err := s.Health(); !errors.Is(err, store.ErrNoSpace) {
		return fmt.Errorf("health is %w", err)
	}
	if n := s.Config().View().Count(store.Everything()); n != answered || s.Config().View().Revision() != resource.Revision(answered) {
		return fmt.Errorf("%d writes were answered, %d are there", answered, n)
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if _, err := s.Config().Apply(ctx, put("again", "")); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := errors.Join(s.Health(), fatal, s.Close()); err != nil {
		return err
	}
	if s, err = sqlite.Open(ctx, opts); err != nil {
		return err
	}
	if n := s.Config().View().Count(store.Everything()); n != answered+1 {
		return fmt.Errorf("%d writes were answered, %d are there after opening again", answered+1, n)
	}
	return s.Close()
}
