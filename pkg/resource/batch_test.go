package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestValidJSON: walking over a value ends where the value does.
func TestValidJSON(t *testing.T) {
	for _, v := range []string{
		`null`, `true`, `-1.5e3`, `""`, `"a\"]},\\"`, `{}`, `[]`, `{"a":[1,{"b":"}"}],"c":null}`, `[[],[1 , 2],"x"]`,
	} {
		for _, before := range []string{"", " \t\r\n"} {
			for _, after := range []string{"", ",1", " ,1", "]", "}", "\n]"} {
				s := validJSON{body: []byte(before + v + after)}
				s.takes(0)
				if got := string(s.value()); got != v {
					t.Errorf("%q: %q", s.body, got)
				}
			}
		}
	}
}

// FuzzBatchJSON: what is given to take is what is in the body.
func FuzzBatchJSON(f *testing.F) {
	for _, s := range []string{
		`{"put":[{"type":"Mesh","name":"a"},{"type":"Mesh","name":"b\\"}] , "delete" : [ {"type":"Mesh","name":"\"c"} ] }`,
		`{"put":[1,"x",null,[[]],{}],"delete":null}`, `{"a":[{"b":"]"}],"put":[]}`, `{"put":5.5,"delete":true}`, ` { } `, `[]`, `{"put":[}`,
	} {
		f.Add(s)
	}
	table := NewTable()
	f.Fuzz(func(t *testing.T, body string) {
		items := 0
		err := Limits{}.DecodeBatchJSON(table, []byte(body), 1000, func(it BatchItem) {
			items++
			if it.Path == "" || it.Key.Name == "" || it.Key.Kind != it.Descriptor.Kind || it.Delete != (it.Input.Spec == nil) {
				t.Errorf("%q: %+v", body, it)
			}
		})
		if err == nil {
			var raw struct{ Put, Delete []json.RawMessage }
			if e := json.Unmarshal([]byte(body), &raw); e != nil || len(raw.Put)+len(raw.Delete) != items {
				t.Errorf("%q: %d items, %v", body, items, e)
			}
		}
	})
}

func TestBatchDocuments(t *testing.T) {
	for body, want := range map[string][]string{
		"":                          nil,
		"---\n":                     nil,
		"# a\n\n--- # b\n":          nil,
		"a: 1":                      {"1 a: 1"},
		"a: 1\n---\nb: 2\n":         {"1 a: 1\n", "2 ---\nb: 2\n"},
		"%YAML 1.2\n---\na: 1\n":    {"2 ---\na: 1\n"},
		"a: 1\n...\n%TAG x\n---\nb": {"1 a: 1\n", "4 ---\nb"},
		"--- a\n--- b\r\n":          {"1 --- a\n", "2 --- b\r\n"},
		"a: |\n  x\n  ---\n---x\n":  {"1 a: |\n  x\n  ---\n---x\n"},
		"...\n...\na: 1\n...\n":     {"3 a: 1\n"},
	} {
		var got []string
		for line, text := range documents([]byte(body)) {
			got = append(got, fmt.Sprintf("%d %s", line, text))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", body, diff)
		}
	}
}

// TestBatchIsBounded: neither many items nor a large one are read to the end.
func TestBatchIsBounded(t *testing.T) {
	table := NewTable()
	for _, decode := range []func(string) error{
		func(item string) error {
			return Limits{ObjectBytes: 4096}.DecodeBatchJSON(table, []byte(`{"put":[`+strings.Repeat(item+",", 100)+item+`]}`), 100, func(BatchItem) {})
		},
		func(item string) error {
			return Limits{ObjectBytes: 4096}.DecodeBatchYAML(table, []byte(strings.Repeat("---\n"+item+"\n", 101)), 100, func(BatchItem) {})
		},
	} {
		for item, want := range map[string]string{`{}`: "than 100 items (limits.batchItems)", `"` + strings.Repeat("x", 5000) + `"`: "than 4 KiB (limits.objectBytes)"} {
			if err := decode(item); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		}
	}
}
