package insight

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Rollup counts data plane proxies by mesh, version and service, and knows what of it is so at the newest state of
// both logs. A change costs what it is about: one proxy's connecting moves the counters that this proxy is in. It is
// safe for concurrent use.
//
// It needs Run only to note when counters change: whoever reads it first brings it up to the newest state.
type Rollup struct {
	// kinds are those of which a mesh's objects are counted.
	kinds map[resource.Kind]bool

	mu             sync.Mutex
	config, status feed
	meshes         map[string]*tally
	// counted is what each dataplane is counted as.
	counted map[resource.Key][]part
}

// feed is one log, as far as it is counted.
type feed struct {
	log   store.Log
	rng   store.Range
	watch store.Watch
	view  store.View
}

// tally is what is counted of one mesh.
type tally struct {
	// changed is when a counter of the mesh as a whole last did.
	changed time.Time
	groups  [groups]map[string]*counter
}

// counter counts proxies by their state.
type counter struct {
	in      [states]uint32
	changed time.Time
}

// group is a set of counters of one mesh.
type group int

const (
	// whole has one counter, without a name, for all proxies of the mesh.
	whole group = iota
	byDataplaneVersion
	byEnvoyVersion
	// byService counts a proxy once for each service of its inbounds, by the state of those inbounds alone.
	byService
	groups
)

// state is what is known of a proxy, or of its inbounds of one service.
type state int

const (
	online state = iota
	offline
	degraded
	states
)

// serviceInsight is the kind in the keys of what Services yields.
const serviceInsight resource.Kind = "ServiceInsight"

// unknownVersion stands for that of a proxy that did not tell.
const unknownVersion = "unknown"

// part is one counter that a dataplane is counted in.
type part struct {
	group group
	name  string
	state state
}

func (p part) compare(o part) int {
	return cmp.Or(cmp.Compare(p.group, o.group), strings.Compare(p.name, o.name), cmp.Compare(p.state, o.state))
}

// NewRollup counts what a store holds. Objects of the table's kinds that belong to a mesh and are written by users,
// dataplanes left aside, are a mesh's policies.
func NewRollup(s store.Store, t *resource.Table) (*Rollup, error) {
	r := &Rollup{
		kinds:   map[resource.Kind]bool{},
		config:  feed{log: s.Config(), rng: store.Everything()},
		status:  feed{log: s.Status(), rng: store.OfKind(resource.KindDataplaneInsight)},
		meshes:  map[string]*tally{},
		counted: map[resource.Key][]part{},
	}
	for _, d := range t.All() {
		if d.Scope == resource.ScopeMesh && d.Access != resource.Internal && d.Writable != resource.WritableNowhere && d.Kind != resource.KindDataplane {
			r.kinds[d.Kind] = true
		}
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("count insights: %w", err)
	}
	return r, nil
}

