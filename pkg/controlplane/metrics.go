package controlplane

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// logCollector reads the state of the logs when metrics are asked for.
type logCollector struct{ store store.Store }

func head() *prometheus.Desc {
	return prometheus.NewDesc("meridian_log_head_revision", "Newest revision of a log of this control plane.", []string{"log"}, nil)
}

func zone() *prometheus.Desc {
	return prometheus.NewDesc("meridian_zone_position_revision",
		"How far a zone has come in the config log: applied, processed into plans, live on every proxy.", []string{"zone", "step"}, nil)
}

// Describe implements prometheus.Collector.
func (c *logCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- head()
	ch <- zone()
}

// Collect implements prometheus.Collector.
func (c *logCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	status := c.store.Status().View()
	gauge(head(), float64(c.store.Config().View().Revision()), "config")
	gauge(head(), float64(status.Revision()), "status")
	for o := range status.Scan(store.OfKind(resource.KindZonePosition)) {
		p, err := resource.Decode[systemv1.ZonePosition](o)
		if err != nil {
			continue
		}
		name := string(o.Origin)
		if name == "" {
			name = "self"
		}
		gauge(zone(), float64(p.GetApplied()), name, "applied")
		gauge(zone(), float64(p.GetProcessed()), name, "processed")
		gauge(zone(), float64(p.GetLive()), name, "live")
	}
}
