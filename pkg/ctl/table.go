package ctl

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// listed is what tables show of any kind.
type listed struct {
	meta
	Networking networking `json:"networking"`
	MTLS       struct {
		EnabledBackend string    `json:"enabledBackend"`
		Backends       []backend `json:"backends"`
	} `json:"mtls"`
	Metrics struct {
		EnabledBackend string    `json:"enabledBackend"`
		Backends       []backend `json:"backends"`
	} `json:"metrics"`
	Logging struct {
		Backends []backend `json:"backends"`
	} `json:"logging"`
	Tracing struct {
		Backends []backend `json:"backends"`
	} `json:"tracing"`
	Routing struct {
		Locality bool `json:"localityAwareLoadBalancing"`
	} `json:"routing"`
	Tags map[string]string `json:"tags"`
}

type backend struct{ Name, Type string }

type networking struct {
	Address string  `json:"address"`
	Inbound []entry `json:"inbound"`
	Gateway entry   `json:"gateway"`
}

type entry struct {
	Tags map[string]string `json:"tags"`
	// Health is {} of what is not ready, and absent where nobody looks.
	Health *struct {
		Ready bool `json:"ready"`
	} `json:"health"`
}

// column is one column of a table.
type column struct {
	head string
	cell func(listed) string
}

// columns are those of a kind, between its name and its age.
func columns(k resource.Kind) []column {
	switch k {
	case resource.KindMesh:
		return []column{
			{"mTLS", func(i listed) string { return chosen(i.MTLS.EnabledBackend, i.MTLS.Backends) }},
			{"METRICS", func(i listed) string { return chosen(i.Metrics.EnabledBackend, i.Metrics.Backends) }},
			{"LOGGING", func(i listed) string { return namesOf(i.Logging.Backends) }},
			{"TRACING", func(i listed) string { return namesOf(i.Tracing.Backends) }},
			{"LOCALITY", func(i listed) string {
				if i.Routing.Locality {
					return "on"
				}
				return "off"
			}},
		}
	case resource.KindDataplane:
		return []column{{"TAGS", func(i listed) string { return i.Networking.tags() }}}
	case resource.KindExternalService:
		return []column{
			{"TAGS", func(i listed) string { return showTags(i.Tags) }},
			{"ADDRESS", func(i listed) string { return i.Networking.Address }},
		}
	}
	return nil
}

// chosen shows the enabled backend of several, as type/name.
func chosen(enabled string, all []backend) string {
	for _, b := range all {
		if b.Name == enabled {
			return b.Type + "/" + b.Name
		}
	}
	return "off"
}

// namesOf shows backends, as type/name.
func namesOf(all []backend) string {
	if len(all) == 0 {
		return "off"
	}
	texts := make([]string, len(all))
	for i, b := range all {
		texts[i] = b.Type + "/" + b.Name
	}
	return strings.Join(texts, ", ")
}

// tags shows what the inbounds or the gateway are tagged with: key=value,value.
func (n networking) tags() string {
	all := []map[string]string{n.Gateway.Tags}
	for _, i := range n.Inbound {
		all = append(all, i.Tags)
	}
	return showTags(all...)
}

func showTags(all ...map[string]string) string {
	values := map[string][]string{}
	for _, tags := range all {
		for k, v := range tags {
			if !slices.Contains(values[k], v) {
				values[k] = append(values[k], v)
			}
		}
	}
	texts := make([]string, 0, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		slices.Sort(values[k])
		texts = append(texts, k+"="+strings.Join(values[k], ","))
	}
	return strings.Join(texts, " ")
}

// printTable shows a list; age is how long ago a resource was last changed.
func printTable(out io.Writer, l list, d *resource.Descriptor, now time.Time) error {
	items, err := decode[listed](l.Items)
	if err != nil {
		return err
	}
	all := []column{{"NAME", func(i listed) string { return i.Name }}}
	if d.Scope == resource.ScopeMesh {
		all = append([]column{{"MESH", func(i listed) string { return i.Mesh }}}, all...)
	}
	all = append(all, columns(d.Kind)...)
	all = append(all, column{"AGE", func(i listed) string { return ago(now, i.Modification) }})
	heads := make([]string, len(all))
	for i, c := range all {
		heads[i] = c.head
	}
	err = rows(out, heads, func(row func(...string)) {
		for _, i := range items {
			cells := make([]string, len(all))
			for n, c := range all {
				cells[n] = c.cell(i)
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
