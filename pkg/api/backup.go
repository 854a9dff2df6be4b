package api

import (
	"context"
	"slices"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/backup"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	backupv1 "github.com/meridian-mesh/meridian/proto/meridian/backup/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// chunkBytes is the size of the pieces of a stream, about.
const chunkBytes = 64 << 10

const (
	titleBackup = "Could not back up"
	titleExport = "Could not export"
)

// chunks gathers what is written to it into pieces.
type chunks struct {
	buf  []byte
	send func([]byte) error
}

// Write implements io.Writer.
func (c *chunks) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p...)
	if len(c.buf) < chunkBytes {
		return len(p), nil
	}
	return len(p), c.flush()
}

func (c *chunks) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	piece := c.buf
	c.buf = nil // the piece may still be on its way
	return c.send(piece)
}

// mayCopy says why the caller may not have a copy of everything.
func (s *Service) mayCopy(ctx context.Context) error {
	c, _ := auth.CallerFrom(ctx)
	return s.admin(c)
}

// Backup implements the BackupService. It reads a view, so that it holds back nobody.
func (s *Service) Backup(_ *apiv1.BackupRequest, stream grpc.ServerStreamingServer[apiv1.BackupResponse]) error {
	if err := s.mayCopy(stream.Context()); err != nil {
		return err
	}
	if s.Sealer == nil {
		return status.Error(codes.FailedPrecondition, titleBackup+": this control plane keeps nothing (store.type is memory); export what was written to it.")
	}
	out := &chunks{send: func(b []byte) error { return stream.Send(&apiv1.BackupResponse{Chunk: b}) }}
	if err := s.backup(stream.Context(), out); err != nil {
		return err
	}
	return out.flush()
}

func (s *Service) backup(ctx context.Context, out *chunks) error {
	v := s.Store.Config().View()
	h := v.History()
	check, err := store.NewKeyCheck(s.Sealer)
	if err != nil {
		return s.storeError(err, titleBackup)
	}
	role := backup.Zone
	if s.Mode == Global {
		role = backup.Global
	}
	w, err := backup.NewWriter(out, &backupv1.Header{
		Role: role, Zone: s.Zone, Store: s.Store.ID(), Revision: uint64(v.Revision()), Compacted: uint64(h.Compacted()),
		Taken: timestamppb.New(s.Now()), Version: s.Version, KeyCheck: check,
	})
	if err != nil {
		return err
	}
	for _, e := range v.Epochs() {
		if err := w.Put(&backupv1.Record{Kind: &backupv1.Record_Epoch{Epoch: &backupv1.Epoch{Id: e.ID, First: uint64(e.First)}}}); err != nil {
			return err
		}
	}
	for peer, c := range h.Cursors() {
		if err := w.Put(&backupv1.Record{Kind: &backupv1.Record_Cursor{Cursor: &backupv1.Cursor{
			Peer: peer, Store: c.Store, Epoch: c.Epoch, Revision: uint64(c.Revision),
		}}}); err != nil {
			return err
		}
	}
	for o := range v.Scan(store.Everything()) {
		if err := ctx.Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		m, err := s.backupObject(o)
		if err != nil {
			return s.storeError(err, titleBackup)
		}
		if err := w.Put(&backupv1.Record{Kind: &backupv1.Record_Object{Object: m}}); err != nil {
			return err
		}
	}
	for t := range h.Tombstones() {
		if err := w.Put(&backupv1.Record{Kind: &backupv1.Record_Tombstone{Tombstone: &backupv1.Tombstone{
			Kind: string(t.Key.Kind), Scope: t.Key.Scope, Name: t.Key.Name, Origin: string(t.Origin),
			Revision: uint64(t.Revision), Deleted: timestamppb.New(t.Deleted),
		}}}); err != nil {
			return err
		}
	}
	return w.Close()
}

func (s *Service) backupObject(o *resource.Object) (*backupv1.Object, error) {
	m := &backupv1.Object{
		Kind: string(o.Key.Kind), Scope: o.Key.Scope, Name: o.Key.Name, Origin: string(o.Origin),
		Revision: uint64(o.Revision), SpecRevision: uint64(o.SpecRevision),
		Created: timestamppb.New(o.Created), Modified: timestamppb.New(o.Modified), Spec: o.Spec,
	}
	if d, ok := s.Table.ByKind(o.Key.Kind); ok && d.Sealed {
		var err error
		if m.Spec, err = s.Sealer.Seal(o.Key, o.Spec); err != nil {
			return nil, err
		}
		m.Sealed = true
	}
	return m, nil
}

