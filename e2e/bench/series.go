package main

import (
	"slices"
	"time"
)

// series is a number of measurements.
type series []time.Duration

// at gives a quantile from 0 to 1.
func (s series) at(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (s series) median() time.Duration { return s.at(.5) }
