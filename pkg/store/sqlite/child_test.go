package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
)

// The test binary runs itself for what needs a process of its own; this names what it is to do.
const childEnv = "MERIDIAN_TEST_STORE_CHILD"

var children = map[string]func(path string) error{
	"open":  childOpen,
	"write": childWrite,
	"fill":  childFill,
}

func TestMain(m *testing.M) {
	if do, path, ok := strings.Cut(os.Getenv(childEnv), ":"); ok {
		if err := children[do](path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Each of the property's runs opens several stores, which waits for the disk; the store in memory has the same
	// property with rapid's own number of runs.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func child(t *testing.T, do, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+do+":"+path)
	return cmd
}

// childOpen tries to open a store and prints why it can't.
func childOpen(path string) error {
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		fmt.Println(err)
		return nil
	}
	return s.Close()
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone.db")
	s := open(t, sqlite.Options{Path: path})
	if _, err := sqlite.Open(t.Context(), sqlite.Options{Path: path}); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("a second opening in one process: %v", err)
	}
	out, err := child(t, "open", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), store.ErrLocked.Error()) || !strings.Contains(string(out), path) {
		t.Fatalf("another process: %v: %q", err, out)
	}
	if strings.Count(string(out), "\n") != 1 {
		t.Fatalf("it is not one line: %q", out)
	}
	if _, err := s.Config().Apply(t.Context(), put("a", "")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := child(t, "open", path).CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("after closing: %v: %q", err, out)
	}
}

// childWrite writes pairs without end, and prints each once it is answered.
func childWrite(path string) error {
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		return err
	}
	base := s.Config().View().Revision()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d-%d", base, w, i)
				b := put(name+"-a", strings.Repeat("x", 3000))
				b.Puts = append(b.Puts, put(name+"-b", name).Puts...)
				if _, err := s.Config().Apply(context.Background(), b); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Println(name)
			}
		})
	}
	wg.Wait()
	return nil
}

// TestKill kills a process in the middle of its writes, again and again: what it had answered is there, and
// nothing is there by half.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone.db")
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	answered := map[string]bool{}
	for round := range rounds {
		cmd := child(t, "write", path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			answered[lines.Text()] = true
			if n == 50+round*37 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()

		s := open(t, sqlite.Options{Path: path})
		v := s.Config().View()
		for name := range answered {
			for _, half := range []string{"-a", "-b"} {
				if _, ok := v.Get(resource.Key{Kind: "Timeout", Scope: "default", Name: name + half}); !ok {
					t.Fatalf("round %d: %s was answered and is not there", round, name+half)
				}
			}
		}
		if n := v.Count(store.Everything()); n%2 != 0 || n/2 < len(answered) {
			t.Fatalf("round %d: %d objects", round, n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
