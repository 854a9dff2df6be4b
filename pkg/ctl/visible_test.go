package ctl

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// TestNothingForTerminals: whatever a control plane answers, nothing is printed that a terminal would obey, and of
// documents nothing is lost.
func TestNothingForTerminals(t *testing.T) {
	texts := []string{"plain", "two\nlines", "\x1b[2J", "\x1b]0;title\a", "\u009b31m", "a\rb", "\x7f", "é\u0085"}
	for _, format := range []string{"json", "yaml", "table"} {
		for _, text := range texts {
			want := map[string]any{"name": text, strings.ReplaceAll(text, "\n", ""): "x"}
			body, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var raw, shown bytes.Buffer
			if err := printItem(&raw, format, body); err != nil {
				t.Fatal(err)
			}
			if err := printItem(visible{&shown}, format, body); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsFunc(raw.String(), commands) || raw.String() != shown.String() {
				t.Errorf("%s of %q: %q", format, text, raw.String())
			}
			got := map[string]any{}
			if err := yaml.Unmarshal(raw.Bytes(), &got); err != nil {
				t.Errorf("%s of %q: %v", format, text, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s of %q: %s", format, text, diff)
			}
		}
	}
	var out bytes.Buffer
	if err := rows(visible{&out}, []string{"NAME", "X"}, func(row func(...string)) { row("a\nforged\tb\x1b[1m", "é") }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("NAME             X\na?forged?b?[1m   é\n", out.String()); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	if n, err := (visible{&out}).Write([]byte("a\x1b[1m\u009bé\xff\n")); err != nil || n != 11 || out.String() != "a?[1m?é\uFFFD\n" {
		t.Errorf("%d, %v: %q", n, err, out.String())
	}
}
