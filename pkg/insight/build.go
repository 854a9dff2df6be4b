package insight

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// maxSubscriptions is how many sessions of a proxy are kept, and maxVersion how much of each thing that a
// proxy says of itself.
const (
	maxSubscriptions = 10
	maxVersion       = 256
)

// writing is one batch, and what is settled once it is written.
type writing struct {
	status store.View
	batch  store.Batch
	// rows is how many rows of lagging proxies the batch writes.
	rows int
	// ended are the sessions whose end the batch holds.
	ended []*session
	// certified is how many certificates of each proxy the batch counts.
	certified map[resource.Key]uint32
}

// put adds an object, unless it is there already as it is.
func (w *writing) put(k resource.Key, m proto.Message) (bool, error) {
	spec, err := resource.Encode(m)
	if err != nil {
		return false, fmt.Errorf("encode %s: %w", k, err)
	}
	if o, ok := w.status.Get(k); ok && o.Origin == resource.Local && bytes.Equal(o.Spec, spec) {
		return false, nil
	}
	w.batch.Puts = append(w.batch.Puts, store.Put{Key: k, Origin: resource.Local, Spec: spec})
	return true, nil
}

// delete adds a deletion, if the object is there and of this store.
func (w *writing) delete(k resource.Key) {
	if o, ok := w.status.Get(k); ok && o.Origin == resource.Local {
		w.batch.Deletes = append(w.batch.Deletes, k)
	}
}

