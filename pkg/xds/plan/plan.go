// Package plan decides what one proxy does: a small model that knows no Envoy type and validates itself.
//
// What is equal for many proxies is one value that they share: the plan of a Destination hangs on the index's
// Destination, that of a service's endpoints on its Endpoints, and lives as long as these do. So a proxy's plan
// is mostly a list of pointers, and translation works once on what each points to.
//
// Names are those of spec 3.4. Where two parts would have the same name or listen on the same address, the
// later one is left out and named in Problems: inbounds come first, then outbounds, each in the order of the
// dataplane. A bad part never costs the proxy the good ones.
package plan

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// Errors that Build returns, found with errors.Is.
var (
	// ErrUnknownProxy: the index has no such dataplane.
	ErrUnknownProxy = errors.New("unknown proxy")
	// ErrUnknownMesh: the dataplane is there, but its mesh is not. What such a proxy may do is not known.
	ErrUnknownMesh = errors.New("unknown mesh")
	// ErrUnreadable: the dataplane's stored form can't be read.
	ErrUnreadable = errors.New("unreadable dataplane")
)

// Source is an object that a part of a plan was made from.
type Source struct {
	Key resource.Key
	// Revision at which the object's spec took its present form.
	Revision resource.Revision
}

func source(o *resource.Object) Source { return Source{Key: o.Key, Revision: o.SpecRevision} }

// Proxy is the plan of one proxy. It is immutable, as are all its parts, some of which it shares with others.
type Proxy struct {
	*Frame
	// Endpoints of the clusters with DiscoverMesh, in their order.
	Endpoints []*Endpoints
}

// Frame is what of a plan stays when endpoints come and go: the plans of a proxy share it as long as nothing
// else changes.
type Frame struct {
	Key resource.Key
	// Identity is what the proxy has to prove; nil: nothing.
	Identity *Identity
	// Sources of the proxy itself: its dataplane. Every listener has them besides its own.
	Sources   []Source
	Inbounds  []*Inbound
	Outbounds []*Outbound
	// Forwarders take in redirected traffic and hand it to the listener that it was meant for.
	Forwarders []*Forwarder
	// Ingress is nil, but for a proxy that is the zone's.
	Ingress *Ingress
	// Routes are those of Outbounds that speak HTTP, each once.
	Routes []*Route
	// Clusters that any of the above lead to, each once, workloads first.
	Clusters []*Cluster
	// Problems with what was left out.
	Problems []Problem
	Memo     index.Memo
}

// Problem is a part that was left out of a plan, or changed.
type Problem struct {
	// Part that is meant: a name in the plan, or a field of the object.
	Part    string
	Text    string
	Sources []Source
}

// String is for logs.
func (p Problem) String() string { return p.Part + ": " + p.Text }

// Listener is what all listeners have.
type Listener struct {
	Name   string
	Listen netip.AddrPort
	// Redirected listeners open no port: a Forwarder hands them their connections.
	Redirected bool
}

// Inbound leads from the other proxies to the workload.
type Inbound struct {
	Listener
	Service  string
	Protocol index.Protocol
	// Cluster is the name of the workload's.
	Cluster string
	// MTLS is the mesh whose certificates callers must show; empty: connections are plain, and all are let in.
	MTLS string
	// Permission says who may call, with MTLS only; nil: nobody.
	Permission *Permission
	Sources    []Source
	Memo       index.Memo
}

// Outbound leads from the workload to a service.
type Outbound struct {
	Listener
	Service  string
	Protocol index.Protocol
	// Route is nil when nothing says where to: connections are closed.
	Route *Route
	// IdleTimeout ends a TCP connection, or a gRPC stream, on which nothing has come for so long; 0: never for
	// streams, the proxy's own limit for connections.
	IdleTimeout time.Duration
	// ConnectAttempts of a TCP connection; 0: one.
	ConnectAttempts uint32
	// Sources besides the proxy's.
	Sources []Source
	Memo    index.Memo
}

// Route says where an outbound leads.
type Route struct {
	Name    string
	Service string
	Targets []Target
	// Timeout of a request and its answer; 0: none.
	Timeout time.Duration
	// Retry is nil when failed requests are not tried again.
	Retry *Retry
	// RewriteHost makes the host name that is called the one that the request asks for.
	RewriteHost bool
	Sources     []Source
	Memo        index.Memo
}

