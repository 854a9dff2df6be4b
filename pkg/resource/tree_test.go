package resource

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plain is a value as encoding/json gives it; of a key that comes twice the last counts.
func plain(v value) any {
	switch v.shape {
	case shapeBool:
		return v.truth
	case shapeNumber:
		return json.Number(v.text)
	case shapeString:
		return v.text
	case shapeList:
		out := make([]any, len(v.items))
		for i, x := range v.items {
			out[i] = plain(x)
		}
		return out
	case shapeObject:
		out := make(map[string]any, len(v.members))
		for _, m := range v.members {
			out[m.name] = plain(m.value)
		}
		return out
	}
	return nil
}

// FuzzParseJSON: what is read is what encoding/json reads.
func FuzzParseJSON(f *testing.F) {
	for _, s := range []string{
		`null`, ` true`, "\tfalse\n", `-0.5e+7`, `12345678901234567890`, `""`, `"a\"\\\u00e9\ud83d\ude00\ud800é"`, `[]`, `{}`, ` [ 1 , "]" , [ ] , { } , null ] `,
		`{"a":{"b":[{"c":"}"},{}]},"a":1,"\u0062":true}`, `{"a" : 1 , "b" : "x\\"}`, `[1,]`, `{"a"}`, `nul`, `"`, `1 2`, `[[[[[[[[]]]]]]]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		v, err := parseJSON(body, 6)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if diff := cmp.Diff(want, plain(v)); diff != "" {
			t.Errorf("%q: %s", body, diff)
		}
	})
}
