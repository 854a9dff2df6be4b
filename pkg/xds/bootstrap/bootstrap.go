// Package bootstrap answers the first question of a proxy: with what configuration to start Envoy.
package bootstrap

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Leaver takes a proxy's leave: *xds.Server.
type Leaver interface {
	Goodbye(ctx context.Context, proxy resource.Key) error
}

// Options are what the handler needs. All are required but those that say otherwise.
type Options struct {
	Store store.Store
	Table *resource.Table
	// Zone is the name of the own zone.
	Zone          string
	Authenticator xds.Authenticator
	Leaver        Leaver
	Logger        *slog.Logger
	// CA gives what the proxies verify the control plane by where their request brings no caCert: PEM.
	CA func() []byte
	// RequireToken refuses a bootstrap without a token (dpServer.auth.type is not none).
	RequireToken bool
	// ServerNames says whether the server's certificate holds for a host name or IP; nil: for any.
	ServerNames func(host string) bool
	// XDSHost and XDSPort, if set, are what proxies dial in place of the request's Host.
	XDSHost string
	XDSPort uint32
	// AdminAddress is where Envoy's admin listens (default 127.0.0.1).
	AdminAddress string
	// NodeMetadata limits the size of an inline dataplane in bytes (default 256 KiB).
	NodeMetadata int
	// Body limits the size of a request in bytes (default 1 MiB).
	Body int64
}

// Request is the body of a bootstrap request.
type Request struct {
	Mesh               string            `json:"mesh"`
	Name               string            `json:"name"`
	AdminPort          uint32            `json:"adminPort,omitempty"`
	DataplaneToken     string            `json:"dataplaneToken,omitempty"`
	DataplaneTokenPath string            `json:"dataplaneTokenPath,omitempty"`
	DataplaneResource  string            `json:"dataplaneResource,omitempty"`
	Version            Version           `json:"version"`
	CACert             string            `json:"caCert,omitempty"`
	DynamicMetadata    map[string]string `json:"dynamicMetadata,omitempty"`
	BootstrapVersion   string            `json:"bootstrapVersion,omitempty"`
	DNSPort            uint32            `json:"dnsPort,omitempty"`
	EmptyDNSPort       uint32            `json:"emptyDnsPort,omitempty"`
}

// Version is what the proxy's programs say of themselves.
type Version struct {
	KumaDp DataplaneVersion `json:"kumaDp"`
	Envoy  EnvoyVersion     `json:"envoy"`
}

// DataplaneVersion is the version of the program that runs Envoy.
type DataplaneVersion struct {
	Version   string `json:"version"`
	GitTag    string `json:"gitTag"`
	GitCommit string `json:"gitCommit"`
	BuildDate string `json:"buildDate"`
}

// EnvoyVersion is the version of Envoy.
type EnvoyVersion struct {
	Version string `json:"version"`
	Build   string `json:"build"`
}

// Goodbye is the body of a goodbye. The token may also come as the Authorization header.
type Goodbye struct {
	Mesh           string `json:"mesh"`
	Name           string `json:"name"`
	DataplaneToken string `json:"dataplaneToken,omitempty"`
}

// refusal is an answer that is none of 200.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code: code, text: fmt.Sprintf(format, args...)}
}

type handler struct{ o Options }

// Handler serves /bootstrap and /goodbye. It is safe for concurrent use.
//
// A bootstrap is refused with 400 (the request can't be read, or its Host is not the server's), 403 (the token is
// not this proxy's), 404 (mesh or dataplane are not there, or not yet), 413 and 422 (a field is wrong, and named).
func Handler(o Options) http.Handler {
	if o.AdminAddress == "" {
		o.AdminAddress = "127.0.0.1"
	}
	o.NodeMetadata, o.Body = cmp.Or(o.NodeMetadata, 256<<10), cmp.Or(o.Body, 1<<20)
	h := &handler{o: o}
	mux := http.NewServeMux()
	mux.HandleFunc("/bootstrap", h.answer(h.bootstrap))
	mux.HandleFunc("POST /goodbye", h.answer(h.goodbye))
	return mux
}

