package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// resolved gives the documents that apply would send, each with its place.
func resolved(text []byte) []document {
	table := resource.NewTable()
	docs, err := parseDocuments(text)
	if err != nil {
		return nil
	}
	var good []document
	for _, d := range docs {
		if d.resolve(table, "the mesh") == nil {
			good = append(good, d)
		}
	}
	return good
}

// FuzzBatches: a batch has the documents that were given, in their order, each with its mesh, whatever they look like.
func FuzzBatches(f *testing.F) {
	for _, seed := range []string{
		"type: Mesh\nname: a\n---\ntype: Retry\nname: b\n",
		"{type: Retry, name: r}\n--- # x\n  type: Timeout\n  name: t\n...\n# end",
		`{"type":"Retry","name":"\ud83d\ude00"} {"type":"Mesh","name":"m"}`,
		"%YAML 1.2\n---\n!!map {type: Retry, name: r}\n---\n&a\ntype: Retry\nname: r\n",
		"---\ttype: Mesh\n--- {type: Mesh, name: b}\n", "\"type\": Retry\nname: |\n  r\nmesh:\n", "? type\n: Retry\n? name\n: x",
	} {
		f.Add([]byte(seed), []byte(`{"type":"Zone","name":"z"}`))
	}
	f.Fuzz(func(t *testing.T, one, other []byte) {
		docs := append(resolved(one), resolved(other)...)
		if len(docs) == 0 {
			return
		}
		batches, err := batchesOf(docs, maxItems, maxBytes)
		if err != nil {
			return
		}
		name := func(typ, mesh, name string) string { return fmt.Sprintf("%q %q %q", typ, mesh, name) }
		var want, got []string
		for _, d := range docs {
			want = append(want, name(d.Type, d.Mesh, d.Name))
		}
		for _, b := range batches {
			if b.contentType == yamlType {
				again, err := parseDocuments(b.body)
				if err != nil {
					t.Fatalf("%v\n%s", err, b.body)
				}
				for _, d := range again {
					got = append(got, name(d.Type, d.Mesh, d.Name))
				}
				continue
			}
			var body struct{ Put []map[string]any }
			if err := json.Unmarshal(b.body, &body); err != nil {
				t.Fatalf("%v\n%s", err, b.body)
			}
			for _, members := range body.Put {
				var d document
				if err := d.header(members); err != nil {
					t.Fatal(err)
				}
				got = append(got, name(d.Type, d.Mesh, d.Name))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", diff, batches[0].body)
		}
	})
}

func TestBatchesAreBounded(t *testing.T) {
	const many = `{"type":"Zone","name":"a"}{"type":"Zone","name":"b"}{"type":"Zone","name":"c"}{"type":"Zone","name":"d"}{"type":"Zone","name":"e"}`
	for name, tt := range map[string]struct {
		text        string
		items, size int
		want        []int
	}{
		"many":      {many, 2, 1000, []int{2, 2, 1}},
		"large":     {many, 10, 80, []int{2, 2, 1}},
		"too large": {many, 10, 1, []int{1, 1, 1, 1, 1}}, // which the control plane says
		"again":     {`{"type":"Zone","name":"a"}{"type":"Zone","name":"b"}{"type":"Zone","name":"a"}{"type":"Zone","name":"c"}`, 10, 1000, []int{2, 2}},
	} {
		batches, err := batchesOf(resolved([]byte(tt.text)), tt.items, tt.size)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, b := range batches {
			got = append(got, len(b.docs))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestRender(t *testing.T) {
	values := map[string]string{"a": "1", "b.c": "{{ a }}"}
	for text, want := range map[string]string{
		"{{a}} {{ b.c }} {{  a  }}": "1 {{ a }} 1", "{ {a} } {{}} {{a b}}": "{ {a} } {{}} {{a b}}", "": "",
	} {
		got, err := render([]byte(text), values)
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := render([]byte("{{x}} {{ y }} {{x}}"), values); err == nil || !strings.HasPrefix(err.Error(), "no value is given for x, y ") {
		t.Error(err)
	}
}

func TestWarnings(t *testing.T) {
	h := http.Header{"Warning": {`299 - "the tag \"service\" is read"`, "odd", `299 - "put[0]: x" "Wed, 21 Oct 2026 07:28:00 GMT"`}}
	if diff := cmp.Diff([]string{`the tag "service" is read`, "odd", "put[0]: x"}, warnings(h)); diff != "" {
		t.Error(diff)
	}
}

// TestPasswordsOfSources: a password in a URL goes to whom it is meant for, and into no message.
func TestPasswordsOfSources(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "s3cret" {
			t.Errorf("asked with %q", password)
		}
		switch r.URL.Path {
		case "/good":
			_, _ = io.WriteString(w, "type: Mesh\nname: a\n")
		case "/broken":
			_, _ = io.WriteString(w, "a: b: c\n")
		case "/unset":
			_, _ = io.WriteString(w, "a: {{ b }}\n")
		case "/empty":
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	at := strings.Replace(srv.URL, "http://", "http://ann:s3cret@", 1)
	for _, path := range []string{"/good", "/broken", "/unset", "/empty", "/nowhere"} {
		a := application{files: []string{at + path}}
		docs, err := a.read(t.Context(), nil)
		said := fmt.Sprint(err)
		if path == "/good" && err == nil {
			said = docs[0].place()
		}
		if !strings.Contains(said, "ann:xxxxx@") || !strings.Contains(said, path) || strings.Contains(said, "s3cret") {
			t.Errorf("%s: %s", path, said)
		}
	}
	if _, err := (connection{address: at}).open(); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
}
