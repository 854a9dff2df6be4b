package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// marshaler writes the bodies of answers and hands those of requests on as they are.
type marshaler struct{}

var _ runtime.Marshaler = marshaler{}

// ContentType implements runtime.Marshaler.
func (marshaler) ContentType(v any) string {
	switch v.(type) {
	case *apiv1.IssueDataplaneTokenResponse, *apiv1.IssueZoneTokenResponse, *apiv1.IssueUserTokenResponse:
		return "text/plain"
	}
	return "application/json"
}

// Marshal implements runtime.Marshaler: one-space indent, a newline at the end, no escapes for HTML.
func (marshaler) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case *apiv1.PutResponse:
		if v.GetDryRun() {
			return line(v.GetJson()), nil
		}
		return nil, nil
	case *apiv1.DeleteResponse, *apiv1.DeleteProvidedCertificateResponse:
		return nil, nil
	case *apiv1.AddProvidedCertificateResponse:
		b, err := indented(v.GetCertificate())
		return line(b), err
	case *apiv1.ListProvidedCertificatesResponse:
		return rows(v.GetCertificates())
	case *apiv1.BatchResponse:
		b, err := plainJSON(batchBodyOf(v))
		return line(b), err
	case interface{ GetToken() string }:
		return []byte(v.GetToken()), nil
	case interface{ GetJson() []byte }:
		return line(v.GetJson()), nil
	case *apiv1.ListRejectionsResponse:
		items := make([][]byte, len(v.GetItems()))
		for i, m := range v.GetItems() {
			var err error
			if items[i], err = indented(m); err != nil {
				return nil, err
			}
		}
		return list(v.GetTotal(), items, v.GetNext())
	case page:
		return list(v.GetTotal(), v.GetItems(), v.GetNext())
	case *apiv1.ListZoneStatusResponse:
		return rows(v.GetZones())
	case proto.Message:
		b, err := indented(v)
		return line(b), err
	}
	return nil, fmt.Errorf("no JSON for a %T", v)
}

// rows is a list without a page around it.
func rows[M proto.Message](list []M) ([]byte, error) {
	out := make([][]byte, len(list))
	for i, m := range list {
		var err error
		if out[i], err = indented(m); err != nil {
			return nil, err
		}
	}
	return line(array(nil, out, "")), nil
}

// Unmarshal implements runtime.Marshaler.
func (m marshaler) Unmarshal(data []byte, v any) error {
	return m.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// NewDecoder implements runtime.Marshaler. All bodies are fields of bytes.
func (marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		dst, ok := v.(*[]byte)
		if !ok {
			return fmt.Errorf("no body for a %T", v)
		}
		var err error
		*dst, err = io.ReadAll(r)
		return err
	})
}

// NewEncoder implements runtime.Marshaler.
func (m marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		b, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
}

// batchAnswer is the body of the answer to a batch.
type batchAnswer struct {
	Revision string        `json:"revision"`
	Results  []batchResult `json:"results"`
}

type batchResult struct {
	Type   string `json:"type"`
	Mesh   string `json:"mesh,omitempty"`
	Name   string `json:"name"`
	Result string `json:"result"`
}

func batchBodyOf(m *apiv1.BatchResponse) batchAnswer {
	a := batchAnswer{strconv.FormatUint(m.GetRevision(), 10), make([]batchResult, len(m.GetResults()))}
	for i, r := range m.GetResults() {
		a.Results[i] = batchResult{r.GetType(), r.GetMesh(), r.GetName(), r.GetResult()}
	}
	return a
}

// page is what the answers of all lists are.
type page interface {
	GetTotal() uint32
	GetItems() [][]byte
	GetNext() string
}

func list(total uint32, items [][]byte, next string) ([]byte, error) {
	size := 64 + len(next)
	for _, b := range items {
		size += len(b) + len(b)/4
	}
	out := make([]byte, 0, size)
	out = append(out, "{\n \"total\": "...)
	out = strconv.AppendUint(out, uint64(total), 10)
	out = append(out, ",\n \"items\": "...)
	out = array(out, items, " ")
	out = append(out, ",\n \"next\": "...)
	if next == "" {
		out = append(out, "null"...)
	} else {
		quoted, err := plainJSON(next)
		if err != nil {
			return nil, err
		}
		out = append(out, quoted...)
	}
	return append(out, "\n}\n"...), nil
}

