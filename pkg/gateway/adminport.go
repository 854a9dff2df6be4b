package gateway

import (
	"errors"
	"net/http"
	"strings"
)

// AdminPort makes a handler with what the documents of 0.3 to 0.6 have on a port of its own for administrators:
// tokens, which need a name there, secrets, and the certificates of provided CAs. It shares all else with api, which
// New must have made.
func AdminPort(api http.Handler) (http.Handler, error) {
	g, ok := api.(*gateway)
	if !ok {
		return nil, errors.New("gateway: the API's own handler is needed for the admin port")
	}
	port := *g
	port.adminPort = true
	return &port, nil
}

// onAdminPort says whether a route is served there.
func (r route) onAdminPort() bool {
	switch p := strings.TrimPrefix(r.pattern, "/meshes/{mesh}"); p {
	case "/tokens", "/secrets", "/secrets/{name}", "/ca/provided/certificates", "/ca/provided/certificates/{name}":
		return true
	}
	return false
}
