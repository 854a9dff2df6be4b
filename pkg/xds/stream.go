package xds

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// stream is one ADS stream. It is the config watcher and the callbacks of a stock delta server of its own, so
// that neither needs to look up whose stream it is: the server calls all of it from one goroutine.
type stream struct {
	s      *Server
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Of the server's goroutine.

	// proxy is nil until the first request was let in.
	proxy   *proxy
	session Session
	// from is a revision at which its dataplane was there.
	from resource.Revision
	node *corev3.Node
	// timer ends the stream if nothing comes.
	timer *time.Timer
	// release the hold on the credentials; nil: there is none.
	release func()

	// Guarded by the proxy's lock.

	books books
	unarm [classes]func()
	// closed: the stream was booked as ended.
	closed bool

	// halved: the proxy has closed its half.
	halved atomic.Bool
}

// end the stream with a status. It does not wait.
func (st *stream) end(reason error) { st.cancel(reason) }

// cause is the status with which a stream ends that was cancelled.
func (st *stream) cause() error {
	err := context.Cause(st.ctx)
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.FromContextError(err).Err()
}

// OnDeltaStreamOpen implements delta.Callbacks.
func (st *stream) OnDeltaStreamOpen(context.Context, int64, string) error {
	st.timer = time.AfterFunc(st.s.o.Limits.FirstRequest, func() {
		st.end(status.Error(codes.DeadlineExceeded, "no request came on the stream"))
	})
	return nil
}

// OnDeltaStreamClosed implements delta.Callbacks.
func (st *stream) OnDeltaStreamClosed(int64, *corev3.Node) {
	st.timer.Stop()
	if st.release != nil {
		st.release()
	}
}

// OnStreamDeltaRequest implements delta.Callbacks.
func (st *stream) OnStreamDeltaRequest(_ int64, req *discoveryv3.DeltaDiscoveryRequest) error {
	c, ok := classOf(req.GetTypeUrl())
	if !ok {
		return status.Errorf(codes.InvalidArgument, "resources of type %.100q are not served", req.GetTypeUrl())
	}
	if st.proxy == nil {
		st.timer.Stop()
		if err := st.s.start(st, req.GetNode(), len(req.GetInitialResourceVersions()) == 0); err != nil {
			return err
		}
		// The node's metadata and extensions are large, and nobody looks at them again.
		st.node = &corev3.Node{Id: req.GetNode().GetId()}
	} else if id := req.GetNode().GetId(); id != "" && id != st.node.GetId() {
		return status.Errorf(codes.InvalidArgument, "the node id changed from %.100q to %.100q", st.node.GetId(), id)
	}
	req.Node = st.node
	if initial := req.GetInitialResourceVersions(); len(initial) > 0 {
		req.InitialResourceVersions = nil
		st.proxy.mu.Lock()
		if f := &st.books.feeds[c]; !f.seen {
			f.initial = initial
		}
		st.proxy.mu.Unlock()
	}
	return nil
}

