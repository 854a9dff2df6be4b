package gateway

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// item is what a path of one resource names, as the requests of the ResourceService do.
type item struct{ plural, scope, name string }

// itemOf takes a path of one resource apart; nil where it is none.
func itemOf(rest []string, scope string) *item {
	if len(rest) != 2 {
		return nil
	}
	return &item{rest[0], scope, rest[1]}
}

const dryRunParam = "dryRun"

// misdirected answers a write with parameters that it does not have. A read may come with what nobody asked for,
// but what was meant to be tried alone (?dryrun=true) must not be stored.
func misdirected(w http.ResponseWriter, r *http.Request, rt route) bool {
	if r.URL.RawQuery == "" || r.Method == http.MethodGet || rt.body != objectBody && rt.body != batchBody {
		return false
	}
	wrong := func(causes ...errorItem) bool {
		refuse(w, http.StatusBadRequest, errorBody{Title: "Could not process a resource", Details: "Invalid request", Causes: causes})
		return true
	}
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return wrong(errorItem{"query", "is malformed: " + err.Error()})
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch v := given[name]; {
		case name != dryRunParam:
			return wrong(errorItem{name, "is nothing that a write takes, which is " + dryRunParam + " alone"})
		case len(v) > 1:
			return wrong(errorItem{name, "must be given once"})
		case v[0] == "":
			return wrong(errorItem{name, "must be true or false"})
		}
	}
	return false
}

// item makes the call of a route of one resource. Most requests are of these, and matching the generated mux's
// patterns and putting a request together for it takes longer than the call itself.
func (g *gateway) item(w *patient, r *http.Request, rt route, body []byte) {
	ctx := g.direct(r, rt)
	var query url.Values
	if r.URL.RawQuery != "" {
		query = rt.pick(r.URL.Query())
	}
	var m proto.Message
	var err error
	switch at := rt.item; r.Method {
	case http.MethodPut:
		m, err = g.resources.Put(ctx, &apiv1.PutRequest{Plural: at.plural, Scope: at.scope, Name: at.name, Body: body, DryRun: query.Get(dryRunParam)})
	case http.MethodDelete:
		m, err = g.resources.Delete(ctx, &apiv1.DeleteRequest{Plural: at.plural, Scope: at.scope, Name: at.name, DryRun: query.Get(dryRunParam)})
	default:
		m, err = g.resources.Get(ctx, &apiv1.GetRequest{Plural: at.plural, Scope: at.scope, Name: at.name, Status: query.Get("status")})
	}
	if err == nil {
		err = answer(ctx, w, m)
	}
	if err != nil {
		g.fail(ctx, nil, nil, w, r, err)
	}
}

// answer sends what a call gave. It fails only before it has sent anything.
func answer(ctx context.Context, w http.ResponseWriter, m proto.Message) error {
	b, err := marshaler{}.Marshal(m)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", marshaler{}.ContentType(m))
	if err := finish(ctx, w, m); err != nil {
		return err
	}
	_, _ = w.Write(b) // an error is the connection's, and the server sees it itself
	return nil
}
