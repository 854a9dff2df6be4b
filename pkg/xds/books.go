package xds

import (
	"cmp"
	"slices"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
)

// books are what one stream owes its proxy. They hold one invariant: a resource of the target that is not
// pending is with the proxy, ACKed, in the target's version. So a proxy that has everything costs nothing
// beyond the target.
//
// The order of sending is Envoy's need. A changed EDS cluster whose endpoints do not come after it stays
// warming for 15 s with its old settings, and its ACK is withheld meanwhile, so endpoints follow their cluster
// at once, also when equal. A listener or route that names an added cluster waits for the cluster's ACK, and
// what is to go waits until those who named it are ACKed.
//
// Guarded by the proxy's lock.
type books struct {
	target *target
	feeds  [classes]feed
	// joined: the first complete configuration was ACKed.
	joined bool
}

// feed is one type on one stream.
type feed struct {
	pending map[string]*change
	// out is where the one answer to the armed watch goes; nil: not armed.
	out chan<- cache.DeltaResponse
	// sub is nil while the server may be changing it: between the end of a watch and the next.
	sub cache.Subscription
	// seen: the proxy has asked for this type; wild: for all of it.
	seen, wild bool
	// fresh: what the proxy came with was not yet compared with a target. initial are those versions.
	fresh   bool
	initial map[string]string
	// greet: the proxy waits for a first answer, also where there is nothing to say.
	greet bool
	// flight is the one response that is not yet ACKed or NACKed.
	flight *response
	// suspects are the parts of a NACKed response that go again by themselves, the next one last.
	suspects []*suspects
	// again are names that go even when equal, left by an earlier stream of the proxy.
	again map[string]struct{}
	stats Counter
}

// change is a resource that the proxy does not have as it should.
type change struct {
	// had is the version that the proxy has, "" where it has none or it is not known.
	had string
	// want is nil for what is to go.
	want *envoy.Resource
	// sent is in flight, going is set while a removal is.
	sent  *envoy.Resource
	going bool
	// since is the first revision that may have asked for it; 0: it holds no position. next is the same for
	// what came while it was in flight.
	since, next resource.Revision
	// again: it goes even when equal. early: it goes without a subscription, as its cluster is on the way.
	again, early bool
	// held: the proxy refused this version. behind is since when it lacks what it should have for that, and counts again
	// when another version takes the refused one's place: until that is there, the proxy has what was before both.
	held   bool
	behind resource.Revision
	// asked: the proxy wants to know of a name that there is not.
	asked bool
	// kept: the proxy came with it, and while the target withholds something it is not known to be needless.
	kept bool
}

// suspects are resources of which at least one was refused.
type suspects struct {
	items []*envoy.Resource
	// bad: the rest of what was refused was ACKed, so these are refused as they stand.
	bad bool
	// twin is the other half.
	twin *suspects
}

// response is one answer on its way. It implements cache.DeltaResponse.
type response struct {
	stream *stream
	class  class
	msg    *discoveryv3.DeltaDiscoveryResponse
	nonce  string
	items  []*envoy.Resource
	// other half of a refused response: if this one is ACKed as it was, that one is bad.
	other *suspects
}

// wants says whether the proxy has subscribed to a name. Only while a watch is armed.
func (f *feed) wants(name string) bool {
	if f.sub == nil {
		return false
	}
	if f.sub.IsWildcard() {
		return true
	}
	_, ok := f.sub.SubscribedResources()[name]
	return ok
}

// removes says whether the proxy must be told that a resource is gone. Endpoints and routes go with who
// named them.
func (f *feed) removes(c class) bool { return c == clusters || c == listeners || f.wild }

func (f *feed) add(name string, p *change) *change {
	if f.pending == nil {
		f.pending = map[string]*change{}
	}
	f.pending[name] = p
	return p
}

func (f *feed) drop(name string) {
	if delete(f.pending, name); len(f.pending) == 0 {
		f.pending = nil // a map does not shrink
	}
}

// settle drops a change that is none any more.
func (b *books) settle(c class, name string) {
	f := &b.feeds[c]
	p := f.pending[name]
	switch {
	case p == nil || p.sent != nil || p.going || p.asked:
	case p.want == nil && (p.had == "" || !f.removes(c)):
		f.drop(name)
	case p.want != nil && p.want.Version == p.had && !p.again:
		f.drop(name)
	}
}

