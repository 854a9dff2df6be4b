package envoy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/xds/plan"
)

// sketch makes a set of a text: "C:a.1>E:a" is version 1 of cluster a, which needs the endpoints a; a version "!"
// is invalid. The sources of each are a Timeout of the set's revision.
func sketch(revision resource.Revision, text string) *Set {
	types := map[string]string{"C": ClusterType, "E": EndpointType, "L": ListenerType, "R": RouteType}
	ref := func(s string) Ref { k, name, _ := strings.Cut(s, ":"); return Ref{types[k], name} }
	set := &Set{Origin: atRevision(revision)}
	for word := range strings.FieldsSeq(text) {
		head, needs, _ := strings.Cut(word, ">")
		name, version, _ := strings.Cut(head, ".")
		if version == "!" {
			set.Invalid = append(set.Invalid, Invalid{Ref: ref(name), Err: errors.New("bad")})
			continue
		}
		r := &Resource{TypeURL: ref(name).TypeURL, Name: ref(name).Name, Version: version}
		for n := range strings.SplitSeq(needs, ",") {
			if n != "" {
				r.Refs = append(r.Refs, ref(n))
			}
		}
		set.Resources = append(set.Resources, r)
	}
	slices.SortFunc(set.Resources, ordered)
	return set
}

type atRevision resource.Revision

func (a atRevision) Sources(r Ref) []plan.Source {
	return []plan.Source{{Key: resource.Key{Kind: resource.KindTimeout, Name: r.Name}, Revision: resource.Revision(a)}}
}

// words are what a set has, and -what it withholds.
func words(s *Set) string {
	short := map[string]string{ClusterType: "C", EndpointType: "E", ListenerType: "L", RouteType: "R"}
	var out []string
	for _, r := range s.Resources {
		out = append(out, short[r.TypeURL]+":"+r.Name+"."+r.Version)
	}
	var withheld []string
	for r := range s.Withheld {
		withheld = append(withheld, "-"+short[r.TypeURL]+":"+r.Name)
	}
	slices.Sort(withheld)
	return strings.Join(append(out, withheld...), " ")
}

func TestOver(t *testing.T) {
	tests := map[string]struct{ last, now, want string }{
		"nothing invalid": {
			"C:a.1>E:a E:a.1 L:l.1>C:a", "C:a.2>E:a E:a.2", "C:a.2 E:a.2",
		},
		"the last version stays, the rest goes on": {
			"C:a.1>E:a E:a.1 C:b.1 R:r.1>C:a L:l.1>R:r", "C:a.!>E:a E:a.2 C:b.2 R:r.2>C:a L:l.2>R:r",
			"C:a.1 C:b.2 E:a.2 L:l.2 R:r.2",
		},
		"a listener with a bad route is new": {
			"C:a.1", "C:a.1 C:b.1 R:r.!>C:b L:l.1>R:r L:m.1>C:b", "C:a.1 C:b.1 L:m.1 -L:l -R:r",
		},
		"a listener that got another, bad route stays with the one before": {
			"C:a.1>E:a E:a.1 R:r.1>C:a L:l.1>R:r", "C:b.1 R:q.!>C:b L:l.2>R:q",
			"C:a.1 C:b.1 E:a.1 L:l.1 R:r.1 -R:q",
		},
		"a route to a new, bad cluster stays": {
			"C:a.1 R:r.1>C:a L:l.1>R:r", "C:a.2 C:b.!>E:b E:b.1 R:r.2>C:a,C:b L:l.2>R:r",
			"C:a.2 E:b.1 L:l.2 R:r.1 -C:b",
		},
		"what a version that stays needs stays too": {
			"C:a.1>E:a E:a.1 R:r.1>C:a L:l.1>R:r", "R:r.! L:l.1>R:r C:b.1", "C:a.1 C:b.1 E:a.1 L:l.1 R:r.1",
		},
		"the first set": {
			"", "C:a.! E:a.1 C:b.1 R:r.1>C:a R:q.1>C:b L:l.1>R:r L:m.1>R:q",
			"C:b.1 E:a.1 L:m.1 R:q.1 -C:a -L:l -R:r",
		},
		"a name that is nowhere is no matter": {
			"", "C:b.! L:l.1>C:none", "L:l.1 -C:b",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var last *Set
			if tt.last != "" {
				last = sketch(1, tt.last)
			}
			now := sketch(2, tt.now)
			got := now.Over(last)
			if diff := cmp.Diff(tt.want, words(got)); diff != "" {
				t.Errorf("mended (-want +got):\n%s", diff)
			}
			if len(now.Invalid) == 0 && got != now {
				t.Error("a good set was copied")
			}
			for _, r := range got.Resources {
				want := resource.Revision(1)
				if slices.Contains(now.Resources, r) {
					want = 2
				}
				if src := got.sourcesOf(r); src[0].Revision != want {
					t.Errorf("the sources of %s.%s are of %v, want %v", r.Name, r.Version, src[0].Revision, want)
				}
			}
		})
	}
}