// build makes the batch for what is dirty, with the lock held. It changes nothing of what is remembered but
// positions.
func (r *Recorder) build(d dirty) (*writing, error) {
	// The config log is looked at once, so that all rows of the batch are of one state.
	config := r.store.Config().View()
	r.positions.note(config)
	w := &writing{status: r.store.Status().View(), batch: store.Batch{Author: store.Author{Who: "insight", Request: r.instance}}, certified: map[resource.Key]uint32{}}
	for _, k := range slices.SortedFunc(maps.Keys(d.gone), resource.Key.Compare) {
		if !has(config, dataplane(k)) {
			w.delete(insightOf(k))
			d.positions = true
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(d.insights), resource.Key.Compare) {
		if err := r.buildInsight(w, config, k); err != nil {
			return nil, err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(d.rejections), resource.Key.Compare) {
		j := r.rejections[k]
		if j == nil {
			w.delete(rejectionOf(k))
			continue
		}
		if _, err := w.put(rejectionOf(k), &systemv1.ProxyRejection{
			Kind: string(k.Kind), Scope: k.Scope, Name: k.Name, Revision: uint64(j.position), Since: uint64(j.before()), Count: j.count,
			Proxies: j.proxies(), Reason: j.text, ResourceType: j.typeURL, ResourceName: j.name, Last: timestamppb.New(j.last),
		}); err != nil {
			return nil, err
		}
	}
	if d.positions {
		if err := r.buildPositions(w, config); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// buildInsight brings the sessions of a proxy, the certificates that it got, and what is held back from it into its
// stored insight. One of a dataplane that is not there has nowhere to stand.
func (r *Recorder) buildInsight(w *writing, config store.View, k resource.Key) error {
	var all []*session
	if of := r.streams[k]; of != nil {
		all = of.all
	}
	cert, issued := r.certified[k]
	for _, s := range all {
		if !s.ended.IsZero() {
			w.ended = append(w.ended, s)
		}
	}
	if issued {
		w.certified[k] = cert.issued
	}
	if !has(config, dataplane(k)) {
		return nil
	}
	m := &meshv1.DataplaneInsight{}
	rejections, rejected := r.heldFrom(k)
	o, ok := w.status.Get(insightOf(k))
	if !ok && len(all) == 0 && !issued && rejected == 0 {
		return nil
	}
	if ok && o.Origin == resource.Local {
		// What can't be read is begun anew.
		if stored, err := resource.Decode[meshv1.DataplaneInsight](o); err == nil {
			m = proto.CloneOf(stored)
		}
	}
	for _, s := range all {
		i := slices.IndexFunc(m.Subscriptions, func(x *meshv1.DiscoverySubscription) bool { return x.Id == s.ID })
		if i < 0 {
			i = len(m.Subscriptions)
			m.Subscriptions = append(m.Subscriptions, nil)
		}
		m.Subscriptions[i] = r.subscription(s)
	}
	for len(m.Subscriptions) > maxSubscriptions {
		i := slices.IndexFunc(m.Subscriptions, func(x *meshv1.DiscoverySubscription) bool { return x.DisconnectTime != nil })
		i = max(i, 0)
		m.Subscriptions = slices.Delete(m.Subscriptions, i, i+1)
	}
	if issued {
		m.MTls = &meshv1.DataplaneInsight_MTLS{
			CertificateExpirationTime:   stamp(cert.NotAfter),
			LastCertificateRegeneration: stamp(cert.At),
			CertificateRegenerations:    m.GetMTls().GetCertificateRegenerations() + cert.issued,
		}
	}
	m.Rejections, m.Rejected = rejections, rejected
	_, err := w.put(insightOf(k), m)
	return err
}

func (r *Recorder) subscription(s *session) *meshv1.DiscoverySubscription {
	return &meshv1.DiscoverySubscription{
		Id: s.ID, ControlPlaneInstanceId: r.instance,
		ConnectTime: stamp(s.Since), DisconnectTime: stamp(s.ended),
		Status: &meshv1.DiscoverySubscriptionStatus{
			LastUpdateTime: stamp(s.counted),
			Total:          stats(s.counters.total()),
			Cds:            stats(s.counters.CDS), Eds: stats(s.counters.EDS),
			Lds: stats(s.counters.LDS), Rds: stats(s.counters.RDS),
		},
		Version: version(s.DataplaneVersion, s.EnvoyVersion),
	}
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func stats(c Counter) *meshv1.DiscoveryServiceStats {
	return &meshv1.DiscoveryServiceStats{ResponsesSent: c.Sent, ResponsesAcknowledged: c.Acked, ResponsesRejected: c.Rejected}
}

func version(dp, envoy VersionInfo) *meshv1.Version {
	v := &meshv1.Version{}
	if dp != (VersionInfo{}) {
		v.KumaDp = &meshv1.KumaDpVersion{
			Version: cut(dp.Version, maxVersion), GitTag: cut(dp.GitTag, maxVersion),
			GitCommit: cut(dp.GitCommit, maxVersion), BuildDate: cut(dp.BuildDate, maxVersion),
		}
	}
	if envoy != (VersionInfo{}) {
		v.Envoy = &meshv1.EnvoyVersion{Version: cut(envoy.Version, maxVersion), Build: cut(envoy.Build, maxVersion)}
	}
	if v.KumaDp == nil && v.Envoy == nil {
		return nil
	}
	return v
}

// buildPositions makes the zone's row and the rows of the proxies that lag behind it, all from one progress:
// in the same batch, so that no reader takes a proxy without a row for live at a revision that it has not.
func (r *Recorder) buildPositions(w *writing, config store.View) error {
	at := r.positions.applied(config)
	applied := at.Revision
	zone := &systemv1.ZonePosition{Applied: uint64(applied), Session: r.session, Epoch: at.Epoch}
	for o := range local(config, resource.KindSyncRejection) {
		zone.Refused = max(zone.Refused, uint64(o.Revision))
	}
	// floor never claims more than the peer's log is known to hold.
	floor := func(own resource.Revision) uint64 { return uint64(min(r.positions.floor(own), applied)) }
	rows := map[resource.Key]*systemv1.ProxyPosition{}
	for k := range r.joined {
		rows[k] = &systemv1.ProxyPosition{Joining: true}
	}
	if r.shown == nil {
		// Nothing is known yet; what an earlier instance wrote stays true.
		if o, ok := w.status.Get(self); ok && o.Origin == resource.Local {
			if stored, err := resource.Decode[systemv1.ZonePosition](o); err == nil {
				zone.Processed, zone.Live = min(stored.Processed, zone.Applied), min(stored.Live, zone.Applied)
			}
		}
	} else {
		zone.Processed = floor(r.shown.Processed)
		zone.Live = zone.Processed
		for k, lag := range r.shown.Lagging {
			if rows[k] != nil || !r.connected(k) {
				continue
			}
			row := &systemv1.ProxyPosition{Joining: lag.Joining}
			if !lag.Joining {
				row.Live = min(floor(lag.Live), zone.Processed)
				zone.Live = min(zone.Live, row.Live)
			}
			rows[k] = row
		}
		for k, n := range r.shown.Rejected {
			if !r.connected(k) {
				continue
			}
			zone.Rejected += n
			if row := rows[k]; row != nil {
				row.Rejected = n
			}
		}
		r.trim()
	}
	for o := range local(w.status, resource.KindProxyPosition) {
		k := dataplane(o.Key)
		if rows[k] == nil || !has(config, k) {
			w.batch.Deletes = append(w.batch.Deletes, o.Key)
			w.rows++
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(rows), resource.Key.Compare) {
		if !has(config, k) {
			continue
		}
		zone.Lagging++
		changed, err := w.put(positionOf(k), rows[k])
		if err != nil {
			return err
		}
		if changed {
			w.rows++
		}
	}
	_, err := w.put(self, zone)
	return err
}

// trim forgets positions that nobody will ask for.
func (r *Recorder) trim() {
	if !r.positions.full() {
		return
	}
	var needed []resource.Revision
	for _, p := range []*Progress{r.shown, r.latest} {
		needed = append(needed, p.Processed)
		for _, lag := range p.Lagging {
			needed = append(needed, lag.Live)
		}
	}
	r.positions.trim(needed)
}

// drop a session whose end is written.
func (r *Recorder) drop(s *session) {
	delete(r.sessions, s.ID)
	of := r.streams[s.Proxy]
	if of == nil {
		return
	}
	of.all = slices.DeleteFunc(of.all, func(x *session) bool { return x == s })
	if len(of.all) == 0 {
		delete(r.streams, s.Proxy)
	}
}
