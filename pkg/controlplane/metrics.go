package controlplane

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meridian-mesh/meridian/pkg/gateway"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// instruments are what is counted as it happens. All else is read when it is asked for. No label holds what a proxy
// or a caller chooses.
type instruments struct {
	sync     *prometheus.HistogramVec
	requests *prometheus.CounterVec
	answers  *prometheus.HistogramVec
}

func newInstruments(r *prometheus.Registry) *instruments {
	i := &instruments{
		sync: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meridian_store_sync_seconds", Help: "How long commits took to be durable.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}, []string{"log"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meridian_api_requests_total", Help: "Requests of the REST API that were answered.",
		}, []string{"method", "route", "code"}),
		answers: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "meridian_api_request_seconds", Help: "How long requests of the REST API took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}, []string{"method", "route"}),
	}
	r.MustRegister(i.sync, i.requests, i.answers)
	return i
}

func (i *instruments) synced(log string, took time.Duration) {
	i.sync.WithLabelValues(log).Observe(took.Seconds())
}

func (i *instruments) answered(a gateway.Answered) {
	i.requests.WithLabelValues(a.Method, a.Route, strconv.Itoa(a.Code)).Inc()
	i.answers.WithLabelValues(a.Method, a.Route).Observe(a.Took.Seconds())
}

// Gauge adds a metric that is read when metrics are asked for. read gives each value with its labels' values.
func (b *Base) Gauge(name, help string, labels []string, read func(give func(value float64, labels ...string))) {
	b.Metrics.MustRegister(&reading{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, read})
}

// Counter is Gauge for what only grows.
func (b *Base) Counter(name, help string, labels []string, read func(give func(value float64, labels ...string))) {
	b.Metrics.MustRegister(&reading{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue, read})
}

// reading implements prometheus.Collector.
type reading struct {
	desc *prometheus.Desc
	typ  prometheus.ValueType
	read func(give func(value float64, labels ...string))
}

// Describe implements prometheus.Collector.
func (r *reading) Describe(ch chan<- *prometheus.Desc) { ch <- r.desc }

// Collect implements prometheus.Collector.
func (r *reading) Collect(ch chan<- prometheus.Metric) {
	r.read(func(value float64, labels ...string) {
		m, err := prometheus.NewConstMetric(r.desc, r.typ, value, labels...)
		if err != nil {
			m = prometheus.NewInvalidMetric(r.desc, err) // labels that are no UTF-8
		}
		ch <- m
	})
}

// measure adds what both control planes say of themselves. path is the store's file; "": it has none.
func (b *Base) measure(path string) {
	logs := map[string]store.Log{"config": b.Store.Config(), "status": b.Store.Status()}
	b.Gauge("meridian_log_head_revision", "Newest revision of a log of this control plane.", []string{"log"}, func(give func(float64, ...string)) {
		for name, l := range logs {
			give(float64(l.View().Revision()), name)
		}
	})
	b.Gauge("meridian_log_objects", "Objects in a log of this control plane.", []string{"log"}, func(give func(float64, ...string)) {
		for name, l := range logs {
			give(float64(l.View().Count(store.Everything())), name)
		}
	})
	b.Gauge("meridian_zone_position_revision",
		"How far a zone has come in the config log of the global control plane: applied, processed into plans, live on every proxy.",
		[]string{"zone", "step"}, func(give func(float64, ...string)) {
			b.positions(func(zone string, p *systemv1.ZonePosition) {
				give(float64(p.GetApplied()), zone, "applied")
				give(float64(p.GetProcessed()), zone, "processed")
				give(float64(p.GetLive()), zone, "live")
			})
		})
	b.Gauge("meridian_rejections", "Objects that are refused now: by a control plane (sync) or by proxies (proxy).", []string{"by"}, func(give func(float64, ...string)) {
		give(float64(b.Store.Config().View().Count(store.OfKind(resource.KindSyncRejection))), "sync")
		give(float64(b.Store.Status().View().Count(store.OfKind(resource.KindProxyRejection))), "proxy")
	})
	b.Gauge("meridian_degraded", "1 for what ails this control plane, as /ready says it; 0 where nothing does.", []string{"part"}, func(give func(float64, ...string)) {
		for _, f := range b.refresh {
			f(b.Health)
		}
		for _, part := range b.Health.Ailing() {
			give(1, part)
		}
	})
	b.Gauge("meridian_certificate_expiry_timestamp_seconds", "When the certificate of a TLS port ends.", []string{"port"}, func(give func(float64, ...string)) {
		for port, at := range b.expiries.all() {
			give(float64(at.Unix()), port)
		}
	})
	authorities := &authorityExpiries{at: map[resource.Key]meshExpiry{}}
	b.Gauge("meridian_mesh_ca_expiry_timestamp_seconds", "When the certificate authority of a mesh ends.", []string{"mesh", "backend"}, func(give func(float64, ...string)) {
		authorities.read(b.Store.Config().View(), give)
	})
	if path != "" {
		b.Gauge("meridian_store_size_bytes", "Size of the store's files.", []string{"log"}, func(give func(float64, ...string)) {
			give(sizeOf(path), "config")
			give(sizeOf(sqlite.StatusPath(path)), "status")
		})
	}
}