// Over any history of sets, a mended set names nothing twice, is in order, has every good resource of the newest set
// that leads to nothing withheld, none that does; what was good last is never withheld.
func TestOverKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var last *Set
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			now := sketch(resource.Revision(step+1), drawSketch(t))
			got := now.Over(last)
			has := map[Ref]*Resource{}
			for i, r := range got.Resources {
				if i > 0 && ordered(got.Resources[i-1], r) >= 0 {
					t.Fatalf("%s is not in order", words(got))
				}
				has[r.ref()] = r
			}
			for _, r := range got.Resources {
				if !slices.Contains(now.Resources, r) {
					continue // it leads to nothing as it did before
				}
				for _, ref := range r.Refs {
					if _, ok := got.Withheld[ref]; ok {
						t.Fatalf("%s.%s leads to %s, which is withheld", r.Name, r.Version, ref.Name)
					}
				}
			}
			for _, r := range now.Resources {
				needsBad := slices.ContainsFunc(r.Refs, func(ref Ref) bool { _, ok := got.Withheld[ref]; return ok })
				if x := has[r.ref()]; x != r && !needsBad {
					t.Fatalf("%s.%s is not there, though it is good: %s", r.Name, r.Version, words(got))
				}
			}
			if last != nil {
				for _, r := range last.Resources {
					if _, ok := got.Withheld[r.ref()]; ok {
						t.Fatalf("%s is withheld, though it was good", r.Name)
					}
				}
			}
			for _, x := range now.Invalid {
				_, withheld := got.Withheld[x.Ref]
				if (has[x.Ref] != nil) == withheld {
					t.Fatalf("%v: there %v, withheld %v", x.Ref, has[x.Ref] != nil, withheld)
				}
			}
			last = got
		}
	})
}

// drawSketch draws a set in which endpoints, clusters, routes and listeners lead to one another.
func drawSketch(t *rapid.T) string {
	version := func(what string) string {
		return rapid.SampledFrom([]string{"1", "2", "3", "!"}).Draw(t, what)
	}
	var out []string
	for _, n := range []string{"a", "b", "c"} {
		if rapid.Bool().Draw(t, "cluster "+n) {
			out = append(out, fmt.Sprintf("C:%s.%s>E:%s E:%s.%s", n, version("C"), n, n, version("E")))
		}
		if rapid.Bool().Draw(t, "route "+n) {
			out = append(out, fmt.Sprintf("R:%s.%s>C:%s,C:%s", n, version("R"), n, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "to")))
		}
		if rapid.Bool().Draw(t, "listener "+n) {
			out = append(out, fmt.Sprintf("L:%s.%s>%s:%s", n, version("L"), rapid.SampledFrom([]string{"R", "C"}).Draw(t, "kind"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "to")))
		}
	}
	return strings.Join(out, " ")
}