// Run follows both logs until the context ends or the store is closed. It is called once.
func (r *Rollup) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, f := range []*feed{&r.config, &r.status} {
		g.Go(func() error {
			for {
				r.mu.Lock()
				next := f.view.Revision() + 1
				r.mu.Unlock()
				if _, err := f.log.Await(gctx, next); err != nil {
					return err
				}
				r.mu.Lock()
				err := r.catchUp(gctx)
				r.mu.Unlock()
				if err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
		return nil
	}
	return err
}

// Mesh sums up a mesh at the newest state; nil where there is none.
func (r *Rollup) Mesh(ctx context.Context, mesh string) (*meshv1.MeshInsight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(ctx); err != nil {
		return nil, err
	}
	t := r.meshes[mesh]
	if t == nil || !r.exists(mesh) {
		return nil, nil
	}
	in := &meshv1.MeshInsight{
		LastSync:   timestamppb.New(t.changed),
		Dataplanes: t.groups[whole][""].stat(),
		Policies:   map[string]*meshv1.MeshInsight_PolicyStat{},
		DpVersions: &meshv1.MeshInsight_DpVersions{KumaDp: t.stats(byDataplaneVersion), Envoy: t.stats(byEnvoyVersion)},
	}
	for k := range r.kinds {
		if n := r.config.view.Count(store.InScope(k, mesh)); n > 0 {
			in.Policies[string(k)] = &meshv1.MeshInsight_PolicyStat{Total: uint32(n)}
		}
	}
	return in, nil
}

// Service sums up the proxies of a service at the newest state; nil where it has none.
func (r *Rollup) Service(ctx context.Context, mesh, service string) (*meshv1.ServiceInsight, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(ctx); err != nil {
		return nil, err
	}
	t := r.meshes[mesh]
	if t == nil || !r.exists(mesh) {
		return nil, nil
	}
	c := t.groups[byService][service]
	if c == nil {
		return nil, nil
	}
	return c.service(), nil
}

// Services is Service for all services of one mesh, or of all meshes if it is empty, at one state. It returns how
// many there are, and yields them by mesh and name.
func (r *Rollup) Services(ctx context.Context, mesh string) (int, iter.Seq2[resource.Key, *meshv1.ServiceInsight], error) {
	type row struct {
		key resource.Key
		counter
	}
	var rows []row
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(ctx); err != nil {
		return 0, nil, err
	}
	for scope, t := range r.meshes {
		if mesh != "" && scope != mesh || !r.exists(scope) {
			continue
		}
		for name, c := range t.groups[byService] {
			rows = append(rows, row{resource.Key{Kind: serviceInsight, Scope: scope, Name: name}, *c})
		}
	}
	return len(rows), func(yield func(resource.Key, *meshv1.ServiceInsight) bool) {
		slices.SortFunc(rows, func(a, b row) int { return a.key.Compare(b.key) })
		for i := range rows {
			if !yield(rows[i].key, rows[i].service()) {
				return
			}
		}
	}, nil
}

func (r *Rollup) exists(mesh string) bool {
	return has(r.config.view, resource.Key{Kind: resource.KindMesh, Name: mesh})
}

// begin gives the feed at the newest state of its log.
func (f feed) begin() (feed, error) {
	var err error
	f.view = f.log.View()
	f.watch, err = f.log.Watch(f.rng, f.view.At())
	return f, err
}

// load counts the present state, over whatever was counted before.
func (r *Rollup) load() error {
	config, err := r.config.begin()
	if err != nil {
		return err
	}
	status, err := r.status.begin()
	if err != nil {
		return err
	}
	before := r.config.view
	for _, f := range []*feed{&r.config, &r.status} {
		if f.watch != nil {
			_ = f.watch.Close()
		}
	}
	r.config, r.status = config, status
	now := time.Now()
	for k := range r.counted {
		r.count(k, now)
	}
	for o := range r.config.view.Scan(store.OfKind(resource.KindDataplane)) {
		r.count(o.Key, now)
	}
	for o := range r.config.view.Scan(store.OfKind(resource.KindMesh)) {
		r.tally(o.Key.Name, now)
	}
	for mesh := range r.meshes {
		for k := range r.kinds {
			if before != nil {
				r.policies(before, k, mesh, now)
			}
		}
		r.tidy(mesh)
	}
	return nil
}

// catchUp counts what has changed, with the lock held.
func (r *Rollup) catchUp(ctx context.Context) error {
	for _, f := range []*feed{&r.config, &r.status} {
		if f.log.View().Revision() == f.view.Revision() {
			continue
		}
		// This does not wait: the log is ahead.
		c, err := f.watch.Next(ctx)
		if errors.Is(err, store.ErrCompacted) {
			return r.load()
		}
		if err != nil {
			return err
		}
		before := f.view
		f.view = c.View
		now := time.Now()
		for i := range c.Items {
			switch k := c.Items[i].Key; {
			case k.Kind == resource.KindDataplane, k.Kind == resource.KindDataplaneInsight:
				r.count(dataplane(k), now)
			case k.Kind == resource.KindMesh && c.Items[i].Object != nil:
				r.tally(k.Name, now)
			case k.Kind == resource.KindMesh:
				r.tidy(k.Name)
			case r.kinds[k.Kind]:
				r.policies(before, k.Kind, k.Scope, now)
			}
		}
	}
	return nil
}

// policies notes whether a mesh has more or fewer objects of a kind than before. The views count them.
func (r *Rollup) policies(before store.View, kind resource.Kind, mesh string, now time.Time) {
	all := store.InScope(kind, mesh)
	if t := r.meshes[mesh]; t != nil && before.Count(all) != r.config.view.Count(all) {
		t.changed = now
	}
}

// tally finds or begins the counters of a mesh.
func (r *Rollup) tally(mesh string, now time.Time) *tally {
	t := r.meshes[mesh]
	if t == nil {
		t = &tally{changed: now}
		for g := range t.groups {
			t.groups[g] = map[string]*counter{}
		}
		r.meshes[mesh] = t
	}
	return t
}

// tidy forgets the counters of a mesh that is gone with all of its dataplanes.
func (r *Rollup) tidy(mesh string) {
	if t := r.meshes[mesh]; t != nil && len(t.groups[whole]) == 0 && !r.exists(mesh) {
		delete(r.meshes, mesh)
	}
}

// count brings what one dataplane is counted as up to date.
func (r *Rollup) count(k resource.Key, now time.Time) {
	old, parts := r.counted[k], r.parts(k)
	if slices.Equal(old, parts) {
		return
	}
	t := r.tally(k.Scope, now)
	// Both are sorted: what only one of them has moves a counter.
	for i, j := 0, 0; i < len(old) || j < len(parts); {
		var order int
		switch {
		case i == len(old):
			order = 1
		case j == len(parts):
			order = -1
		default:
			order = old[i].compare(parts[j])
		}
		switch {
		case order < 0:
			t.move(old[i], -1, now)
			i++
		case order > 0:
			t.move(parts[j], 1, now)
			j++
		default:
			i, j = i+1, j+1
		}
	}
	if len(parts) > 0 {
		r.counted[k] = parts
		return
	}
	delete(r.counted, k)
	r.tidy(k.Scope)
}

// move adds to one counter of a mesh; by is 1 or -1.
func (t *tally) move(p part, by int, now time.Time) {
	counters := t.groups[p.group]
	c := counters[p.name]
	if c == nil {
		c = &counter{}
		counters[p.name] = c
	}
	c.in[p.state] = uint32(int(c.in[p.state]) + by)
	c.changed = now
	if p.group != byService {
		t.changed = now
	}
	if c.in == [states]uint32{} {
		delete(counters, p.name)
	}
}

// parts says what a dataplane is to be counted as, sorted; nil where it is not there. What can't be read of it is
// taken as not said. It is decoded for this alone: kept with the objects, all that was decoded would fill the memory
// of a global control plane that only counts.
func (r *Rollup) parts(k resource.Key) []part {
	o, ok := r.config.view.Get(k)
	if !ok {
		return nil
	}
	dp, seen := &meshv1.Dataplane{}, &meshv1.DataplaneInsight{}
	if proto.Unmarshal(o.Spec, dp) != nil {
		dp = nil
	}
	if o, ok := r.status.view.Get(insightOf(k)); ok && proto.Unmarshal(o.Spec, seen) != nil {
		seen = nil
	}
	last, connected := lastSubscription(seen)
	net := dp.GetNetworking()
	ready, services := 0, map[string][2]int{} // how many inbounds are ready, of how many
	for _, in := range net.GetInbound() {
		n := services[in.GetTags()[resource.TagService]]
		n[1]++
		if in.GetHealth() == nil || in.GetHealth().GetReady() {
			n[0]++
			ready++
		}
		services[in.GetTags()[resource.TagService]] = n
	}
	if g := net.GetGateway(); g != nil {
		services[g.GetTags()[resource.TagService]] = [2]int{}
	}
	delete(services, "") // an ingress need not name one

	all := stateOf(connected, ready, len(net.GetInbound()))
	v := last.GetVersion()
	parts := make([]part, 0, 3+len(services))
	parts = append(parts,
		part{whole, "", all},
		part{byDataplaneVersion, cmp.Or(v.GetKumaDp().GetVersion(), unknownVersion), all},
		part{byEnvoyVersion, cmp.Or(v.GetEnvoy().GetVersion(), unknownVersion), all},
	)
	for name, n := range services {
		parts = append(parts, part{byService, name, stateOf(connected, n[0], n[1])})
	}
	slices.SortFunc(parts, part.compare)
	return parts
}

// lastSubscription is the newest stream that is open, else the last one that there was.
func lastSubscription(in *meshv1.DataplaneInsight) (last *meshv1.DiscoverySubscription, open bool) {
	for _, s := range slices.Backward(in.GetSubscriptions()) {
		if s.GetConnectTime() != nil && s.GetDisconnectTime() == nil {
			return s, true
		}
		if last == nil {
			last = s
		}
	}
	return last, false
}

// stateOf says how a proxy is of whose inbounds so many are ready. One without any, a gateway, is as its connection.
func stateOf(connected bool, ready, inbounds int) state {
	switch {
	case !connected, ready == 0 && inbounds > 0:
		return offline
	case ready < inbounds:
		return degraded
	}
	return online
}

func (c *counter) total() uint32 { return c.in[online] + c.in[offline] + c.in[degraded] }

func (c *counter) stat() *meshv1.MeshInsight_DataplaneStat {
	if c == nil {
		return &meshv1.MeshInsight_DataplaneStat{}
	}
	return &meshv1.MeshInsight_DataplaneStat{Total: c.total(), Online: c.in[online], Offline: c.in[offline], PartiallyDegraded: c.in[degraded]}
}

func (t *tally) stats(g group) map[string]*meshv1.MeshInsight_DataplaneStat {
	out := make(map[string]*meshv1.MeshInsight_DataplaneStat, len(t.groups[g]))
	for name, c := range t.groups[g] {
		out[name] = c.stat()
	}
	return out
}

func (c *counter) service() *meshv1.ServiceInsight {
	in := &meshv1.ServiceInsight{
		LastSync:   timestamppb.New(c.changed),
		Status:     "partially_degraded",
		Dataplanes: &meshv1.ServiceInsight_DataplaneStat{Total: c.total(), Online: c.in[online] + c.in[degraded], Offline: c.in[offline]},
	}
	switch c.total() {
	case c.in[online]:
		in.Status = "online"
	case c.in[offline]:
		in.Status = "offline"
	}
	return in
}
