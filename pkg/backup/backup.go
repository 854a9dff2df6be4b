// Package backup is the format of a control plane's backups: records one after the other, each a length and a
// protobuf message, first a header with the format's version, last an end with the number of records and the
// SHA-256 of all that came before. What was cut off or changed is found out. It knows no store.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"google.golang.org/protobuf/proto"

	backupv1 "github.com/meridian-mesh/meridian/proto/meridian/backup/v1"
)

// Format is the version of the format that this build writes, and the newest that it reads.
const Format = 1

// Roles of a control plane, which say what its store's file is called.
const (
	Global = "global"
	Zone   = "zone"
)

const (
	magic = "meridian backup\n"
	// maxRecord bounds a record, in bytes. Specs are far smaller.
	maxRecord = 64 << 20
)

var (
	// ErrFormat: it is no backup, or one that this build is too old for.
	ErrFormat = errors.New("not a backup that can be read")
	// ErrDamaged: a part is missing, or something was changed.
	ErrDamaged = errors.New("backup is damaged")
)

// Writer writes a backup. It is used by one goroutine at a time.
type Writer struct {
	out     io.Writer
	sum     hash.Hash
	records uint64
	buf     []byte
}

// NewWriter begins a backup with its header, whose format it sets.
func NewWriter(out io.Writer, h *backupv1.Header) (*Writer, error) {
	w := &Writer{out: out, sum: sha256.New()}
	h.Format = Format
	w.buf = append(w.buf, magic...)
	if err := w.flush(); err != nil {
		return nil, err
	}
	return w, w.Put(&backupv1.Record{Kind: &backupv1.Record_Header{Header: h}})
}

// Put adds a record.
func (w *Writer) Put(r *backupv1.Record) error {
	w.records++
	return w.put(r)
}

func (w *Writer) put(r *backupv1.Record) error {
	w.buf = binary.AppendUvarint(w.buf, uint64(proto.Size(r)))
	var err error
	if w.buf, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(w.buf, r); err != nil {
		return err
	}
	return w.flush()
}

func (w *Writer) flush() error {
	w.sum.Write(w.buf) // never fails
	_, err := w.out.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// Close ends the backup. It does not close what it is written to.
func (w *Writer) Close() error {
	return w.put(&backupv1.Record{Kind: &backupv1.Record_End{End: &backupv1.End{Records: w.records, Sha256: w.sum.Sum(nil)}}})
}

// Reader reads a backup. It is used by one goroutine at a time.
type Reader struct {
	in      *bufio.Reader
	sum     hash.Hash
	records uint64
	header  *backupv1.Header
	ended   bool
}

// NewReader reads the header. It fails with ErrFormat or ErrDamaged.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{in: bufio.NewReaderSize(in, 64<<10), sum: sha256.New()}
	head := make([]byte, len(magic))
	if n, err := io.ReadFull(r.in, head); err != nil || string(head) != magic {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		if n > 0 && n < len(magic) && bytes.HasPrefix([]byte(magic), head[:n]) {
			return nil, fmt.Errorf("%w: it ends after %d bytes", ErrDamaged, n)
		}
		return nil, fmt.Errorf("%w: it does not begin as one", ErrFormat)
	}
	r.sum.Write(head)
	first, err := r.Next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: it has no header", ErrDamaged)
		}
		return nil, err
	}
	r.header = first.GetHeader()
	switch {
	case r.header == nil:
		return nil, fmt.Errorf("%w: it has no header", ErrDamaged)
	case r.header.GetFormat() != Format:
		return nil, fmt.Errorf("%w: it has version %d of the format and was written by %s, this program knows version %d",
			ErrFormat, r.header.GetFormat(), r.header.GetVersion(), Format)
	}
	return r, nil
}

// Header is the backup's header.
func (r *Reader) Header() *backupv1.Header { return r.header }

// Next gives the next record. io.EOF means that the backup was read to its end and is whole; any other error
// that it is not, ErrDamaged where the bytes themselves are to blame.
func (r *Reader) Next() (*backupv1.Record, error) {
	if r.ended {
		return nil, io.EOF
	}
	so := r.sum.Sum(nil)
	data, err := r.record()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, fmt.Errorf("%w: it was cut off after %d records", ErrDamaged, r.records)
		}
		return nil, err
	}
	m := &backupv1.Record{}
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%w: record %d can't be read: %w", ErrDamaged, r.records+1, err)
	}
	end := m.GetEnd()
	if end == nil {
		r.records++
		return m, nil
	}
	switch _, err := r.in.ReadByte(); {
	case end.GetRecords() != r.records:
		return nil, fmt.Errorf("%w: it has %d records and should have %d", ErrDamaged, r.records, end.GetRecords())
	case !bytes.Equal(end.GetSha256(), so):
		return nil, fmt.Errorf("%w: its checksum does not fit", ErrDamaged)
	case err == nil:
		return nil, fmt.Errorf("%w: something follows its end", ErrDamaged)
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	r.ended = true
	return nil, io.EOF
}

// record reads one record's bytes and adds them to the sum.
func (r *Reader) record() ([]byte, error) {
	size, err := binary.ReadUvarint(r.in)
	if err != nil {
		return nil, err
	}
	if size > maxRecord {
		return nil, fmt.Errorf("%w: record %d has %d bytes", ErrDamaged, r.records+1, size)
	}
	// The length may lie: what is not there is not made room for.
	var buf bytes.Buffer
	if n, err := io.CopyN(&buf, r.in, int64(size)); err != nil {
		if errors.Is(err, io.EOF) && n < int64(size) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	r.sum.Write(binary.AppendUvarint(nil, size))
	r.sum.Write(buf.Bytes())
	return buf.Bytes(), nil
}

// Verify reads a backup to its end, and gives its header and the number of its records.
func Verify(in io.Reader) (*backupv1.Header, uint64, error) {
	r, err := NewReader(in)
	if err != nil {
		return nil, 0, err
	}
	for {
		if _, err := r.Next(); err != nil {
			if errors.Is(err, io.EOF) {
				return r.header, r.records, nil
			}
			return nil, 0, err
		}
	}
}
