package index

import (
	"strings"
	"sync/atomic"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// The tags that mean something to the control plane.
const (
	TagService  = "kuma.io/service"
	TagProtocol = "kuma.io/protocol"
	TagRegion   = "kuma.io/region"
	TagZone     = "kuma.io/zone"
	TagSubZone  = "kuma.io/sub-zone"
	// TagExternal is added to the endpoints of external services: the object's name.
	TagExternal = "kuma.io/external-service-name"
)

// Wildcard is the value of a selector's tag that any value matches.
const Wildcard = "*"

// Protocol is what is spoken on a connection.
type Protocol string

// The protocols. Unknown is treated as TCP, but what has it in common with another protocol is Unknown.
const (
	Unknown Protocol = ""
	TCP     Protocol = "tcp"
	HTTP    Protocol = "http"
	HTTP2   Protocol = "http2"
	GRPC    Protocol = "grpc"
	Kafka   Protocol = "kafka"
)

// ParseProtocol reads the value of a protocol tag, in any case of letters.
func ParseProtocol(s string) Protocol {
	switch p := Protocol(strings.ToLower(s)); p {
	case TCP, HTTP, HTTP2, GRPC, Kafka:
		return p
	default:
		return Unknown
	}
}

// IsHTTP says whether requests can be told apart on the connection.
func (p Protocol) IsHTTP() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// base is the protocol that p is spoken over: what it is to those who don't know p.
func (p Protocol) base() Protocol {
	switch p {
	case GRPC:
		return HTTP2
	case HTTP, HTTP2, Kafka:
		return TCP
	default:
		return Unknown
	}
}

// Common is the richest protocol that both are.
func (p Protocol) Common(o Protocol) Protocol {
	for ; p != Unknown; p = p.base() {
		for q := o; q != Unknown; q = q.base() {
			if p == q {
				return p
			}
		}
	}
	return Unknown
}

// FormatTags writes tags as "k1=v1,k2=v2", sorted by key. Equal texts mean equal tags.
func FormatTags(tags map[string]string) string { return resource.CanonicalTags(tags) }

// Memo is a place where a later stage keeps what it made of a value. It lives as long as the value does. What
// is stored in one place must always have the same type. It is safe for concurrent use.
type Memo struct{ v atomic.Value }

// Load returns what was stored, or nil.
func (m *Memo) Load() any { return m.v.Load() }

// Store keeps v, which is not nil.
func (m *Memo) Store(v any) { m.v.Store(v) }
