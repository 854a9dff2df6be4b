package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	"github.com/meridian-mesh/meridian/pkg/store/storetest"
)

func open(t testing.TB, o sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(name string, spec string) store.Batch {
	return store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: "Timeout", Scope: "default", Name: name}, Spec: []byte(spec)}}}
}

func mustApply(t testing.TB, l store.Log, b store.Batch) {
	t.Helper()
	if _, err := l.Apply(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

func mustClose(t testing.TB, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func backend() storetest.Backend {
	return storetest.Backend{Durable: true, Rounds: 100, Open: func(t testing.TB, dir string, o storetest.Options) store.Store {
		return open(t, sqlite.Options{Path: filepath.Join(dir, "zone.db"), Retention: o.Retention})
	}}
}

func TestConformance(t *testing.T) {
	t.Parallel() // like the next two, it waits for the disk most of the time
	storetest.Run(t, backend())
}

func TestProperty(t *testing.T) {
	t.Parallel()
	storetest.Property(t, backend())
}

// TestConformanceSealed runs the suite with every spec encrypted.
func TestConformanceSealed(t *testing.T) {
	t.Parallel()
	sealer := newSealer(t, 1)
	storetest.Run(t, storetest.Backend{Durable: true, Rounds: 50, Open: func(t testing.TB, dir string, o storetest.Options) store.Store {
		return open(t, sqlite.Options{
			Path: filepath.Join(dir, "zone.db"), Retention: o.Retention,
			Sealer: sealer, Sealed: func(resource.Kind) bool { return true },
		})
	}})
}

func newSealer(t testing.TB, b byte) store.Sealer {
	t.Helper()
	s, err := store.NewAESSealer(bytes.Repeat([]byte{b}, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a dir with ? # % in it")
	path := filepath.Join(dir, "zone.db")
	s := open(t, sqlite.Options{Path: path})
	mustApply(t, s.Config(), put("a", "1"))
	mustApply(t, s.Status(), put("a", "1"))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 4 {
		t.Fatalf("%v: %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	mustClose(t, s)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, sqlite.Options{Path: path})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	for _, p := range []string{path, filepath.Join(dir, "zone-status.db")} {
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
}

func TestSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "global.db")
	opts := sqlite.Options{Path: path, Sealer: newSealer(t, 1), Sealed: func(k resource.Kind) bool { return k == "Secret" }}
	s := open(t, opts)
	secret := resource.Key{Kind: "Secret", Scope: "default", Name: "s"}
	mustApply(t, s.Config(), store.Batch{Puts: []store.Put{{Key: secret, Spec: []byte("the hidden spec")}}})
	mustApply(t, s.Config(), put("t", "the plain spec"))
	mustClose(t, s)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file, []byte("the hidden spec")) || !bytes.Contains(file, []byte("the plain spec")) {
		t.Fatal("what is sealed is not what should be")
	}
	for name, sealer := range map[string]store.Sealer{"another key": newSealer(t, 2), "no key": nil} {
		o := opts
		o.Sealer = sealer
		if _, err := sqlite.Open(t.Context(), o); !errors.Is(err, store.ErrKey) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s = open(t, opts)
	if o, ok := s.Config().View().Get(secret); !ok || string(o.Spec) != "the hidden spec" {
		t.Fatalf("got %+v", o)
	}
}

// tamper runs SQL on the file of a closed store.
func tamper(t *testing.T, path, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path string)
		want   error
		text   string
	}{
		{"newer schema", func(t *testing.T, path string) { tamper(t, path, "PRAGMA user_version = 7") }, store.ErrSchema, "version 7"},
		{"another program's", func(t *testing.T, path string) { tamper(t, path, "PRAGMA application_id = 7") }, store.ErrCorrupt, "another program"},
		{"no database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, store.ErrCorrupt, ""},
		{"torn pages", func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 3*4096), 5*4096); err != nil {
				t.Fatal(err)
			}
		}, store.ErrCorrupt, ""},
		{"bad time", func(t *testing.T, path string) { tamper(t, path, "UPDATE entries SET modified = 'x'") }, store.ErrCorrupt, "Timeout default/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "zone.db")
			s := open(t, sqlite.Options{Path: path})
			for i := range 50 {
				mustApply(t, s.Config(), put(fmt.Sprint(i), strings.Repeat("x", 1000)))
			}
			mustClose(t, s)
			c.damage(t, path)
			for range 2 {
				_, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
				if !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.text) {
					t.Fatalf("got error %v", err)
				}
				if strings.Contains(err.Error(), "\n") {
					t.Fatalf("it is not one line: %v", err)
				}
			}
		})
	}
}