// heldSince says whether a proxy refused a resource as it is now, and if so since when it lacks it.
type heldSince func(*envoy.Resource) (resource.Revision, bool)

// compare sets the feed's changes anew, from what the proxy says that it has.
func (b *books) compare(c class, since resource.Revision, held heldSince) {
	f := &b.feeds[c]
	before := f.pending
	f.pending = nil
	for _, r := range b.target.by[c] {
		had := f.initial[r.Name]
		_, again := f.again[r.Name]
		if p := before[r.Name]; p != nil && p.early {
			again = true // its cluster was sent before this type was asked for
		}
		if had == r.Version && !again && f.wants(r.Name) {
			continue
		}
		p := f.add(r.Name, &change{had: had, want: r, since: since, again: again})
		if p.behind, p.held = held(r); p.held {
			p.since, p.behind = 0, earlier(p.behind, since)
		}
	}
	if f.sub == nil {
		return // compared again when the subscription is known
	}
	for name, had := range f.initial {
		if b.target.find(c, name) == nil && f.removes(c) {
			p := f.add(name, &change{had: had, since: since})
			if len(b.target.set.Withheld) > 0 {
				p.kept, p.since = true, 0
			}
		}
	}
	for name := range f.sub.SubscribedResources() {
		b.ask(c, name)
	}
	f.initial, f.again, f.fresh = nil, nil, false
}

// ask notes a subscription to a name that there is not. The proxy must be told, or it waits for long, also if it
// has had one: its cluster may be warming.
func (b *books) ask(c class, name string) {
	f := &b.feeds[c]
	if b.target.find(c, name) == nil && f.pending[name] == nil && !b.target.withholds(c, name) {
		f.add(name, &change{asked: true})
	}
}

// publish moves to another target. What differs is owed since the given revision; 0: by nobody's change, and what
// was owed before stays owed since then.
func (b *books) publish(t *target, since resource.Revision, held heldSince) {
	old := b.target
	b.target = t
	if old == nil {
		for c := range classes {
			b.compare(c, since, held)
		}
		b.forget()
		return
	}
	old.diff(t, func(c class, was, is *envoy.Resource) {
		f := &b.feeds[c]
		name := cmp.Or(is, was).Name
		p := f.pending[name]
		if p == nil {
			p = f.add(name, &change{})
			if was != nil {
				p.had = was.Version
			}
		}
		p.want, p.asked, p.kept, p.held = is, false, false, false
		if is != nil {
			_, p.held = held(is)
		}
		since := b.inherit(since, was, t)
		if !p.held && p.behind != 0 {
			since, p.behind = earlier(p.behind, cmp.Or(since, p.behind)), 0
		}
		switch {
		case p.held:
			if at := cmp.Or(p.oldest(), since); at != 0 {
				p.behind = earlier(p.behind, at)
			}
			p.since, p.next = 0, 0
		case since == 0:
		case p.sent != nil || p.going:
			p.next = earlier(p.next, since)
		default:
			p.since = earlier(p.since, since)
		}
		if is == nil && !f.removes(c) && (p.again || p.early || p.sent == nil && p.had == "") && (p.early || f.sub == nil || f.wants(name)) {
			// A cluster may be warming for want of it: it has to be told that there is none.
			p.asked, p.since, p.next = true, 0, 0
		}
		b.settle(c, name)
	})
	if len(t.set.Withheld) == 0 && len(old.set.Withheld) > 0 {
		b.let(since)
	}
	b.forget()
}

// let go what the proxy came with or asks for, and is not to have: now that is known.
func (b *books) let(since resource.Revision) {
	for c := range classes {
		for _, p := range b.feeds[c].pending {
			if p.kept {
				p.kept, p.since = false, since
			}
		}
		if sub := b.feeds[c].sub; sub != nil {
			for name := range sub.SubscribedResources() {
				b.ask(c, name)
			}
		}
	}
}

// earlier of two revisions, the first of which may be none.
func earlier(a, b resource.Revision) resource.Revision { return min(cmp.Or(a, b), b) }

// inherit is since when a change is owed, when with it something goes that was owed already: a proxy that still
// has a cluster does not have the endpoints that the cluster should have had.
func (b *books) inherit(since resource.Revision, was *envoy.Resource, t *target) resource.Revision {
	if was == nil {
		return since
	}
	for _, ref := range was.Refs {
		c, ok := classOf(ref.TypeURL)
		if !ok || c == clusters {
			continue
		}
		if p := b.feeds[c].pending[ref.Name]; p != nil && t.find(c, ref.Name) == nil {
			since = min(since, cmp.Or(p.oldest(), since))
		}
	}
	return since
}

