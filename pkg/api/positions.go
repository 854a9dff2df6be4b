package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const (
	titlePositions = "Could not retrieve positions"

	// maxWaits is how many requests may wait at a time, if not told otherwise.
	maxWaits = 1000
	// maxWait is how long one request may wait for a revision.
	maxWait = 5 * time.Minute
	// maxMissing bounds the proxies and the objects that an answer names.
	maxMissing = 100
)

// States of a revision and of a zone.
const (
	stateLive     = "live"
	stateRejected = "rejected"
	statePending  = "pending"
	stateLagging  = "lagging"
	stateJoining  = "joining"
	stateOffline  = "offline"
	stateDisabled = "disabled"
)

// GetPositions implements the InspectService.
func (s *Service) GetPositions(ctx context.Context, req *apiv1.GetPositionsRequest) (*apiv1.GetPositionsResponse, error) {
	r, wait, err := parsePosition(req)
	if err != nil {
		return nil, err
	}
	x, err := s.observations(ctx)
	if err != nil {
		return nil, err
	}
	// A zone that has joined knows the head only as far as it has been told.
	if head := x.config.Revision(); s.Mode != Zone && r > head {
		return nil, invalid(titlePositions, "Invalid revision", resource.Violations{{
			Field: "revision", Message: fmt.Sprintf("must not be beyond the newest one, %s", head),
		}})
	}
	res, err := x.positions(r)
	if err == nil && res.GetState() == statePending && wait > 0 {
		if res, err = s.settled(ctx, r, wait); status.Code(err) == codes.ResourceExhausted {
			return nil, err
		}
	}
	if err != nil {
		return nil, s.storeError(err, titlePositions)
	}
	return res, nil
}

func parsePosition(req *apiv1.GetPositionsRequest) (r resource.Revision, wait time.Duration, err error) {
	var v resource.Violations
	if r, err = resource.ParseRevision(req.GetRevision()); err != nil {
		v.Add("revision", "must be a decimal number")
	}
	if given := req.GetWait(); given != "" {
		if wait, err = time.ParseDuration(given); err != nil || wait < 0 || wait > maxWait {
			v.Add("wait", "must be a duration from 0s to 5m, such as 30s")
		}
	}
	if len(v) > 0 {
		return 0, 0, invalid(titlePositions, "Invalid request", v)
	}
	return r, wait, nil
}

// tooManyWait is the answer to who would have to wait and may not.
func (s *Service) tooManyWait(title string) error {
	full := fail(codes.ResourceExhausted, title, fmt.Sprintf("%d requests wait already (limits.waits), try again later", s.waits.taken()))
	return withHTTP(full, http.StatusTooManyRequests)
}

// settled waits until a revision is not pending any more, or for as long as it may, and says then how it is.
func (s *Service) settled(ctx context.Context, r resource.Revision, wait time.Duration) (*apiv1.GetPositionsResponse, error) {
	leave, ok := s.seat(ctx, s.waits)
	if !ok {
		return nil, s.tooManyWait(titlePositions)
	}
	defer leave()
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	// moved has an item when what was last looked at may be out of date.
	moved := make(chan struct{}, 1)
	failed := make(chan error, 2)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	for log, kinds := range map[store.Log][]resource.Kind{
		s.Store.Config(): {resource.KindZone, resource.KindSyncRejection},
		s.Store.Status(): {resource.KindZoneInsight, resource.KindZonePosition, resource.KindProxyPosition, resource.KindProxyRejection},
	} {
		// From here on nothing is missed: what came before is in the first look below.
		after := log.View().At()
		watchers.Go(func() { failed <- follow(waiting, log, after, kinds, moved) })
	}
	if s.Nudge != nil {
		s.Nudge()
	}
	for {
		x, err := s.observations(ctx)
		if err != nil {
			return nil, err
		}
		res, err := x.positions(r)
		if err != nil || res.GetState() != statePending {
			return res, err
		}
		select {
		case <-moved:
		case <-waiting.Done():
			return res, ctx.Err()
		case err := <-failed:
			if waiting.Err() == nil {
				return nil, err
			}
			return res, ctx.Err()
		}
	}
}

// follow a log until ctx is done or it fails, and tell when one of the kinds has changed.
func follow(ctx context.Context, log store.Log, after store.Cursor, kinds []resource.Kind, moved chan<- struct{}) error {
	tell := func() {
		select {
		case moved <- struct{}{}:
		default:
		}
	}
	for {
		w, err := log.Watch(store.Everything(), after)
		for err == nil {
			var c store.Changes
			if c, err = w.Next(ctx); err != nil {
				_ = w.Close() // It only frees.
				break
			}
			if slices.ContainsFunc(c.Items, func(i store.Change) bool { return slices.Contains(kinds, i.Key.Kind) }) {
				tell()
			}
		}
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
		after = log.View().At()
		tell()
	}
}