// Target is one share of a route's traffic.
type Target struct {
	Cluster string
	// Weight, not 0. The weights of a route fit into 32 bits together.
	Weight uint32
}

// Retry says how failed requests are tried again.
type Retry struct {
	// On are conditions in the words of the retry policy: "gateway-error", "cancelled".
	On []string
	// Statuses are the HTTP statuses that count as a failure.
	Statuses []uint32
	Retries  *uint32
	// PerTry limits each try; 0: only the request's timeout does.
	PerTry time.Duration
	// BackOff and MaxBackOff between tries; 0: the proxy's own.
	BackOff, MaxBackOff time.Duration
	// OtherHost: not where it was tried before, if there is anybody else.
	OtherHost bool
}

// Forwarder takes in redirected traffic, and passes on what is meant for no listener.
type Forwarder struct {
	Listener
	Inbound bool
	// Cluster leads to where the connection was going; the plan may not have it, then it is closed.
	Cluster string
	Sources []Source
	Memo    index.Memo
}

// Discovery says how a cluster finds its endpoints.
type Discovery int

const (
	// DiscoverFixed: they are given with the cluster and are IP addresses.
	DiscoverFixed Discovery = iota
	// DiscoverMesh: they are sent beside the cluster.
	DiscoverMesh
	// DiscoverDNS: they are given with the cluster, and the proxy resolves their names.
	DiscoverDNS
	// DiscoverOriginal: the address that the connection was going to.
	DiscoverOriginal
)

// Cluster is a group of endpoints that can stand in for one another.
type Cluster struct {
	Name string
	// Service and Tags that the endpoints have, as ClusterName has them; empty for what is no service's.
	Service   string
	Tags      map[string]string
	Discovery Discovery
	// HTTP2 is spoken to the endpoints.
	HTTP2 bool
	// Protocol is that of the service.
	Protocol       index.Protocol
	ConnectTimeout time.Duration
	// IdleTimeout ends a connection without requests, MaxStream a stream; 0: the proxy's own.
	IdleTimeout, MaxStream time.Duration
	LoadBalancer           LoadBalancer
	// Wary clusters find out by themselves, within seconds, which endpoints can't be reached, and leave them.
	Wary bool
	// TLS of the connections; nil: they are plain. External services have their own with their Hosts.
	TLS *ClientTLS
	// Hosts of DiscoverFixed and DiscoverDNS.
	Hosts []index.Endpoint
	// From is the address that connections come from; not valid: any.
	From    netip.Addr
	Sources []Source
	Memo    index.Memo
}

// Balance is a way to choose among endpoints.
type Balance int

// The ways to choose.
const (
	RoundRobin Balance = iota
	LeastRequest
	RingHash
	Random
	Maglev
)

// LoadBalancer chooses among endpoints. Zero values are the proxy's own.
type LoadBalancer struct {
	Balance Balance
	// Choices that LeastRequest compares: from 2 to MaxChoices if given.
	Choices uint32
	// MurmurHash instead of xxHash, for RingHash.
	MurmurHash bool
	// MinRing and MaxRing of RingHash: min ≤ max ≤ MaxRingSize.
	MinRing, MaxRing uint64
}

// MaxChoices bounds what LeastRequest does for each request: a proxy draws as many endpoints as it is told to,
// however few there are, and does nothing else meanwhile.
const MaxChoices = 100

// MaxRingSize is the largest ring that proxies accept.
const MaxRingSize = 8 << 20

// Endpoints are those of a cluster.
type Endpoints struct {
	Cluster string
	// Hosts are sorted, and no two have the same address and port.
	Hosts   []index.Endpoint
	Sources []Source
	Memo    index.Memo
}

// Build plans one proxy, in the goroutine that keeps the index. The plan shares what is equal for many proxies
// by pointer, so that translation can work on it once.
func Build(ix *index.Index, proxy resource.Key) (*Proxy, error) {
	p, ok := ix.Proxy(proxy)
	if !ok {
		return nil, fmt.Errorf("%w %s", ErrUnknownProxy, proxy)
	}
	if p.Spec == nil {
		return nil, fmt.Errorf("%w %s", ErrUnreadable, proxy)
	}
	if p.Mesh == nil {
		return nil, fmt.Errorf("%w %q of %s", ErrUnknownMesh, proxy.Scope, proxy)
	}
	return build(p, ownParts(p)), nil
}
