package listen

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
)

// Split lets one TLS port serve gRPC and HTTP: a client that offers nothing but "h2" is a gRPC client (Envoy
// by our bootstrap, every gRPC library); any other gets HTTP/1.1. The gRPC server accepts the connections and
// does the handshakes, each in a goroutine of its own and under its connection timeout; what is not gRPC is
// handed to the HTTP listener.
type Split struct {
	config *tls.Config
	addr   net.Addr

	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

var (
	_ credentials.TransportCredentials = (*Split)(nil)
	_ net.Listener                     = (*Split)(nil)
)

// NewSplit makes the credentials for the gRPC server of a port, which are at the same time the listener of
// its HTTP server. The configuration's GetConfigForClient, if it has one, gives that of each handshake; it should give the
// same one for as long as nothing has changed.
func NewSplit(addr net.Addr, config *tls.Config) *Split {
	s := &Split{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	var last atomic.Pointer[protocols]
	last.Store(newProtocols(config))
	s.config = config.Clone()
	s.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		now := last.Load()
		if config.GetConfigForClient != nil {
			c, err := config.GetConfigForClient(hello)
			if err != nil {
				return nil, err
			}
			if c != nil && c != now.of {
				now = newProtocols(c)
				last.Store(now)
			}
		}
		if slices.Contains(hello.SupportedProtos, "h2") && !slices.Contains(hello.SupportedProtos, "http/1.1") {
			return now.grpc, nil
		}
		return now.http, nil
	}
	return s
}

// protocols are two forms of one configuration.
type protocols struct{ of, http, grpc *tls.Config }

func newProtocols(c *tls.Config) *protocols {
	p := &protocols{c, c.Clone(), c.Clone()}
	p.http.NextProtos, p.grpc.NextProtos = []string{"http/1.1"}, []string{"h2"}
	return p
}

// ServerHandshake implements credentials.TransportCredentials.
func (s *Split) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(raw, s.config)
	if err := conn.Handshake(); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol == "h2" {
		return conn, credentials.TLSInfo{
			State:          state,
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}, nil
	}
	select {
	case s.conns <- conn:
	case <-s.done:
		_ = conn.Close()
	}
	return nil, nil, credentials.ErrConnDispatched
}

// ClientHandshake implements credentials.TransportCredentials; a Split is for servers only.
func (s *Split) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, net.ErrClosed
}

// Info implements credentials.TransportCredentials.
func (s *Split) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (s *Split) Clone() credentials.TransportCredentials { return s }

// OverrideServerName implements credentials.TransportCredentials; it has no meaning for a server.
func (s *Split) OverrideServerName(string) error { return nil }

// Accept implements net.Listener: the connections that are not gRPC.
func (s *Split) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The port itself belongs to the gRPC server.
func (s *Split) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// Addr implements net.Listener.
func (s *Split) Addr() net.Addr { return s.addr }
