package kds

import "sync/atomic"

// Traffic counts what the sessions of one process do. It is safe for concurrent use; a nil one counts nothing.
type Traffic struct{ sent, applied, rejected atomic.Uint64 }

// Totals are the groups sent and applied, and the keys that were rejected, since the start.
func (t *Traffic) Totals() (sent, applied, rejected uint64) {
	return t.sent.Load(), t.applied.Load(), t.rejected.Load()
}

func (t *Traffic) groupSent() {
	if t != nil {
		t.sent.Add(1)
	}
}

func (t *Traffic) groupApplied(rejected int) {
	if t != nil {
		t.applied.Add(1)
		t.rejected.Add(uint64(rejected))
	}
}
