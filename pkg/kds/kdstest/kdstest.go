// Package kdstest has ends of the sync's stream that tests write by hand: a scripted zone or global control
// plane, and a stream without a network that can be cut after any frame.
package kdstest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"
)

// Stream is one end of a stream of frames.
type Stream interface {
	Send(*kdsv1.Frame) error
	Recv() (*kdsv1.Frame, error)
}

// Peer is a scripted end of a stream: it says just what the test says. It is used by one goroutine.
type Peer struct {
	Stream
	// Heartbeats counts those that Next has left out.
	Heartbeats int
}

// DialZone opens a stream to a server, as a zone does. It ends with ctx.
func DialZone(ctx context.Context, conn grpc.ClientConnInterface) (*Peer, error) {
	s, err := kdsv1.NewSyncServiceClient(conn).Sync(ctx)
	if err != nil {
		return nil, err
	}
	return &Peer{Stream: s}, nil
}

// Next is the next frame that is no heartbeat.
func (p *Peer) Next() (*kdsv1.Frame, error) {
	for {
		f, err := p.Recv()
		if err != nil {
			return nil, err
		}
		if f.GetHeartbeat() == nil {
			return f, nil
		}
		p.Heartbeats++
	}
}

// Hello sends h and waits for the peer's.
func (p *Peer) Hello(h *kdsv1.Hello) (*kdsv1.Hello, error) {
	// Why a Send failed is told by Recv.
	_ = p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Hello{Hello: h}})
	f, err := p.Next()
	if err != nil {
		return nil, err
	}
	if f.GetHello() == nil {
		return nil, fmt.Errorf("got %v instead of a Hello", f)
	}
	return f.GetHello(), nil
}

// Group is a group that came or is to be sent, put together.
type Group struct {
	Log      kdsv1.Log
	From, To uint64
	Epoch    string
	Replaces []*kdsv1.Range
	Changes  []*kdsv1.Change
	// Frames that it took.
	Frames int
}

// add puts a frame to the group; true: it was the last one. rest is what is left of a change in between.
func (g *Group) add(f *kdsv1.Group, rest []byte) (bool, []byte, error) {
	if g.Frames++; g.Frames == 1 {
		g.Log, g.From, g.To, g.Replaces = f.GetLog(), f.GetFrom(), f.GetTo(), f.GetReplaces()
	}
	rest = append(rest, f.GetChanges()...)
	for {
		size, n := binary.Uvarint(rest)
		if n <= 0 || uint64(len(rest)-n) < size {
			break
		}
		c := &kdsv1.Change{}
		if err := proto.Unmarshal(rest[n:n+int(size)], c); err != nil {
			return false, nil, err
		}
		g.Changes = append(g.Changes, c)
		rest = rest[n+int(size):]
	}
	g.Epoch = f.GetEpoch()
	return f.GetLast(), rest, nil
}

// NextGroup waits for the next whole group of a log. Frames of other kinds are left out.
func (p *Peer) NextGroup(log kdsv1.Log) (*Group, error) {
	g, rest := &Group{}, []byte(nil)
	for {
		f, err := p.Next()
		if err != nil {
			return nil, err
		}
		if f.GetGroup() == nil || f.GetGroup().GetLog() != log {
			continue
		}
		last, more, err := g.add(f.GetGroup(), rest)
		if err != nil {
			return nil, err
		}
		if rest = more; last {
			return g, nil
		}
	}
}

// Ack sends the ACK of a group.
func (p *Peer) Ack(g *Group) error {
	return p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Ack{Ack: &kdsv1.Ack{Log: g.Log, To: g.To}}})
}

// Heartbeat sends a heartbeat.
func (p *Peer) Heartbeat() error {
	return p.Send(&kdsv1.Frame{Kind: &kdsv1.Frame_Heartbeat{Heartbeat: &kdsv1.Heartbeat{}}})
}