// MeasureLag adds how far zones are behind, for a store in whose numbering their positions are.
func (b *Base) MeasureLag() {
	b.Gauge("meridian_zone_lag_revisions", "Revisions of the config log that are not live on every proxy of a zone.", []string{"zone"}, func(give func(float64, ...string)) {
		b.positions(func(zone string, p *systemv1.ZonePosition) {
			give(max(0, float64(b.Store.Config().View().Revision())-float64(p.GetLive())), zone)
		})
	})
	b.Gauge("meridian_zone_lag_seconds", "Age of the oldest change that is not live on every proxy of a zone, of those that are the newest of their object.", []string{"zone"}, func(give func(float64, ...string)) {
		history := b.Store.Config().View().History()
		b.positions(func(zone string, p *systemv1.ZonePosition) {
			age := 0.0
			if at, behind := history.Since(resource.Revision(p.GetLive())); behind {
				age = max(0, time.Since(at).Seconds())
			}
			give(age, zone)
		})
	})
}

// positions visits what zones said last of how far they are.
func (b *Base) positions(visit func(zone string, p *systemv1.ZonePosition)) {
	for o := range b.Store.Status().View().Scan(store.OfKind(resource.KindZonePosition)) {
		p, err := resource.Decode[systemv1.ZonePosition](o)
		if err != nil {
			continue
		}
		zone := string(o.Origin)
		if zone == "" {
			zone = "self"
		}
		visit(zone, p)
	}
}

// sizeOf is the size of a store's file with its write-ahead log.
func sizeOf(path string) float64 {
	var n int64
	for _, p := range []string{path, path + "-wal"} {
		if info, err := os.Stat(p); err == nil {
			n += info.Size()
		} else if !errors.Is(err, fs.ErrNotExist) {
			return -1
		}
	}
	return float64(n)
}

// expiries are when the certificates of the ports end.
type expiries struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (e *expiries) set(port string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at == nil {
		e.at = map[string]time.Time{}
	}
	e.at[port] = at
}

func (e *expiries) all() map[string]time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[string]time.Time, len(e.at))
	for port, at := range e.at {
		out[port] = at
	}
	return out
}

// authorityExpiries remembers when the CAs of meshes end, which needs a look at secrets, until something changes.
type authorityExpiries struct {
	mu       sync.Mutex
	revision resource.Revision
	at       map[resource.Key]meshExpiry
}

type meshExpiry struct {
	backend string
	at      time.Time
}

func (e *authorityExpiries) read(v store.View, give func(float64, ...string)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.Revision() != e.revision {
		e.revision, e.at = v.Revision(), map[resource.Key]meshExpiry{}
		for o := range v.Scan(store.OfKind(resource.KindMesh)) {
			if x, ok := expiryOf(v, o); ok {
				e.at[o.Key] = x
			}
		}
	}
	for k, x := range e.at {
		give(float64(x.at.Unix()), k.Name, x.backend)
	}
}

// expiryOf says when the CA of a mesh ends; false: it has none that can be read.
func expiryOf(v store.View, o *resource.Object) (meshExpiry, bool) {
	m, err := resource.Decode[meshv1.Mesh](o)
	if err != nil {
		return meshExpiry{}, false
	}
	backend := resource.EnabledCA(m)
	if backend == nil {
		return meshExpiry{}, false
	}
	source, _ := resource.CASources(o.Key.Name, backend)
	text, err := source.Read(v.Get)
	if err != nil {
		return meshExpiry{}, false
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return meshExpiry{}, false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return meshExpiry{}, false
	}
	return meshExpiry{backend.GetName(), cert.NotAfter}, true
}