func TestStatusMadeAnew(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"no database": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"cut":               func(t *testing.T, path string) { check(t, os.Truncate(path, 4096+100)) },
		"of another store":  func(t *testing.T, path string) { tamper(t, path, "UPDATE meta SET value = 'x' WHERE name = 'store'") },
		"with a torn entry": func(t *testing.T, path string) { tamper(t, path, "UPDATE entries SET modified = 'x'") },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "zone.db")
			s := open(t, sqlite.Options{Path: path})
			mustApply(t, s.Config(), put("a", "1"))
			mustApply(t, s.Status(), put("a", "1"))
			before := s.Status().View().At()
			mustClose(t, s)
			damage(t, sqlite.StatusPath(path))

			var lines bytes.Buffer
			s = open(t, sqlite.Options{Path: path, Logger: slog.New(slog.NewTextHandler(&lines, nil))})
			if !strings.Contains(lines.String(), "made anew") {
				t.Errorf("nothing is said: %s", &lines)
			}
			if s.Config().View().Revision() != 1 || s.Status().View().Revision() != 0 {
				t.Fatal("the wrong log was made anew")
			}
			mustApply(t, s.Status(), put("b", "1"))
			if _, err := s.Status().Watch(store.Everything(), before); !errors.Is(err, store.ErrCompacted) {
				t.Fatalf("an old cursor is taken: %v", err)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMaxSize(t *testing.T) {
	opts := sqlite.Options{Path: filepath.Join(t.TempDir(), "zone.db"), MaxSize: 1 << 20}
	s := open(t, opts)
	n, err := 0, error(nil)
	for ; err == nil && n < 1000; n++ {
		_, err = s.Config().Apply(t.Context(), put(fmt.Sprint(n), strings.Repeat("x", 10_000)))
	}
	n--
	if !errors.Is(err, store.ErrNoSpace) || n < 10 {
		t.Fatalf("after %d writes: %v", n, err)
	}
	if err := s.Health(); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("health is %v", err)
	}
	if got := s.Config().View().Count(store.Everything()); got != n {
		t.Fatalf("%d writes were answered, %d are there", n, got)
	}
	mustApply(t, s.Status(), put("a", ""))
	mustApply(t, s.Config(), store.Batch{DeleteScopes: []string{"default"}})
	mustApply(t, s.Config(), put("again", strings.Repeat("x", 10_000)))
	if err := s.Health(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = open(t, opts)
	if got := s.Config().View().Count(store.Everything()); got != 1 || s.Config().View().Revision() != resource.Revision(n+2) {
		t.Fatalf("%d are there, at %s", got, s.Config().View().Revision())
	}
}

// TestCheckpoint: the write-ahead log is copied into the file now and then, so that neither it nor the time to
// open grows without end.
func TestCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zone.db")
	s := open(t, sqlite.Options{Path: path})
	for i := range 400 {
		mustApply(t, s.Config(), put(fmt.Sprint(i%10), strings.Repeat("x", 200_000)))
	}
	info, err := os.Stat(path + "-wal")
	check(t, err)
	if info.Size() > 40<<20 {
		t.Fatalf("the write-ahead log has %d bytes", info.Size())
	}
}

func TestAudit(t *testing.T) {
	var lines bytes.Buffer
	s := open(t, sqlite.Options{Path: filepath.Join(t.TempDir(), "zone.db"), Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	b := put("a", "")
	mustApply(t, s.Config(), b)
	if lines.Len() > 0 {
		t.Fatalf("a line for nobody: %s", &lines)
	}
	b.Author = store.Author{Who: "somebody", Request: "r1"}
	mustApply(t, s.Config(), b)
	for _, want := range []string{"msg=audit", "revision=2", "who=somebody", "request=r1", `key="Timeout default/a"`} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("%q is not in %s", want, &lines)
		}
	}
}

// TestLibcVersion: the generated code of the database and its C library only fit in the very versions that were
// released together, and nothing but this notices when another module raises one of them.
func TestLibcVersion(t *testing.T) {
	module := func(m string) string {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}} {{.GoMod}}", m).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	_, gomod, _ := strings.Cut(module("modernc.org/sqlite"), " ")
	text, err := os.ReadFile(gomod)
	check(t, err)
	libc, _, _ := strings.Cut(module("modernc.org/libc"), " ")
	if !strings.Contains(string(text), "modernc.org/libc "+libc+"\n") {
		t.Fatalf("modernc.org/libc is %s, modernc.org/sqlite asks for another:\n%s", libc, text)
	}
}

func BenchmarkApply(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, sqlite.Options{Path: filepath.Join(b.TempDir(), "a.db")})
			spec := string(make([]byte, 1024))
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			start := time.Now()
			for range writers {
				wg.Go(func() {
					for {
						i := n.Add(1)
						if i > int64(b.N) {
							return
						}
						if _, err := s.Config().Apply(context.Background(), put(fmt.Sprintf("t%d", i%5000), spec)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "writes/s")
		})
	}
}
