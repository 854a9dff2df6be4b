package e2e

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/meridian-mesh/meridian/e2e/harness"
	"github.com/meridian-mesh/meridian/pkg/resource"
)

//go:embed transcripts/testdata/*.json
var transcripts embed.FS

// exchange is one example of a document, as the extractor wrote it.
type exchange struct {
	Line     int               `json:"line"`
	Method   string            `json:"method"`
	URL      string            `json:"url"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
	Statuses []int             `json:"statuses"`
	Answer   string            `json:"answer"`
}

// slip is an example that a document itself has wrong.
type slip struct {
	why string
	// What stands in its URL, body or answer, and what is sent and compared instead.
	part     func(*exchange) *string
	old, new string
}

func inURL(e *exchange) *string    { return &e.URL }
func inBody(e *exchange) *string   { return &e.Body }
func inAnswer(e *exchange) *string { return &e.Answer }

// slips are all of them, by document and line. docs/compatibility.md tells of them.
var slips = map[string]slip{
	"1.1:766":  {"the answer is no JSON: a brace is missing", inAnswer, "\"outbound\": [\n\"port\"", "\"outbound\": [\n{\n\"port\""},
	"1.1:1993": {"the body names another object than the path", inBody, `"name": "r1"`, `"name": "fi1"`},
	"1.1:2170": {"the body is not shown", inBody, "", `{"type": "Timeout", "mesh": "default", "name": "fi1",
		"sources": [{"match": {"kuma.io/service": "*"}}], "destinations": [{"match": {"kuma.io/service": "web"}}],
		"conf": {"connectTimeout": "10s", "grpc": {"streamIdleTimeout": "4s", "maxStreamDuration": "15s"}}}`},
	"1.1:2445": {"the path of the zones answers with their overviews", inURL, "/zones", "/zones+insights"},
	"1.1:2594": {"the inline bytes of an item are no base64", inAnswer, "LS0tLS1==", "LS0tLS0="},
	"1.1:2794": {"the path lacks that of the global secrets", inURL, "/sample-", "/global-secrets/sample-"},
	"0.4:1844": {"the body is no JSON: a quote stands behind the colon", inBody, `:"`, `":`},
}

// TestTranscriptsOfKinds sends the examples about objects of the kinds that a user writes, and compares the answers.
func TestTranscriptsOfKinds(t *testing.T) {
	table := resource.NewTable()
	for _, document := range []string{"1.1", "0.6", "0.4"} {
		t.Run(document, func(t *testing.T) {
			t.Parallel()
			all := examples(t, document)
			cp := inProcess{}.zone(t, zoneOptions{})
			r := &replay{t: t, client: cp.client(), table: table, bodies: map[*resource.Descriptor]map[string]any{}}
			sent := 0
			for _, e := range all {
				if r.topic(e) != aboutKinds {
					continue
				}
				target, _ := r.target(e)
				sent++
				if err := r.play(e, target); err != nil {
					t.Errorf("%s:%d %s %s: %v", document, e.Line, e.Method, e.URL, err)
				}
			}
			t.Logf("%s: %d of %d examples are about kinds that a user writes, and were sent", document, sent, len(all))
		})
	}
}

// target is what a path of the API names.
type target struct {
	path       string
	d          *resource.Descriptor
	mesh, name string
}

// replay sends the examples of one document.
type replay struct {
	t      *testing.T
	client *harness.Client
	table  *resource.Table
	// bodies are the last ones of each kind, for examples that need an object to be there.
	bodies map[*resource.Descriptor]map[string]any
}

// target finds what an example is about; false: it is not about a kind that a user writes on this control plane.
func (r *replay) target(e exchange) (target, bool) {
	u, err := url.Parse(e.URL)
	if err != nil || u.Port() != "5681" {
		return target{}, false
	}
	x := target{path: u.Path}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	if parts[0] == "meshes" && len(parts) > 2 {
		x.mesh, parts = parts[1], parts[2:]
	}
	d, ok := r.table.ByPlural(parts[0])
	if !ok || d.Writable == resource.WritableNowhere || d.Access == resource.Internal {
		return target{}, false
	}
	x.d = d
	if len(parts) > 1 {
		x.name = parts[1]
	}
	return x, true
}

func (r *replay) play(e exchange, x target) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	if x.mesh != "" {
		if err := r.have(ctx, "/meshes/"+x.mesh, map[string]any{"type": "Mesh", "name": x.mesh}); err != nil {
			return err
		}
	}
	switch e.Method {
	case http.MethodPut:
		return r.put(ctx, e, x)
	case http.MethodDelete:
		return r.remove(ctx, e, x)
	}
	var example map[string]any
	if err := json.Unmarshal([]byte(e.Answer), &example); err != nil {
		return fmt.Errorf("the answer of the document: %w", err)
	}
	if x.name != "" {
		return r.get(ctx, x, example)
	}
	return r.list(ctx, x, example)
}

// have makes an object unless it is there.
func (r *replay) have(ctx context.Context, path string, body any) error {
	_, _, err := r.client.Do(ctx, http.MethodGet, path, nil)
	var status *harness.StatusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		_, _, err = r.client.Do(ctx, http.MethodPut, path, body)
	}
	if err != nil {
		return fmt.Errorf("what it needs: %w", err)
	}
	return nil
}

func (r *replay) put(ctx context.Context, e exchange, x target) error {
	var body map[string]any
	if err := json.Unmarshal([]byte(e.Body), &body); err != nil {
		return fmt.Errorf("the body of the document: %w", err)
	}
	r.bodies[x.d] = body
	before, err := r.status(ctx, http.MethodGet, x.path, "", nil)
	if err != nil {
		return err
	}
	status, err := r.status(ctx, http.MethodPut, x.path, e.Body, e.Headers)
	if err != nil {
		return err
	}
	if created := before == http.StatusNotFound; !slices.Contains(e.Statuses, status) || created != (status == http.StatusCreated) {
		return fmt.Errorf("answered %d, %d before, the document has %v", status, before, e.Statuses)
	}
	return r.compare(ctx, x, body)
}

func (r *replay) remove(ctx context.Context, e exchange, x target) error {
	body := map[string]any{}
	for k, v := range r.bodies[x.d] {
		body[k] = v
	}
	body["name"] = x.name
	if err := r.have(ctx, x.path, body); err != nil {
		return err
	}
	status, err := r.status(ctx, http.MethodDelete, x.path, "", nil)
	if err == nil && !slices.Contains(e.Statuses, status) {
		err = fmt.Errorf("answered %d, the document has %v", status, e.Statuses)
	}
	return err
}

// get makes what the example shows, in the shape of its era, and compares what is answered.
func (r *replay) get(ctx context.Context, x target, example map[string]any) error {
	r.bodies[x.d] = example
	if _, _, err := r.client.Do(ctx, http.MethodPut, x.path, example); err != nil {
		return fmt.Errorf("making what it shows: %w", err)
	}
	return r.compare(ctx, x, example)
}

// list makes every object of the example's answer, and looks for each in the answer.
func (r *replay) list(ctx context.Context, x target, example map[string]any) error {
	items, ok := example["items"].([]any)
	if !ok {
		return errors.New("the answer of the document has no items")
	}
	for _, item := range items {
		object := item.(map[string]any)
		path := "/" + x.d.Plural + "/" + object["name"].(string)
		if x.d.Scope == resource.ScopeMesh {
			mesh, _ := object["mesh"].(string)
			path = "/meshes/" + mesh + path
			if err := r.have(ctx, "/meshes/"+mesh, map[string]any{"type": "Mesh", "name": mesh}); err != nil {
				return err
			}
		}
		if _, _, err := r.client.Do(ctx, http.MethodPut, path, object); err != nil {
			return fmt.Errorf("making what it shows: %w", err)
		}
		r.bodies[x.d] = object
	}
	var answer map[string]any
	if err := r.client.Get(ctx, x.path, &answer); err != nil {
		return err
	}
	for key := range example {
		if _, ok := answer[key]; !ok {
			return fmt.Errorf("the answer has no %q", key)
		}
	}
	if total, ok := answer["total"].(float64); !ok || int(total) < len(items) {
		return fmt.Errorf("total is %v", answer["total"])
	}
	for _, item := range items {
		object := item.(map[string]any)
		i := slices.IndexFunc(answer["items"].([]any), func(a any) bool {
			m := a.(map[string]any)
			return m["name"] == object["name"] && m["mesh"] == object["mesh"]
		})
		if i < 0 {
			return fmt.Errorf("%v is not in the list", object["name"])
		}
		if err := r.holds(x.d, object, answer["items"].([]any)[i]); err != nil {
			return fmt.Errorf("%v: %w", object["name"], err)
		}
	}
	return nil
}

func (r *replay) status(ctx context.Context, method, path, body string, headers map[string]string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.client.Base+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	resp, err := r.client.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// compare reads an object and holds it against an example.
func (r *replay) compare(ctx context.Context, x target, example map[string]any) error {
	var answer map[string]any
	if err := r.client.Get(ctx, x.path, &answer); err != nil {
		return err
	}
	return r.holds(x.d, example, answer)
}

// holds says what of an example an answer lacks, once both are in the newest shape. An example that is in it already
// is taken as the document has it, the others are read by us and written by the protobuf library: what our own
// writing loses is not lost on both sides.
func (r *replay) holds(d *resource.Descriptor, example map[string]any, answer any) error {
	raw, err := json.Marshal(example)
	if err != nil {
		return err
	}
	in, err := resource.DecodeJSON(d, raw)
	if err != nil {
		return fmt.Errorf("the example: %w", err)
	}
	want := maps.Clone(example)
	if len(in.Warnings) > 0 {
		if raw, err = protojson.Marshal(in.Spec); err != nil {
			return err
		}
		want = map[string]any{}
		if err := json.Unmarshal(raw, &want); err != nil {
			return err
		}
		want["name"] = in.Name
		if in.Mesh != "" {
			want["mesh"] = in.Mesh
		}
	}
	want["type"] = string(d.Kind) // of a GlobalSecret it is Secret in the document
	for _, key := range []string{"creationTime", "modificationTime"} {
		delete(want, key)
		if _, shown := example[key]; !shown {
			continue
		}
		at, _ := answer.(map[string]any)[key].(string)
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return shows("", want, answer)
}

// shows says what of want is not so in have: maps may have more, times that something takes are compared by value, all
// else is equal.
func shows(at string, want, have any) error {
	switch want := want.(type) {
	case map[string]any:
		m, ok := have.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v", at, have)
		}
		for k, v := range want {
			other, ok := m[k]
			if !ok {
				return fmt.Errorf("%s.%s is missing", at, k)
			}
			if err := shows(at+"."+k, v, other); err != nil {
				return err
			}
		}
		return nil
	case string:
		other, _ := have.(string)
		a, errA := time.ParseDuration(want)
		b, errB := time.ParseDuration(other)
		if errA == nil && errB == nil && a == b {
			return nil
		}
	case []any:
		l, ok := have.([]any)
		if !ok || len(l) != len(want) {
			return fmt.Errorf("%s is %v", at, have)
		}
		for i := range want {
			if err := shows(fmt.Sprintf("%s[%d]", at, i), want[i], l[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if !reflect.DeepEqual(want, have) {
		return fmt.Errorf("%s is %v instead of %v", at, have, want)
	}
	return nil
}

// TestTranscriptsAreHeldToTheirExamples tries the comparison itself: an answer may have more, and nothing else.
func TestTranscriptsAreHeldToTheirExamples(t *testing.T) {
	d, ok := resource.NewTable().ByPlural("timeouts")
	if !ok {
		t.Fatal("no timeouts")
	}
	const newest = `{"type":"Timeout","mesh":"default","name":"t","creationTime":"2021-02-16T14:01:53.5+07:00",
		"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":{"connectTimeout":"1m"}}`
	older := strings.ReplaceAll(newest, `"kuma.io/service"`, `"service"`)
	const answer = `{"type":"Timeout","mesh":"default","name":"t","creationTime":"2026-01-02T03:04:05Z",
		"sources":[{"match":{"kuma.io/service":"*"}}],"destinations":[{"match":{"kuma.io/service":"*"}}],"conf":{"connectTimeout":"60s"}}`
	for name, c := range map[string]struct {
		old, changed string // what is put for what in the answer
		held         bool
	}{
		"as shown":        {held: true},
		"more":            {`"conf":{`, `"more":1,"conf":{"http":{},`, true},
		"another value":   {"60s", "61s", false},
		"no duration":     {"60s", "soon", false},
		"another type":    {`"Timeout"`, `"Retry"`, false},
		"another mesh":    {`"mesh":"default"`, `"mesh":"other"`, false},
		"another name":    {`"name":"t"`, `"name":"u"`, false},
		"no field":        {`"connectTimeout":"60s"`, ``, false},
		"another field":   {"connectTimeout", "connecttimeout", false},
		"no tag":          {`"sources":[{"match":{"kuma.io/service":"*"}`, `"sources":[{"match":{}`, false},
		"a longer list":   {`"sources":[`, `"sources":[{},`, false},
		"no list":         {`"sources":[{"match":{"kuma.io/service":"*"}}]`, `"sources":{}`, false},
		"no time":         {`"creationTime":"2026-01-02T03:04:05Z",`, ``, false},
		"not a time":      {"2026-01-02T03:04:05Z", "today", false},
		"the older shape": {`"sources":[{"match":{"kuma.io/service"`, `"sources":[{"match":{"service"`, false},
	} {
		for era, document := range map[string]string{"newest": newest, "older": older} {
			t.Run(name+" "+era, func(t *testing.T) {
				var example, have map[string]any
				if err := errors.Join(json.Unmarshal([]byte(document), &example), json.Unmarshal([]byte(strings.Replace(answer, c.old, c.changed, 1)), &have)); err != nil {
					t.Fatal(err)
				}
				if err := new(replay).holds(d, example, have); (err == nil) != c.held {
					t.Errorf("held: %v", err)
				}
			})
		}
	}
}