// answer turns errors into answers.
func (h *handler) answer(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, h.o.Body)
		err := f(w, r)
		if err == nil {
			return
		}
		var no *refusal
		if !errors.As(err, &no) {
			h.o.Logger.Error("a bootstrap request failed", "path", r.URL.Path, "error", err)
			no = &refusal{code: http.StatusInternalServerError, text: "internal error"}
		} else {
			h.o.Logger.Info("a bootstrap request was refused", "path", r.URL.Path, "remote", r.RemoteAddr, "reason", no.text)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(no.code)
		_, _ = io.WriteString(w, no.text+"\n")
	}
}

// read decodes a JSON body.
func read(r *http.Request, into any) error {
	body, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return refuse(http.StatusRequestEntityTooLarge, "body: larger than %d bytes (limits.bodyBytes)", large.Limit)
	case err != nil:
		return refuse(http.StatusBadRequest, "body: %v", err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return refuse(http.StatusBadRequest, "body: not a request in JSON: %v", err)
	}
	return nil
}

func (h *handler) bootstrap(w http.ResponseWriter, r *http.Request) error {
	var req Request
	if err := read(r, &req); err != nil {
		return err
	}
	host, port, err := h.server(r.Host)
	if err != nil {
		return err
	}
	answer, err := h.make(r.Context(), &req, host, port)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/x-yaml")
	w.Header().Set("Kuma-Bootstrap-Version", "3")
	_, _ = w.Write(answer) //nolint:gosec // YAML, and so it says
	return nil
}

// server is where the proxy will find the control plane: where it has found it now.
func (h *handler) server(from string) (host string, port uint32, err error) {
	host, text, err := net.SplitHostPort(from)
	if err != nil && (h.o.XDSHost == "" || h.o.XDSPort == 0) {
		return "", 0, refuse(http.StatusBadRequest, "Host: %.100q has no port", from)
	}
	if h.o.XDSHost != "" {
		host = h.o.XDSHost
	} else if h.o.ServerNames != nil && !h.o.ServerNames(host) {
		return "", 0, refuse(http.StatusBadRequest, "Host: the control plane's certificate does not hold for %.100q", host)
	}
	if h.o.XDSPort != 0 {
		return host, h.o.XDSPort, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, refuse(http.StatusBadRequest, "Host: %.100q has no valid port", from)
	}
	return host, uint32(n), nil
}

// make checks a request and gives the configuration.
func (h *handler) make(ctx context.Context, req *Request, host string, port uint32) ([]byte, error) {
	if err := h.check(req); err != nil {
		return nil, err
	}
	key := resource.Key{Kind: resource.KindDataplane, Scope: req.Mesh, Name: req.Name}
	dp, err := h.dataplane(key, req.DataplaneResource)
	if err != nil {
		return nil, err
	}
	if req.AdminPort != 0 {
		for i, in := range dp.GetNetworking().GetInbound() {
			if in.GetPort() == req.AdminPort {
				return nil, refuse(http.StatusUnprocessableEntity, "adminPort: %d is the port of networking.inbound[%d]", req.AdminPort, i)
			}
		}
		for i, out := range dp.GetNetworking().GetOutbound() {
			if out.GetPort() == req.AdminPort {
				return nil, refuse(http.StatusUnprocessableEntity, "adminPort: %d is the port of networking.outbound[%d]", req.AdminPort, i)
			}
		}
	}
	if req.DataplaneTokenPath == "" { // else the control plane sees the token on the stream only
		if err := h.authenticate(ctx, req.DataplaneToken, key, dp); err != nil {
			return nil, err
		}
	}
	inline := ""
	if req.DataplaneResource != "" {
		if inline, err = h.encode(key, dp); err != nil {
			return nil, err
		}
	}
	ca := h.o.CA()
	if req.CACert != "" {
		ca = []byte(req.CACert)
	}
	cluster := req.Name // of an ingress, which may name no service
	if services := resource.DataplaneTags(dp)[resource.TagService]; len(services) > 0 {
		cluster = services[0]
	}
	c := config{
		request: req, host: host, port: port, ca: ca, admin: h.o.AdminAddress, inline: inline, cluster: cluster,
	}
	return c.render()
}

