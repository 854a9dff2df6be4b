package gateway

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Conn is a client connection to services of the same process: calls run the services' own handlers behind the
// same interceptors as on a server, on the caller's goroutine, and no frame is encoded. Register the services
// before the first call; from then on it is safe for concurrent use.
//
// Messages are not copied deep: a request's and a response's bytes, lists and maps are shared, so neither side
// may change what it was given.
type Conn struct {
	interceptor grpc.UnaryServerInterceptor
	// streaming is the interceptor of calls that answer with a stream; nil: none.
	streaming grpc.StreamServerInterceptor
	methods   map[string]method
	streams   map[string]stream
}

type method struct {
	impl any
	desc grpc.MethodDesc
}

var (
	_ grpc.ClientConnInterface = (*Conn)(nil)
	_ grpc.ServiceRegistrar    = (*Conn)(nil)
)

// NewConn makes a connection whose calls pass the interceptors, the first one outermost.
func NewConn(interceptors ...grpc.UnaryServerInterceptor) *Conn {
	return &Conn{interceptor: chain(interceptors), methods: map[string]method{}, streams: map[string]stream{}}
}

// InterceptStreams has the calls that answer with a stream pass interceptors, the first one outermost. To be called
// before the first call.
func (c *Conn) InterceptStreams(interceptors ...grpc.StreamServerInterceptor) {
	c.streaming = chainStreams(interceptors)
}

func chainStreams(is []grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	if len(is) == 0 {
		return nil
	}
	first, rest := is[0], chainStreams(is[1:])
	if rest == nil {
		return first
	}
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return first(srv, s, info, func(srv any, s grpc.ServerStream) error { return rest(srv, s, info, handler) })
	}
}

func chain(is []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	if len(is) == 0 {
		return nil
	}
	first, rest := is[0], chain(is[1:])
	if rest == nil {
		return first
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return first(ctx, req, info, func(ctx context.Context, req any) (any, error) {
			return rest(ctx, req, info, handler)
		})
	}
}

// RegisterService implements grpc.ServiceRegistrar.
func (c *Conn) RegisterService(desc *grpc.ServiceDesc, impl any) {
	for _, m := range desc.Methods {
		c.methods["/"+desc.ServiceName+"/"+m.MethodName] = method{impl, m}
	}
	for _, s := range desc.Streams {
		c.streams["/"+desc.ServiceName+"/"+s.StreamName] = stream{impl, s}
	}
}

// Invoke implements grpc.ClientConnInterface. The outgoing metadata of ctx is what the handler gets as incoming
// metadata; the values of ctx reach it as they are, among them the identity of the caller.
func (c *Conn) Invoke(ctx context.Context, name string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := c.methods[name]
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown method %s", name)
	}
	in, ok := args.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", name, args)
	}
	out, ok := reply.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", name, reply)
	}
	stream := &transport{method: name}
	ctx = serverContext(ctx, stream)
	decode := func(v any) error {
		dst, ok := v.(proto.Message)
		if !ok {
			return fmt.Errorf("%s: a %T is no message", name, v)
		}
		return share(dst, in)
	}
	res, err := m.desc.Handler(m.impl, ctx, decode, c.interceptor)
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = stream.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = stream.trailer
		}
	}
	if err != nil {
		return status.Convert(contextError(err)).Err()
	}
	src, ok := res.(proto.Message)
	if !ok {
		return status.Errorf(codes.Internal, "%s: a %T is no message", name, res)
	}
	return share(out, src)
}

// serverContext turns a client's context into a handler's.
func serverContext(ctx context.Context, s *transport) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	ctx = metadata.NewOutgoingContext(ctx, nil)
	ctx = metadata.NewIncomingContext(ctx, md)
	return grpc.NewContextWithServerTransportStream(ctx, s)
}

// contextError gives a context's end the code that a gRPC server gives it.
func contextError(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.FromContextError(err).Err()
}

// share sets the fields of dst to those of src.
func share(dst, src proto.Message) error {
	d, s := dst.ProtoReflect(), src.ProtoReflect()
	if d.Descriptor() != s.Descriptor() {
		return fmt.Errorf("a %s where a %s belongs", s.Descriptor().FullName(), d.Descriptor().FullName())
	}
	s.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		d.Set(f, v)
		return true
	})
	return nil
}

// transport collects the headers that a handler sets.
type transport struct {
	method          string
	header, trailer metadata.MD
}

func (t *transport) Method() string { return t.method }

func (t *transport) SetHeader(md metadata.MD) error {
	t.header = metadata.Join(t.header, md)
	return nil
}

func (t *transport) SendHeader(md metadata.MD) error { return t.SetHeader(md) }

func (t *transport) SetTrailer(md metadata.MD) error {
	t.trailer = metadata.Join(t.trailer, md)
	return nil
}
