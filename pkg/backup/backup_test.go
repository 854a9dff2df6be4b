package backup_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/backup"
	backupv1 "github.com/meridian-mesh/meridian/proto/meridian/backup/v1"
)

func write(t testing.TB, n int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, &backupv1.Header{Role: backup.Global, Store: "s", Revision: 7, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := w.Put(object(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func object(i int) *backupv1.Record {
	return &backupv1.Record{Kind: &backupv1.Record_Object{Object: &backupv1.Object{Kind: "Timeout", Name: fmt.Sprint(i), Spec: bytes.Repeat([]byte{1}, i)}}}
}

func TestRoundTrip(t *testing.T) {
	data := write(t, 300)
	r, err := backup.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if h := r.Header(); h.GetRevision() != 7 || h.GetFormat() != backup.Format {
		t.Errorf("header %v", h)
	}
	for i := range 300 {
		if m, err := r.Next(); err != nil || !proto.Equal(m, object(i)) {
			t.Fatalf("record %d: %v %v", i, m, err)
		}
	}
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("end: %v", err)
		}
	}
	if h, n, err := backup.Verify(bytes.NewReader(data)); err != nil || n != 301 || h.GetStore() != "s" {
		t.Errorf("%v %d %v", h, n, err)
	}
}

// TestEveryCutAndFlip: no beginning of a backup passes for one, nor one with a bit changed or bytes added.
func TestEveryCutAndFlip(t *testing.T) {
	data := write(t, 12)
	for n := range data {
		if _, _, err := backup.Verify(bytes.NewReader(data[:n])); !errors.Is(err, backup.ErrDamaged) && (n > 0 || !errors.Is(err, backup.ErrFormat)) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	for n := range data {
		flipped := bytes.Clone(data)
		flipped[n] ^= 1 << (n % 8)
		if _, _, err := backup.Verify(bytes.NewReader(flipped)); err == nil {
			t.Errorf("byte %d was changed, and nobody saw it", n)
		}
	}
	if _, _, err := backup.Verify(bytes.NewReader(append(bytes.Clone(data), data...))); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("twice: %v", err)
	}
}

func TestNewerFormat(t *testing.T) {
	m, err := proto.Marshal(&backupv1.Record{Kind: &backupv1.Record_Header{Header: &backupv1.Header{Format: 2, Version: "9.9.9"}}})
	if err != nil {
		t.Fatal(err)
	}
	data := append([]byte("meridian backup\n"), binary.AppendUvarint(nil, uint64(len(m)))...)
	_, _, err = backup.Verify(bytes.NewReader(append(data, m...)))
	if !errors.Is(err, backup.ErrFormat) || !strings.Contains(err.Error(), "version 2 of the format and was written by 9.9.9, this program knows version 1") {
		t.Error(err)
	}
}

// failing fails after some bytes.
type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	for n := range 40 {
		w, err := backup.NewWriter(&failing{n}, &backupv1.Header{})
		if err == nil {
			err = w.Put(object(40))
		}
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	data := write(f, 3)
	f.Add(data)
	f.Add(data[:len(data)-3])
	f.Add([]byte("meridian backup\n\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, _, err := backup.Verify(bytes.NewReader(data)); err == nil && h.GetFormat() != backup.Format {
			t.Errorf("taken: %v", h)
		}
	})
}
