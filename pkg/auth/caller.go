package auth

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Caller is what a connection says about who is behind it. It is trusted because the server that accepted the
// connection filled it in; nothing of it comes from a message.
type Caller struct {
	Remote netip.AddrPort
	// TLS tells whether the connection was encrypted.
	TLS bool
	// Certificate is the client's certificate if it was verified against the trusted client CAs, else nil.
	Certificate *x509.Certificate
	// Host and Origin are the headers of these names; a browser sets them, and a page can't forge them.
	Host, Origin string
	// Authorization are the values of the header of this name, as they came.
	Authorization []string
	// User is whose token Authorization holds; nil until a UserAuthenticator has verified it.
	User *UserToken
	// Request is the id by which the call is found in the log output.
	Request string
}

type callerKey struct{}

// WithCaller gives a context that carries the caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom gives the caller that WithCaller put in.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// CallerOf gives the caller of an HTTP request that a server of ours accepted.
func CallerOf(r *http.Request) Caller {
	c := Caller{
		Host: r.Host, Origin: r.Header.Get("Origin"), Authorization: r.Header.Values("Authorization"), Request: r.Header.Get("X-Request-Id"),
	}
	// An address that can't be parsed stays the zero one, which is nobody's.
	c.Remote, _ = netip.ParseAddrPort(r.RemoteAddr)
	if r.TLS != nil {
		c.TLS = true
		c.Certificate = verifiedLeaf(r.TLS.VerifiedChains)
	}
	return c
}

// CallerOfPeer gives the caller of a gRPC call that came over the network.
func CallerOfPeer(ctx context.Context) Caller {
	var c Caller
	p, ok := peer.FromContext(ctx)
	if !ok {
		return c
	}
	if a, ok := p.Addr.(*net.TCPAddr); ok {
		c.Remote = a.AddrPort()
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		c.TLS = true
		c.Certificate = verifiedLeaf(info.State.VerifiedChains)
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		c.Host = first(md.Get(":authority"))
		c.Origin = first(md.Get("origin"))
		c.Authorization = md.Get("authorization")
		c.Request = first(md.Get("x-request-id"))
	}
	return c
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func verifiedLeaf(chains [][]*x509.Certificate) *x509.Certificate {
	if len(chains) == 0 || len(chains[0]) == 0 {
		return nil
	}
	return chains[0][0]
}

// AdminPolicy decides what a caller may do.
type AdminPolicy struct {
	// AllowFromLocalhost makes whoever calls from this machine an admin.
	AllowFromLocalhost bool
	// AllowRemoteWrites lets anyone write over plain HTTP who can reach the port.
	AllowRemoteWrites bool
}

// Admin tells whether the caller may read and write secrets and have tokens made. A user token, where there is
// one, is all that counts.
func (p AdminPolicy) Admin(c Caller) bool {
	if c.User != nil {
		return c.User.Role == RoleAdmin
	}
	return c.Certificate != nil || p.AllowFromLocalhost && c.local()
}

// MayWrite tells whether the caller may change what is no secret.
func (p AdminPolicy) MayWrite(c Caller) bool {
	if c.User != nil {
		return c.User.Role == RoleAdmin || c.User.Role == RoleWriter
	}
	return p.Admin(c) || p.AllowRemoteWrites && !c.TLS
}

// local tells whether the caller is a program of this machine that meant us. The address alone does not say
// so: a page in a local browser calls from loopback too, under a foreign origin, or under a name of its own
// that it had resolved to loopback.
func (c Caller) local() bool {
	return c.loopback() && localHost(c.Host) && c.sameOrigin()
}

// loopback tells whether the connection comes from this machine's own address.
func (c Caller) loopback() bool {
	switch c.Remote.Addr().Unmap() {
	case netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback():
		return true
	}
	return false
}

// Subject names the caller in an audit line, by the strongest thing that it showed.
func (c Caller) Subject() string {
	switch {
	case c.User != nil:
		return "user " + c.User.Name + " (token " + c.User.ID + ")"
	case c.Certificate != nil:
		return "certificate " + c.Certificate.Subject.String()
	case c.local():
		return "loopback " + c.Remote.Addr().Unmap().String()
	default:
		return "address " + c.Remote.Addr().Unmap().String()
	}
}

func localHost(hostport string) bool {
	host := hostport
	if h, port, err := net.SplitHostPort(hostport); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		host = h
		if strings.HasPrefix(hostport, "[") {
			host = "[" + h + "]"
		}
	}
	switch strings.ToLower(host) {
	case "localhost", "127.0.0.1", "[::1]":
		return true
	}
	return false
}

func (c Caller) sameOrigin() bool {
	if c.Origin == "" {
		return true
	}
	u, err := url.Parse(c.Origin)
	if err != nil {
		return false
	}
	scheme := "http"
	if c.TLS {
		scheme = "https"
	}
	return u.Scheme == scheme && strings.EqualFold(u.Host, c.Host)
}