// request takes in what a proxy says: an ACK or a NACK, and what it subscribes to. It returns what was refused
// alone, if this is a NACK that says so.
func (b *books) request(c class, req *discoveryv3.DeltaDiscoveryRequest, since resource.Revision, held heldSince) (refused *envoy.Resource) {
	f := &b.feeds[c]
	if !f.seen {
		f.seen, f.fresh, f.wild = true, true, f.sub.IsWildcard()
		f.greet = f.wild && len(f.initial) == 0
	}
	f.wild = f.sub.IsWildcard()
	if f.fresh {
		if b.target != nil {
			b.compare(c, since, held)
			b.forget()
		}
		return nil
	}
	if r := f.flight; r != nil && r.nonce != "" && r.nonce == req.GetResponseNonce() {
		f.flight = nil
		if req.GetErrorDetail() == nil {
			f.stats.Acked++
			b.acked(r)
		} else {
			f.stats.Rejected++
			refused = b.nacked(r)
		}
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		b.unsubscribed(c, name)
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		b.subscribed(c, name)
	}
	return refused
}

// subscribed: a name that is asked for again is sent again, unless it is on its way.
func (b *books) subscribed(c class, name string) {
	f := &b.feeds[c]
	if b.target == nil || name == "*" {
		return
	}
	want := b.target.find(c, name)
	if want == nil {
		b.ask(c, name)
		return
	}
	p := f.pending[name]
	if p == nil {
		p = f.add(name, &change{had: want.Version, want: want})
	}
	if p.sent == nil && !p.held {
		p.again = true
	}
}

// unsubscribed: the proxy has forgotten the resource.
func (b *books) unsubscribed(c class, name string) {
	f := &b.feeds[c]
	if b.target == nil || name == "*" {
		return
	}
	p := f.pending[name]
	want := b.target.find(c, name)
	switch {
	case want != nil && p == nil:
		f.add(name, &change{want: want})
	case p != nil && want == nil && !f.removes(c):
		f.drop(name)
	case p != nil:
		p.had, p.sent, p.again, p.early, p.asked = "", nil, false, false, false
	}
	if f.wants(name) { // a wildcard remains: the name must be answered
		b.subscribed(c, name)
	}
}

func (b *books) acked(r *response) {
	f := &b.feeds[r.class]
	for _, item := range r.items {
		p := f.pending[item.Name]
		switch {
		case p == nil || p.sent != item:
		case f.wants(item.Name):
			p.had, p.sent = item.Version, nil
			p.since, p.next = p.next, 0
			b.settle(r.class, item.Name)
		default:
			// It came before its cluster, and was passed over: it is still owed to the subscription.
			p.had, p.sent = "", nil
			p.since, p.next = cmp.Or(p.since, p.next), 0
			b.settle(r.class, item.Name) // unless nobody is to have it any more
		}
	}
	b.gone(r)
	b.forget()
	if r.other != nil {
		r.other.bad = true
	}
}

// gone books a response's removals. A NACK counts as well: a proxy that refuses to forget is not asked twice.
func (b *books) gone(r *response) {
	f := &b.feeds[r.class]
	for _, name := range r.msg.GetRemovedResources() {
		if p := f.pending[name]; p != nil && (p.going || p.asked) {
			p.had, p.going, p.asked, p.again, p.early = "", false, false, false, false
			p.since, p.next = p.next, 0
			b.settle(r.class, name)
		}
	}
}

// nacked: nothing of the response counts as delivered. Its resources go again in halves, until the bad one is
// alone, which is returned.
func (b *books) nacked(r *response) *envoy.Resource {
	f := &b.feeds[r.class]
	b.gone(r)
	var still []*envoy.Resource
	for _, item := range r.items {
		p := f.pending[item.Name]
		if p == nil || p.sent != item {
			continue
		}
		p.sent = nil
		p.since, p.next = cmp.Or(p.since, p.next), 0
		if p.want == nil || p.want.Version != item.Version {
			b.settle(r.class, item.Name)
			continue
		}
		if p.want.Version == p.had {
			p.again = true // it was sent though equal, and still has to come
		}
		still = append(still, item)
	}
	switch {
	case len(r.items) == 1 && len(still) == 1:
		return still[0]
	case len(still) > 0:
		f.split(still)
	}
	return nil
}

