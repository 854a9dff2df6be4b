package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// printItem shows one resource. A table of one line would hide its content, so that is YAML too.
func printItem(out io.Writer, format string, body []byte) error {
	switch format {
	case "json":
		return printJSON(out, body)
	case "yaml", "table":
		return printYAML(out, body)
	}
	return unknownFormat(format)
}

func unknownFormat(format string) error {
	return usagef("--output: must be table, json or yaml, got %q", format)
}

func printJSON(out io.Writer, body []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(body), "", " "); err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := out.Write(escapeJSON(b.Bytes()))
	return err
}

func printYAML(out io.Writer, body []byte) error {
	text, err := yaml.JSONToYAML(body)
	if err != nil {
		return fmt.Errorf("the answer is no JSON: %w", firstLine(err))
	}
	if bytes.ContainsFunc(text, commands) {
		return printJSON(out, body) // YAML too, and nothing of it is lost
	}
	_, err = out.Write(text)
	return err
}

func (t *tool) printList(out io.Writer, l list, d *resource.Descriptor) error {
	if t.output == "table" {
		return printTable(out, l, d, t.now())
	}
	return printDocument(out, t.output, l)
}

// printDocument shows a list as it came.
func printDocument(out io.Writer, format string, l list) error {
	body, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return printItem(out, format, body)
}

// rows prints aligned columns, the first row being the heads.
func rows(out io.Writer, heads []string, body func(row func(cells ...string))) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = inLine(cells[i])
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	row(heads...)
	body(row)
	return w.Flush()
}

type meta struct {
	Mesh         string    `json:"mesh"`
	Name         string    `json:"name"`
	Modification time.Time `json:"modificationTime"`
}

func decode[T any](items []json.RawMessage) ([]T, error) {
	out := make([]T, len(items))
	for i, item := range items {
		if err := json.Unmarshal(item, &out[i]); err != nil {
			return nil, fmt.Errorf("item %d of the answer: %w", i, err)
		}
	}
	return out, nil
}

// number shows a number that JSON carries as such or as text.
func number(raw json.RawMessage) string {
	if s := strings.Trim(string(raw), `"`); s != "" && s != "null" {
		return s
	}
	return "-"
}

// ago is how long ago something was, in the largest unit that it fills.
func ago(now, then time.Time) string {
	if then.IsZero() {
		return "never"
	}
	d := now.Sub(then)
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d < 365*day:
		return fmt.Sprintf("%dd", d/day)
	}
	return fmt.Sprintf("%dy", d/(365*day))
}
