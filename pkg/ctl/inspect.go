package ctl

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

func (t *tool) inspect() *cobra.Command {
	return group("inspect", "Show how zones, meshes, services and data plane proxies are",
		t.inspectDataplanes(),
		t.inspection("zones", "Show the zones and how far they have come", func() []string { return []string{"zones+insights"} }, t.printZones),
		t.inspection("meshes", "Show what is in the meshes", func() []string { return []string{"mesh-insights"} }, printMeshes),
		t.inspection("services", "Show how the services of a mesh are", func() []string {
			return []string{"meshes", url.PathEscape(t.mesh), "service-insights"}
		}, printServices),
	)
}

func (t *tool) inspection(use, short string, path func() []string, print func(io.Writer, []json.RawMessage) error) *cobra.Command {
	return t.outputFlag(&cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return t.overviews(c, path(), url.Values{}, print) },
	})
}

func (t *tool) inspectDataplanes() *cobra.Command {
	var tags []string
	var gateway, ingress bool
	c := t.outputFlag(&cobra.Command{
		Use: "dataplanes", Short: "Show a mesh's data plane proxies and how far they have come", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{}
			for _, tag := range tags {
				key, value, ok := strings.Cut(tag, "=")
				if !ok {
					return usagef("--tag: must be key=value, got %q", tag)
				}
				query.Add("tag", key+":"+value)
			}
			for name, value := range map[string]bool{"gateway": gateway, "ingress": ingress} {
				if c.Flags().Changed(name) {
					query.Set(name, strconv.FormatBool(value))
				}
			}
			return t.overviews(c, []string{"meshes", url.PathEscape(t.mesh), "dataplanes+insights"}, query, t.printDataplanes)
		},
	})
	c.Flags().StringArrayVar(&tags, "tag", nil, "only those with the tag key=value; may be given often")
	c.Flags().BoolVar(&gateway, "gateway", false, "only gateways (false: none)")
	c.Flags().BoolVar(&ingress, "ingress", false, "only ingresses (false: none)")
	return c
}

func (t *tool) overviews(c *cobra.Command, path []string, query url.Values, print func(io.Writer, []json.RawMessage) error) error {
	return t.with(c, func(cp *client) error {
		l, err := cp.all(c.Context(), path, query)
		if err != nil {
			return err
		}
		if t.output == "table" {
			return print(c.OutOrStdout(), l.Items)
		}
		return printDocument(c.OutOrStdout(), t.output, l)
	})
}

// insight is what an overview says of connections.
type insight struct {
	Subscriptions []subscription `json:"subscriptions"`
	MTLS          struct {
		Expiration    time.Time   `json:"certificateExpirationTime"`
		Regeneration  time.Time   `json:"lastCertificateRegeneration"`
		Regenerations json.Number `json:"certificateRegenerations"`
	} `json:"mTLS"`
}

type subscription struct {
	ConnectTime    time.Time `json:"connectTime"`
	DisconnectTime time.Time `json:"disconnectTime"`
	Status         struct {
		LastUpdateTime time.Time `json:"lastUpdateTime"`
		Total          struct {
			Sent     json.Number `json:"responsesSent"`
			Rejected json.Number `json:"responsesRejected"`
		} `json:"total"`
	} `json:"status"`
	Version struct {
		KumaDp struct {
			Version string `json:"version"`
		} `json:"kumaDp"`
		KumaCp struct {
			Version string `json:"version"`
		} `json:"kumaCp"`
		Envoy struct {
			Version string `json:"version"`
		} `json:"envoy"`
	} `json:"version"`
}

func (i insight) online() bool {
	for _, s := range i.Subscriptions {
		if !s.ConnectTime.IsZero() && s.DisconnectTime.IsZero() {
			return true
		}
	}
	return false
}

func (i insight) status() string {
	if i.online() {
		return "Online"
	}
	return "Offline"
}

// last is the subscription that says the newest.
func (i insight) last() subscription {
	if len(i.Subscriptions) == 0 {
		return subscription{}
	}
	return i.Subscriptions[len(i.Subscriptions)-1]
}

// history are the cells that tell of connections and updates.
func (i insight) history(now time.Time) []string {
	var sent, rejected int64
	for _, s := range i.Subscriptions {
		n, _ := s.Status.Total.Sent.Int64()
		m, _ := s.Status.Total.Rejected.Int64()
		sent, rejected = sent+n, rejected+m
	}
	l := i.last()
	return []string{ago(now, l.ConnectTime), ago(now, l.Status.LastUpdateTime), strconv.FormatInt(sent, 10), strconv.FormatInt(rejected, 10)}
}

func history() []string {
	return []string{"LAST CONNECTED AGO", "LAST UPDATED AGO", "TOTAL UPDATES", "TOTAL ERRORS"}
}

