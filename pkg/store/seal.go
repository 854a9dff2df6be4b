package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// ErrKey: what is stored was encrypted with another key than the one that was given, or was tampered with.
var ErrKey = errors.New("encryption key does not fit")

// KeySize is the length of an encryption key in bytes.
const KeySize = 32

// Sealer encrypts specs at rest. It is safe for concurrent use.
type Sealer interface {
	// Seal encrypts the spec of a key.
	Seal(key resource.Key, plain []byte) ([]byte, error)
	// Open is the inverse of Seal. It fails with ErrKey for another sealer's bytes and for another key's.
	Open(key resource.Key, sealed []byte) ([]byte, error)
}

// AESSealer seals with AES-256-GCM. What it writes is a format byte, eight bytes that identify the encryption
// key, a random nonce and the ciphertext; format, key id and the resource's key are authenticated with it, so
// that no sealed spec can be moved to another object.
type AESSealer struct {
	aead cipher.AEAD
	head [9]byte
}

const sealFormat = 1

// NewKeyCheck encrypts a known text, by which CheckKey finds out a sealer of another key.
func NewKeyCheck(s Sealer) ([]byte, error) { return s.Seal(keyCheck(), []byte("meridian")) }

// CheckKey fails with ErrKey where check was made by a sealer of another key.
func CheckKey(s Sealer, check []byte) error {
	_, err := s.Open(keyCheck(), check)
	return err
}

func keyCheck() resource.Key { return resource.Key{Kind: "meta", Name: "key"} }

// NewAESSealer makes a sealer of a key of KeySize bytes.
func NewAESSealer(key []byte) (*AESSealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("encryption key has %d bytes, not %d", len(key), KeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("encryption key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("encryption key: %w", err)
	}
	s := &AESSealer{aead: aead}
	id := sha256.Sum256(append([]byte("meridian store key id\x00"), key...))
	s.head[0] = sealFormat
	copy(s.head[1:], id[:8])
	return s, nil
}

// Seal implements Sealer.
func (s *AESSealer) Seal(key resource.Key, plain []byte) ([]byte, error) {
	out := make([]byte, len(s.head)+s.aead.NonceSize(), len(s.head)+s.aead.NonceSize()+len(plain)+s.aead.Overhead())
	copy(out, s.head[:])
	nonce := out[len(s.head):]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal %s: %w", key, err)
	}
	return s.aead.Seal(out, nonce, plain, s.bound(key)), nil
}

// Open implements Sealer.
func (s *AESSealer) Open(key resource.Key, sealed []byte) ([]byte, error) {
	n := len(s.head) + s.aead.NonceSize()
	switch {
	case len(sealed) < n || sealed[0] != sealFormat:
		return nil, fmt.Errorf("%s: %w: not in a known format", key, ErrKey)
	case string(sealed[:len(s.head)]) != string(s.head[:]):
		return nil, fmt.Errorf("%s: %w: it was encrypted with the key %x, this one is %x", key, ErrKey, sealed[1:len(s.head)], s.head[1:])
	}
	plain, err := s.aead.Open(nil, sealed[len(s.head):n], sealed[n:], s.bound(key))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", key, ErrKey, err)
	}
	return plain, nil
}

// bound is what a sealed spec is tied to.
func (s *AESSealer) bound(key resource.Key) []byte {
	b := append([]byte(nil), s.head[:]...)
	for _, part := range []string{string(key.Kind), key.Scope, key.Name} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// LoadOrCreateKey reads an encryption key from a file, or makes the file with a random one, readable by its
// owner only. The file holds the key in base64.
func LoadOrCreateKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(path); err != nil {
			return nil, fmt.Errorf("make encryption key: %w", err)
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read encryption key: %w", err)
	}
	return parseKey(path, text)
}

// LoadKey reads an encryption key from a file that is there.
func LoadKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read encryption key: %w", err)
	}
	return parseKey(path, text)
}

func parseKey(path string, text []byte) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != KeySize {
		return nil, fmt.Errorf("read encryption key: %s does not hold %d bytes in base64", path, KeySize)
	}
	return key, nil
}

// createKey puts a whole key at path, or leaves the one that another process has put there meanwhile.
func createKey(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
