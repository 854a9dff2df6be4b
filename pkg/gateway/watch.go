package gateway

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// Server-sent events, and what a watch takes.
const (
	eventStream    = "text/event-stream"
	watchParam     = "watch"
	afterParam     = "after"
	lastEventID    = "Last-Event-ID"
	watchRoute     = "?watch"
	titleWatch     = "Could not watch resources"
	detailsInvalid = "Invalid request"

	// eventStep is how much of what events say is put together before it is sent.
	eventStep = 8 << 10
)

// mayWatch says whether a request has to be looked at by watch. It costs others next to nothing.
func mayWatch(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, watchParam)
}

// watch serves a request for events; false: it is none.
func (g *gateway) watch(w *patient, r *http.Request, rt route, segments []string) bool {
	query := r.URL.Query()
	switch query.Get(watchParam) {
	case "true":
	case "", "false":
		return false
	default:
		refuseParam(w, watchParam, "must be true or false")
		return true
	}
	w.route += watchRoute
	req := watched(g.table, segments)
	if req == nil {
		refuseParam(w, watchParam, "cannot be watched: watch the kinds that it is put together from, such as dataplanes and dataplane-insights")
		return true
	}
	if !accepts(r.Header.Values("Accept"), eventStream) {
		text(w, http.StatusNotAcceptable)
		return true
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if name != watchParam && name != afterParam {
			refuseParam(w, name, "is nothing that a watch takes, which is "+afterParam+" alone")
			return true
		}
	}
	// A browser that comes back by itself asks with the URL that it began with.
	req.After = cmp.Or(r.Header.Get(lastEventID), query.Get(afterParam))
	g.events(w, r, rt, req)
	return true
}

func refuseParam(w http.ResponseWriter, name, message string) {
	refuse(w, http.StatusBadRequest, errorBody{Title: titleWatch, Details: detailsInvalid, Causes: []errorItem{{name, message}}})
}

// watched is what the path of a watch stands for: what is below it. Nil: that can't be watched.
func watched(t *resource.Table, path []string) *apiv1.WatchRequest {
	req := &apiv1.WatchRequest{}
	if len(path) > 1 && path[0] == "meshes" {
		req.Scope, path = path[1], path[2:]
	}
	if len(path) == 0 {
		return req
	}
	if _, ok := public(t, path[0]); !ok {
		return nil
	}
	req.Plural = path[0]
	if len(path) > 1 {
		req.Name = path[1]
	}
	return req
}

// events sends what a watch gives, until either side ends it.
func (g *gateway) events(w *patient, r *http.Request, rt route, req *apiv1.WatchRequest) {
	ctx, cancel := context.WithCancel(g.direct(r, rt))
	defer cancel()
	stream, err := g.resources.Watch(ctx, req)
	if err != nil {
		g.fail(ctx, nil, nil, w, r, err)
		return
	}
	// The call must have ended when the connection is the server's again.
	defer func() {
		for cancel(); err == nil; {
			_, err = stream.Recv()
		}
	}()
	// What is wrong with the request is known before the first message.
	res, err := stream.Recv()
	if err != nil {
		g.fail(ctx, nil, nil, w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	// A client that takes its time holds this much, and no copy of a resource: its JSON is one for all.
	out := bufio.NewWriterSize(w, eventStep)
	for ; err == nil; res, err = stream.Recv() {
		writeEvents(out, res)
		if out.Flush() != nil || w.control.Flush() != nil {
			return // the client has gone, or takes nothing
		}
	}
	if !errors.Is(err, io.EOF) {
		// A client that comes back is told again, by a status.
		_, _ = w.Write(appendComment(nil, status.Convert(err).Message()))
	}
}

// writeEvents writes a message in the form of events; a comment if it has none. What goes wrong the writer keeps.
func writeEvents(w *bufio.Writer, m *apiv1.WatchResponse) {
	for _, e := range m.GetEvents() {
		writeField(w, "event", []byte(e.GetEvent()))
		writeID(w, e.GetId())
		// A newline inside of a JSON text is never part of a string.
		for line := range bytes.Lines(e.GetJson()) {
			writeField(w, "data", bytes.TrimSuffix(line, []byte("\n")))
		}
		_ = w.WriteByte('\n')
	}
	if len(m.GetEvents()) == 0 {
		// An id alone is no event, but noted for coming back.
		_, _ = w.WriteString(":\n")
		writeID(w, m.GetId())
		_ = w.WriteByte('\n')
	}
}

func writeID(w *bufio.Writer, id string) {
	if id != "" {
		writeField(w, "id", []byte(id))
	}
}

func writeField(w *bufio.Writer, name string, value []byte) {
	_, _ = w.WriteString(name)
	_, _ = w.WriteString(": ")
	_, _ = w.Write(value)
	_ = w.WriteByte('\n')
}

// appendComment writes what is for people's eyes.
func appendComment(b []byte, s string) []byte {
	s = strings.Map(func(c rune) rune {
		if c < ' ' {
			return ' '
		}
		return c
	}, s)
	return append(append(append(b, ": "...), s...), "\n\n"...)
}
