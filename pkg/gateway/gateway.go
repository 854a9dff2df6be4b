package gateway

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

const (
	// revisionHeader carries the revision that a write took.
	revisionHeader = "Meridian-Revision"
	// dryRunHeader says that nothing was stored.
	dryRunHeader = "Meridian-Dry-Run"
)

// bodyTime is how long a client may take to send a body, whether it is wanted or not.
const bodyTime = 30 * time.Second

// maxBatches is how many batches are read and written at a time; others wait.
const maxBatches = 4

// Options make a gateway.
type Options struct {
	// Conn leads to the services, as a rule a *Conn.
	Conn grpc.ClientConnInterface
	// Table names the kinds.
	Table *resource.Table
	// Identify gives the context in which a request's call runs. It carries who is calling, as told by the
	// connection and not by the request. Required.
	Identify func(*http.Request) context.Context
	// MayBatch says why a call in such a context may make no batch: its body is not read then. Nil: all are read.
	MayBatch func(context.Context) error
	// CORSAllowedDomains are domains, or regular expressions over whole origins or hosts, whose pages may use
	// the API in a browser; empty: none.
	CORSAllowedDomains []string
	// Limits bound requests and answers.
	Limits Limits
	// Observe is told of each request when it has been answered; nil: nobody is. It must not block.
	Observe func(Answered)
	// Logger gets what went wrong inside; required.
	Logger *slog.Logger
}

type gateway struct {
	table  *resource.Table
	mux    *runtime.ServeMux
	copies apiv1.BackupServiceClient
	// resources takes the calls that do not go through the mux.
	resources apiv1.ResourceServiceClient
	identify  func(*http.Request) context.Context
	origins   origins
	// adminPort says that only the routes of the admin port of older documents are served, as they were.
	adminPort bool
	limits    Limits
	pages     *budget
	// batches has an item for each batch that is being read and written.
	batches  chan struct{}
	mayBatch func(context.Context) error
	observe  func(Answered)
	logger   *slog.Logger
}

// New makes the handler of the whole HTTP API. It is safe for concurrent use, starts no goroutine, and fails
// on a bad entry of CORSAllowedDomains.
func New(o Options) (http.Handler, error) {
	switch {
	case o.Conn == nil, o.Table == nil, o.Identify == nil, o.Logger == nil:
		return nil, errors.New("gateway: Conn, Table, Identify and Logger are required")
	}
	allowed, err := newOrigins(o.CORSAllowedDomains)
	if err != nil {
		return nil, err
	}
	g := &gateway{table: o.Table, copies: apiv1.NewBackupServiceClient(o.Conn), resources: apiv1.NewResourceServiceClient(o.Conn), identify: o.Identify, origins: allowed, observe: o.Observe, logger: o.Logger}
	g.limits = o.Limits.withDefaults()
	g.batches, g.mayBatch = make(chan struct{}, maxBatches), o.MayBatch
	g.pages = &budget{free: g.limits.AnswerBytes}
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{}),
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptReserved),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithIncomingHeaderMatcher(incoming),
		runtime.WithOutgoingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithForwardResponseOption(finish),
		runtime.WithErrorHandler(g.fail),
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, code int) {
			text(w, code)
		}),
	)
	ctx := context.Background() // the generated functions take one and do not use it
	for _, register := range []func(context.Context, *runtime.ServeMux, grpc.ClientConnInterface) error{
		// The generic patterns first: of two that match, the later one wins.
		func(ctx context.Context, m *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return apiv1.RegisterResourceServiceHandlerClient(ctx, m, apiv1.NewResourceServiceClient(c))
		},
		func(ctx context.Context, m *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return apiv1.RegisterInspectServiceHandlerClient(ctx, m, apiv1.NewInspectServiceClient(c))
		},
		func(ctx context.Context, m *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return apiv1.RegisterControlPlaneServiceHandlerClient(ctx, m, apiv1.NewControlPlaneServiceClient(c))
		},
		func(ctx context.Context, m *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return apiv1.RegisterTokenServiceHandlerClient(ctx, m, apiv1.NewTokenServiceClient(c))
		},
		func(ctx context.Context, m *runtime.ServeMux, c grpc.ClientConnInterface) error {
			return apiv1.RegisterProvidedCAServiceHandlerClient(ctx, m, apiv1.NewProvidedCAServiceClient(c))
		},
	} {
		if err := register(ctx, g.mux, o.Conn); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	return g, nil
}

