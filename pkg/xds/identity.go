package xds

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meridian-mesh/meridian/pkg/auth/ca"
	"github.com/meridian-mesh/meridian/pkg/xds/envoy"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// workload is what a connected proxy proves its services with, for one need: another need makes another one.
// Guarded by the proxy's lock, but for due.
type workload struct {
	proxy *proxy
	need  *plan.Identity
	// key says what a certificate must have been issued for.
	key string
	// cert is what the proxy should have. It has no content before it is issued, or where the proxy has it and
	// this process never had: it was issued before a restart. nil: issuing has failed.
	cert *envoy.Resource
	// issued and expires are the zero time while there is no certificate.
	issued, expires time.Time
	// asked: it stands in the queue, or is being issued.
	asked bool
	// failed says why the last try did not work out.
	failed string

	// due is guarded by the issuer's lock.
	due rotation
}

// rotation is a place in the heap; index is -1 while there is none.
type rotation struct {
	at    time.Time
	index int
}

// rotateAt is when a certificate is replaced: after four fifths of its life.
func rotateAt(issued, expires time.Time) time.Time { return issued.Add(expires.Sub(issued) / 5 * 4) }

// identityKey is the same for all that does not change what a certificate says or who vouches for it.
func identityKey(need *plan.Identity) string {
	h := sha256.New()
	for _, part := range append([]string{need.Mesh, need.Authority.Backend, string(need.Authority.Cert), need.Authority.Lifetime.String()}, need.Services...) {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// certVersion tells later on, from what a proxy names, what its certificate was issued for and when it ends.
func certVersion(key string, issued, expires time.Time) string {
	return fmt.Sprintf("%s;%d;%d", key, issued.UnixMilli(), expires.UnixMilli())
}

// parseCertVersion is the inverse of certVersion.
func parseCertVersion(version string) (key string, issued, expires time.Time, ok bool) {
	parts := strings.Split(version, ";")
	if len(parts) != 3 {
		return "", issued, expires, false
	}
	from, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil {
		return "", issued, expires, false
	}
	to, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return "", issued, expires, false
	}
	return parts[0], time.UnixMilli(from), time.UnixMilli(to), true
}

// identify brings the proxy's workload in line with what its plan asks for, and returns its certificate, or what
// stands for it until it is issued; nil: there is to be none. With the proxy's lock.
func (p *proxy) identify(need *plan.Identity) *envoy.Resource {
	if need == nil || !need.Authority.Usable() {
		p.dismissWorkload()
		return nil
	}
	if w := p.workload; w != nil && (w.need == need || w.key == identityKey(need)) {
		w.need = need
		return w.cert
	}
	p.dismissWorkload()
	key := identityKey(need)
	p.workload = &workload{
		proxy: p, need: need, key: key, due: rotation{index: -1},
		// No position passes it: it is owed from the moment on that the plan asks for it.
		cert: &envoy.Resource{TypeURL: envoy.SecretType, Name: envoy.IdentityCert, Version: key},
	}
	p.adopt()
	return p.workload.cert
}

// dismissWorkload forgets the certificate. With the proxy's lock.
func (p *proxy) dismissWorkload() {
	w := p.workload
	if w == nil {
		return
	}
	p.workload = nil
	p.issuer.cancel(w)
	w.succeed()
}

// adopt keeps a certificate that the proxy has from an earlier stream, perhaps to another process, if it was
// issued for what is needed now and is not yet to be replaced. With the proxy's lock.
func (p *proxy) adopt() bool {
	w := p.workload
	if w == nil || w.cert == nil || !w.expires.IsZero() {
		return false
	}
	now := time.Now()
	for _, st := range p.streams {
		version := st.books.feeds[secrets].initial[envoy.IdentityCert]
		key, issued, expires, ok := parseCertVersion(version)
		if !ok || key != w.key || issued.After(now) || expires.Sub(issued) > w.need.Authority.Lifetime || !now.Before(rotateAt(issued, expires)) {
			continue
		}
		w.issued, w.expires = issued, expires
		w.cert = &envoy.Resource{TypeURL: envoy.SecretType, Name: envoy.IdentityCert, Version: version}
		p.issuer.schedule(w, rotateAt(issued, expires))
		return true
	}
	return false
}

// certify has a certificate issued, unless that is under way. With the proxy's lock.
func (p *proxy) certify() {
	if w := p.workload; w != nil && !w.asked {
		w.asked = true
		p.issuer.ask(w)
	}
}

// issue makes a certificate and gives it to the proxy, if it is still what is needed.
func (w *workload) issue(ctx context.Context) {
	p := w.proxy
	p.mu.Lock()
	need, wanted := w.need, p.workload == w
	w.asked = true
	p.mu.Unlock()
	if !wanted {
		return
	}
	now := time.Now()
	cert, err := p.issuer.issue(ctx, need, now)

	p.mu.Lock()
	defer p.mu.Unlock()
	w.asked = false
	var r *envoy.Resource
	if err == nil {
		if now.Sub(w.issued) < time.Millisecond { // no two certificates have one version
			now = w.issued.Add(time.Millisecond)
		}
		r, err = envoy.Certificate(certVersion(w.key, now, cert.NotAfter), cert.ChainPEM, cert.KeyPEM)
	}
	switch {
	case p.workload != w || ctx.Err() != nil:
		return
	case err != nil:
		w.fail(err)
		if w.expires.IsZero() {
			w.cert = nil // the proxy is told that there is none, and refuses connections
			break
		}
		// What it has holds for a while: one more try before that is over.
		if last := now.Add(w.expires.Sub(now) / 2); last.Before(w.expires) && now.Before(w.issued.Add(w.expires.Sub(w.issued)/10*9)) {
			p.issuer.schedule(w, last)
		}
		p.report()
		return
	default:
		w.succeed()
		w.cert, w.issued, w.expires = r, now, cert.NotAfter
		p.issuer.schedule(w, rotateAt(now, cert.NotAfter))
		p.o.Observer.Certified(p.key, Certificate{NotAfter: cert.NotAfter, At: now, Backend: need.Authority.Backend})
	}
	// A rotation holds no position: nobody's change asks for it. The first certificate is owed already.
	p.retarget(newTarget(p.target.set, w.cert), 0)
}

// fail shows why there is no certificate, or no new one.
func (w *workload) fail(err error) {
	text := cut("no certificate can be issued: " + err.Error())
	if w.failed == text {
		return
	}
	w.failed = text
	p := w.proxy
	p.o.Logger.Warn("a proxy gets no certificate", "proxy", p.key.String(), "mesh", w.need.Mesh, "backend", w.need.Authority.Backend, "reason", err)
	p.o.Observer.Refused(Refusal{
		Proxy: p.key, TypeURL: envoy.SecretType, Name: envoy.IdentityCert, Sources: w.need.Sources, Text: text, At: time.Now(),
	})
}

// succeed takes back that issuing has failed.
func (w *workload) succeed() {
	if w.failed != "" {
		w.failed = ""
		w.proxy.o.Observer.Cleared(w.proxy.key, envoy.SecretType, envoy.IdentityCert)
	}
}

// issueTimeout bounds one try.
const issueTimeout = 10 * time.Second

// issuer has certificates made beside the loop, a few at a time, and knows when each is to be replaced.
type issuer struct {
	parse func(certPEM, keyPEM []byte) (ca.Issuer, error)
	// wake has an item when there is something new to do, or something earlier to wait for.
	wake chan struct{}

	mu sync.Mutex
	// Guarded by mu.
	queue []*workload
	due   rotations
}

func newIssuer(parse func(certPEM, keyPEM []byte) (ca.Issuer, error)) *issuer {
	if parse == nil {
		parse = func(certPEM, keyPEM []byte) (ca.Issuer, error) { return ca.Parse(certPEM, keyPEM) }
	}
	return &issuer{parse: parse, wake: make(chan struct{}, 1)}
}

// parsed is what an authority of the index remembers.
type parsed struct {
	by     *issuer
	issuer ca.Issuer
	err    error
}

// issue has one certificate made.
func (i *issuer) issue(ctx context.Context, need *plan.Identity, now time.Time) (*ca.Certificate, error) {
	a, ok := need.Authority.Issuing.Load().(*parsed)
	if !ok || a.by != i {
		a = &parsed{by: i}
		a.issuer, a.err = i.parse(need.Authority.Cert, need.Authority.Key)
		need.Authority.Issuing.Store(a)
	}
	if a.err != nil {
		return nil, a.err
	}
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	return a.issuer.Issue(ctx, ca.Request{Mesh: need.Mesh, Services: need.Services, ValidFor: need.Authority.Lifetime, Now: now})
}

func (i *issuer) signal() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// ask puts a workload into the queue.
func (i *issuer) ask(w *workload) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.queue = append(i.queue, w)
	i.signal()
}

