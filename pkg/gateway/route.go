package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// Limits on request bodies, in bytes.
const (
	maxObject = 512 << 10
	maxBody   = 1 << 20
)

// route is what a path leads to.
type route struct {
	// path is the escaped path for the generated mux.
	path string
	// methods that the path takes, in the order of the Allow header.
	methods []string
	// maxBody is the most that a body may have, in bytes.
	maxBody int64
	// text routes do not answer JSON, or look at no media type at all.
	text bool
	// query names the parameters that the route has; others are ignored.
	query []string
}

var (
	readOnly  = []string{http.MethodGet}
	readWrite = []string{http.MethodPut, http.MethodDelete, http.MethodGet}
	issue     = []string{http.MethodPost, http.MethodPut}

	paging  = []string{"size", "offset"}
	filters = []string{"size", "offset", "tag", "gateway", "ingress"}
)

// resolve finds the route of a path given by its unescaped segments.
func resolve(t *resource.Table, segments []string) (route, bool) {
	rest, inMesh := segments, false
	if len(segments) > 2 && segments[0] == "meshes" {
		rest, inMesh = segments[2:], true
		// Published documents put zones below a mesh too.
		if rest[0] == "zones" || rest[0] == "zones+insights" {
			segments, inMesh = rest, false
		}
	}
	r, ok := match(t, rest, inMesh)
	if !ok {
		return route{}, false
	}
	var path strings.Builder
	for _, s := range segments {
		path.WriteByte('/')
		path.WriteString(url.PathEscape(s))
	}
	r.path = path.String()
	if r.path == "" {
		r.path = "/"
	}
	return r, true
}

func match(t *resource.Table, path []string, inMesh bool) (route, bool) {
	list := func(query []string) (route, bool) { return route{methods: readOnly, query: query}, true }
	switch len(path) {
	case 0:
		return list(nil)
	case 1:
		switch head := path[0]; {
		case head == "dataplanes+insights", head == "dataplane+insights" && inMesh:
			return list(filters)
		case head == "rejections":
			return list(paging)
		case head == "zones+insights" && !inMesh:
			return list(paging)
		case inMesh:
		case head == "config", head == "versions":
			return list(nil)
		case head == "openapi.yaml":
			return route{methods: readOnly, text: true}, true
		case head == "tokens":
			return route{methods: issue, text: true, maxBody: maxBody}, true
		}
		// A kind of a mesh is listed in one mesh and over all.
		d, ok := public(t, path[0])
		if !ok || inMesh && d.Scope != resource.ScopeMesh {
			return route{}, false
		}
		return list(paging)
	case 2:
		switch head := path[0]; {
		case inMesh && (head == "dataplanes+insights" || head == "dataplane+insights"):
			return list(nil)
		case inMesh:
		case head == "zones+insights":
			return list(nil)
		case head == "status" && path[1] == "zones":
			return list(nil)
		case head == "tokens" && path[1] == "zone":
			return route{methods: issue, text: true, maxBody: maxBody}, true
		}
		d, ok := public(t, path[0])
		if !ok || inMesh != (d.Scope == resource.ScopeMesh) {
			return route{}, false
		}
		return route{methods: readWrite, maxBody: maxObject}, true
	}
	return route{}, false
}

func public(t *resource.Table, plural string) (*resource.Descriptor, bool) {
	d, ok := t.ByPlural(plural)
	return d, ok && d.Access != resource.Internal
}

// split takes an escaped path apart. It is false for one that does not start with a slash, or is escaped
// wrongly.
func split(escaped string) ([]string, bool) {
	rest, ok := strings.CutPrefix(escaped, "/")
	if !ok {
		return nil, false
	}
	rest = strings.TrimSuffix(rest, "/")
	if rest == "" {
		return nil, true
	}
	segments := strings.Split(rest, "/")
	for i, s := range segments {
		u, err := url.PathUnescape(s)
		if err != nil {
			return nil, false
		}
		segments[i] = u
	}
	return segments, true
}

// collapse replaces runs of slashes by one.
func collapse(escaped string) string {
	for strings.Contains(escaped, "//") {
		escaped = strings.ReplaceAll(escaped, "//", "/")
	}
	return escaped
}
