package index

import "net/netip"

// Resolver finds out what DNS names stand for, and asks again as time goes by. Whoever keeps an index tells it
// Hosts after each change, and gives its answers to Resolved.
type Resolver interface {
	// Want sets the names to be resolved. It never blocks.
	Want(hosts []string)
	// Changed wakes whoever keeps the index when Take has something.
	Changed() <-chan struct{}
	// Take returns the answers that are new since it was last called. A name that can't be resolved has none:
	// the last good answer stays.
	Take() map[string][]netip.Addr
}