// Export implements the BackupService. The order is one in which the documents can be written, and within it that
// of kinds, meshes and names.
func (s *Service) Export(req *apiv1.ExportRequest, stream grpc.ServerStreamingServer[apiv1.ExportResponse]) error {
	secrets := false
	if req.GetSecrets() != "" {
		var err error
		if secrets, err = strconv.ParseBool(req.GetSecrets()); err != nil {
			return invalid(titleExport, "Invalid parameter", resource.Violations{{Field: "secrets", Message: "must be true or false"}})
		}
	}
	v := s.Store.Config().View()
	out := &chunks{send: func(b []byte) error { return stream.Send(&apiv1.ExportResponse{Chunk: b}) }}
	for _, step := range s.exported(secrets) {
		if err := s.mayRead(stream.Context(), step.Descriptor); err != nil {
			return err
		}
		for o := range v.Scan(store.OfKind(step.Kind)) {
			if err := stream.Context().Err(); err != nil {
				return status.FromContextError(err).Err()
			}
			if !exportable(v, o) {
				continue
			}
			m, err := o.Message(step.Descriptor)
			if err != nil {
				return s.storeError(err, titleExport)
			}
			if m = step.shape(m); m == nil {
				continue
			}
			if m = s.shownMessage(stream.Context(), step.Descriptor, m); !secrets && step.Confidential() {
				m = resource.ConcealMessage(step.Descriptor, m)
			}
			if err := s.export(out, step.Descriptor, o.Key, m); err != nil {
				return err
			}
		}
	}
	return out.flush()
}

// exportStep is a kind whose objects are exported, and the shape that they take there; nil leaves one out.
type exportStep struct {
	*resource.Descriptor
	shape func(proto.Message) proto.Message
}

// exported lists the kinds that users write here, in the order in which they can be written. A mesh whose authority
// rests on secrets that are exported too comes twice: without its authority before them, for they can't be without
// their mesh, and whole behind them.
func (s *Service) exported(secrets bool) []exportStep {
	whole := func(m proto.Message) proto.Message { return m }
	var global, mesh, secret, again, rest []exportStep
	for _, d := range s.Table.All() {
		switch {
		case d.Log != resource.ConfigLog, !s.bornHere(d), d.Access == resource.Admin && !secrets:
		case d.Kind == resource.KindMesh && secrets:
			mesh = append(mesh, exportStep{d, withoutAuthority})
			again = append(again, exportStep{d, func(m proto.Message) proto.Message {
				if m.(*meshv1.Mesh).GetMtls() == nil {
					return nil
				}
				return m
			}})
		case d.Kind == resource.KindMesh:
			mesh = append(mesh, exportStep{d, whole})
		case d.Scope == resource.ScopeGlobal:
			global = append(global, exportStep{d, whole})
		case d.Access == resource.Admin:
			secret = append(secret, exportStep{d, whole})
		default:
			rest = append(rest, exportStep{d, whole})
		}
	}
	return slices.Concat(global, mesh, secret, again, rest)
}

func withoutAuthority(m proto.Message) proto.Message {
	if m.(*meshv1.Mesh).GetMtls() == nil {
		return m
	}
	bare := proto.CloneOf(m.(*meshv1.Mesh))
	bare.Mtls = nil
	return bare
}

func (s *Service) bornHere(d *resource.Descriptor) bool {
	switch d.Writable {
	case resource.WritableOnGlobal:
		return s.Mode != Zone && d.Access != resource.Internal
	case resource.WritableInZone:
		return s.Mode != Global && d.Access != resource.Internal
	}
	return false
}

// exportable says whether a user has written an object here: not another store, nor a proxy at its start.
func exportable(v store.View, o *resource.Object) bool {
	if o.Origin != resource.Local {
		return false
	}
	if o.Key.Kind != resource.KindDataplane {
		return true
	}
	_, inline := v.Get(resource.Key{Kind: resource.KindInlineDataplane, Scope: o.Key.Scope, Name: o.Key.Name})
	return !inline
}

// export writes an object's document.
func (s *Service) export(out *chunks, d *resource.Descriptor, key resource.Key, m proto.Message) error {
	b, err := resource.EncodeDocument(d, key, m)
	if err != nil {
		return s.storeError(err, titleExport)
	}
	_, err = out.Write(append(b, '\n'))
	return err
}
