package store_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

func TestAESSealer(t *testing.T) {
	sealer := func(b byte) *store.AESSealer {
		s, err := store.NewAESSealer(bytes.Repeat([]byte{b}, store.KeySize))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := sealer(1)
	k := resource.Key{Kind: "Secret", Scope: "default", Name: "a"}
	plain := []byte("plain")
	sealed, err := s.Seal(k, plain)
	if err != nil || bytes.Contains(sealed, plain) {
		t.Fatal(sealed, err)
	}
	if again, err := s.Seal(k, plain); err != nil || bytes.Equal(sealed, again) {
		t.Fatal("equal specs give equal bytes")
	}
	if got, err := s.Open(k, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatal(got, err)
	}
	fails := func(what string, s *store.AESSealer, k resource.Key, sealed []byte) {
		t.Helper()
		if _, err := s.Open(k, sealed); !errors.Is(err, store.ErrKey) {
			t.Errorf("%s: %v", what, err)
		}
	}
	fails("another encryption key", sealer(2), k, sealed)
	fails("another object", s, resource.Key{Kind: "Secret", Scope: "default", Name: "b"}, sealed)
	fails("parts shifted", s, resource.Key{Kind: "Secret", Scope: "defaul", Name: "ta"}, sealed)
	for n := range sealed {
		fails("cut", s, k, sealed[:n])
		bent := bytes.Clone(sealed)
		bent[n] ^= 1
		fails("bent", s, k, bent)
	}
	if _, err := store.NewAESSealer([]byte("short")); err == nil {
		t.Error("a short key is taken")
	}
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "work", "store.key")
	keys := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := store.LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, k := range keys {
		if !bytes.Equal(k, keys[0]) || len(k) != store.KeySize {
			t.Fatalf("keys are %x and %x", k, keys[0])
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Fatalf("left over: %v", left)
	}
	if err := os.WriteFile(path, []byte("bm90IGEga2V5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.LoadOrCreateKey(path); err == nil {
		t.Fatal("a broken key file is taken")
	}
}