// standing is how far one zone has come, whatever the revision that is asked for.
type standing struct {
	zone string
	// reason why the zone is not waited for: offline or disabled; or joining: its position says nothing of now.
	reason   string
	position *systemv1.ZonePosition
	// rows are its proxies that lag or join, in key order.
	rows []*resource.Object
}

// waited says whether the zone counts.
func (z *standing) waited() bool { return z.reason != stateOffline && z.reason != stateDisabled }

// standings of all zones, by the origin of what they send. A control plane that is no global one has its own.
func (x *observations) standings() (map[resource.Origin]*standing, error) {
	out := map[resource.Origin]*standing{}
	if x.service.Mode == Global {
		for o := range x.config.Scan(store.OfKind(resource.KindZone)) {
			z, err := x.standing(o)
			if err != nil {
				return nil, err
			}
			out[resource.Origin(z.zone)] = z
		}
	} else {
		z := &standing{zone: x.service.Zone}
		p, _, err := x.zonePosition(z.zone)
		if err != nil {
			return nil, err
		}
		if z.position = orEmpty(p); p == nil || resource.Revision(p.GetApplied()) > resource.Revision(x.head(0)) {
			z.reason = stateJoining
		}
		out[resource.Local] = z
	}
	for o := range x.observed.Scan(store.OfKind(resource.KindProxyPosition)) {
		if z := out[o.Origin]; z != nil {
			z.rows = append(z.rows, o)
		}
	}
	return out, nil
}

// standing of one zone on the global control plane.
func (x *observations) standing(o *resource.Object) (*standing, error) {
	z := &standing{zone: o.Key.Name}
	spec, err := resource.Decode[systemv1.Zone](o)
	if err != nil {
		return nil, err
	}
	insight, err := find[systemv1.ZoneInsight](x.observed, resource.Key{Kind: resource.KindZoneInsight, Name: z.zone})
	if err != nil {
		return nil, err
	}
	p, _, err := x.zonePosition(z.zone)
	if err != nil {
		return nil, err
	}
	z.position = orEmpty(p)
	open := openSession(insight)
	switch {
	case spec.GetEnabled() != nil && !spec.GetEnabled().GetValue():
		z.reason = stateDisabled
	case open == nil:
		z.reason = stateOffline
	case p == nil || p.GetSession() == "" || p.GetSession() != open.GetId() || !x.ours(p):
		// A row of an earlier session says nothing of the proxies that came since, and one of another history
		// of the log nothing of its revisions.
		z.reason = stateJoining
	}
	return z, nil
}

// ours says whether a position was taken in the history of this config log.
func (x *observations) ours(p *systemv1.ZonePosition) bool {
	at := store.Cursor{Store: x.config.At().Store, Epoch: p.GetEpoch(), Revision: resource.Revision(p.GetApplied())}
	return store.ValidCursor(at.Store, x.config.Epochs(), x.config.Revision(), at)
}

// told says whether all that a zone has refused up to its position is here: that comes in the other log.
func (x *observations) told(z *standing) bool {
	if x.service.Mode != Global || z.position.GetRefused() == 0 {
		return true
	}
	config, ok := x.config.Cursor(z.zone)
	status, _ := x.observed.Cursor(z.zone)
	return ok && config.Store == status.Store && config.Revision >= resource.Revision(z.position.GetRefused())
}

// positions says how far a revision has come.
func (x *observations) positions(r resource.Revision) (*apiv1.GetPositionsResponse, error) {
	zones, err := x.standings()
	if err != nil {
		return nil, err
	}
	res := &apiv1.GetPositionsResponse{Revision: uint64(r), State: stateLive}
	for _, z := range zones {
		row, err := x.reach(z, r, res)
		if err != nil {
			return nil, err
		}
		if row.State == stateLagging || row.State == stateJoining {
			res.State = statePending
		}
		res.Zones = append(res.Zones, row)
	}
	slices.SortFunc(res.Zones, func(a, b *apiv1.PositionZone) int { return cmp.Compare(a.GetName(), b.GetName()) })
	slices.SortFunc(res.Proxies, func(a, b *apiv1.PositionProxy) int {
		return cmp.Or(cmp.Compare(a.GetZone(), b.GetZone()), cmp.Compare(a.GetMesh(), b.GetMesh()), cmp.Compare(a.GetName(), b.GetName()))
	})
	res.Proxies = res.Proxies[:min(len(res.Proxies), maxMissing)]
	if res.Rejections, err = x.refused(zones, r); err != nil {
		return nil, err
	}
	if res.State == stateLive && len(res.Rejections) > 0 {
		res.State = stateRejected
	}
	return res, nil
}

