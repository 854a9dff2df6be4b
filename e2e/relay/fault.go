package relay

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// FaultKind is what a fault does.
type FaultKind int

// The kinds of faults. Cut and HalfClose hit the connections that are open; the others last until Heal.
const (
	Cut FaultKind = iota
	HalfClose
	Stall
	StallBoth
	Throttle
	Delay
	Refuse
	kinds
)

// Fault is one step of a script.
type Fault struct {
	Kind FaultKind
	// Direction of a half-close, a stall, a throttle or a delay.
	Direction Direction
	// Rate of a throttle in bytes a second.
	Rate int
	// By is the time of a delay.
	By time.Duration
}

// Draw gives a random fault. Throttles leave at least 256 kbit/s, delays are of at most 300 ms.
func Draw(r *rand.Rand) Fault {
	return Fault{
		Kind: FaultKind(r.IntN(int(kinds))), Direction: Direction(r.IntN(2)),
		Rate: 32<<10 + r.IntN(256<<10), By: time.Duration(1+r.IntN(300)) * time.Millisecond,
	}
}

// Silences says whether nothing comes through in a direction while the fault lasts.
func (f Fault) Silences(d Direction) bool {
	return f.Kind == StallBoth || f.Kind == Stall && f.Direction == d
}

// Breaks says whether connections end by the fault, or can't be made.
func (f Fault) Breaks() bool { return f.Kind == Cut || f.Kind == HalfClose || f.Kind == Refuse }

// String says what a fault does.
func (f Fault) String() string {
	way := [...]string{"up", "down"}[f.Direction]
	switch f.Kind {
	case Cut:
		return "cut"
	case HalfClose:
		return "half-close " + way
	case Stall:
		return "stall " + way
	case StallBoth:
		return "stall both ways"
	case Throttle:
		return fmt.Sprintf("throttle %s to %d B/s", way, f.Rate)
	case Delay:
		return fmt.Sprintf("delay %s by %s", way, f.By)
	case Refuse:
		return "cut, and refuse"
	}
	return "nothing"
}

// Inject does a fault.
func (r *Relay) Inject(f Fault) {
	switch f.Kind {
	case Cut:
		r.Cut()
	case HalfClose:
		r.HalfClose(f.Direction)
	case Stall:
		r.Stall(f.Direction, true)
	case StallBoth:
		r.Stall(Up, true)
		r.Stall(Down, true)
	case Throttle:
		r.Throttle(f.Direction, f.Rate)
	case Delay:
		r.Delay(f.Direction, f.By)
	case Refuse:
		r.Refuse(true)
		r.Cut()
	}
}

// Heal ends every fault that lasts.
func (r *Relay) Heal() {
	r.Refuse(false)
	r.set(func() {
		for d := range r.ways {
			r.ways[d] = way{bytes: r.ways[d].bytes}
		}
	})
}
