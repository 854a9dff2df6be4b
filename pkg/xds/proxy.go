package xds

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// proxy is one data plane proxy that has a stream, or had one and is remembered for what it refused.
type proxy struct {
	key resource.Key
	o   *Options
	// progress is told of every step.
	progress *progress
	issuer   *issuer
	// registering is held while the proxy's dataplane is written or taken away. It is taken before mu.
	registering sync.Mutex

	mu sync.Mutex
	// users keep the proxy in the server's table. Guarded by the server's lock.
	users int

	// Guarded by mu.

	// streams are the open ones, the newest last: it is the one that counts.
	streams []*stream
	// target is nil until the first plan.
	target *target
	// round is the revision from which the target's changes are booked.
	round resource.Revision
	// refused resources are held back until their content changes, or another Envoy comes.
	refused map[envoy.Ref]refused
	// invalid resources never go, their last good version stays: what was told of them.
	invalid map[envoy.Ref]Refusal
	// failed says why the last plan did not work out, so that the one before it is served.
	failed *Refusal
	// problems that were told of the plan, by part.
	problems map[string]string
	// again are endpoints that an ended stream still owed to a changed cluster.
	again map[string]struct{}
	// workload is nil while the plan asks for no certificate.
	workload *workload
	// inline: the dataplane was born with a stream and goes with the last one.
	inline bool
	// left: the proxy has said goodbye. Its dataplane is gone, its stream goes on as it is.
	left bool
}

// refused is a resource that an Envoy refused.
type refused struct {
	version string
	told    Refusal
	// behind is since when the proxy lacks it.
	behind resource.Revision
}

// held implements heldSince.
func (p *proxy) held(r *envoy.Resource) (resource.Revision, bool) {
	x, ok := p.refused[envoy.Ref{TypeURL: r.TypeURL, Name: r.Name}]
	if !ok || x.version != r.Version {
		return 0, false
	}
	return x.behind, true
}

// publish gives the proxy another configuration, made from changes since the given revision.
func (p *proxy) publish(set *envoy.Set, since resource.Revision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) == 0 || p.left {
		return
	}
	p.round = since
	p.recover()
	t := newTarget(p.mend(set), p.identify(set.Identity))
	p.invalidate(set, t)
	p.retarget(t, since)
}

// retarget gives the streams something else to be sent, asked for since the given revision; 0: by nobody's change.
func (p *proxy) retarget(t *target, since resource.Revision) {
	p.target = t
	for ref, x := range p.refused {
		c, _ := classOf(ref.TypeURL)
		if r := t.find(c, ref.Name); r == nil || r.Version != x.version {
			p.clear(ref)
		}
	}
	for _, st := range p.streams {
		st.books.publish(t, since, p.held)
		st.pump()
	}
	p.report()
}

// fail keeps what the proxy has, since its plan did not work out.
func (p *proxy) fail(why Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) == 0 || p.failed != nil && p.failed.Text == why.Text {
		return
	}
	p.recover()
	p.failed = &why
	p.o.Observer.Refused(why)
	p.report()
}

// recover takes back that a plan has failed.
func (p *proxy) recover() {
	if p.failed != nil {
		p.o.Observer.Cleared(p.key, p.failed.TypeURL, p.failed.Name)
		p.failed = nil
	}
}

// mend a set with what the proxy should have had so far.
func (p *proxy) mend(set *envoy.Set) *envoy.Set {
	if p.target == nil {
		return set.Over(nil)
	}
	return set.Over(p.target.set)
}

// invalidate shows what of a plan does not validate, when that has changed, before the target that was made of it
// is anywhere said to be live.
func (p *proxy) invalidate(set *envoy.Set, t *target) {
	before := p.invalid
	p.invalid = nil
	for _, x := range set.Invalid {
		told := Refusal{
			Proxy: p.key, TypeURL: x.Ref.TypeURL, Name: x.Ref.Name, Sources: set.Origin.Sources(x.Ref), Text: cut(x.Err.Error()), At: time.Now(),
		}
		if p.invalid == nil {
			p.invalid = make(map[envoy.Ref]Refusal, len(set.Invalid))
		}
		if old, ok := before[x.Ref]; ok && old.Text == told.Text && slices.Equal(old.Sources, told.Sources) {
			p.invalid[x.Ref] = old
			continue
		}
		p.invalid[x.Ref] = told
		p.o.Logger.Error("a resource does not validate, its last good version stays",
			"proxy", p.key.String(), "type", x.Ref.TypeURL, "name", x.Ref.Name, "error", told.Text)
		p.o.Observer.Refused(told)
	}
	for ref := range before {
		if _, still := p.invalid[ref]; !still {
			p.validated(ref, t)
		}
	}
}

// validated: a resource is no longer invalid. It may be the one of before again, which the proxy had refused.
func (p *proxy) validated(ref envoy.Ref, t *target) {
	if x, ok := p.refused[ref]; ok {
		c, _ := classOf(ref.TypeURL)
		if r := t.find(c, ref.Name); r != nil && r.Version == x.version {
			p.o.Observer.Refused(x.told)
			return
		}
	}
	p.clear(ref)
}

