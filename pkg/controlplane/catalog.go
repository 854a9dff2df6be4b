package controlplane

import (
	"cmp"
	"net"
	"net/http"
	"strconv"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/gateway"
)

// ServeAdminPort adds the port that administrators have in the documents of 0.3 to 0.6, where it is wanted. To be
// called after ServeAPI.
func (b *Base) ServeAdminPort(c config.AdminServer) error {
	if !c.Local.Enabled {
		return nil
	}
	handler, err := gateway.AdminPort(b.handler)
	if err != nil {
		return err
	}
	l, err := b.Set.TCP("admin", "adminServer.local.port", "127.0.0.1", c.Local.Port)
	if err != nil {
		return err
	}
	b.Set.HTTP("admin", l, b.HTTPServer(handler))
	return nil
}

// BesideHTTPS serves a path on the API's TLS port in place of the API. To be called before Run.
func (b *Base) BesideHTTPS(path string, h http.Handler) {
	if b.beside == nil {
		b.beside = map[string]http.Handler{}
	}
	b.beside[path] = h
}

// withBeside is the handler of the API's TLS port.
func (b *Base) withBeside(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if other, ok := b.beside[r.URL.Path]; ok {
			other.ServeHTTP(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// catalog gives the URLs of the ports that are open, to a caller who knows this machine by host. Administrators of the
// same machine are sent to the plain API where there is no admin port: it serves the same.
func (b *Base) catalog(host string) api.Catalog {
	local := cmp.Or(b.loopback("admin"), b.loopback("http"))
	remote := b.url("https", "https", host)
	return api.Catalog{
		Bootstrap:   b.url("https", "dpServer", host),
		TokensLocal: local, TokensPublic: remote,
		AdminLocal: local, AdminPublic: remote,
	}
}

// url is the base of a port for a caller who has called this machine by host; "" if it is not open, or no name of it is
// known.
func (b *Base) url(scheme, name, host string) string {
	at, ok := b.Set.Addr(name).(*net.TCPAddr)
	if !ok {
		return ""
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = cmp.Or(b.advertised, host)
	if !at.IP.IsUnspecified() {
		host = at.IP.String()
	}
	if host == "" {
		return ""
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(at.Port))
}

// loopback is the base of a plain port for callers of this machine.
func (b *Base) loopback(name string) string {
	at, ok := b.Set.Addr(name).(*net.TCPAddr)
	if !ok || !at.IP.IsUnspecified() && !at.IP.IsLoopback() {
		return ""
	}
	return "http://" + net.JoinHostPort("localhost", strconv.Itoa(at.Port))
}