// schedule sets when a workload is issued for again.
func (i *issuer) schedule(w *workload, at time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	w.due.at = at
	if w.due.index < 0 {
		heap.Push(&i.due, w)
	} else {
		heap.Fix(&i.due, w.due.index)
	}
	if w.due.index == 0 {
		i.signal()
	}
}

// cancel takes a workload's rotation away.
func (i *issuer) cancel(w *workload) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if w.due.index >= 0 {
		heap.Remove(&i.due, w.due.index)
	}
}

// take returns what is to be issued now, and how long it is until the next rotation; false: there is none.
func (i *issuer) take(now time.Time) (work []*workload, next time.Duration, waits bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	work, i.queue = i.queue, nil
	for len(i.due) > 0 {
		left := i.due[0].due.at.Sub(now)
		if left > 0 {
			return work, left, true
		}
		work = append(work, heap.Pop(&i.due).(*workload))
	}
	return work, 0, false
}

// run until the context ends.
func (i *issuer) run(ctx context.Context) {
	g := new(errgroup.Group)
	// Half of the cores, so that a thousand proxies at once leave some to the loop.
	g.SetLimit(max(1, runtime.GOMAXPROCS(0)/2))
	defer func() { _ = g.Wait() }()   // none fails
	timer := time.NewTimer(time.Hour) // until it is known what for
	defer timer.Stop()
	for {
		work, next, waits := i.take(time.Now())
		for _, w := range work {
			g.Go(func() error { w.issue(ctx); return nil })
		}
		if waits {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-i.wake:
		}
	}
}

// rotations is a heap, the earliest first.
type rotations []*workload

// Len implements heap.Interface.
func (r rotations) Len() int { return len(r) }

// Less implements heap.Interface.
func (r rotations) Less(i, j int) bool { return r[i].due.at.Before(r[j].due.at) }

// Swap implements heap.Interface.
func (r rotations) Swap(i, j int) {
	r[i], r[j] = r[j], r[i]
	r[i].due.index, r[j].due.index = i, j
}

// Push implements heap.Interface.
func (r *rotations) Push(x any) {
	w := x.(*workload)
	w.due.index = len(*r)
	*r = append(*r, w)
}

// Pop implements heap.Interface.
func (r *rotations) Pop() any {
	old := *r
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*r = old[:len(old)-1]
	w.due.index = -1
	return w
}
