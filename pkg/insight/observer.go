// Package insight writes down what was observed of proxies: their sessions and counters, how far they have
// come, and what they refused. It has one writer for each zone control plane, which coalesces: the latest
// state wins, callers never wait, and an idle system writes nothing.
package insight

import (
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// Observer is what the server of proxies tells. It mirrors that server's own interface, so that neither
// imports the other. Its methods never block and are safe for concurrent use. What is passed is handed over.
type Observer interface {
	// Connected: a stream has been authenticated.
	Connected(Session)
	// Counted: the totals of a stream; the latest wins.
	Counted(id string, c Counters)
	// Refused: a resource is held back from a proxy until its content changes.
	Refused(Refusal)
	// Cleared: what was refused is held back no longer.
	Cleared(proxy resource.Key, typeURL, name string)
	// Certified: a certificate was issued to a proxy. One that it still holds from before is not told again.
	Certified(proxy resource.Key, c Certificate)
	// Disconnected: the stream has ended.
	Disconnected(id string, at time.Time)
	// Progress: how far the proxies have come; the latest wins.
	Progress(Progress)
}

// Session is one stream of one proxy.
type Session struct {
	ID    string
	Proxy resource.Key
	Since time.Time
	// DataplaneVersion and EnvoyVersion are what the proxy says of itself.
	DataplaneVersion, EnvoyVersion VersionInfo
	// Sequence numbers the sessions of a server from 1, in the order in which a Progress takes them in; 0: the
	// server does not number them.
	Sequence uint64
}

// VersionInfo is what a program says of itself.
type VersionInfo struct{ Version, GitTag, GitCommit, BuildDate, Build string }

// Counter counts the responses of one type.
type Counter struct{ Sent, Acked, Rejected uint64 }

func (c Counter) plus(o Counter) Counter {
	return Counter{c.Sent + o.Sent, c.Acked + o.Acked, c.Rejected + o.Rejected}
}

// Counters counts the responses of a stream, by Envoy's short names.
type Counters struct{ CDS, EDS, LDS, RDS, SDS Counter }

func (c Counters) total() Counter {
	return c.CDS.plus(c.EDS).plus(c.LDS).plus(c.RDS).plus(c.SDS)
}

// Source is an object that a resource was made from.
type Source struct {
	Key resource.Key
	// Revision at which the object's spec took its present form, in the own config log.
	Revision resource.Revision
}

// Refusal is a resource that a proxy refused.
type Refusal struct {
	Proxy         resource.Key
	TypeURL, Name string
	Sources       []Source
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

// Progress is how far a control plane's proxies have come, in revisions of the own config log.
type Progress struct {
	// Processed is the revision up to which all plans are worked out.
	Processed resource.Revision
	// Lagging has an entry for each connected proxy that is not live at Processed.
	Lagging map[resource.Key]Lag
	// Rejected counts the resources held back, by proxy, where there are any.
	Rejected map[resource.Key]uint32
	// Sequence is the highest of the sessions that this takes in; 0 where they are not numbered: then no progress
	// that was taken before a session may be told after it.
	Sequence uint64

	// told numbers sessions and progresses as they come in.
	told uint64
}

// Lag is the state of a proxy that is not live at the processed revision.
type Lag struct {
	// Live is the revision before its oldest pending change; 0 while Joining.
	Live resource.Revision
	// Joining: its first complete configuration is not yet ACKed.
	Joining bool
}