// ServeHTTP implements http.Handler.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := newPatient(w)
	if g.observe == nil {
		g.serve(p, r)
		return
	}
	began := time.Now()
	defer func() {
		g.observe(Answered{Method: methodLabel(r.Method), Route: p.route, Code: p.code, Took: time.Since(began)})
	}()
	g.serve(p, r)
}

// serve decides what the generated mux can't: whether the path, the method and the media types are ours.
func (g *gateway) serve(w *patient, r *http.Request) {
	connection := http.NewResponseController(w)
	id := RequestID(r.Header.Get(requestHeader))
	// The one id is what all that follows sees of it, Identify included.
	r.Header.Set(requestHeader, id)
	w.Header().Set(requestHeader, id)
	if r.Body != nil && r.Body != http.NoBody {
		// Without a deadline (not every ResponseWriter has one) the body is still bounded in size.
		_ = connection.SetReadDeadline(time.Now().Add(bodyTime))
	}
	route, segments, ok := g.find(w, r)
	if !ok {
		return
	}
	if mayWatch(r) && g.watch(w, r, route, segments) {
		return
	}
	if misdirected(w, r, route) {
		return
	}
	if route.path == "/openapi.yaml" {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(openAPI)
		return
	}
	if route.media != "" {
		g.copyOf(w, r, route)
		return
	}
	if !route.text && !accepts(r.Header.Values("Accept"), "application/json") {
		text(w, http.StatusNotAcceptable)
		return
	}
	var body []byte
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		if route.body == batchBody {
			if !g.enter(w, r, route) {
				return
			}
			defer func() { <-g.batches }()
			_ = connection.SetReadDeadline(time.Now().Add(bodyTime))
		}
		var err error
		if body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, g.limits.of(route.body))); err != nil {
			g.unreadable(w, route, err)
			return
		}
		// From here on the server watches the connection only to see whether the client has gone.
		_ = connection.SetReadDeadline(time.Time{})
	}
	if route.item != nil {
		g.item(w, r, route, body)
		return
	}
	in := g.inner(r, route, body)
	if route.lists() {
		n := g.pages.take(g.limits.PageBytes)
		defer g.pages.give(n)
		in.Header.Set(pageBytesHeader, strconv.Itoa(n))
	}
	g.mux.ServeHTTP(w, in)
}

// find gives what a request's path leads to, and its unescaped segments; false: it leads nowhere, or takes no such
// method, and is answered.
func (g *gateway) find(w *patient, r *http.Request) (route, []string, bool) {
	escaped := r.URL.EscapedPath()
	if clean := collapse(escaped); clean != escaped {
		redirect(w, r, clean)
		return route{}, nil, false
	}
	g.origins.headers(w, r)
	segments, ok := split(escaped)
	var to route
	if ok {
		to, ok = resolve(g.table, segments)
	}
	if !ok || g.adminPort && !to.onAdminPort() {
		text(w, http.StatusNotFound)
		return route{}, nil, false
	}
	w.route = to.pattern
	if g.origins.preflight(w, r, to) {
		return route{}, nil, false
	}
	if !to.takes(r.Method) {
		w.Header().Set("Allow", to.allow)
		text(w, http.StatusMethodNotAllowed)
		return route{}, nil, false
	}
	return to, segments, true
}

// enter waits until one more batch may be read. They are large: only some are held at a time, and none for those who
// would be refused anyhow. false: it is answered; else it leaves batches in the end.
func (g *gateway) enter(w *patient, r *http.Request, rt route) bool {
	if g.mayBatch != nil {
		ctx := g.context(r, rt)
		if err := g.mayBatch(ctx); err != nil {
			g.fail(ctx, nil, nil, w, r, err)
			return false
		}
	}
	select {
	case g.batches <- struct{}{}:
		return true
	case <-r.Context().Done():
		text(w, http.StatusServiceUnavailable)
		return false
	}
}

