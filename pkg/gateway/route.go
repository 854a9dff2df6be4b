package gateway

import (
	"net/url"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// route is what a path leads to.
type route struct {
	// path is the escaped path for the generated mux.
	path string
	// item is what the path names, where it is one resource.
	item *item
	// pattern is the path with the names left out: one of a fixed number.
	pattern string
	// allow is the Allow header: the methods that the path takes.
	allow string
	// body is what kind of body the path takes.
	body bodyKind
	// text routes do not answer JSON, or look at no media type at all.
	text bool
	// media is the media type of an answer that a call streams; empty: it does not.
	media string
	// query names the parameters that the route has, with spaces between; others are ignored.
	query string
}

// bodyKind says which limit a body has.
type bodyKind uint8

const (
	_ bodyKind = iota
	// objectBody is a resource, batchBody many of them, otherBody anything else.
	objectBody
	batchBody
	otherBody
)

// lists says whether the route answers a page of a list.
func (r route) lists() bool { return strings.HasPrefix(r.query, paging) }

// takes says whether the route has a method.
func (r route) takes(method string) bool {
	return slices.Contains(strings.Split(r.allow, ", "), method)
}

const (
	readOnly  = "GET"
	readWrite = "PUT, DELETE, GET"
	issue     = "POST, PUT"

	paging  = "size offset"
	filters = paging + " tag gateway ingress"
)

// resolve finds the route of a path given by its unescaped segments.
func resolve(t *resource.Table, segments []string) (route, bool) {
	rest, inMesh, scope := segments, false, ""
	if len(segments) > 2 && segments[0] == "meshes" {
		rest, inMesh, scope = segments[2:], true, segments[1]
		// Published documents put zones below a mesh too.
		if rest[0] == "zones" || rest[0] == "zones+insights" {
			segments, inMesh, scope = rest, false, ""
		}
	}
	r, ok := match(t, rest, inMesh)
	if !ok {
		return route{}, false
	}
	r.pattern = pattern(rest, inMesh)
	if r.body == objectBody {
		r.item = itemOf(rest, scope)
		return r, true
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

// pattern leaves out what anyone may choose.
func pattern(rest []string, inMesh bool) string {
	p := "/" + strings.Join(rest, "/")
	switch {
	case len(rest) == 2 && rest[0] != "status" && rest[0] != "tokens":
		p = "/" + rest[0] + "/{name}"
	case len(rest) == 4:
		p = "/" + strings.Join(rest[:3], "/") + "/{name}"
	}
	if inMesh {
		return "/meshes/{mesh}" + p
	}
	return p
}

func match(t *resource.Table, path []string, inMesh bool) (route, bool) {
	list := func(query string) (route, bool) { return route{allow: readOnly, query: query}, true }
	switch len(path) {
	case 0:
		return list("")
	case 1:
		switch head := path[0]; {
		case head == "dataplanes+insights", head == "dataplane+insights" && inMesh:
			return list(filters)
		case head == "rejections", head == "service-insights", head == "mesh-insights" && !inMesh:
			return list(paging)
		case head == "zones+insights" && !inMesh:
			return list(paging)
		case inMesh:
		case head == "positions":
			return list("revision wait")
		case head == "config", head == "versions", head == "catalog":
			return list("")
		case head == "backup":
			return route{allow: readOnly, media: "application/octet-stream"}, true
		case head == "export":
			return route{allow: readOnly, media: "application/json", query: "secrets"}, true
		case head == "batch":
			return route{allow: "PUT", body: batchBody, query: dryRunParam}, true
		case head == "openapi.yaml":
			return route{allow: readOnly, text: true}, true
		case head == "signing-keys":
			return route{allow: "POST", body: otherBody}, true
		case head == "tokens":
			return route{allow: issue, text: true, body: otherBody}, true
		}
		// A kind of a mesh is listed in one mesh and over all.
		d, ok := public(t, path[0])
		if !ok || inMesh && d.Scope != resource.ScopeMesh {
			return route{}, false
		}
		return list(paging)
	case 2:
		switch head := path[0]; {
		case inMesh && (head == "dataplanes+insights" || head == "dataplane+insights" || head == "service-insights"):
			return list("")
		case inMesh:
		case head == "zones+insights", head == "mesh-insights":
			return list("")
		case head == "status" && path[1] == "zones":
			return list("")
		case head == "tokens" && (path[1] == "zone" || path[1] == "user"):
			return route{allow: issue, text: true, body: otherBody}, true
		}
		d, ok := public(t, path[0])
		if !ok || inMesh != (d.Scope == resource.ScopeMesh) {
			return route{}, false
		}
		return route{allow: readWrite, body: objectBody, query: "status " + dryRunParam}, true
	case 3, 4:
		if !inMesh || path[0] != "ca" || path[1] != "provided" || path[2] != "certificates" {
			break
		}
		if len(path) == 3 {
			return route{allow: "POST, GET", body: otherBody}, true
		}
		return route{allow: "DELETE"}, true
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