// split puts two halves before all other suspects, the smaller first.
func (f *feed) split(items []*envoy.Resource) {
	if len(items) == 1 {
		f.suspects = append(f.suspects, &suspects{items: items})
		return
	}
	n := len(items) / 2
	rest := &suspects{items: items[n:]}
	f.suspects = append(f.suspects, rest, &suspects{items: items[:n], twin: rest})
}

// hold books that the proxy refused a version.
func (b *books) hold(c class, bad *envoy.Resource) {
	p := b.feeds[c].pending[bad.Name]
	if p == nil || p.want == nil || p.want.Version != bad.Version {
		return
	}
	p.held, p.again, p.early = true, false, false
	p.since, p.next, p.behind = 0, 0, cmp.Or(p.oldest(), p.behind)
	if !b.joined {
		p.behind = 1 // what the proxy has may be older than this process
	}
	b.forget()
}

// behind is since when the proxy lacks a resource that it refused; 0: it is not one.
func (b *books) behind(c class, name string) resource.Revision {
	if p := b.feeds[c].pending[name]; p != nil && p.held {
		return p.behind
	}
	return 0
}

// forget sees to it that no position waits for what the proxy will not ask for: routes and endpoints that are
// named by nothing, or only by what was refused.
func (b *books) forget() {
	var named map[envoy.Ref]bool
	for _, c := range []class{endpoints, routes, secrets} {
		f := &b.feeds[c]
		for name, p := range f.pending {
			if p.oldest() == 0 || p.had != "" || p.sent != nil || p.want == nil || f.wants(name) {
				continue
			}
			if named == nil {
				named = b.named()
			}
			if !named[envoy.Ref{TypeURL: c.typeURL(), Name: name}] {
				p.since, p.next, p.early = 0, 0, false
			}
		}
	}
}

// named is what the target's resources name that the proxy did not refuse.
func (b *books) named() map[envoy.Ref]bool {
	named := map[envoy.Ref]bool{}
	for c := range classes {
		for _, r := range b.target.by[c] {
			if p := b.feeds[c].pending[r.Name]; p != nil && p.held {
				continue
			}
			for _, ref := range r.Refs {
				named[ref] = true
			}
		}
	}
	return named
}

// waits says whether a listener or a route names a cluster that is added but not ACKed.
func (b *books) waits(r *envoy.Resource) bool {
	added := b.feeds[clusters].pending
	if len(added) == 0 {
		return false
	}
	for _, ref := range r.Refs {
		if ref.TypeURL != clusters.typeURL() {
			continue
		}
		if p := added[ref.Name]; p != nil && p.had == "" && p.want != nil && !p.held {
			return true
		}
	}
	return false
}

// ready says whether a change may go now.
func (b *books) ready(c class, name string, p *change) bool {
	switch {
	case p.want == nil || p.want.Wire == nil || p.sent != nil || p.going || p.held:
		return false
	case p.want.Version == p.had && !p.again:
		return false
	case !p.early && !b.feeds[c].wants(name):
		return false
	case c == listeners || c == routes:
		return !b.waits(p.want)
	}
	return true
}

// lacks says whether the proxy asks for its certificate, and there is none to send.
func (b *books) lacks() bool {
	f := &b.feeds[secrets]
	p := f.pending[envoy.IdentityCert]
	return p != nil && p.want != nil && p.want.Wire == nil && p.sent == nil && (p.want.Version != p.had || p.again) && f.wants(envoy.IdentityCert)
}

// released says whether something may go: listeners when what was to replace them is ACKed, clusters when no
// one names them any more.
func (b *books) released(c class, p *change) bool {
	for _, by := range []class{listeners, routes} {
		for _, q := range b.feeds[by].pending {
			if at := q.oldest(); at != 0 && at <= p.since && (q.want != nil || c == clusters) {
				return false
			}
		}
	}
	return true
}