// Frames gives the frames of a group, with at most piece bytes of changes in each.
func Frames(g *Group, piece int) ([]*kdsv1.Frame, error) {
	var all []byte
	for _, c := range g.Changes {
		b, err := proto.Marshal(c)
		if err != nil {
			return nil, err
		}
		all = append(binary.AppendUvarint(all, uint64(len(b))), b...)
	}
	var frames []*kdsv1.Frame
	for first := true; first || len(all) > 0; first = false {
		f := &kdsv1.Group{Log: g.Log, From: g.From, To: g.To}
		if first {
			f.Replaces = g.Replaces
		}
		n := min(piece, len(all))
		f.Changes, all = all[:n], all[n:]
		if len(all) == 0 {
			f.Last, f.Epoch = true, g.Epoch
		}
		frames = append(frames, &kdsv1.Frame{Kind: &kdsv1.Frame_Group{Group: f}})
	}
	return frames, nil
}

// SendGroup sends a group.
func (p *Peer) SendGroup(g *Group) error {
	frames, err := Frames(g, 16<<10)
	if err != nil {
		return err
	}
	for _, f := range frames {
		if err := p.Send(f); err != nil {
			return err
		}
	}
	return nil
}

// Global is a scripted global control plane: it hands each stream of a zone to the test.
type Global struct {
	kdsv1.UnimplementedSyncServiceServer
	streams chan accepted
}

type accepted struct {
	peer *Peer
	end  chan error
}

// NewGlobal makes a global control plane that answers nothing by itself.
func NewGlobal() *Global { return &Global{streams: make(chan accepted)} }

// Register adds the service to a gRPC server.
func (g *Global) Register(r grpc.ServiceRegistrar) { kdsv1.RegisterSyncServiceServer(r, g) }

// Sync implements the service.
func (g *Global) Sync(s grpc.BidiStreamingServer[kdsv1.Frame, kdsv1.Frame]) error {
	a := accepted{peer: &Peer{Stream: s}, end: make(chan error, 1)}
	select {
	case g.streams <- a:
	case <-s.Context().Done():
		return s.Context().Err()
	}
	select {
	case err := <-a.end:
		return err
	case <-s.Context().Done():
		return s.Context().Err()
	}
}

// Accept waits for a zone's stream. end ends it with a gRPC status, or with nil; it must be called at most once.
func (g *Global) Accept(ctx context.Context) (p *Peer, end func(error), err error) {
	select {
	case a := <-g.streams:
		return a.peer, func(err error) { a.end <- err }, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// ErrCut ends both ends of a pipe that was cut.
var ErrCut = errors.New("the stream was cut")

// Pipe makes a stream without a network. It is cut when cut says so of a frame, which then is lost. cut may be
// nil; it is called by one goroutine at a time for each direction (true: from the first end to the second).
func Pipe(cut func(forth bool, f *kdsv1.Frame) bool) (first, second *End) {
	if cut == nil {
		cut = func(bool, *kdsv1.Frame) bool { return false }
	}
	p := &pipe{done: make(chan struct{})}
	forth, back := make(chan []byte, 16), make(chan []byte, 16)
	first = &End{pipe: p, in: back, out: forth, cut: func(f *kdsv1.Frame) bool { return cut(true, f) }}
	second = &End{pipe: p, in: forth, out: back, cut: func(f *kdsv1.Frame) bool { return cut(false, f) }}
	return first, second
}

type pipe struct {
	once sync.Once
	done chan struct{}
}

// End is one end of a pipe.
type End struct {
	pipe *pipe
	in   <-chan []byte
	out  chan<- []byte
	cut  func(*kdsv1.Frame) bool
}

// Send implements Stream.
func (e *End) Send(f *kdsv1.Frame) error {
	b, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	if e.cut(f) {
		e.Close()
		return io.EOF
	}
	select {
	case e.out <- b:
		return nil
	case <-e.pipe.done:
		return io.EOF
	}
}

// Recv implements Stream. Frames that were sent before a cut may be lost, as on a network.
func (e *End) Recv() (*kdsv1.Frame, error) {
	select {
	case b := <-e.in:
		f := &kdsv1.Frame{}
		return f, proto.Unmarshal(b, f)
	case <-e.pipe.done:
		return nil, ErrCut
	}
}

// Close cuts the pipe.
func (e *End) Close() { e.pipe.once.Do(func() { close(e.pipe.done) }) }