// check looks at what does not depend on the dataplane.
func (h *handler) check(req *Request) error {
	wrong := func(format string, args ...any) error {
		return refuse(http.StatusUnprocessableEntity, format, args...)
	}
	switch {
	case req.BootstrapVersion != "" && req.BootstrapVersion != "3":
		return refuse(http.StatusBadRequest, "bootstrapVersion: %.20q is not served, only 3 is", req.BootstrapVersion)
	case req.Mesh == "":
		return wrong("mesh: must not be empty")
	case req.Name == "":
		return wrong("name: must not be empty")
	case req.DataplaneToken != "" && req.DataplaneTokenPath != "":
		return wrong("dataplaneToken: give either the token or dataplaneTokenPath, not both")
	case h.o.RequireToken && req.DataplaneToken == "" && req.DataplaneTokenPath == "":
		return wrong("dataplaneToken: a dataplane token is required; have one made by POST /tokens and give it to the proxy")
	case req.AdminPort > 65535:
		return wrong("adminPort: must be at most 65535")
	case req.DNSPort > 65535:
		return wrong("dnsPort: must be at most 65535")
	case req.EmptyDNSPort > 65535:
		return wrong("emptyDnsPort: must be at most 65535")
	case len(req.DataplaneResource) > h.o.NodeMetadata:
		return wrong("dataplaneResource: larger than %d bytes (limits.nodeMetadataBytes)", h.o.NodeMetadata)
	}
	if req.CACert != "" {
		if err := checkCA([]byte(req.CACert)); err != nil {
			return refuse(http.StatusBadRequest, "caCert: %v", err)
		}
	}
	return nil
}

// dataplane is what the request brings, or what was registered.
func (h *handler) dataplane(k resource.Key, inline string) (*meshv1.Dataplane, error) {
	view := h.o.Store.Config().View()
	if _, ok := view.Get(resource.Key{Kind: resource.KindMesh, Name: k.Scope}); !ok {
		return nil, refuse(http.StatusNotFound, "mesh %.100q does not exist", k.Scope)
	}
	if inline != "" {
		dp, err := xds.DecodeInline(h.o.Table, h.o.Zone, k, []byte(inline))
		if err != nil {
			return nil, refuse(http.StatusUnprocessableEntity, "dataplaneResource: %v", err)
		}
		return dp, nil
	}
	o, ok := view.Get(k)
	if !ok || o.Origin != resource.Local {
		return nil, refuse(http.StatusNotFound, "dataplane %.100q does not exist in mesh %.100q", k.Name, k.Scope)
	}
	return resource.Decode[meshv1.Dataplane](o)
}

func (h *handler) authenticate(ctx context.Context, token string, k resource.Key, dp *meshv1.Dataplane) error {
	_, err := h.o.Authenticator.AuthenticateProxy(ctx, token, k, resource.DataplaneTags(dp), dp.GetNetworking().GetIngress() != nil)
	if err != nil {
		return refuse(http.StatusForbidden, "authentication failed: %v", err)
	}
	return nil
}

// encode gives a dataplane as the JSON that goes into the node's metadata.
func (h *handler) encode(k resource.Key, dp *meshv1.Dataplane) (string, error) {
	d, ok := h.o.Table.ByKind(resource.KindDataplane)
	if !ok {
		return "", resource.ErrUnknownKind
	}
	spec, err := resource.Encode(dp)
	if err != nil {
		return "", err
	}
	body, err := resource.EncodeJSON(d, &resource.Object{Key: k, Spec: spec})
	if err != nil {
		return "", err
	}
	var small bytes.Buffer
	if err := json.Compact(&small, body); err != nil {
		return "", err
	}
	return small.String(), nil
}

func (h *handler) goodbye(w http.ResponseWriter, r *http.Request) error {
	var req Goodbye
	if err := read(r, &req); err != nil {
		return err
	}
	switch {
	case req.Mesh == "":
		return refuse(http.StatusUnprocessableEntity, "mesh: must not be empty")
	case req.Name == "":
		return refuse(http.StatusUnprocessableEntity, "name: must not be empty")
	}
	token := req.DataplaneToken
	if t := r.Header.Get("Authorization"); token == "" {
		token = strings.TrimPrefix(t, "Bearer ")
	}
	if h.o.RequireToken && token == "" {
		return refuse(http.StatusUnprocessableEntity, "dataplaneToken: a dataplane token is required")
	}
	k := resource.Key{Kind: resource.KindDataplane, Scope: req.Mesh, Name: req.Name}
	dp, err := h.dataplane(k, "")
	if err != nil {
		return err
	}
	if err := h.authenticate(r.Context(), token, k, dp); err != nil {
		return err
	}
	if err := h.o.Leaver.Goodbye(r.Context(), k); err != nil {
		return refuse(http.StatusServiceUnavailable, "%v", err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
