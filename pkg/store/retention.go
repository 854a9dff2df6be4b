package store

import "time"

// Retention says how long a log remembers deletions. A tombstone goes when either limit is passed, at the
// writes that follow; cursors older than it then get ErrCompacted.
type Retention struct {
	// Age that a tombstone reaches; 0: 30 days.
	Age time.Duration
	// Count of tombstones that are kept; 0: 1,000,000.
	Count int
}

// OrDefault fills in what is zero.
func (r Retention) OrDefault() Retention {
	if r.Age <= 0 {
		r.Age = 30 * 24 * time.Hour
	}
	if r.Count <= 0 {
		r.Count = 1_000_000
	}
	return r
}