// array appends items, each indented by itself, as an array that stands at the given depth.
func array(out []byte, items [][]byte, indent string) []byte {
	if len(items) == 0 {
		return append(out, "[]"...)
	}
	deeper := "\n" + indent + " "
	out = append(out, '[')
	for i, b := range items {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, deeper...)
		// A newline inside of a JSON text is never part of a string.
		for l := range bytes.Lines(bytes.TrimRight(b, "\n")) {
			if bare, more := bytes.CutSuffix(l, []byte("\n")); more {
				out = append(append(out, bare...), deeper...)
			} else {
				out = append(out, l...)
			}
		}
	}
	return append(append(append(out, '\n'), indent...), ']')
}

// indented is a message's JSON with every field in it; protojson itself promises no stable spaces.
func indented(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", " "); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// line ends a body with one newline.
func line(b []byte) []byte {
	if bytes.HasSuffix(b, []byte("\n")) {
		return b
	}
	return append(slices.Clip(b), '\n')
}

// plainJSON encodes without escapes for HTML.
func plainJSON(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

// text answers in the form of a router: "404: Page Not Found".
func text(w http.ResponseWriter, code int) {
	reason := http.StatusText(code)
	if code == http.StatusNotFound {
		reason = "Page Not Found"
	}
	sentence(w, code, fmt.Sprintf("%d: %s", code, reason))
}

func sentence(w http.ResponseWriter, code int, s string) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, s) //nolint:gosec // plain text, which no browser takes for anything else
}

type errorBody struct {
	Title   string      `json:"title"`
	Details string      `json:"details"`
	Causes  []errorItem `json:"causes,omitempty"`
}

type errorItem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

func refuse(w http.ResponseWriter, code int, body errorBody) {
	b, err := plainJSON(body)
	if err != nil { // strings alone can't fail
		text(w, code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(line(b))
}

// refuseWith answers what a call's error says.
func refuseWith(w http.ResponseWriter, code int, e *apiv1.Error) {
	body := errorBody{Title: e.GetTitle(), Details: e.GetDetails()}
	for _, c := range e.GetCauses() {
		body.Causes = append(body.Causes, errorItem{c.GetField(), c.GetMessage()})
	}
	refuse(w, code, body)
}

// unreadable answers a body that is too large or too slow, or that the client did not finish.
func (g *gateway) unreadable(w http.ResponseWriter, rt route, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		refuse(w, http.StatusRequestEntityTooLarge, errorBody{
			Title:   "Could not process a resource",
			Details: fmt.Sprintf("Request body is larger than %s (limits.%s)", resource.Bytes(int(tooLarge.Limit)), rt.body.key()),
		})
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		refuse(w, http.StatusRequestTimeout, errorBody{
			Title:   "Could not process a resource",
			Details: fmt.Sprintf("Request body was not sent within %s", bodyTime),
		})
		return
	}
	refuse(w, http.StatusBadRequest, errorBody{Title: "Could not process a resource", Details: "Request body could not be read"})
}

// fail answers a call's error: JSON where it says more than its message, else a sentence.
func (g *gateway) fail(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	var herr *runtime.HTTPStatusError
	if errors.As(err, &herr) {
		text(w, herr.HTTPStatus)
		return
	}
	st := status.Convert(err)
	code := httpStatus(st.Code())
	var detail *apiv1.Error
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *apiv1.HTTPStatus:
			code = int(d.GetCode())
		case *apiv1.Error:
			detail = d
		}
	}
	w.Header().Del("Trailer")
	if code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	switch {
	case code == http.StatusMethodNotAllowed:
		allow := ""
		if req := requestFrom(ctx); req != nil && req.route.takes(http.MethodGet) {
			allow = http.MethodGet
		}
		w.Header().Set("Allow", allow)
		if detail != nil {
			refuseWith(w, code, detail)
			return
		}
		sentence(w, code, st.Message())
	case code == http.StatusInternalServerError:
		g.logger.ErrorContext(ctx, "request failed inside", "method", r.Method, "path", r.URL.Path, "request", w.Header().Get(requestHeader), "error", err)
		refuse(w, code, errorBody{Title: "Could not process a resource", Details: "Internal Server Error"})
	case detail != nil:
		refuseWith(w, code, detail)
	default:
		sentence(w, code, st.Message())
	}
}

// httpStatus is what a code is answered with where no HTTPStatus detail says otherwise.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.Aborted, codes.AlreadyExists:
		return http.StatusConflict
	case codes.FailedPrecondition, codes.Unimplemented:
		return http.StatusMethodNotAllowed
	case codes.ResourceExhausted:
		return http.StatusRequestEntityTooLarge
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
