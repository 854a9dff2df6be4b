package gateway

import (
	"cmp"
	"net/http"
	"sync"
	"time"
)

// Limits bound requests and answers. A zero field takes its default.
type Limits struct {
	// ObjectBytes and BodyBytes are the sizes of the largest body that is a resource (default 512 KiB), and of any
	// other (default 1 MiB).
	ObjectBytes, BodyBytes int64
	// BatchBytes is the size of the largest body with many resources (default 32 MiB).
	BatchBytes int64
	// PageBytes is where a page of a list ends though it has fewer items (default 32 MiB).
	PageBytes int
	// AnswerBytes is what all pages may hold together that wait to be read (default 128 MiB). Where that is used up,
	// pages are smaller, so that many slow readers cost no more than some.
	AnswerBytes int
}

func (l Limits) withDefaults() Limits {
	return Limits{
		ObjectBytes: cmp.Or(l.ObjectBytes, 512<<10), BodyBytes: cmp.Or(l.BodyBytes, 1<<20),
		BatchBytes: cmp.Or(l.BatchBytes, 32<<20),
		PageBytes:  cmp.Or(l.PageBytes, 32<<20), AnswerBytes: cmp.Or(l.AnswerBytes, 128<<20),
	}
}

func (l Limits) of(k bodyKind) int64 {
	switch k {
	case objectBody:
		return l.ObjectBytes
	case batchBody:
		return l.BatchBytes
	}
	return l.BodyBytes
}

// key is the configuration key of the limit, below limits.
func (k bodyKind) key() string {
	switch k {
	case objectBody:
		return "objectBytes"
	case batchBody:
		return "batchBytes"
	}
	return "bodyBytes"
}

// pageBytesHeader tells the services how large a page may be. It is not taken from clients.
const pageBytesHeader = "Meridian-Page-Bytes"

// leastPage is what a page may always have.
const leastPage = 64 << 10

// budget is what pages may still hold.
type budget struct {
	mu   sync.Mutex
	free int
}

// take gives how large a page may be: most, or half of what is left where that is less, but never nothing.
func (b *budget) take(most int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(most, max(b.free/2, leastPage))
	b.free -= n
	return n
}

// give returns what take gave.
func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
}

// Answered is a request that has been answered.
type Answered struct {
	Method string
	// Route is the path with the names left out: there is a fixed number of them.
	Route string
	Code  int
	Took  time.Duration
}

// otherRoute stands for all paths that lead nowhere.
const otherRoute = "other"

// methodLabel gives one of a fixed number of methods.
func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions, http.MethodHead:
		return m
	}
	return otherRoute
}