// context is that of a request's call: it knows who calls, and what the answer needs.
func (g *gateway) context(r *http.Request, rt route) context.Context {
	return context.WithValue(g.identify(r), requestKey{}, &request{Request: r, route: rt})
}

// direct is context for a call past the generated mux, which else makes metadata of headers.
func (g *gateway) direct(r *http.Request, rt route) context.Context {
	ctx := g.context(r, rt)
	if md := metadataOf(r.Header); len(md) > 0 {
		return metadata.NewOutgoingContext(ctx, md)
	}
	return ctx
}

// inner is the request that the generated mux sees: nothing of the client's that is not named here.
func (g *gateway) inner(r *http.Request, route route, body []byte) *http.Request {
	in := (&http.Request{
		Method: r.Method, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: http.Header{}, Host: r.Host, RemoteAddr: r.RemoteAddr, TLS: r.TLS,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}).WithContext(g.context(r, route))
	path, _ := url.PathUnescape(route.path)
	in.URL = &url.URL{Path: path, RawPath: route.path, RawQuery: route.pick(r.URL.Query()).Encode()}
	if g.adminPort && route.path == "/tokens" {
		in.URL.RawQuery = "named=true"
	}
	for to, v := range metadataOf(r.Header) {
		in.Header[http.CanonicalHeaderKey(to)] = v
	}
	return in
}

// pick keeps the parameters that a route has. Where one value is wanted the first counts.
func (r route) pick(all url.Values) url.Values {
	out := url.Values{}
	for name := range strings.FieldsSeq(r.query) {
		switch v := all[name]; {
		case len(v) == 0:
		case name == "tag":
			out[name] = v
		default:
			out[name] = v[:1]
		}
	}
	return out
}

// request is what the answer needs to know of the client's request.
type request struct {
	*http.Request
	route route
}

type requestKey struct{}

func requestFrom(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// passed are the headers that become metadata, and the names under which they do. The body's media type goes by
// another name because the mux would choose by it, and complain of one that it can't read.
var passed = map[string]string{ //nolint:gochecknoglobals // never written
	"Content-Type":          "Meridian-Content-Type",
	"Meridian-Min-Revision": "Meridian-Min-Revision",
}

// conditions are the headers with the conditions of a write, which are lists: of one that comes several times all
// count.
var conditions = map[string]string{ //nolint:gochecknoglobals // never written
	"If-Match":      "Meridian-If-Match",
	"If-None-Match": "Meridian-If-None-Match",
}

// metadataOf is the part of a request's headers that the services see; nil if there is none.
func metadataOf(h http.Header) (md metadata.MD) {
	set := func(to, v string) {
		if md == nil {
			md = metadata.MD{}
		}
		md.Set(to, printable(v))
	}
	for from, to := range passed {
		if v := h.Get(from); v != "" {
			set(to, v)
		}
	}
	for from, to := range conditions {
		if v := h.Values(from); len(v) > 0 {
			set(to, cmp.Or(strings.Join(v, ", "), ","))
		}
	}
	return md
}

func incoming(header string) (string, bool) {
	for _, known := range []map[string]string{passed, conditions} {
		for _, to := range known {
			if header == to {
				return strings.ToLower(to), true
			}
		}
	}
	if header == pageBytesHeader {
		return strings.ToLower(header), true
	}
	return "", false
}

// printable is a header's value if metadata can carry it, else something that nobody understands.
func printable(v string) string {
	if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "?"
	}
	return v
}

// redirect sends the client to the same place without the duplicate slashes.
func redirect(w http.ResponseWriter, r *http.Request, escaped string) {
	to := escaped
	if r.URL.RawQuery != "" {
		to += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusMovedPermanently)
}

