package xds

import (
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// Observer is told what happens to proxies. Its methods never block and are safe for concurrent use.
type Observer interface {
	// Connected: a stream has been authenticated.
	Connected(Session)
	// Counted: the totals of a stream after something was sent, ACKed or NACKed; the latest wins.
	Counted(id string, c Counters)
	// Refused: Envoy refused a resource, by a NACK, and it is held back until its content changes.
	Refused(Refusal)
	// Cleared: a refused resource of a proxy was replaced by other content or is no longer wanted.
	Cleared(proxy resource.Key, typeURL, name string)
	// Certified: a certificate was issued to a proxy. One that it still holds from before is not told again.
	Certified(proxy resource.Key, c Certificate)
	// Disconnected: the stream has ended.
	Disconnected(id string, at time.Time)
	// Progress: how far the proxies have come; the latest wins.
	Progress(Progress)
}

// Session is one xDS stream of one proxy.
type Session struct {
	// ID is a random UUID.
	ID    string
	Proxy resource.Key
	Since time.Time
	// DataplaneVersion and EnvoyVersion are what the proxy says of itself.
	DataplaneVersion, EnvoyVersion VersionInfo
	// Sequence numbers the sessions of a server from 1, in the order in which a Progress takes them in.
	Sequence uint64
}

// VersionInfo is what a program says of itself.
type VersionInfo struct{ Version, GitTag, GitCommit, BuildDate, Build string }

// Counter counts the responses of one type.
type Counter struct{ Sent, Acked, Rejected uint64 }

// Counters counts the responses of a stream, by Envoy's short names.
type Counters struct{ CDS, EDS, LDS, RDS, SDS Counter }

// Refusal is a NACK brought down to one resource.
type Refusal struct {
	Proxy         resource.Key
	TypeURL, Name string
	Sources       []plan.Source
	// Text is Envoy's.
	Text string
	At   time.Time
	// Since is the revision of the own config log since when the proxy lacks what the sources ask for: that of an
	// older form where it has refused that too and has taken none since. 0: not known.
	Since resource.Revision
}

// Certificate is what is observed of a certificate that was issued to a proxy.
type Certificate struct {
	// NotAfter is when it ends, At when it was issued.
	NotAfter, At time.Time
	// Backend is the mesh's CA backend that issued it.
	Backend string
}

// Progress is how far a control plane's proxies have come. All revisions are of the own config log; Position
// maps Processed to the numbering that is reported.
type Progress struct {
	// Processed is the revision up to which all plans are worked out.
	Processed resource.Revision
	// Lagging has an entry for each connected proxy that is not live at Processed.
	Lagging map[resource.Key]Lag
	// Rejected counts the resources held back, by proxy, where there are any.
	Rejected map[resource.Key]uint32
	// Connected is the number of connected proxies.
	Connected int
	// Sequence is the highest of the sessions that this takes in: it may be told after a later session was.
	Sequence uint64
}

// Lag is the state of a proxy that is not live at the processed revision.
type Lag struct {
	// Live is the revision before its oldest pending change; 0 while Joining.
	Live resource.Revision
	// Joining: its first complete configuration is not yet ACKed.
	Joining bool
}
