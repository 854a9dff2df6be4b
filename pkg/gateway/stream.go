package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// NewStream implements grpc.ClientConnInterface for calls whose answer is a stream. The handler runs in a goroutine
// that ends with ctx, which the caller must end; a message is handed over when the caller asks for it, so that none
// waits.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, name string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	h, ok := c.streams[name]
	if !ok || desc.ClientStreams {
		return nil, status.Errorf(codes.Unimplemented, "unknown method %s", name)
	}
	p := &pipe{conn: c, name: name, handler: h, client: ctx, messages: make(chan proto.Message), done: make(chan struct{})}
	p.server = serverContext(ctx, &p.transport)
	p.transport.method = name
	return p, nil
}

// stream is a method that answers with a stream.
type stream struct {
	impl any
	desc grpc.StreamDesc
}

// pipe is both ends of one call.
type pipe struct {
	conn    *Conn
	name    string
	handler stream
	client  context.Context
	server  context.Context

	request   proto.Message
	start     sync.Once
	messages  chan proto.Message
	done      chan struct{}
	err       error // set before done is closed
	transport transport
}

func (p *pipe) run() {
	defer close(p.done)
	handler := func(srv any, s grpc.ServerStream) error { return p.handler.desc.Handler(srv, s) }
	server := &serverEnd{pipe: p}
	info := &grpc.StreamServerInfo{FullMethod: p.name, IsServerStream: true}
	if i := p.conn.streaming; i != nil {
		p.err = i(p.handler.impl, server, info, handler)
	} else {
		p.err = handler(p.handler.impl, server)
	}
	if p.err != nil {
		p.err = status.Convert(contextError(p.err)).Err()
	}
}

// SendMsg implements grpc.ClientStream: it takes the one request.
func (p *pipe) SendMsg(m any) error {
	in, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", p.name, m)
	}
	p.request = in
	return nil
}

// CloseSend implements grpc.ClientStream.
func (p *pipe) CloseSend() error {
	p.start.Do(func() { go p.run() })
	return nil
}

// RecvMsg implements grpc.ClientStream.
func (p *pipe) RecvMsg(m any) error {
	out, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", p.name, m)
	}
	select {
	case in := <-p.messages:
		return share(out, in)
	case <-p.done:
		if p.err != nil {
			return p.err
		}
		return io.EOF
	}
}

// Header implements grpc.ClientStream; there are none.
func (p *pipe) Header() (metadata.MD, error) { return nil, nil }

// Trailer implements grpc.ClientStream; there are none.
func (p *pipe) Trailer() metadata.MD { return nil }

// Context implements grpc.ClientStream.
func (p *pipe) Context() context.Context { return p.client }

// serverEnd is what the handler sees.
type serverEnd struct{ *pipe }

// SetHeader implements grpc.ServerStream.
func (s *serverEnd) SetHeader(md metadata.MD) error { return s.transport.SetHeader(md) }

// SendHeader implements grpc.ServerStream.
func (s *serverEnd) SendHeader(md metadata.MD) error { return s.transport.SendHeader(md) }

// SetTrailer implements grpc.ServerStream.
func (s *serverEnd) SetTrailer(md metadata.MD) { _ = s.transport.SetTrailer(md) }

// Context implements grpc.ServerStream.
func (s *serverEnd) Context() context.Context { return s.server }

// SendMsg implements grpc.ServerStream: it waits until the client asks for the message.
func (s *serverEnd) SendMsg(m any) error {
	in, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", s.name, m)
	}
	select {
	case s.messages <- in:
		return nil
	case <-s.server.Done():
		return status.FromContextError(context.Cause(s.server)).Err()
	}
}

// RecvMsg implements grpc.ServerStream: the handler gets the one request.
func (s *serverEnd) RecvMsg(m any) error {
	out, ok := m.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", s.name, m)
	}
	return share(out, s.request)
}

// answerStep is how much of an answer a client must take within answerTime: who takes less is cut off. The time
// is that of a body longer, because an answer waits until an unwanted body has come, or has not.
const (
	answerStep = 64 << 10
	answerTime = bodyTime + 30*time.Second
)

// patient is a ResponseWriter that gives a client time for each piece of an answer, however long the whole takes,
// and cuts off one that takes nothing: what waits to be read is memory.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	// code is the answer's status, route where it comes from.
	code  int
	route string
}

func newPatient(w http.ResponseWriter) *patient {
	p := &patient{w, http.NewResponseController(w), http.StatusOK, otherRoute}
	// That of the connection's last answer may have passed. Not every ResponseWriter has deadlines; the server's has.
	_ = p.control.SetWriteDeadline(time.Time{})
	return p
}

func (p *patient) again() { _ = p.control.SetWriteDeadline(time.Now().Add(answerTime)) }

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (p *patient) WriteHeader(code int) {
	p.again()
	p.code = code
	p.ResponseWriter.WriteHeader(code)
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (written int, err error) {
	for {
		n := min(len(b), answerStep)
		p.again()
		m, err := p.ResponseWriter.Write(b[:n]) //nolint:gosec // of no type that a browser takes for a page
		written += m
		if b = b[n:]; err != nil || len(b) == 0 {
			return written, err
		}
	}
}

// copyOf serves what a call streams as the body of an answer. One that fails on the way ends the connection, so that
// the client does not take what it has for the whole.
func (g *gateway) copyOf(w http.ResponseWriter, r *http.Request, rt route) {
	ctx, cancel := context.WithCancel(g.context(r, rt))
	defer cancel()
	next, err := g.open(ctx, r, rt)
	var chunk []byte
	if err == nil {
		chunk, err = next()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		g.fail(ctx, nil, nil, w, r, err)
		return
	}
	w.Header().Set("Content-Type", rt.media)
	w.Header().Set("Cache-Control", "no-store")
	for ; err == nil; chunk, err = next() {
		if _, err := w.Write(chunk); err != nil {
			return // the client has gone
		}
	}
	if !errors.Is(err, io.EOF) {
		g.logger.ErrorContext(ctx, "an answer was not finished", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // how net/http ends a connection
	}
}

// open begins the call of a streaming route, and gives what gives its pieces.
func (g *gateway) open(ctx context.Context, r *http.Request, rt route) (next func() ([]byte, error), err error) {
	if rt.path == "/backup" {
		s, err := g.copies.Backup(ctx, &apiv1.BackupRequest{})
		if err != nil {
			return nil, err
		}
		return func() ([]byte, error) { m, err := s.Recv(); return m.GetChunk(), err }, nil
	}
	s, err := g.copies.Export(ctx, &apiv1.ExportRequest{Secrets: r.URL.Query().Get("secrets")})
	if err != nil {
		return nil, err
	}
	return func() ([]byte, error) { m, err := s.Recv(); return m.GetChunk(), err }, nil
}
