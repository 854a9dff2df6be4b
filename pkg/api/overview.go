package api

import (
	"context"
	"encoding/json"
	"iter"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

const (
	titleDataplaneOverview  = "Could not retrieve a dataplane overview"
	titleDataplaneOverviews = "Could not retrieve dataplane overviews"
	titleZoneOverview       = "Could not retrieve a zone overview"
)

// observations joins what was configured with what was observed, over one pair of views.
type observations struct {
	service          *Service
	config, observed store.View
	// processed remembers how far each zone's proxies have come, by the origin of their dataplanes.
	processed map[resource.Origin]uint64
	services  *available
}

func (s *Service) observations(ctx context.Context) (*observations, error) {
	config, observed, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	return s.observing(config, observed), nil
}

// observing is observations from views that are there already.
func (s *Service) observing(config, observed store.View) *observations {
	return &observations{service: s, config: config, observed: observed, processed: map[resource.Origin]uint64{}, services: newAvailable(config)}
}

// find decodes the object at a key of the status log; nil where there is none.
func find[M any, PM interface {
	*M
	proto.Message
}](v store.View, k resource.Key) (PM, error) {
	o, ok := v.Get(k)
	if !ok {
		return nil, nil
	}
	return resource.Decode[M, PM](o)
}

// selfPosition is the name of a zone's position in its own store.
const selfPosition = "self"

// zonePosition finds the position of a zone. Own: of the zone whose control plane this is.
func (x *observations) zonePosition(zone string) (p *systemv1.ZonePosition, own bool, err error) {
	name := zone + "." + selfPosition
	if x.service.Mode != Global {
		if zone != x.service.Zone {
			return nil, false, nil
		}
		name, own = selfPosition, true
	}
	p, err = find[systemv1.ZonePosition](x.observed, resource.Key{Kind: resource.KindZonePosition, Name: name})
	return p, own, err
}

// head is the newest revision in the numbering that positions have, as far as it is known here.
func (x *observations) head(applied uint64) uint64 {
	if x.service.Mode != Zone {
		return uint64(x.config.Revision())
	}
	if c, ok := x.config.Cursor(string(resource.Global)); ok {
		return max(applied, uint64(c.Revision))
	}
	return applied
}

// figure is one number of a position.
type figure struct {
	name string
	n    uint64
}

// positionJSON writes numbers as decimal strings.
func positionJSON(figures ...figure) json.RawMessage {
	b := []byte{'{'}
	for i, f := range figures {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, f.name)
		b = append(b, ':', '"')
		b = strconv.AppendUint(b, f.n, 10)
		b = append(b, '"')
	}
	return append(b, '}')
}

// zone puts a zone's overview together.
func (x *observations) zone(o *resource.Object, single bool) ([]byte, error) {
	spec, err := resource.Decode[systemv1.Zone](o)
	if err != nil {
		return nil, err
	}
	// Published documents show a mesh, though a zone has none.
	out := resource.Overview{
		Type: "ZoneOverview", Mesh: defaultMesh, Name: o.Key.Name, Created: o.Created, Modified: o.Modified,
		Parts: []resource.Part{{Name: "zone", Message: spec}},
	}
	insight, err := find[systemv1.ZoneInsight](x.observed, resource.Key{Kind: resource.KindZoneInsight, Name: o.Key.Name})
	if err != nil {
		return nil, err
	}
	if insight != nil || single {
		out.Parts = append(out.Parts, resource.Part{Name: "zoneInsight", Message: orEmpty(insight)})
	}
	p, own, err := x.zonePosition(o.Key.Name)
	if err != nil {
		return nil, err
	}
	if own || x.service.Mode == Global {
		out.Parts = append(out.Parts, resource.Part{Name: "position", Raw: positionJSON(
			figure{"applied", p.GetApplied()},
			figure{"live", p.GetLive()},
			figure{"head", x.head(p.GetApplied())},
			figure{"lagging", uint64(p.GetLagging())},
			figure{"rejected", uint64(p.GetRejected())},
		)})
	}
	return out.JSON()
}

// orEmpty makes a nil message an empty one.
func orEmpty[M any, PM interface {
	*M
	proto.Message
}](m PM) PM {
	if m == nil {
		return PM(new(M))
	}
	return m
}

