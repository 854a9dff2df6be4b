package zonecp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds"
)

// record starts the recorder of what happens to proxies. peer is whose numbering positions are given in; "" is
// the own.
func (cp *CP) record(ctx context.Context, peer string) (*insight.Recorder, error) {
	// A control plane that died left its proxies' sessions open.
	err := insight.CloseLeftovers(ctx, cp.Store, cp.Instance, time.Now())
	full := errors.Is(err, store.ErrNoSpace)
	if err != nil && !full {
		return nil, fmt.Errorf("end the sessions of earlier instances: %w", err)
	}
	r := insight.New(insight.Options{Store: cp.Store, Instance: cp.Instance, Peer: peer, Logger: cp.Logger, Leftovers: full})
	cp.Set.Task("insight", r.Run)
	return r, nil
}

// observer hands what the xDS server tells to the recorder.
type observer struct{ to insight.Observer }

var _ xds.Observer = observer{}

// Connected implements xds.Observer.
func (o observer) Connected(s xds.Session) {
	o.to.Connected(insight.Session{
		ID: s.ID, Proxy: s.Proxy, Since: s.Since,
		DataplaneVersion: insight.VersionInfo(s.DataplaneVersion), EnvoyVersion: insight.VersionInfo(s.EnvoyVersion),
		Sequence: s.Sequence,
	})
}

// Counted implements xds.Observer.
func (o observer) Counted(id string, c xds.Counters) {
	o.to.Counted(id, insight.Counters{
		CDS: insight.Counter(c.CDS), EDS: insight.Counter(c.EDS), LDS: insight.Counter(c.LDS),
		RDS: insight.Counter(c.RDS), SDS: insight.Counter(c.SDS),
	})
}

// Refused implements xds.Observer.
func (o observer) Refused(r xds.Refusal) {
	sources := make([]insight.Source, len(r.Sources))
	for i, s := range r.Sources {
		sources[i] = insight.Source(s)
	}
	o.to.Refused(insight.Refusal{Proxy: r.Proxy, TypeURL: r.TypeURL, Name: r.Name, Sources: sources, Text: r.Text, At: r.At, Since: r.Since})
}

// Cleared implements xds.Observer.
func (o observer) Cleared(proxy resource.Key, typeURL, name string) {
	o.to.Cleared(proxy, typeURL, name)
}

// Certified implements xds.Observer.
func (o observer) Certified(proxy resource.Key, c xds.Certificate) {
	o.to.Certified(proxy, insight.Certificate(c))
}

// Disconnected implements xds.Observer.
func (o observer) Disconnected(id string, at time.Time) { o.to.Disconnected(id, at) }

// Progress implements xds.Observer.
func (o observer) Progress(p xds.Progress) {
	lagging := make(map[resource.Key]insight.Lag, len(p.Lagging))
	for k, l := range p.Lagging {
		lagging[k] = insight.Lag(l)
	}
	o.to.Progress(insight.Progress{Processed: p.Processed, Lagging: lagging, Rejected: p.Rejected, Sequence: p.Sequence})
}