// reach says how a zone stands to a revision, and adds its proxies that are missing.
func (x *observations) reach(z *standing, r resource.Revision, res *apiv1.GetPositionsResponse) (*apiv1.PositionZone, error) {
	p := z.position
	row := &apiv1.PositionZone{Name: z.zone, State: z.reason}
	if z.reason == stateJoining {
		return row, nil
	}
	row.Applied, row.Live = p.GetApplied(), p.GetLive()
	if !z.waited() {
		return row, nil
	}
	for _, o := range z.rows {
		proxy, err := resource.Decode[systemv1.ProxyPosition](o)
		if err != nil {
			return nil, err
		}
		if !proxy.GetJoining() && proxy.GetLive() >= uint64(r) {
			continue
		}
		if row.Missing++; row.Missing <= maxMissing {
			res.Proxies = append(res.Proxies, &apiv1.PositionProxy{
				Mesh: o.Key.Scope, Name: o.Key.Name, Zone: z.zone, Live: proxy.GetLive(), Joining: proxy.GetJoining(),
			})
		}
	}
	row.State = stateLive
	// Fewer rows than the zone has counted: one of them has not been taken, and may be of a joining proxy.
	if row.Missing > 0 || len(z.rows) < int(p.GetLagging()) || min(p.GetApplied(), p.GetProcessed(), p.GetLive()) < uint64(r) || !x.told(z) {
		row.State = stateLagging
	}
	return row, nil
}

// refused lists the objects up to a revision that zones which count refuse, or their proxies.
func (x *observations) refused(zones map[resource.Origin]*standing, r resource.Revision) ([]*apiv1.PositionRejection, error) {
	var out []*apiv1.PositionRejection
	for _, part := range []struct {
		view store.View
		kind resource.Kind
	}{{x.observed, resource.KindProxyRejection}, {x.config, resource.KindSyncRejection}} {
		for o := range part.view.Scan(store.OfKind(part.kind)) {
			z := zones[o.Origin]
			if z == nil || z.reason != "" {
				continue
			}
			m, err := x.service.rejection(o)
			if err != nil {
				return nil, err
			}
			counts := m.GetRevision() <= uint64(r)
			if part.kind == resource.KindSyncRejection {
				counts = counts && !x.overtaken(z, m) && !x.unknown(m)
			} else {
				since, err := refusedSince(o)
				if err != nil {
					return nil, err
				}
				counts = counts || since != 0 && since <= r || x.older(z, m, r)
			}
			if !counts {
				continue
			}
			out = append(out, &apiv1.PositionRejection{
				Kind: m.GetKind(), Mesh: m.GetMesh(), Name: m.GetName(), Revision: m.GetRevision(), Reason: m.GetReason(), Zone: z.zone,
			})
			if len(out) == maxMissing {
				return out, nil
			}
		}
	}
	return out, nil
}

// refusedSince is the position from which on proxies refuse an object, in older forms too; 0: that of its revision.
func refusedSince(o *resource.Object) (resource.Revision, error) {
	m, err := resource.Decode[systemv1.ProxyRejection](o)
	return resource.Revision(m.GetSince()), err
}

// older says whether an object that proxies refuse may be of a revision or older, though its zone names a later one.
// A zone knows only with which revision it had an object, which is later where it took several together. What is here
// of the object tells exactly, unless that is another form by now: then it counts, as nothing refused may be missed.
func (x *observations) older(z *standing, m *apiv1.Rejection, r resource.Revision) bool {
	if x.service.Mode != Global { // standalone, it is exact; a joined zone knows no better
		return false
	}
	for _, name := range []string{m.GetName(), z.zone + "." + m.GetName()} {
		o, ok := x.config.Get(resource.Key{Kind: resource.Kind(m.GetKind()), Scope: m.GetMesh(), Name: name})
		if ok && uint64(o.SpecRevision) <= m.GetRevision() {
			if o.SpecRevision > r {
				return false
			}
			m.Revision = uint64(o.SpecRevision)
			break
		}
	}
	return true
}

// unknown says whether a zone of an older version lacks a kind that no user writes: what it would have done with such
// objects is not part of what it is asked for.
func (x *observations) unknown(m *apiv1.Rejection) bool {
	d, ok := x.service.Table.ByKind(resource.Kind(m.GetKind()))
	return m.GetName() == "*" && ok && d.Access == resource.Internal
}

// overtaken says whether a zone has meanwhile decided on a newer form of an object that it had refused, or on its
// deletion, though that is not yet told here.
func (x *observations) overtaken(z *standing, m *apiv1.Rejection) bool {
	if x.service.Mode != Global || m.GetName() == "*" {
		return false
	}
	o, ok := x.config.Get(resource.Key{Kind: resource.Kind(m.GetKind()), Scope: m.GetMesh(), Name: m.GetName()})
	if !ok {
		return true
	}
	return uint64(o.Revision) > m.GetRevision() && uint64(o.Revision) <= z.position.GetApplied()
}
