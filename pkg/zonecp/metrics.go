package zonecp

import (
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/meridian-mesh/meridian/pkg/kds"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds"
)

// tally is an observer that adds up what it hands on, for the metrics: the same few numbers for any number of
// proxies.
type tally struct {
	xds.Observer

	mu sync.Mutex
	// Guarded by mu. open are the totals of the streams that have not ended; responses those of all.
	open         map[string]xds.Counters
	responses    map[string]xds.Counter
	certificates uint64
	refused      uint64
	// What was told last of the progress of all.
	connected, lagging, joining, quarantined int
}

func newTally(to xds.Observer) *tally {
	return &tally{Observer: to, open: map[string]xds.Counters{}, responses: map[string]xds.Counter{}}
}

// Connected implements xds.Observer.
func (t *tally) Connected(s xds.Session) {
	t.mu.Lock()
	t.open[s.ID] = xds.Counters{}
	t.mu.Unlock()
	t.Observer.Connected(s)
}

// Counted implements xds.Observer.
func (t *tally) Counted(id string, c xds.Counters) {
	t.mu.Lock()
	before, now := byType(t.open[id]), byType(c)
	for typ, n := range now {
		total := t.responses[typ]
		total.Sent += n.Sent - before[typ].Sent
		total.Acked += n.Acked - before[typ].Acked
		total.Rejected += n.Rejected - before[typ].Rejected
		t.responses[typ] = total
	}
	if _, is := t.open[id]; is {
		t.open[id] = c
	}
	t.mu.Unlock()
	t.Observer.Counted(id, c)
}

func byType(c xds.Counters) map[string]xds.Counter {
	return map[string]xds.Counter{"CDS": c.CDS, "EDS": c.EDS, "LDS": c.LDS, "RDS": c.RDS, "SDS": c.SDS}
}

// Refused implements xds.Observer.
func (t *tally) Refused(r xds.Refusal) {
	t.mu.Lock()
	t.refused++
	t.mu.Unlock()
	t.Observer.Refused(r)
}

// Certified implements xds.Observer.
func (t *tally) Certified(proxy resource.Key, c xds.Certificate) {
	t.mu.Lock()
	t.certificates++
	t.mu.Unlock()
	t.Observer.Certified(proxy, c)
}

// Disconnected implements xds.Observer.
func (t *tally) Disconnected(id string, at time.Time) {
	t.mu.Lock()
	delete(t.open, id)
	t.mu.Unlock()
	t.Observer.Disconnected(id, at)
}

// Progress implements xds.Observer.
func (t *tally) Progress(p xds.Progress) {
	joining, quarantined := 0, 0
	for _, l := range p.Lagging {
		if l.Joining {
			joining++
		}
	}
	for _, n := range p.Rejected {
		quarantined += int(n)
	}
	t.mu.Lock()
	t.connected, t.lagging, t.joining, t.quarantined = p.Connected, len(p.Lagging)-joining, joining, quarantined
	t.mu.Unlock()
	t.Observer.Progress(p)
}

// measure adds what is known of proxies. plans tells how many plans were worked out.
func (cp *CP) measure(t *tally, plans func() uint64) {
	cp.Counter("meridian_xds_plans_total", "Plans of proxies that were worked out.", nil, func(give func(float64, ...string)) {
		give(float64(plans()))
	})
	cp.Counter("meridian_xds_responses_total", "Responses to proxies: sent, acked (taken), rejected (refused).", []string{"type", "result"}, func(give func(float64, ...string)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		for typ := range byType(xds.Counters{}) {
			n := t.responses[typ]
			give(float64(n.Sent), typ, "sent")
			give(float64(n.Acked), typ, "acked")
			give(float64(n.Rejected), typ, "rejected")
		}
	})
	cp.Counter("meridian_xds_refused_resources_total", "Resources that a proxy refused, or that could not be made.", nil, func(give func(float64, ...string)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		give(float64(t.refused))
	})
	cp.Counter("meridian_workload_certificates_issued_total", "Certificates that were issued to proxies.", nil, func(give func(float64, ...string)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		give(float64(t.certificates))
	})
	cp.Gauge("meridian_xds_proxies", "Proxies that are connected; of these, those that lag and those that wait for their first configuration.", []string{"state"}, func(give func(float64, ...string)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		give(float64(t.connected), "connected")
		give(float64(t.lagging), "lagging")
		give(float64(t.joining), "joining")
	})
	cp.Gauge("meridian_xds_quarantined_resources", "Resources that are held back from proxies which refused them.", nil, func(give func(float64, ...string)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		give(float64(t.quarantined))
	})
}

// measureSession adds how this zone stands with the global control plane.
func (cp *CP) measureSession(state func() kds.State, token func() (string, error)) {
	cp.Gauge("meridian_kds_connected", "Whether this zone has a session with the global control plane.", nil, func(give func(float64, ...string)) {
		connected := 0.0
		if state().Connected {
			connected = 1
		}
		give(connected)
	})
	if token == nil {
		return
	}
	cp.Gauge("meridian_zone_token_expiry_timestamp_seconds", "When the zone's own token ends.", nil, func(give func(float64, ...string)) {
		text, err := token()
		if err != nil {
			return
		}
		if at, ok := tokenEnd(text); ok {
			give(float64(at.Unix()))
		}
	})
}

// tokenEnd reads when a token ends. Whether it is a good one is for the global control plane to say.
func tokenEnd(text string) (time.Time, bool) {
	claims := jwt.RegisteredClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(strings.TrimSpace(text), &claims); err != nil || claims.ExpiresAt == nil {
		return time.Time{}, false
	}
	return claims.ExpiresAt.Time, true
}
