package auth

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
)

// ServerTLS is what a TLS port shows and whom it lets in by certificate. Both may be replaced while it serves: those who
// are connected already notice nothing. It is safe for concurrent use.
type ServerTLS struct {
	now atomic.Pointer[serverTLS]
}

type serverTLS struct {
	cert *ServerCertificate
	// clientCAs are nil where no client certificates are asked for.
	clientCAs *x509.CertPool
}

// NewServerTLS makes one. With clientCAs a client may show a certificate of its own, and one that they do not verify
// ends the handshake; without, none is asked for, now and later.
func NewServerTLS(cert *ServerCertificate, clientCAs *x509.CertPool) *ServerTLS {
	s := &ServerTLS{}
	s.now.Store(&serverTLS{cert, clientCAs})
	return s
}

// Certificate is the one that is shown now.
func (s *ServerTLS) Certificate() *ServerCertificate { return s.now.Load().cert }

// SetCertificate replaces the certificate.
func (s *ServerTLS) SetCertificate(cert *ServerCertificate) {
	s.change(func(now *serverTLS) { now.cert = cert })
}

// SetClientCAs replaces those that verify the certificates of clients, and says whether they are others than before. It
// has no effect where none are asked for.
func (s *ServerTLS) SetClientCAs(cas *x509.CertPool) (changed bool) {
	s.change(func(now *serverTLS) {
		changed = now.clientCAs != nil && cas != nil && !now.clientCAs.Equal(cas)
		if changed {
			now.clientCAs = cas
		}
	})
	return changed
}

func (s *ServerTLS) change(f func(*serverTLS)) {
	for {
		old := s.now.Load()
		changed := *old
		f(&changed)
		if s.now.CompareAndSwap(old, &changed) {
			return
		}
	}
}

// Config is the configuration of a server of the given protocols. Each handshake goes by what holds when it begins;
// a session that is resumed is verified anew against the client CAs of that time.
func (s *ServerTLS) Config(protocols ...string) *tls.Config {
	type made struct {
		of     *serverTLS
		config *tls.Config
	}
	var last atomic.Pointer[made]
	current := func() *tls.Config {
		now := s.now.Load()
		if m := last.Load(); m != nil && m.of == now {
			return m.config
		}
		m := &made{now, now.cert.TLS(now.clientCAs)}
		m.config.NextProtos = protocols
		last.Store(m)
		return m.config
	}
	outer := current().Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current(), nil }
	return outer
}
