package index

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/xds/index/indextest"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// naivePermission is the choice as the rule has it: of all selectors that match, the one with most tags, of
// equally many the one with most exact ones, of equal ones that of the newest policy, then the first by name.
func naivePermission(t interface{ Fatal(...any) }, v store.View, mesh string, tags map[string]string) string {
	type candidate struct {
		tags, exact int
		created     time.Time
		name        string
	}
	var all []candidate
	for o := range v.Scan(store.InScope(resource.KindTrafficPermission, mesh)) {
		spec, err := resource.Decode[meshv1.TrafficPermission](o)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range spec.GetDestinations() {
			c, ok := candidate{created: o.Created, name: o.Key.Name}, true
			for k, want := range d.GetMatch() {
				have, there := tags[k]
				ok = ok && there && (want == "*" || want == have)
				c.tags++
				if want != "*" {
					c.exact++
				}
			}
			if ok {
				all = append(all, c)
			}
		}
	}
	if len(all) == 0 {
		return ""
	}
	return slices.MinFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.tags, a.tags), cmp.Compare(b.exact, a.exact), b.created.Compare(a.created), cmp.Compare(a.name, b.name))
	}).name
}

// Whatever is written in whatever order, the permission of each inbound is the one that the rule gives, and a
// change of permissions touches the proxies for which it is another one now, or has another content, and no more.
func TestPermissionIsTheOneOfTheRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := indextest.New()
		if err := log.PutYAML("type: Mesh\nname: default\nmtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}\n"); err != nil {
			t.Fatal(err)
		}
		ix := New("zone-1", log.View())
		type held struct {
			name    string
			at      resource.Revision
			created time.Time // ties are broken by it
		}
		holding := func(v store.View) map[string][]held {
			out := map[string][]held{}
			for _, k := range ix.Proxies() {
				p, _ := ix.Proxy(k)
				for i, in := range p.Spec.GetNetworking().GetInbound() {
					var h held
					if o := p.Permission(i); o != nil {
						h = held{o.Key.Name, o.SpecRevision, o.Created}
					}
					if want := naivePermission(t, v, "default", in.GetTags()); h.name != want {
						t.Fatalf("%s, inbound %v: %q holds, want %q", k.Name, in.GetTags(), h.name, want)
					}
					out[k.Name] = append(out[k.Name], h)
				}
			}
			return out
		}
		before := holding(log.View())
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			from := log.Head()
			permissionsOnly := true
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
					permissionsOnly = false
					changeDataplane(t, log)
				} else {
					changePermission(t, log)
				}
			}
			var dirty []string
			for _, k := range ix.Apply(log.Since(from)) {
				dirty = append(dirty, k.Name)
			}
			now := holding(log.View())
			if permissionsOnly {
				var want []string
				for _, name := range slices.Sorted(maps.Keys(now)) {
					if !slices.Equal(before[name], now[name]) {
						want = append(want, name)
					}
				}
				if diff := gocmp.Diff(want, dirty); diff != "" {
					t.Fatalf("dirty (-want +got):\n%s", diff)
				}
			}
			before = now
		}
	})
}

func drawTags(t *rapid.T, values []string) map[string]string {
	tags := map[string]string{TagService: rapid.SampledFrom(values).Draw(t, "service")}
	for _, k := range []string{"version", TagProtocol} {
		if rapid.Bool().Draw(t, "has "+k) {
			tags[k] = rapid.SampledFrom(values).Draw(t, k)
		}
	}
	return tags
}

func changeDataplane(t *rapid.T, log *indextest.Log) {
	k := dp(fmt.Sprintf("dp-%d", rapid.IntRange(0, 3).Draw(t, "dataplane")))
	if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
		log.Delete(k)
		return
	}
	n := &meshv1.Dataplane_Networking{Address: "10.0.0.1"}
	for i := range rapid.IntRange(0, 3).Draw(t, "inbounds") {
		n.Inbound = append(n.Inbound, &meshv1.Dataplane_Networking_Inbound{Port: uint32(80 + i), Tags: drawTags(t, []string{"a", "b"})})
	}
	log.PutMessage(k, resource.Local, time.Time{}, &meshv1.Dataplane{Networking: n})
}

func changePermission(t *rapid.T, log *indextest.Log) {
	k := resource.Key{Kind: resource.KindTrafficPermission, Scope: "default", Name: fmt.Sprintf("tp-%d", rapid.IntRange(0, 4).Draw(t, "permission"))}
	if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
		log.Delete(k)
		return
	}
	p := &meshv1.TrafficPermission{Sources: []*meshv1.Selector{{Match: map[string]string{TagService: rapid.SampledFrom([]string{"a", "b", "*"}).Draw(t, "source")}}}}
	for range rapid.IntRange(1, 3).Draw(t, "destinations") {
		p.Destinations = append(p.Destinations, &meshv1.Selector{Match: drawTags(t, []string{"a", "b", "*"})})
	}
	log.PutMessage(k, resource.Local, time.Unix(int64(rapid.IntRange(1, 2).Draw(t, "created")), 0).UTC(), p)
}

// Without mTLS permissions have no effect, and touch nobody.
func TestPermissionWithoutMTLSTouchesNobody(t *testing.T) {
	log, ix := start(t, base)
	put := func(text string) func() {
		return func() {
			if err := log.PutYAML(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := "type: TrafficPermission\nmesh: default\nname: all\nsources: [{match: {kuma.io/service: '*'}}]\ndestinations: [{match: {kuma.io/service: '*'}}]\n"
	if got := apply(t, log, ix, put(all)); got != nil {
		t.Errorf("dirty without mTLS: %v", got)
	}
	apply(t, log, ix, put("type: Mesh\nname: default\nmtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}\n"))
	p, _ := ix.Proxy(dp("backend"))
	if o := p.Permission(0); o == nil || o.Key.Name != "all" {
		t.Errorf("with mTLS %v holds", o)
	}
	if diff := gocmp.Diff([]string{"backend"}, apply(t, log, ix, put("type: TrafficPermission\nmesh: default\nname: narrow\nsources: [{match: {kuma.io/service: web}}]\ndestinations: [{match: {kuma.io/service: backend}}]\n"))); diff != "" {
		t.Errorf("dirty (-want +got):\n%s", diff)
	}
}