// dataplane puts a dataplane's overview together.
func (x *observations) dataplane(o *resource.Object, single bool) ([]byte, error) {
	o, err := x.services.complete(o)
	if err != nil {
		return nil, err
	}
	spec, err := resource.Decode[meshv1.Dataplane](o)
	if err != nil {
		return nil, err
	}
	out := resource.Overview{
		Type: "DataplaneOverview", Mesh: o.Key.Scope, Name: o.Key.Name, Created: o.Created, Modified: o.Modified,
		Parts: []resource.Part{{Name: "dataplane", Message: spec}},
	}
	insight, err := find[meshv1.DataplaneInsight](x.observed, resource.Key{Kind: resource.KindDataplaneInsight, Scope: o.Key.Scope, Name: o.Key.Name})
	if err != nil {
		return nil, err
	}
	if insight != nil || single {
		out.Parts = append(out.Parts, resource.Part{Name: "dataplaneInsight", Message: orEmpty(insight)})
	}
	live, err := x.live(o, insight)
	if err != nil {
		return nil, err
	}
	out.Parts = append(out.Parts, resource.Part{Name: "position", Raw: positionJSON(figure{"live", live})})
	return out.JSON()
}

// live is the revision up to which a proxy is live: what its own row says while it lags, else what its zone has
// processed. A proxy that is not connected is live at nothing.
func (x *observations) live(o *resource.Object, insight *meshv1.DataplaneInsight) (uint64, error) {
	if !connected(insight) {
		return 0, nil
	}
	row, err := find[systemv1.ProxyPosition](x.observed, resource.Key{Kind: resource.KindProxyPosition, Scope: o.Key.Scope, Name: o.Key.Name})
	if err != nil || row != nil {
		return row.GetLive(), err
	}
	if n, ok := x.processed[o.Origin]; ok {
		return n, nil
	}
	zone := x.service.Zone
	if x.service.Mode == Global {
		zone = string(o.Origin)
	}
	p, _, err := x.zonePosition(zone)
	if err != nil {
		return 0, err
	}
	x.processed[o.Origin] = p.GetProcessed()
	return p.GetProcessed(), nil
}

// subscription is what the sessions of zones and the streams of proxies have in common.
type subscription interface {
	GetConnectTime() *timestamppb.Timestamp
	GetDisconnectTime() *timestamppb.Timestamp
}

func isOpen(s subscription) bool { return s.GetConnectTime() != nil && s.GetDisconnectTime() == nil }

func connected(in *meshv1.DataplaneInsight) bool {
	for _, s := range in.GetSubscriptions() {
		if isOpen(s) {
			return true
		}
	}
	return false
}

// openSession is the newest session of a zone that has not ended, or nil.
func openSession(in *systemv1.ZoneInsight) *systemv1.KDSSubscription {
	subs := in.GetSubscriptions()
	for i := len(subs) - 1; i >= 0; i-- {
		if isOpen(subs[i]) {
			return subs[i]
		}
	}
	return nil
}

// GetZoneOverview implements the InspectService.
func (s *Service) GetZoneOverview(ctx context.Context, req *apiv1.GetZoneOverviewRequest) (*apiv1.GetZoneOverviewResponse, error) {
	x, err := s.observations(ctx)
	if err != nil {
		return nil, err
	}
	o, ok := x.config.Get(resource.Key{Kind: resource.KindZone, Name: req.GetName()})
	if !ok {
		return nil, notFound(titleZoneOverview)
	}
	b, err := x.zone(o, true)
	if err != nil {
		return nil, s.storeError(err, titleZoneOverview)
	}
	return &apiv1.GetZoneOverviewResponse{Json: b}, nil
}

// ListZoneOverviews implements the InspectService.
func (s *Service) ListZoneOverviews(ctx context.Context, req *apiv1.ListZoneOverviewsRequest) (*apiv1.ListZoneOverviewsResponse, error) {
	// The title is the published one, for zones too.
	w, err := s.window(ctx, titleDataplaneOverviews, req.GetSize(), req.GetOffset())
	if err != nil {
		return nil, err
	}
	x, err := s.observations(ctx)
	if err != nil {
		return nil, err
	}
	zones := store.OfKind(resource.KindZone)
	p, err := paginate(w, w.rest(x.config, zones), x.config.Count(zones), func(o *resource.Object) ([]byte, int, error) {
		b, err := x.zone(o, false)
		return b, len(b), err
	})
	if err != nil {
		return nil, s.storeError(err, titleDataplaneOverviews)
	}
	return &apiv1.ListZoneOverviewsResponse{Total: p.total, Items: p.items, Next: p.next}, nil
}