// refuse holds a resource back.
func (p *proxy) refuse(r *envoy.Resource, text string) {
	ref := envoy.Ref{TypeURL: r.TypeURL, Name: r.Name}
	told := Refusal{
		Proxy: p.key, TypeURL: r.TypeURL, Name: r.Name, Sources: p.target.set.Origin.Sources(ref), Text: text, At: time.Now(),
	}
	if p.refused == nil {
		p.refused = map[envoy.Ref]refused{}
	}
	c, _ := classOf(r.TypeURL)
	x := refused{version: r.Version, told: told}
	for _, st := range p.streams {
		st.books.hold(c, r)
		if at := st.books.behind(c, r.Name); at != 0 {
			x.behind = earlier(x.behind, at)
		}
	}
	if x.behind > 1 {
		told.Since, x.told.Since = x.behind, x.behind
	}
	p.refused[ref] = x
	if _, shown := p.invalid[ref]; !shown {
		p.o.Observer.Refused(told)
	}
}

func (p *proxy) clear(ref envoy.Ref) {
	delete(p.refused, ref)
	if _, shown := p.invalid[ref]; !shown {
		p.o.Observer.Cleared(p.key, ref.TypeURL, ref.Name)
	}
}

// open adds a stream. An Envoy that has nothing yet may take what the one before it refused: its version, or what
// was in the way on its machine, can have changed.
func (p *proxy) open(st *stream, blank bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = false
	if blank {
		for ref := range p.refused {
			p.clear(ref)
		}
	}
	for _, old := range p.streams {
		p.carry(old) // it may be dead and not yet seen to be
	}
	st.books.feeds[endpoints].again, p.again = p.again, nil
	p.streams = append(p.streams, st)
	if p.target != nil {
		st.books.publish(p.target, p.round, p.held)
	}
	st.session.Sequence = p.progress.opened(p.key, len(p.streams) == 1)
	p.o.Observer.Connected(st.session)
	p.report()
}

// carry over the endpoints that a stream still owes to changed clusters: they have to come though equal.
func (p *proxy) carry(st *stream) {
	for name, c := range st.books.feeds[endpoints].pending {
		if c.again || c.sent != nil && c.sent.Version == c.had {
			if p.again == nil {
				p.again = map[string]struct{}{}
			}
			p.again[name] = struct{}{}
		}
	}
}

// close takes a stream away, and says whether it was the last and its dataplane is to go with it.
func (p *proxy) close(st *stream) (last, inline bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.streams, st)
	if i < 0 {
		return false, false
	}
	p.streams = slices.Delete(p.streams, i, i+1)
	st.closed = true
	p.carry(st)
	p.o.Observer.Disconnected(st.session.ID, time.Now())
	if len(p.streams) > 0 {
		p.report()
		return false, false
	}
	for ref := range p.invalid {
		delete(p.invalid, ref)
		p.validated(ref, p.target)
	}
	p.target = nil
	p.dismissWorkload()
	p.recover()
	for part := range p.problems {
		p.o.Observer.Cleared(p.key, "", part)
	}
	p.problems = nil
	p.progress.disconnected(p.key)
	return true, p.inline
}

// idle says whether the proxy has no stream.
func (p *proxy) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams) == 0
}

// remembered says whether a new stream has to know something of the ones before.
func (p *proxy) remembered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.refused) > 0 || len(p.again) > 0
}

// tell shows what was left out of a plan, when it has changed.
func (p *proxy) tell(problems []plan.Problem, logger *slog.Logger) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.streams) == 0 {
		return
	}
	now := map[string]string{}
	for _, x := range problems {
		if now[x.Part] != "" {
			continue
		}
		now[x.Part] = x.Text
		if p.problems[x.Part] != x.Text {
			logger.Warn("a part was left out of a proxy's plan", "proxy", p.key.String(), "part", x.Part, "reason", x.Text)
			p.o.Observer.Refused(Refusal{Proxy: p.key, Name: x.Part, Sources: x.Sources, Text: x.Text, At: time.Now()})
		}
	}
	for part := range p.problems {
		if now[part] == "" {
			p.o.Observer.Cleared(p.key, "", part)
		}
	}
	p.problems = now
	if len(now) == 0 {
		p.problems = nil
	}
}

// planned says whether there is a target, or nobody who needs one.
func (p *proxy) planned() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target != nil || len(p.streams) == 0
}

// gone ends the streams of a proxy whose dataplane is no more at a revision, unless it went with a goodbye.
func (p *proxy) gone(at resource.Revision, reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref := range p.refused {
		p.clear(ref)
	}
	p.again = nil
	if p.left {
		return
	}
	for _, st := range p.streams {
		if st.from <= at {
			st.end(reason)
		}
	}
}

// leave notes a goodbye, or takes it back.
func (p *proxy) leave(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = yes
	p.report()
}

// setInline notes whether the dataplane was born with a stream.
func (p *proxy) setInline(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inline = yes
}

// report says how far the proxy has come.
func (p *proxy) report() {
	if len(p.streams) == 0 {
		return
	}
	rejected := uint32(len(p.refused))
	for ref := range p.invalid {
		if _, both := p.refused[ref]; !both {
			rejected++
		}
	}
	if p.failed != nil {
		rejected++
	}
	if p.workload != nil && p.workload.failed != "" {
		rejected++
	}
	lag, lags := p.streams[len(p.streams)-1].books.lag()
	p.progress.set(p.key, lag, lags && !p.left, rejected)
}