// CreateDeltaWatch implements cache.ConfigWatcher. It is called for every request.
func (st *stream) CreateDeltaWatch(req *cache.DeltaRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	c, _ := classOf(req.GetTypeUrl())
	p := st.proxy
	if n, most := len(sub.SubscribedResources()), st.s.o.Limits.Subscriptions; n > most {
		return nil, status.Errorf(codes.InvalidArgument, "subscribed to %d names of one type, at most %d", n, most)
	}
	if st.unarm[c] == nil {
		st.unarm[c] = func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			st.books.feeds[c].out, st.books.feeds[c].sub = nil, nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if st.closed {
		return nil, status.Error(codes.Unavailable, "the stream has ended")
	}
	f := &st.books.feeds[c]
	if c == secrets && !f.seen && p.adopt() {
		p.retarget(newTarget(p.target.set, p.workload.cert), 0)
	}
	f.out, f.sub = out, sub
	before := f.stats
	reason := cut(req.GetErrorDetail().GetMessage())
	if c == secrets {
		reason = "the proxy refuses it, for a reason that stands in its own log" // nobody knows what it quotes
	}
	if bad := st.books.request(c, req, p.round, p.held); bad != nil {
		p.refuse(bad, reason)
		st.s.o.Logger.Warn("a proxy refused a resource, which is held back until it changes",
			"proxy", p.key.String(), "type", req.GetTypeUrl(), "name", bad.Name, "reason", reason)
	}
	if f.stats != before {
		st.count()
	}
	st.pump()
	p.report()
	return st.unarm[c], nil
}

// maxReason is how much of a proxy's reason is kept, in bytes.
const maxReason = 2 << 10

// cut bounds a text, at a whole character.
func cut(text string) string {
	if len(text) <= maxReason {
		return text
	}
	return strings.ToValidUTF8(text[:maxReason], "")
}

// CreateWatch implements cache.ConfigWatcher for the state of the world, which is never asked for.
func (st *stream) CreateWatch(*cache.Request, cache.Subscription, chan cache.Response) (func(), error) {
	return nil, status.Error(codes.Unimplemented, "state of the world is not served, use delta")
}

// OnStreamDeltaResponse implements delta.Callbacks: the response is about to go, and has its nonce.
func (st *stream) OnStreamDeltaResponse(_ int64, req *discoveryv3.DeltaDiscoveryRequest, msg *discoveryv3.DeltaDiscoveryResponse) {
	c, _ := classOf(req.GetTypeUrl())
	st.proxy.mu.Lock()
	defer st.proxy.mu.Unlock()
	f := &st.books.feeds[c]
	if f.flight != nil && f.flight.msg == msg && !st.closed {
		f.flight.nonce = msg.GetNonce()
		f.stats.Sent++
		st.count()
	}
}

// pump sends what can be sent, in order, without waiting. With the proxy's lock.
func (st *stream) pump() {
	if st.books.lacks() {
		st.proxy.certify()
	}
	for c := range classes {
		r := st.books.answer(c)
		if r == nil {
			continue
		}
		r.stream = st
		r.msg.SystemVersionInfo, r.msg.ControlPlane = st.proxy.round.String(), st.s.identity
		select {
		case st.books.feeds[c].out <- r:
			st.books.sent(r)
		default: // stays owed
		}
	}
}

// count tells the stream's totals. With the proxy's lock.
func (st *stream) count() {
	f := &st.books.feeds
	st.s.o.Observer.Counted(st.session.ID, Counters{
		CDS: f[clusters].stats, EDS: f[endpoints].stats, LDS: f[listeners].stats, RDS: f[routes].stats, SDS: f[secrets].stats,
	})
}

// GetDeltaDiscoveryResponse implements cache.DeltaResponse. The server writes the nonce into it.
func (r *response) GetDeltaDiscoveryResponse() (*discoveryv3.DeltaDiscoveryResponse, error) {
	return r.msg, nil
}

// GetDeltaRequest implements cache.DeltaResponse. The server looks at the type only.
func (r *response) GetDeltaRequest() *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.class.typeURL()}
}

// GetSystemVersion implements cache.DeltaResponse.
func (r *response) GetSystemVersion() (string, error) { return r.msg.GetSystemVersionInfo(), nil }

// GetResponseVersion implements cache.DeltaResponse.
func (r *response) GetResponseVersion() string { return r.msg.GetSystemVersionInfo() }

// GetNextVersionMap implements cache.DeltaResponse. The server keeps it, and may write to it, but all that we
// know of the proxy stands in our own books.
func (r *response) GetNextVersionMap() map[string]string { return map[string]string{} }

// GetReturnedResources implements cache.DeltaResponse.
func (r *response) GetReturnedResources() map[string]string { return r.GetNextVersionMap() }

// GetContext implements cache.DeltaResponse.
func (r *response) GetContext() context.Context { return r.stream.ctx }