func (t *tool) printZones(out io.Writer, raw []json.RawMessage) error {
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
	heads := append([]string{"NAME", "STATUS", "APPLIED", "LIVE", "HEAD", "LAGGING", "REJECTED"}, history()...)
	return rows(out, append(heads, "ZONE-CP VERSION"), func(row func(...string)) {
		for _, z := range zones {
			status := z.Insight.status()
			if z.Zone.Enabled != nil && !*z.Zone.Enabled {
				status += ", disabled"
			}
			p := z.Position
			cells := []string{z.Name, status, number(p.Applied), number(p.Live), number(p.Head), number(p.Lagging), number(p.Rejected)}
			cells = append(cells, z.Insight.history(t.now())...)
			row(append(cells, cmp.Or(z.Insight.last().Version.KumaCp.Version, "-"))...)
		}
	})
}

func (t *tool) printDataplanes(out io.Writer, raw []json.RawMessage) error {
	type dataplane struct {
		meta
		Dataplane struct {
			Networking networking `json:"networking"`
		} `json:"dataplane"`
		Insight  insight `json:"dataplaneInsight"`
		Position struct{ Live json.RawMessage }
	}
	dataplanes, err := decode[dataplane](raw)
	if err != nil {
		return err
	}
	heads := append([]string{"MESH", "NAME", "TAGS", "STATUS", "LIVE"}, history()...)
	heads = append(heads, "CERT REGENERATED AGO", "CERT EXPIRATION", "CERT REGENERATIONS", "ZONE-DP VERSION", "ENVOY VERSION")
	return rows(out, heads, func(row func(...string)) {
		for _, d := range dataplanes {
			m, v := d.Insight.MTLS, d.Insight.last().Version
			status := d.Insight.status()
			if status == "Online" {
				status = d.Dataplane.Networking.status()
			}
			expires := "-"
			if !m.Expiration.IsZero() {
				expires = m.Expiration.UTC().Format(time.DateTime)
			}
			cells := []string{d.Mesh, d.Name, d.Dataplane.Networking.tags(), status, number(d.Position.Live)}
			cells = append(cells, d.Insight.history(t.now())...)
			row(append(cells, ago(t.now(), m.Regeneration), expires, cmp.Or(m.Regenerations.String(), "0"),
				cmp.Or(v.KumaDp.Version, "-"), cmp.Or(v.Envoy.Version, "-"))...)
		}
	})
}

// status is that of a proxy that is connected: it serves with some of its services, or with all or none.
func (n networking) status() string {
	ready := 0
	for _, i := range n.Inbound {
		if i.Health == nil || i.Health.Ready {
			ready++
		}
	}
	switch {
	case ready == len(n.Inbound):
		return "Online"
	case ready == 0:
		return "Offline"
	}
	return "Partially degraded"
}

type counts struct{ Total, Online, Offline json.Number }

func (c counts) String() string {
	return fmt.Sprintf("%s/%s", cmp.Or(c.Online.String(), "0"), cmp.Or(c.Total.String(), "0"))
}

func printMeshes(out io.Writer, raw []json.RawMessage) error {
	type mesh struct {
		meta
		Dataplanes counts
		Policies   map[string]struct{ Total json.Number }
	}
	meshes, err := decode[mesh](raw)
	if err != nil {
		return err
	}
	columns := []struct {
		head string
		kind resource.Kind
	}{
		{"TRAFFIC PERMISSIONS", resource.KindTrafficPermission},
		{"TRAFFIC ROUTES", resource.KindTrafficRoute},
		{"TIMEOUTS", resource.KindTimeout},
		{"RETRIES", resource.KindRetry},
		{"HEALTH CHECKS", resource.KindHealthCheck},
		{"CIRCUIT BREAKERS", resource.KindCircuitBreaker},
		{"FAULT INJECTIONS", resource.KindFaultInjection},
		{"TRAFFIC LOGS", resource.KindTrafficLog},
		{"TRAFFIC TRACES", resource.KindTrafficTrace},
		{"PROXY TEMPLATES", resource.KindProxyTemplate},
		{"EXTERNAL SERVICES", resource.KindExternalService},
	}
	heads := []string{"MESH", "DATAPLANES"}
	for _, c := range columns {
		heads = append(heads, c.head)
	}
	return rows(out, heads, func(row func(...string)) {
		for _, m := range meshes {
			cells := []string{m.Name, m.Dataplanes.String()}
			for _, c := range columns {
				cells = append(cells, cmp.Or(m.Policies[string(c.kind)].Total.String(), "0"))
			}
			row(cells...)
		}
	})
}

func printServices(out io.Writer, raw []json.RawMessage) error {
	type service struct {
		meta
		Status     string
		Dataplanes counts
	}
	services, err := decode[service](raw)
	if err != nil {
		return err
	}
	return rows(out, []string{"SERVICE", "STATUS", "DATAPLANES"}, func(row func(...string)) {
		for _, s := range services {
			status, ok := map[string]string{"online": "Online", "offline": "Offline", "partially_degraded": "Partially degraded"}[s.Status]
			if !ok {
				status = cmp.Or(s.Status, "-")
			}
			row(s.Name, status, s.Dataplanes.String())
		}
	})
}
