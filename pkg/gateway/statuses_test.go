package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/api"
	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// Content types of answers.
const (
	isJSON  = "application/json"
	isText  = "text/plain"
	isEmpty = ""
)

// statusRow is a request and the whole answer to it.
type statusRow struct {
	// row is the section of the specification, and what of it.
	row, method, path, body string
	// from is an address, "" for the machine itself; header are pairs.
	from   string
	header []string

	status int
	media  string
	// answer is the body, JSON without its spaces and with T for times; "*" is some text. The details and messages of
	// a problem are some text where they are empty here.
	answer string
	// sent are headers of the answer, "" where one may not be there.
	sent map[string]string
}

// problemBody is the body of an error; causes are pairs of field and message.
func problemBody(title, details string, causes ...string) string {
	type cause struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	}
	e := struct {
		Title   string  `json:"title"`
		Details string  `json:"details"`
		Causes  []cause `json:"causes,omitempty"`
	}{Title: title, Details: details}
	for i := 0; i+1 < len(causes); i += 2 {
		e.Causes = append(e.Causes, cause{causes[i], causes[i+1]})
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

const notValid = "Resource is not valid"

// TestStatuses holds sections 2.1 to 2.9 of the specification row by row: status, content type and body, with what
// section 8 says where the published release errs. Each row leaves things as they are, or makes what it needs.
func TestStatuses(t *testing.T) {
	const (
		process, create, update, remove = "Could not process a resource", "Could not create a resource", "Could not update a resource", "Could not delete a resource"
		get, list                       = "Could not retrieve a resource", "Could not retrieve resources"
		item                            = "/meshes/default/timeouts/there"
		globalSays                      = "This is the global control plane: Dataplane resources are written on the zone control plane of the zone that they belong to. Use its API."
		zoneSays                        = "This is the zone control plane of zone-1: KIND resources are written on the global control plane (grpcs://global.example:5685). Use its API."
		jsonType                        = "Content-Type"
	)
	asJSON := []string{jsonType, "application/json"}
	rows := map[string][]statusRow{
		"standalone": {
			{row: "2.1 no JSON wanted", method: "GET", path: "/meshes", header: []string{"Accept", "text/html"}, status: 406, media: isText, answer: "406: Not Acceptable"},
			{row: "2.1 other media", method: "PUT", path: item, body: timeout, header: []string{jsonType, "text/plain"}, status: 415, media: isText, answer: "415: Unsupported Media Type"},
			{row: "2.1 parameters of a media type", method: "PUT", path: item, body: timeout, header: []string{jsonType, "application/json; charset=UTF-8"}, status: 200, media: isEmpty},
			{row: "2.1 no path", method: "GET", path: "/nowhere", status: 404, media: isText, answer: "404: Page Not Found"},
			{row: "2.1 no method", method: "POST", path: item, status: 405, media: isText, answer: "405: Method Not Allowed", sent: map[string]string{"Allow": "PUT, DELETE, GET"}},
			{row: "2.1 HEAD", method: "HEAD", path: item, status: 405, media: isText, sent: map[string]string{"Allow": "PUT, DELETE, GET"}},
			{row: "2.1 trailing slash", method: "GET", path: "/meshes/default/retries/", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},
			{row: "2.1 two slashes", method: "GET", path: "/meshes//default/retries", status: 301, sent: map[string]string{"Location": "/meshes/default/retries"}},

			{row: "2.2 no item", method: "GET", path: "/meshes/default/timeouts/none", status: 404, media: isJSON, answer: problemBody(get, "Not found")},
			{row: "2.2 no item of no mesh", method: "GET", path: "/meshes/none/timeouts/none", status: 404, media: isJSON, answer: problemBody(get, "Not found")},
			{row: "2.2 nothing to delete", method: "DELETE", path: "/meshes/default/timeouts/none", status: 404, media: isJSON, answer: problemBody(remove, "Not found")},
			{row: "2.2 list of no mesh", method: "GET", path: "/meshes/none/timeouts", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},
			{row: "2.2 in no mesh", method: "PUT", path: "/meshes/none/timeouts/x", body: timeout, header: asJSON, status: 400, media: isJSON, answer: problemBody(create, "Mesh is not found", "mesh", "mesh of name none is not found")},
			{
				row: "2.2 not what the path says", method: "PUT", path: "/meshes/default/timeouts/x", body: `{"type":"Retry","mesh":"m","name":"y"}`, header: asJSON, status: 400, media: isJSON,
				answer: problemBody(process, notValid, "name", "name from the URL has to be the same as in body", "type", "type from the URL has to be the same as in body", "mesh", "mesh from the URL has to be the same as in body"),
			},
			{row: "2.2 charset", method: "PUT", path: "/meshes/default/timeouts/X", body: `{}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, notValid, "name", `has invalid characters: valid are digits, lower-case letters, "-" and "_"`)},
			{row: "2.2 invalid and new", method: "PUT", path: "/meshes/default/timeouts/x", body: strings.Replace(timeout, `"conf"`, `"conf":{},"x"`, 1), header: asJSON, status: 400, media: isJSON, answer: problemBody(process, notValid, "x", "unknown field")},
			{row: "2.2 invalid and there", method: "PUT", path: item, body: `{"conf":{"connectTimeout":"1s"},"sources":[{"match":{"kuma.io/service":"*"}}]}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(update, notValid, "destinations", "must have at least one element")},
			{row: "2.2 switch of backends", method: "PUT", path: "/meshes/secured", body: `{"mtls":{"enabledBackend":"b","backends":[{"name":"a","type":"builtin"},{"name":"b","type":"builtin"}]}}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(update, notValid, "mtls.enabledBackend", "cannot be changed from one backend to another: disable mutual TLS first")},
			{row: "2.2 secret in use", method: "DELETE", path: "/meshes/secured/secrets/secured.ca-builtin-key-a", status: 400, media: isJSON, answer: problemBody(remove, notValid, "name", `secret "secured.ca-builtin-key-a" is in use by the mTLS backend "a" of mesh "secured": take it out there first`)},
			{row: "2.2 malformed", method: "PUT", path: item, body: `{"conf":`, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, "")},
			{row: "2.2 empty", method: "PUT", path: item, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, "")},
			{row: "2.2 a list", method: "PUT", path: item, body: `[]`, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, "")},
			{row: "2.2 a wrong type", method: "PUT", path: item, body: `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":5}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, notValid, "conf", "must be an object, not a number")},
			{row: "2.2 a wrong time", method: "PUT", path: item, body: `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"creationTime":"now","conf":{"connectTimeout":"1s"}}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, notValid, "creationTime", "")},
			{row: "2.2 a wrong duration", method: "PUT", path: item, body: `{"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":{"connectTimeout":"5"}}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(process, notValid, "conf.connectTimeout", "")},
			{row: "2.2 page size", method: "GET", path: "/meshes?size=10001", status: 400, media: isJSON, answer: problemBody(list, "Invalid page size", "size", "")},
			{row: "2.2 offset", method: "GET", path: "/meshes?offset=x", status: 400, media: isJSON, answer: problemBody(list, "Invalid offset", "offset", "")},
			{row: "2.2 filter", method: "GET", path: "/meshes/default/dataplanes+insights?gateway=x", status: 400, media: isJSON, answer: problemBody("Could not retrieve dataplane overviews", notValid, "/meshes/{mesh}/dataplanes+insights.gateway", "")},
			{row: "2.2 no overview", method: "GET", path: "/meshes/default/dataplanes+insights/none", status: 404, media: isJSON, answer: problemBody("Could not retrieve a dataplane overview", "Not found")},
			{row: "2.2 no overview of a zone", method: "GET", path: "/zones+insights/none", status: 404, media: isJSON, answer: problemBody("Could not retrieve a zone overview", "Not found")},
			{row: "2.2 token without a mesh", method: "POST", path: "/tokens", body: `{"name":"x"}`, status: 400, media: isJSON, answer: problemBody("Invalid request", notValid, "mesh", "")},
			{row: "2.2 token without a key", method: "POST", path: "/tokens", body: `{"name":"x","mesh":"none"}`, status: 404, media: isJSON, answer: problemBody("Signing Key not found", "")},
			{row: "2.2 page size of overviews", method: "GET", path: "/zones+insights?size=x", status: 400, media: isJSON, answer: problemBody("Could not retrieve dataplane overviews", "Invalid page size", "size", "")},
			{row: "2.2 page size of services", method: "GET", path: "/service-insights?size=x", status: 400, media: isJSON, answer: problemBody("Could not paginate resources", "Invalid page size", "size", "")},
			{row: "2.2 mesh in a global kind", method: "PUT", path: "/zones/zone-1", body: `{"type":"Zone","name":"zone-1","mesh":"any"}`, header: asJSON, status: 200, media: isEmpty},
			{row: "2.2 no mesh in the body", method: "PUT", path: item, body: strings.Replace(timeout, "{", `{"type":"Timeout","name":"there",`, 1), header: asJSON, status: 200, media: isEmpty},

			{row: "2.3 made", method: "PUT", path: "/meshes/default/timeouts/new", body: timeout, header: asJSON, status: 201, media: isEmpty},
			{row: "2.3 changed by nothing", method: "PUT", path: "/meshes/default/timeouts/new", body: timeout, header: asJSON, status: 200, media: isEmpty},
			{
				row: "2.3 read", method: "GET", path: "/meshes/default/timeouts/new", status: 200, media: isJSON,
				answer: `{"type":"Timeout","mesh":"default","name":"new","creationTime":"T","modificationTime":"T",` + compact(t, timeout)[1:],
			},
			{row: "2.3 deleted", method: "DELETE", path: "/meshes/default/timeouts/new", status: 200, media: isEmpty},
			{row: "2.3 mesh with dataplanes", method: "DELETE", path: "/meshes/default", status: 400, media: isJSON, answer: problemBody(remove, notValid, "mesh", "unable to delete mesh, there are still 1 dataplanes attached")},
			{row: "2.3 POST to a list", method: "POST", path: "/meshes", body: `{}`, header: asJSON, status: 405, media: isText, answer: "405: Method Not Allowed", sent: map[string]string{"Allow": "GET"}},

			{row: "2.4 past the end", method: "GET", path: "/meshes?offset=1000", status: 200, media: isJSON, answer: `{"total":2,"items":[],"next":null}`},
			{row: "2.4 negative offset", method: "GET", path: "/meshes?offset=-1", status: 400, media: isJSON, answer: problemBody(list, "Invalid offset", "offset", "")},
			{row: "2.4 negative size", method: "GET", path: "/meshes?size=-1", status: 400, media: isJSON, answer: problemBody(list, "Invalid page size", "size", "")},
			{row: "2.5 an entry without a colon", method: "GET", path: "/meshes/default/retries?tag=x", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},
			{row: "2.5 no such tag", method: "GET", path: "/dataplanes+insights?tag=kuma.io%2Fservice:none", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},
			{row: "2.5 no single overview beside its mesh", method: "GET", path: "/dataplanes+insights/d", status: 404, media: isText, answer: "404: Page Not Found"},
			{row: "2.6 not there yet", method: "GET", path: "/policies", status: 404, media: isText, answer: "404: Page Not Found"},
			{row: "2.6 token by PUT", method: "PUT", path: "/tokens", body: `{"mesh":"none"}`, status: 404, media: isJSON, answer: problemBody("Signing Key not found", "")},
			{row: "2.6 token read", method: "GET", path: "/tokens", status: 405, media: isText, answer: "405: Method Not Allowed", sent: map[string]string{"Allow": "POST, PUT"}},
			{row: "2.6 zones, one of them online", method: "GET", path: "/status/zones", status: 200, media: isJSON, answer: `[{"name":"zone-1","url":"","active":false},{"name":"zone-2","url":"grpcs://10.0.0.1:4444","active":true}]`},

			{row: "2.7 secrets from afar", method: "GET", path: "/meshes/default/secrets", from: "192.0.2.1", status: 403, media: isText, answer: "*"},
			{row: "2.7 a secret written from afar", method: "PUT", path: "/meshes/default/secrets/x", body: `{`, from: "192.0.2.1", header: asJSON, status: 403, media: isText, answer: "*"},
			{row: "2.7 media come first", method: "PUT", path: "/meshes/default/secrets/x", body: `{`, from: "192.0.2.1", header: []string{jsonType, "text/plain"}, status: 415, media: isText, answer: "415: Unsupported Media Type"},
			{row: "2.7 a secret deleted from afar", method: "DELETE", path: "/meshes/default/secrets/none", from: "192.0.2.1", status: 403, media: isText, answer: "*"},
			{row: "2.7 global secrets from afar", method: "GET", path: "/global-secrets/x", from: "192.0.2.1", status: 403, media: isText, answer: "*"},
			{row: "2.7 token from afar", method: "POST", path: "/tokens", body: `{"mesh":"default"}`, from: "192.0.2.1", status: 403, media: isText, answer: "*"},
			{row: "2.7 another loopback address", method: "GET", path: "/meshes/default/secrets", from: "127.0.0.2", status: 403, media: isText, answer: "*"},
			{row: "2.7 loopback of IPv6", method: "GET", path: "/meshes/default/secrets", from: "::1", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},
			{row: "2.7 what is public from afar", method: "GET", path: "/meshes/default/retries", from: "192.0.2.1", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},

			{row: "2.9 no CORS by default", method: "GET", path: "/meshes/default/retries", header: []string{"Origin", "http://a.example"}, status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`, sent: map[string]string{"Access-Control-Allow-Origin": "", "Access-Control-Expose-Headers": ""}},
			{row: "2.9 no preflight by default", method: "OPTIONS", path: item, header: []string{"Origin", "http://a.example", "Access-Control-Request-Method", "PUT"}, status: 405, media: isText, answer: "405: Method Not Allowed"},

			{row: "8.2 a zone that is online", method: "DELETE", path: "/zones/zone-2", status: 400, media: isJSON, answer: problemBody(remove, notValid, "zone", `zone "zone-2" is online: stop its control plane before deleting it`)},
			{row: "8.2 a zone that is not", method: "DELETE", path: "/zones/zone-1", status: 200, media: isEmpty},
			{row: "8.3 dataplane without networking", method: "PUT", path: "/meshes/default/dataplanes/x", body: `{}`, header: asJSON, status: 400, media: isJSON, answer: problemBody(create, notValid, "networking", "")},
			{row: "8.19 an insight", method: "PUT", path: "/meshes/default/dataplane-insights/d", body: `{}`, header: asJSON, status: 405, media: isText, answer: "*", sent: map[string]string{"Allow": "GET"}},
			{row: "8.19 a service's insight", method: "PUT", path: "/meshes/default/service-insights/s", body: `{}`, header: asJSON, status: 405, media: isText, answer: "*", sent: map[string]string{"Allow": "GET"}},
			{row: "8.19 a mesh's insight", method: "DELETE", path: "/mesh-insights/default", status: 405, media: isText, answer: "*", sent: map[string]string{"Allow": "GET"}},
		},
		"global": {
			{row: "8.1 a dataplane on the global", method: "PUT", path: "/meshes/default/dataplanes/d", body: dataplane, header: asJSON, status: 405, media: isText, answer: globalSays, sent: map[string]string{"Allow": "GET"}},
			{row: "2.8 before media and credentials", method: "PUT", path: "/meshes/default/dataplanes/d", from: "192.0.2.1", header: []string{jsonType, "text/plain"}, status: 405, media: isText, answer: globalSays},
			{row: "8.1 deleted", method: "DELETE", path: "/meshes/default/dataplanes/zone-1.d", status: 405, media: isText, answer: globalSays},
			{
				row: "8.1 in a batch", method: "PUT", path: "/batch", body: `{"put":[` + strings.Replace(dataplane, "{", `{"type":"Dataplane","mesh":"default","name":"d",`, 1) + `],"delete":[{"type":"Dataplane","mesh":"default","name":"zone-1.d"}]}`, header: asJSON,
				status: 405, media: isJSON, answer: problemBody("Could not process a batch", "Not all of it is written on this control plane", "put[0].type", globalSays, "delete[0].type", globalSays),
			},
			{row: "1.1 a policy on the global", method: "PUT", path: item, body: timeout, header: asJSON, status: 201, media: isEmpty},
		},
		"zone": {
			{row: "8.1 a policy in a zone", method: "PUT", path: item, body: timeout, header: asJSON, status: 405, media: isText, answer: strings.ReplaceAll(zoneSays, "KIND", "Timeout"), sent: map[string]string{"Allow": "GET"}},
			{row: "8.1 a mesh in a zone", method: "DELETE", path: "/meshes/default", status: 405, media: isText, answer: strings.ReplaceAll(zoneSays, "KIND", "Mesh")},
			{row: "2.8 a secret, before credentials", method: "PUT", path: "/meshes/default/secrets/s", body: `{`, from: "192.0.2.1", header: asJSON, status: 405, media: isText, answer: strings.ReplaceAll(zoneSays, "KIND", "Secret")},
			{row: "8.1 in a batch", method: "PUT", path: "/batch", body: `{"delete":[{"type":"Zone","name":"z"}]}`, header: asJSON, status: 405, media: isJSON, answer: problemBody("Could not process a batch", "Not all of it is written on this control plane", "delete[0].type", strings.ReplaceAll(zoneSays, "KIND", "Zone"))},
			{row: "1.1 a dataplane in a zone", method: "PUT", path: "/meshes/default/dataplanes/d", body: dataplane, header: asJSON, status: 201, media: isEmpty},
			{row: "2.7 the global's secrets", method: "GET", path: "/meshes/default/secrets", status: 403, media: isText, answer: "*"},
		},
		"read-only": {
			{row: "2.8 nothing is written", method: "PUT", path: item, body: timeout, header: asJSON, status: 405, media: isText, answer: "The API of this control plane is read-only (apiServer.readOnly); change Timeout resources where that is not set."},
			{row: "2.8 nothing is deleted", method: "DELETE", path: "/meshes/default", status: 405, media: isText, answer: "*"},
			{row: "2.8 before credentials", method: "DELETE", path: "/global-secrets/s", from: "192.0.2.1", status: 405, media: isText, answer: "*"},
			{row: "2.8 nor in a batch", method: "PUT", path: "/batch", body: `{}`, from: "192.0.2.1", header: asJSON, status: 405, media: isText, answer: "*"},
			{row: "2.8 all is read", method: "GET", path: "/meshes/default/timeouts", status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`},
			{row: "8.19 insights too", method: "PUT", path: "/meshes/default/service-insights/s", body: `{}`, header: asJSON, status: 405, media: isText, answer: "*"},
		},
		"no zones": {
			{row: "8.18 no zones", method: "GET", path: "/status/zones", status: 200, media: isJSON, answer: `[]`},
		},
		"CORS": {
			{row: "2.9 allowed", method: "GET", path: "/meshes/default/retries", header: []string{"Origin", "http://a.example"}, status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`, sent: map[string]string{"Access-Control-Allow-Origin": "http://a.example"}},
			{row: "2.9 another site", method: "GET", path: "/meshes/default/retries", header: []string{"Origin", "http://b.example"}, status: 200, media: isJSON, answer: `{"total":0,"items":[],"next":null}`, sent: map[string]string{"Access-Control-Allow-Origin": ""}},
			{row: "8.17 preflight", method: "OPTIONS", path: item, header: []string{"Origin", "http://a.example", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "content-type"}, status: 200, media: isEmpty, sent: map[string]string{"Access-Control-Allow-Origin": "http://a.example", "Access-Control-Allow-Methods": "PUT,DELETE,GET"}},
			{row: "2.9 preflight of another method", method: "OPTIONS", path: item, header: []string{"Origin", "http://a.example", "Access-Control-Request-Method", "PATCH"}, status: 200, media: isEmpty, sent: map[string]string{"Access-Control-Allow-Methods": ""}},
			{row: "2.9 preflight of a list", method: "OPTIONS", path: "/meshes", header: []string{"Origin", "http://a.example", "Access-Control-Request-Method", "GET"}, status: 200, media: isEmpty, sent: map[string]string{"Access-Control-Allow-Methods": "GET"}},
			{row: "2.9 OPTIONS alone", method: "OPTIONS", path: item, header: []string{"Origin", "http://a.example"}, status: 405, media: isText, answer: "405: Method Not Allowed"},
		},
	}
	for name, o := range map[string]setup{
		"standalone": {api: api.Options{Mode: api.Standalone, Zone: "zone-1"}},
		"global":     {api: api.Options{Mode: api.Global}},
		"zone":       {api: api.Options{Mode: api.Zone, Zone: "zone-1", GlobalAddress: "grpcs://global.example:5685"}},
		"read-only":  {api: api.Options{Mode: api.Standalone, ReadOnly: true}},
		"no zones":   {api: api.Options{Mode: api.Global}},
		"CORS":       {api: api.Options{Mode: api.Global}, cors: []string{"a.example"}},
	} {
		t.Run(name, func(t *testing.T) {
			if len(rows[name]) == 0 {
				t.Fatal("no rows")
			}
			p := start(t, o)
			if name == "standalone" {
				p.must(p.put(item, timeout), 201)
				for _, zone := range []string{"zone-1", "zone-2"} {
					p.must(p.put("/zones/"+zone, `{}`), 201)
				}
				p.seed(resource.Key{Kind: resource.KindZoneInsight, Name: "zone-2"}, resource.Local, &systemv1.ZoneInsight{Subscriptions: []*systemv1.KDSSubscription{subscription(true)}})
				p.mesh("secured")
				p.must(p.put("/meshes/secured", mtls("a", `{"name":"a","type":"builtin"}`)), 200)
				p.must(p.put("/meshes/default/dataplanes/d", dataplane), 201)
			}
			for _, r := range rows[name] {
				p.as = nil
				if r.from != "" {
					p.as = &auth.Caller{Remote: netip.AddrPortFrom(netip.MustParseAddr(r.from), 1000), Host: "localhost:5681"}
				}
				r.check(t, p.do(r.method, r.path, r.body, r.header...))
			}
		})
	}
}

func (r statusRow) check(t *testing.T, a answer) {
	t.Helper()
	media := a.header.Get("Content-Type")
	if a.status != r.status || media != r.media {
		t.Errorf("%s: %d %q: %s", r.row, a.status, media, a.body)
		return
	}
	for name, want := range r.sent {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %s: %q, not %q", r.row, name, got, want)
		}
	}
	got, want := a.body, r.answer
	switch {
	case want == "*" && got != "":
		return
	case r.media != isJSON:
	case r.status >= 400:
		got, want = someText(t, got, want)
	default:
		got = timeOf.ReplaceAllString(compact(t, got), `"T"`)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", r.row, diff)
	}
}

var timeOf = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[0-9:.]+Z"`)

// someText gives two problems without the texts that the wanted one leaves open, which the other must have.
func someText(t *testing.T, got, want string) (string, string) {
	t.Helper()
	var g, w problem
	for s, to := range map[string]*problem{got: &g, want: &w} {
		d := json.NewDecoder(strings.NewReader(s))
		d.DisallowUnknownFields()
		if err := d.Decode(to); err != nil {
			t.Fatalf("%v: %s", err, s)
		}
	}
	if w.Details == "" && g.Details != "" {
		g.Details = ""
	} else if w.Details == "" {
		g.Details = "(nothing)"
	}
	for i := range w.Causes {
		if i < len(g.Causes) && w.Causes[i].Message == "" {
			if g.Causes[i].Message != "" {
				g.Causes[i].Message = ""
			} else {
				g.Causes[i].Message = "(nothing)"
			}
		}
	}
	return fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", w)
}