// GetDataplaneOverview implements the InspectService.
func (s *Service) GetDataplaneOverview(ctx context.Context, req *apiv1.GetDataplaneOverviewRequest) (*apiv1.GetDataplaneOverviewResponse, error) {
	x, err := s.observations(ctx)
	if err != nil {
		return nil, err
	}
	o, ok := x.config.Get(resource.Key{Kind: resource.KindDataplane, Scope: req.GetMesh(), Name: req.GetName()})
	if !ok {
		return nil, notFound(titleDataplaneOverview)
	}
	b, err := x.dataplane(o, true)
	if err != nil {
		return nil, s.storeError(err, titleDataplaneOverview)
	}
	return &apiv1.GetDataplaneOverviewResponse{Json: b}, nil
}

// ListDataplaneOverviews implements the InspectService.
func (s *Service) ListDataplaneOverviews(ctx context.Context, req *apiv1.ListDataplaneOverviewsRequest) (*apiv1.ListDataplaneOverviewsResponse, error) {
	w, err := s.window(ctx, titleDataplaneOverviews, req.GetSize(), req.GetOffset())
	if err != nil {
		return nil, err
	}
	f, err := parseFilter(req)
	if err != nil {
		return nil, err
	}
	x, err := s.observations(ctx)
	if err != nil {
		return nil, err
	}
	done, err := s.turn(ctx, titleDataplaneOverviews)
	if err != nil {
		return nil, err
	}
	defer done()
	within := scoped(resource.KindDataplane, req.GetMesh())
	objects, total := w.rest(x.config, within), x.config.Count(within)
	var undecoded error
	if !f.empty() {
		objects, total = f.apply(x.config.Scan(within), &undecoded), -1
	}
	p, err := paginate(w, objects, total, func(o *resource.Object) ([]byte, int, error) {
		b, err := x.dataplane(o, false)
		return b, len(b), err
	})
	if err == nil {
		err = undecoded
	}
	if err != nil {
		return nil, s.storeError(err, titleDataplaneOverviews)
	}
	return &apiv1.ListDataplaneOverviewsResponse{Total: p.total, Items: p.items, Next: p.next}, nil
}

// filter selects dataplanes.
type filter struct {
	tags             []tag
	gateway, ingress *bool
}

type tag struct{ key, value string }

// parseFilter reads the filters of a list. A tag that is not KEY:VALUE is passed over, as the published API does, and
// the well-known ones may be named as older clients do.
func parseFilter(req *apiv1.ListDataplaneOverviewsRequest) (filter, error) {
	var f filter
	for _, t := range req.GetTag() {
		if k, v, ok := strings.Cut(t, ":"); ok && !strings.Contains(v, ":") {
			f.tags = append(f.tags, tag{resource.WellKnownTag(k), v})
		}
	}
	// The published cause names the route's template.
	route := "/dataplanes+insights"
	if req.GetMesh() != "" {
		route = "/meshes/{mesh}" + route
	}
	var v resource.Violations
	for _, p := range []struct {
		name, given string
		to          **bool
	}{{"gateway", req.GetGateway(), &f.gateway}, {"ingress", req.GetIngress(), &f.ingress}} {
		switch strings.ToLower(p.given) {
		case "":
		case "true", "false":
			want := strings.EqualFold(p.given, "true")
			*p.to = &want
		default:
			v.Add(route+"."+p.name, "shall be a boolean")
		}
	}
	if len(v) > 0 {
		return f, fail(codes.InvalidArgument, titleDataplaneOverviews, detailsInvalid, v...)
	}
	return f, nil
}

func (f filter) empty() bool { return len(f.tags) == 0 && f.gateway == nil && f.ingress == nil }

// apply yields what passes; err gets the first object that can't be decoded.
func (f filter) apply(objects iter.Seq[*resource.Object], err *error) iter.Seq[*resource.Object] {
	return func(yield func(*resource.Object) bool) {
		for o := range objects {
			dp, derr := resource.Decode[meshv1.Dataplane](o)
			if derr != nil {
				*err = derr
				return
			}
			if f.matches(dp.GetNetworking()) && !yield(o) {
				return
			}
		}
	}
}

func (f filter) matches(n *meshv1.Dataplane_Networking) bool {
	if f.gateway != nil && *f.gateway != (n.GetGateway() != nil) || f.ingress != nil && *f.ingress != (n.GetIngress() != nil) {
		return false
	}
	if len(f.tags) == 0 || f.carries(n.GetGateway().GetTags()) {
		return true
	}
	for _, in := range n.GetInbound() {
		if f.carries(in.GetTags()) {
			return true
		}
	}
	return false
}

// carries says whether one set of tags has all that is asked for.
func (f filter) carries(tags map[string]string) bool {
	for _, want := range f.tags {
		if have, ok := tags[want.key]; !ok || want.value != "*" && want.value != have {
			return false
		}
	}
	return true
}
