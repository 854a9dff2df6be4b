package resource

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

type seed struct {
	kind *Descriptor
	body []byte
}

// seeds are the bodies of the golden round trips.
func seeds(t testing.TB) []seed {
	t.Helper()
	paths, err := filepath.Glob("testdata/roundtrip/*.in.*")
	if err != nil || len(paths) == 0 {
		t.Fatal("no seeds", err)
	}
	var all []seed
	for _, p := range paths {
		body, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := strings.Cut(filepath.Base(p), ".")
		kind, _, _ = strings.Cut(kind, "-")
		all = append(all, seed{descriptor(t, Kind(kind)), body})
	}
	return all
}

// examples are the bodies of the published documents' examples, as requests or as answers, in the shape of their era.
func examples(t testing.TB, table *Table) []seed {
	t.Helper()
	paths, err := filepath.Glob("../../e2e/transcripts/testdata/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatal("no examples", err)
	}
	var all []seed
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var exchanges []struct{ URL, Body, Answer string }
		if err := json.Unmarshal(raw, &exchanges); err != nil {
			t.Fatal(err)
		}
		for _, e := range exchanges {
			u, err := url.Parse(e.URL)
			if err != nil {
				continue
			}
			parts := strings.Split(strings.Trim(u.Path, "/"), "/")
			if len(parts) > 2 && parts[0] == "meshes" {
				parts = parts[2:]
			}
			d, ok := table.ByPlural(parts[0])
			if !ok {
				continue
			}
			for _, body := range []string{e.Body, e.Answer} {
				if body != "" {
					all = append(all, seed{d, []byte(body)})
				}
			}
		}
	}
	return all
}

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkTaken holds what was decoded to its promise: it can be defaulted, validated, encoded and read again.
func checkTaken(t fataler, d *Descriptor, in Input) {
	t.Helper()
	if d.Default != nil {
		d.Default(Key{Kind: d.Kind, Name: "n"}, in.Spec)
	}
	if d.Validate != nil {
		d.Validate(Key{Kind: d.Kind, Name: "n"}, in.Spec)
	}
	spec, err := Encode(in.Spec)
	if err != nil {
		t.Fatalf("%v", err)
	}
	b, err := EncodeJSON(d, &Object{Key: Key{Kind: d.Kind, Name: "n"}, Spec: spec})
	if err != nil {
		t.Fatalf("%v", err)
	}
	if len(b) > MaxSpecBytes {
		return
	}
	again, err := DecodeJSON(d, b)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v\n%s", err, b)
	}
	if !proto.Equal(in.Spec, again.Spec) {
		t.Fatalf("reads back as something else:\n%s\n%v\n%v", b, in.Spec, again.Spec)
	}
}

// checkAccepted holds what a peer sent to its promise: it has a JSON form.
func checkAccepted(t fataler, table *Table, k Key, spec []byte) {
	t.Helper()
	for _, origin := range []Origin{Local, Global, "zone-1"} {
		if Accept(table, k, origin, spec) != nil {
			continue
		}
		d, _ := table.ByKind(k.Kind)
		if _, err := EncodeJSON(d, &Object{Key: k, Spec: spec}); err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
	}
}

func fuzzBodies(f *testing.F, decode func(*Descriptor, []byte) (Input, error)) {
	table := NewTable()
	kinds := table.All()
	for _, s := range append(seeds(f), examples(f, table)...) {
		for i, d := range kinds {
			if d.Kind == s.kind.Kind {
				f.Add(uint8(i), s.body)
			}
		}
	}
	for _, s := range []string{
		"", "{}", "[]", "null", `{"a":`, `{"name":"\ud800"}`, `{"mtls":{"backends":[{"conf":{"a":[1,-0,1e-7,1e300,null,{}]}}]}}`,
		"a: &a [x]\nb: *a\n<<: {c: d}\n", "? a\n: b\n", "--- |\n x\n...\n", "name: !!str 1", "%YAML 1.2\n---\n{}", "\ufeff{}", "a:\n- b\n-\n  - c: >-\n      d\n",
		strings.Repeat("[", 100), strings.Repeat("- ", 100), "{a: " + strings.Repeat("&a ", 10) + "}",
	} {
		f.Add(uint8(0), []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		d := kinds[int(kind)%len(kinds)]
		if in, err := decode(d, body); err == nil && d.Access != Internal {
			checkTaken(t, d, in)
		}
	})
}

func FuzzDecodeJSON(f *testing.F) { fuzzBodies(f, DecodeJSON) }

func FuzzDecodeYAML(f *testing.F) { fuzzBodies(f, DecodeYAML) }

func FuzzAccept(f *testing.F) {
	table := NewTable()
	for _, s := range seeds(f) {
		in, err := DecodeYAML(s.kind, s.body)
		if err != nil {
			f.Fatal(err)
		}
		scope := ""
		if s.kind.Scope == ScopeMesh {
			scope = "default"
		}
		f.Add(string(s.kind.Kind), scope, "n", encoded(f, in.Spec))
	}
	f.Add("SyncRejection", "", "zone-1.Timeout/default/x", []byte{})
	f.Add("Mesh", "default", "\xff", []byte{0xff})
	f.Fuzz(func(t *testing.T, kind, scope, name string, spec []byte) {
		checkAccepted(t, table, Key{Kind(kind), scope, name}, spec)
	})
}
