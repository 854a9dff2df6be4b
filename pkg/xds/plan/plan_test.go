package plan

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/index"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
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

// However many choices a route asks for, a proxy must not draw endpoints all day.
func TestChoicesAreBounded(t *testing.T) {
	for asked, want := range map[uint32]uint32{2: 2, 5: 5, MaxChoices: MaxChoices, math.MaxUint32: MaxChoices} {
		log := indextest.New()
		err := log.PutYAML(fmt.Sprintf(`type: TrafficRoute
mesh: default
name: all
sources: [{match: {kuma.io/service: "*"}}]
destinations: [{match: {kuma.io/service: "*"}}]
conf:
  split: [{weight: 1, destination: {kuma.io/service: "*"}}]
  loadBalancer: {leastRequest: {choiceCount: %d}}
`, asked))
		if err != nil {
			t.Fatal(err)
		}
		log.PutMessage(resource.Key{Kind: resource.KindMesh, Name: "default"}, resource.Local, time.Time{}, &meshv1.Mesh{})
		if err := log.PutYAML("type: Dataplane\nmesh: default\nname: a\nnetworking:\n  address: 10.0.0.1\n  gateway: {tags: {kuma.io/service: a}}\n  outbound: [{port: 80, tags: {kuma.io/service: b}}]\n"); err != nil {
			t.Fatal(err)
		}
		p, err := Build(index.New("zone-1", log.View()), resource.Key{Kind: resource.KindDataplane, Scope: "default", Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Clusters) != 1 || p.Clusters[0].LoadBalancer != (LoadBalancer{Balance: LeastRequest, Choices: want}) {
			t.Errorf("%d: %+v", asked, p.Clusters)
		}
	}
}
