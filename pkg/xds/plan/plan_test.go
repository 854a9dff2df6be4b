package plan

import (
	"errors"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
)

func TestBuildErrors(t *testing.T) {
	log := indextest.New()
	if err := log.PutYAML("type: Dataplane\nmesh: default\nname: a\nnetworking: {address: 10.0.0.1}\n"); err != nil {
		t.Fatal(err)
	}
	key := func(name string) resource.Key {
		return resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: name}
	}
	log.Put(key("b"), resource.Local, time.Time{}, []byte{0xff})
	log.Put(key("c"), "zone-2", time.Time{}, nil)
	ix := index.New("zone-1", log.View())
	for name, want := range map[string]error{"a": ErrUnknownMesh, "b": ErrUnreadable, "c": ErrUnknownProxy, "d": ErrUnknownProxy} {
		if _, err := Build(ix, key(name)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestWeightsFit(t *testing.T) {
	tests := map[string][]uint32{
		"small":       {1, 2, 3},
		"just":        {math.MaxUint32},
		"two huge":    {math.MaxUint32, math.MaxUint32},
		"huge, small": {math.MaxUint32, 1, 1},
	}
	for name, weights := range tests {
		t.Run(name, func(t *testing.T) {
			var targets []Target
			for _, w := range weights {
				targets = append(targets, Target{Weight: w})
			}
			fit(targets)
			var sum uint64
			for i, x := range targets {
				sum += uint64(x.Weight)
				if x.Weight == 0 {
					t.Errorf("target %d gets nothing", i)
				}
			}
			if sum > math.MaxUint32 {
				t.Errorf("the sum is %d", sum)
			}
		})
	}
	small := []Target{{Weight: 1}, {Weight: 99}}
	fit(small)
	if small[0].Weight != 1 || small[1].Weight != 99 {
		t.Errorf("weights that fit were changed: %v", small)
	}
}

func TestDuration(t *testing.T) {
	tests := map[string]struct {
		in   *durationpb.Duration
		want time.Duration
	}{
		"absent":   {nil, 0},
		"zero":     {durationpb.New(0), 0},
		"negative": {durationpb.New(-time.Second), 0},
		"tiny":     {durationpb.New(time.Nanosecond), time.Millisecond},
		"usual":    {durationpb.New(15 * time.Second), 15 * time.Second},
		"endless":  {&durationpb.Duration{Seconds: math.MaxInt64}, maxDuration},
	}
	for name, tt := range tests {
		if got := duration(tt.in); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
