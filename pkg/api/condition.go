package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// The metadata that carry the conditions of a write.
const (
	ifMatchKey     = "meridian-if-match"
	ifNoneMatchKey = "meridian-if-none-match"
)

// conditions are what a client wants to hold when its write is done (RFC 9110, section 13).
type conditions struct{ match, none *tags }

// tags are the value of a condition: any state that there is, or some.
type tags struct {
	any  bool
	list []etag
}

// etag is an entity tag. A resource's own is the revision of its last change.
type etag struct {
	weak   bool
	opaque string
}

// preconditions reads the conditions of a write. The error names the header that is malformed.
func preconditions(ctx context.Context, title string) (conditions, error) {
	var c conditions
	var v resource.Violations
	for _, h := range []struct {
		header, value string
		to            **tags
	}{{"If-Match", incomingList(ctx, ifMatchKey), &c.match}, {"If-None-Match", incomingList(ctx, ifNoneMatchKey), &c.none}} {
		if h.value == "" {
			continue
		}
		t, ok := parseTags(h.value)
		if !ok {
			v.Add(h.header, `must be * or a list of entity tags, such as "12", "15"`)
			continue
		}
		*h.to = &t
	}
	if len(v) > 0 {
		return c, invalid(title, "Invalid header", v)
	}
	return c, nil
}

// unconditional refuses conditions at a batch, which has no one state for them to hold of: it must not be written as if
// they held.
func unconditional(ctx context.Context) error {
	var v resource.Violations
	for _, h := range []struct{ header, value string }{{"If-Match", incomingList(ctx, ifMatchKey)}, {"If-None-Match", incomingList(ctx, ifNoneMatchKey)}} {
		if h.value != "" {
			v.Add(h.header, "is for one resource: a batch has no conditions")
		}
	}
	if len(v) == 0 {
		return nil
	}
	return invalid(titleBatch, "Invalid header", v)
}

// incomingList joins the values of a header that may come several times.
func incomingList(ctx context.Context, key string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get(key), ", ")
}

// parseTags reads the list of an If-Match or If-None-Match header.
func parseTags(s string) (tags, bool) {
	s = strings.Trim(s, " \t")
	if s == "*" {
		return tags{any: true}, true
	}
	var t tags
	for {
		// A list may have empty items.
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return t, len(t.list) > 0
		}
		rest, weak := strings.CutPrefix(s, "W/")
		rest, quoted := strings.CutPrefix(rest, `"`)
		opaque, rest, closed := strings.Cut(rest, `"`)
		if !quoted || !closed || strings.ContainsAny(opaque, " \t") {
			return tags{}, false
		}
		t.list = append(t.list, etag{weak, opaque})
		if s = strings.TrimLeft(rest, " \t"); s != "" && s[0] != ',' {
			return tags{}, false
		}
	}
}

// of says whether an object's present state, nil if there is none, is among the tags. Weak tags, of which no server
// here gives any, are looked at only where the rules of HTTP compare weakly.
func (t *tags) of(o *resource.Object, weakly bool) bool {
	return o != nil && (t.any || slices.ContainsFunc(t.list, func(x etag) bool {
		return x.opaque == o.Revision.String() && (weakly || !x.weak)
	}))
}

// check fails where an object's present state, nil if there is none, is not what was asked for. Otherwise it adds to
// a batch the guard under which that is still so when it is committed.
func (c conditions) check(title string, key resource.Key, o *resource.Object, b *store.Batch) error {
	if c.match == nil && c.none == nil {
		return nil
	}
	at, now := resource.Revision(0), "there is no such resource"
	if o != nil {
		at, now = o.Revision, fmt.Sprintf("the resource is at %q", o.Revision)
	}
	header := ""
	switch {
	case c.match != nil && !c.match.of(o, false):
		header = "If-Match"
	case c.none != nil && c.none.of(o, true):
		header = "If-None-Match"
	default:
		b.Guards = append(b.Guards, store.AtRevision(key, at))
		return nil
	}
	return withHTTP(fail(codes.FailedPrecondition, title, header+" does not hold: "+now), http.StatusPreconditionFailed)
}
