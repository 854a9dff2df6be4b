package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
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
	return fmt.Errorf("--output: must be table, json or yaml, got %q", format)
}

func printJSON(out io.Writer, body []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(body), "", " "); err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(out)
	return err
}

func printYAML(out io.Writer, body []byte) error {
	text, err := yaml.JSONToYAML(body)
	if err != nil {
		return fmt.Errorf("the answer is no JSON: %w", firstLine(err))
	}
	_, err = out.Write(text)
	return err
}

func printList(out io.Writer, format string, l list, meshes bool) error {
	if format == "table" {
		return printNames(out, l, meshes)
	}
	body, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return printItem(out, format, body)
}

// rows prints aligned columns, the first row being the heads.
func rows(out io.Writer, heads []string, body func(row func(cells ...string))) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) }
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

func printNames(out io.Writer, l list, meshes bool) error {
	items, err := decode[meta](l.Items)
	if err != nil {
		return err
	}
	heads := []string{"NAME", "MODIFIED"}
	if meshes {
		heads = append([]string{"MESH"}, heads...)
	}
	err = rows(out, heads, func(row func(...string)) {
		for _, i := range items {
			cells := []string{i.Name, i.Modification.Format(time.RFC3339)}
			if meshes {
				cells = append([]string{i.Mesh}, cells...)
			}
			row(cells...)
		}
	})
	if err != nil {
		return err
	}
	offset, err := offsetOf(l.Next)
	if err == nil && offset != "" {
		_, err = fmt.Fprintf(out, "\nMore with --offset=%s\n", offset)
	}
	return err
}

// insight is what an overview says of connections.
type insight struct {
	Subscriptions []struct {
		ConnectTime    *time.Time `json:"connectTime"`
		DisconnectTime *time.Time `json:"disconnectTime"`
	} `json:"subscriptions"`
}

func (i insight) status() string {
	for _, s := range i.Subscriptions {
		if s.ConnectTime != nil && s.DisconnectTime == nil {
			return "online"
		}
	}
	return "offline"
}

func printZones(out io.Writer, raw []json.RawMessage) error {
	type zone struct {
		meta
		Zone struct {
			Enabled *bool `json:"enabled"`
		} `json:"zone"`
		Insight  insight `json:"zoneInsight"`
		Position struct{ Applied, Live, Head, Lagging, Rejected json.RawMessage }
	}
	zones, err := decode[zone](raw)
	if err != nil {
		return err
	}
	return rows(out, []string{"NAME", "STATUS", "APPLIED", "LIVE", "HEAD", "LAGGING", "REJECTED"}, func(row func(...string)) {
		for _, z := range zones {
			status := z.Insight.status()
			if z.Zone.Enabled != nil && !*z.Zone.Enabled {
				status += ", disabled"
			}
			p := z.Position
			row(z.Name, status, number(p.Applied), number(p.Live), number(p.Head), number(p.Lagging), number(p.Rejected))
		}
	})
}

// number shows a number that JSON carries as such or as text.
func number(raw json.RawMessage) string {
	if s := strings.Trim(string(raw), `"`); s != "" && s != "null" {
		return s
	}
	return "-"
}

func printDataplanes(out io.Writer, raw []json.RawMessage) error {
	type tags struct {
		Tags map[string]string `json:"tags"`
	}
	type dataplane struct {
		meta
		Dataplane struct {
			Networking struct {
				Inbound []tags `json:"inbound"`
				Gateway tags   `json:"gateway"`
			} `json:"networking"`
		} `json:"dataplane"`
		Insight  insight `json:"dataplaneInsight"`
		Position struct{ Live json.RawMessage }
	}
	dataplanes, err := decode[dataplane](raw)
	if err != nil {
		return err
	}
	return rows(out, []string{"MESH", "NAME", "TAGS", "STATUS", "LIVE"}, func(row func(...string)) {
		for _, d := range dataplanes {
			pairs := map[string]bool{}
			for _, t := range append(d.Dataplane.Networking.Inbound, d.Dataplane.Networking.Gateway) {
				for k, v := range t.Tags {
					pairs[k+"="+v] = true
				}
			}
			row(d.Mesh, d.Name, strings.Join(slices.Sorted(maps.Keys(pairs)), " "), d.Insight.status(), number(d.Position.Live))
		}
	})
}
