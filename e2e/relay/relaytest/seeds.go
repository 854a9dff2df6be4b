// Package relaytest runs tests of faults over many seeds.
package relaytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
)

// Seeds plays a script for each of n seeds, each in a bubble of its own. MERIDIAN_FAULT_SEEDS asks for another
// number, MERIDIAN_FAULT_SEED for one seed alone. The first seed that fails ends the test and says how to play it
// again.
func Seeds(t *testing.T, n int, play func(t *testing.T, seed uint64, rnd *rand.Rand)) {
	t.Helper()
	first := uint64(0)
	if s, ok := number("MERIDIAN_FAULT_SEEDS"); ok {
		n = int(s)
	}
	if s, ok := number("MERIDIAN_FAULT_SEED"); ok {
		first, n = s, 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, seed, rand.New(rand.NewPCG(seed, 11))) })
		})
		if t.Failed() {
			t.Fatalf("seed %d failed; again: MERIDIAN_FAULT_SEED=%d go test -race -run '^%s$' . (in the test's package)", seed, seed, t.Name())
		}
	}
	t.Logf("%d seeds from %d", n, first)
}

func number(variable string) (uint64, bool) {
	n, err := strconv.ParseUint(os.Getenv(variable), 10, 32)
	return n, err == nil
}