// answer makes the next response of a type, or returns nil if there is nothing to send or nobody to send to.
func (b *books) answer(c class) *response {
	f := &b.feeds[c]
	if f.out == nil || f.flight != nil || f.fresh || b.target == nil {
		return nil
	}
	r := &response{class: c}
	b.suspected(r)
	if len(r.items) == 0 {
		for name, p := range f.pending {
			if b.ready(c, name, p) {
				r.items = append(r.items, p.want)
			}
		}
		slices.SortFunc(r.items, func(a, b *envoy.Resource) int { return cmp.Compare(a.Name, b.Name) })
	}
	var gone []string
	if len(r.items) == 0 {
		for name, p := range f.pending {
			if p.want == nil && !p.going && !p.kept && p.sent == nil && (p.asked && f.wants(name) || !p.asked && p.had != "" && f.removes(c) && b.released(c, p)) {
				gone = append(gone, name)
			}
		}
		slices.Sort(gone)
	}
	if len(r.items) == 0 && len(gone) == 0 && !f.greet {
		return nil
	}
	r.msg = &discoveryv3.DeltaDiscoveryResponse{TypeUrl: c.typeURL(), RemovedResources: gone}
	if len(r.items) > 0 {
		r.msg.Resources = make([]*discoveryv3.Resource, len(r.items))
		for i, item := range r.items {
			r.msg.Resources[i] = item.Wire
		}
	}
	return r
}

// suspected takes the next part of what was refused, without what has changed since.
func (b *books) suspected(r *response) {
	f := &b.feeds[r.class]
	for len(f.suspects) > 0 {
		s := f.suspects[len(f.suspects)-1]
		f.suspects = f.suspects[:len(f.suspects)-1]
		still := slices.DeleteFunc(slices.Clone(s.items), func(item *envoy.Resource) bool {
			p := f.pending[item.Name]
			return p == nil || p.held || p.sent != nil || p.want == nil || p.want.Version != item.Version ||
				!p.early && !f.wants(item.Name)
		})
		whole := len(still) == len(s.items)
		switch {
		case len(still) == 0:
			continue
		case whole && s.bad && len(still) > 1:
			f.split(still)
			continue
		case whole:
			r.other = s.twin
		}
		r.items = still
		return
	}
	f.suspects = nil
}

// sent books a response that was handed over.
func (b *books) sent(r *response) {
	f := &b.feeds[r.class]
	f.flight, f.out, f.greet = r, nil, false
	for _, item := range r.items {
		p := f.pending[item.Name]
		p.sent, p.again, p.early = item, false, false
		for _, ref := range item.Refs {
			if rc, ok := classOf(ref.TypeURL); ok && rc != clusters {
				b.follow(rc, ref.Name, p.since)
			}
		}
	}
	for _, name := range r.msg.GetRemovedResources() {
		if p := f.pending[name]; !p.asked {
			p.going = true
		}
	}
}

// follow: who names a resource is on its way, so the resource has to come, endpoints in any case.
func (b *books) follow(c class, name string, since resource.Revision) {
	f := &b.feeds[c]
	want := b.target.find(c, name)
	if want == nil {
		return
	}
	p := f.pending[name]
	if p == nil {
		if c != endpoints {
			return
		}
		p = f.add(name, &change{had: want.Version, want: want})
	}
	if p.held {
		return
	}
	switch {
	case p.sent != nil && p.next == 0:
		p.next = since
	case p.sent == nil && p.since == 0:
		p.since = since
	}
	if c == endpoints {
		p.again, p.early = true, true
	}
}

// oldest is the first revision that may have asked for what is pending, 0 where it holds no position.
func (p *change) oldest() resource.Revision { return cmp.Or(p.since, p.next) }

// oldest is the least of all changes; 0: no position waits for anything.
func (b *books) oldest() resource.Revision {
	var first resource.Revision
	for c := range classes {
		for _, p := range b.feeds[c].pending {
			if at := p.oldest(); at != 0 && (first == 0 || at < first) {
				first = at
			}
		}
	}
	return first
}

// lag says where the proxy stands; false: it has everything.
func (b *books) lag() (Lag, bool) {
	first := b.oldest()
	if !b.joined {
		complete := b.target != nil && b.feeds[clusters].seen && b.feeds[listeners].seen && first == 0
		for c := range classes {
			complete = complete && b.feeds[c].flight == nil && !b.feeds[c].fresh
		}
		if !complete {
			return Lag{Joining: true}, true
		}
		b.joined = true
	}
	if first == 0 {
		return Lag{}, false
	}
	return Lag{Live: first - 1}, true
}
