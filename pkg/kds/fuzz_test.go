package kds

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/memory"
)

func encoding(t testing.TB, changes ...*kdsv1.Change) []byte {
	var all []byte
	for _, c := range changes {
		b, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// However the bytes of a group are cut into frames, the changes are the same, or none are taken.
func FuzzStage(f *testing.F) {
	f.Add(encoding(f, &kdsv1.Change{Kind: "Mesh", Name: "m", Spec: make([]byte, 300)}, &kdsv1.Change{Kind: "Zone", Name: "z", Deleted: true}), uint16(7))
	f.Add([]byte{0x80}, uint16(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, uint16(3))
	f.Add([]byte{0, 0, 0}, uint16(2))
	f.Fuzz(func(t *testing.T, raw []byte, piece uint16) {
		if len(raw) > maxFrame {
			return
		}
		decode := func(n int) ([]*kdsv1.Change, error) {
			s, rest := stage{log: kdsv1.Log_LOG_CONFIG}, raw
			for {
				k := min(n, len(rest))
				g, err := s.add(&kdsv1.Group{Log: s.log, To: 1, Changes: rest[:k], Last: k == len(rest)})
				if err != nil {
					return nil, err
				}
				if rest = rest[k:]; g != nil {
					return g.changes, nil
				}
			}
		}
		whole, err := decode(maxFrame)
		cut, cutErr := decode(int(piece)%1024 + 1)
		if (err == nil) != (cutErr == nil) {
			t.Fatalf("whole: %v, in pieces: %v", err, cutErr)
		}
		if diff := cmp.Diff(whole, cut, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
	})
}

// No frame brings a session down otherwise than by an error, at either end, and what it holds can be judged
// and committed.
func FuzzFrame(f *testing.F) {
	add := func(fr *kdsv1.Frame) {
		b, err := proto.Marshal(fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	group := func(changes ...*kdsv1.Change) *kdsv1.Frame {
		return &kdsv1.Frame{Kind: &kdsv1.Frame_Group{Group: &kdsv1.Group{
			Log: kdsv1.Log_LOG_CONFIG, To: 9, Epoch: "e", Replaces: []*kdsv1.Range{{}}, Last: true, Changes: encoding(f, changes...),
		}}}
	}
	add(group())
	add(group(&kdsv1.Change{Kind: "Mesh", Name: "m", Created: timestamppb.Now()}, &kdsv1.Change{Kind: "Timeout", Scope: "m", Name: "t"}))
	add(group(&kdsv1.Change{Kind: "Dataplane", Scope: "old", Name: "d"}, &kdsv1.Change{Kind: "?", Name: "x"}))
	add(group(&kdsv1.Change{Kind: "Mesh", Name: "old", Deleted: true}, &kdsv1.Change{Kind: "Mesh", Name: "n", Created: &timestamppb.Timestamp{Seconds: 1 << 60}}))
	add(&kdsv1.Frame{Kind: &kdsv1.Frame_Group{Group: &kdsv1.Group{
		Log: kdsv1.Log_LOG_STATUS, Replaces: []*kdsv1.Range{{}, {Kind: "Timeout", Scope: "m"}}, Last: true,
	}}})
	add(&kdsv1.Frame{Kind: &kdsv1.Frame_Ack{Ack: &kdsv1.Ack{Log: 1, To: 4, RejectedKinds: []string{"Mesh"}}}})
	add(&kdsv1.Frame{Kind: &kdsv1.Frame_Credit{Credit: &kdsv1.Credit{Bytes: 5}}})
	add(&kdsv1.Frame{Kind: &kdsv1.Frame_Offer{Offer: &kdsv1.Offer{Log: 1, Keys: []*kdsv1.Key{{Kind: "Mesh", Name: "*"}}}}})
	add(&kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{Trouble: "disk"}}})
	add(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: &kdsv1.Hello{Zone: "z"}}})
	f.Add([]byte{0xa2, 6, 1, 1}, true)
	f.Fuzz(func(t *testing.T, raw []byte, global bool) {
		frame := &kdsv1.Frame{}
		if proto.Unmarshal(raw, frame) != nil {
			return
		}
		st := memory.New(memory.Options{ID: "here"})
		defer func() { _ = st.Close() }()
		table := resource.NewTable()
		side := zoneSide(table)
		if global {
			side = globalSide(table, "zone-1")
		}
		ctx := context.Background()
		if _, err := st.Config().Apply(ctx, store.Batch{Puts: []store.Put{
			{Key: resource.Key{Kind: resource.KindZone, Name: "zone-1"}},
			{Key: resource.Key{Kind: resource.KindMesh, Name: "old"}, Origin: side.peer},
			{Key: resource.Key{Kind: resource.KindDataplane, Scope: "old", Name: "own"}},
		}}); err != nil {
			t.Fatal(err)
		}
		s := &session{
			side: side, store: st, logger: slog.New(slog.DiscardHandler), version: "1", peerStore: "there", silence: globalSilence,
			accept: func(_ resource.Key, _ resource.Origin, spec []byte) error {
				if len(spec)%2 == 1 {
					return errors.New("odd")
				}
				return nil
			},
		}
		s.prepare([2]store.Cursor{}, [2]store.Cursor{})
		if s.handle(frame) != nil {
			return
		}
		for _, a := range s.apps {
			for _, g := range a.queue {
				if _, err := a.apply(ctx, g); err != nil && !errors.Is(err, errProtocol) && !errors.Is(err, errZoneGone) {
					t.Errorf("a group that was taken can't be applied: %v", err)
				}
			}
		}
	})
}

// No Hello brings the server down.
func FuzzHello(f *testing.F) {
	b, err := proto.Marshal(&kdsv1.Hello{Store: "s", Zone: "zone-1", Config: &kdsv1.Cursor{Store: "s", Epoch: "e", Revision: 1 << 63}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, raw []byte) {
		h := &kdsv1.Hello{}
		if proto.Unmarshal(raw, h) != nil {
			return
		}
		st := memory.New(memory.Options{ID: "here"})
		defer func() { _ = st.Close() }()
		s := &Server{opts: ServerOptions{Store: st, Table: resource.NewTable()}}
		if s.check(h.GetZone(), h) != nil {
			return
		}
		for _, c := range []*kdsv1.Cursor{h.GetConfig(), h.GetStatus()} {
			if w, err := st.Config().Watch(store.Everything(), cursorOf(c)); err == nil {
				_ = w.Close()
			} else if !errors.Is(err, store.ErrCompacted) {
				t.Error(err)
			}
		}
		in := newInsight(st.Status(), slog.New(slog.DiscardHandler), h.GetZone(), "i", "a", h.GetVersion())
		in.connect(context.Background())
		if st.Status().View().Revision() != 1 {
			t.Error("the insight could not be written")
		}
	})
}