// finish sets status and headers of a successful answer.
func finish(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	switch m := m.(type) {
	case *apiv1.GetResponse:
		w.Header().Set("ETag", entityTag(m.GetRevision()))
	case *apiv1.PutResponse:
		written(w, m.GetRevision(), m.GetDryRun())
		warn(w, m.GetWarnings())
		if !m.GetDryRun() {
			w.Header().Set("ETag", entityTag(m.GetRevision()))
			w.Header().Del("Content-Type") // there is no body
		}
		if m.GetCreated() {
			w.WriteHeader(http.StatusCreated)
		}
	case *apiv1.DeleteResponse:
		written(w, m.GetRevision(), m.GetDryRun())
		w.Header().Del("Content-Type")
	case *apiv1.BatchResponse:
		written(w, m.GetRevision(), m.GetDryRun())
		warn(w, m.GetWarnings())
	case *apiv1.GenerateSigningKeyResponse:
		w.Header().Set(revisionHeader, m.GetRevision())
	case *apiv1.AddProvidedCertificateResponse:
		if m.GetRevision() > 0 {
			written(w, m.GetRevision(), false)
		}
	case *apiv1.DeleteProvidedCertificateResponse:
		written(w, m.GetRevision(), false)
		w.Header().Del("Content-Type")
	case *apiv1.ListResponse:
		m.Next = nextURL(ctx, m.Next)
	case *apiv1.ListZoneOverviewsResponse:
		m.Next = nextURL(ctx, m.Next)
	case *apiv1.ListDataplaneOverviewsResponse:
		m.Next = nextURL(ctx, m.Next)
	case *apiv1.ListMeshInsightsResponse:
		m.Next = nextURL(ctx, m.Next)
	case *apiv1.ListServiceInsightsResponse:
		m.Next = nextURL(ctx, m.Next)
	case *apiv1.ListRejectionsResponse:
		m.Next = nextURL(ctx, m.Next)
	}
	return nil
}

// written says at which revision a write was done, or, in a dry run, decided.
func written(w http.ResponseWriter, revision uint64, dry bool) {
	w.Header().Set(revisionHeader, strconv.FormatUint(revision, 10))
	if dry {
		w.Header().Set(dryRunHeader, "true")
	}
}

// entityTag names a state of a resource by the revision of its last change.
func entityTag(revision uint64) string { return `"` + strconv.FormatUint(revision, 10) + `"` }

const (
	// maxWarnings and maxWarningBytes bound what one answer says of a body.
	maxWarnings     = 16
	maxWarningBytes = 256
)

// warn says what of a body was read as something else, in the form of RFC 7234, section 5.5.
func warn(w http.ResponseWriter, warnings []string) {
	for i, s := range warnings {
		if i == maxWarnings {
			w.Header().Add("Warning", "299 - "+quoted("more was converted than is listed"))
			return
		}
		w.Header().Add("Warning", "299 - "+quoted(s))
	}
}

// quoted is a text as a quoted string that a header can carry.
func quoted(s string) string {
	if len(s) > maxWarningBytes {
		s = s[:maxWarningBytes-3] + "..."
	}
	out := []byte{'"'}
	for _, c := range []byte(s) {
		switch {
		case c == '"', c == '\\':
			out = append(out, '\\', c)
		case c < ' ' || c > '~':
			out = append(out, '?')
		default:
			out = append(out, c)
		}
	}
	return string(append(out, '"'))
}

// nextURL is the client's own URL with another offset.
func nextURL(ctx context.Context, offset string) string {
	r := requestFrom(ctx)
	if offset == "" || r == nil {
		return ""
	}
	u := url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path, RawPath: r.URL.RawPath}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	q := r.URL.Query()
	q.Set("offset", offset)
	u.RawQuery = q.Encode()
	return u.String()
}

// accepts says whether one of the media ranges admits a media type.
func accepts(accept []string, media string) bool {
	main, _, _ := strings.Cut(media, "/")
	ranges := 0
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		ranges++
		t, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil && q == 0 {
			continue
		}
		switch t {
		case "*/*", main + "/*", media:
			return true
		}
	}
	return ranges == 0
}

//go:generate go run ./openapigen -rules ../../proto/gateway.yaml -out openapi.yaml

//go:embed openapi.yaml
var openAPI []byte
