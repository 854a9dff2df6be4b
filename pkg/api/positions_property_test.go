package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// scripted is a zone control plane: what is true of it, and what it has yet to tell.
type scripted struct {
	name    string
	enabled bool
	// session that is open at the global control plane; "" while offline. known is whether the zone has been
	// told its id: until then it tells nothing.
	session string
	known   bool

	applied, processed uint64
	// proxies that are connected, by name: how far they are, 0 while they join.
	proxies map[string]uint64
	// refused objects: by the zone, own being its own revision of the refusal; by proxies, own being the revision with
	// which the zone had the object.
	bySync, byProxy map[string]refusedObject
	// own is the revision of the zone's config log, and sent the one up to which the global has it.
	own, sent uint64
}

type refusedObject struct{ revision, own uint64 }

// plane is the whole system, scripted.
type plane struct {
	*world
	zones    []*scripted
	sessions int
	objects  map[string]uint64
}

// tell writes what a zone knows, in one batch, if it has a session to tell it in.
func (p *plane) tell(z *scripted) {
	if z.session == "" || !z.known {
		return
	}
	row := &systemv1.ZonePosition{Applied: z.applied, Processed: z.processed, Live: z.processed, Session: z.session}
	want := map[resource.Key]store.Put{}
	for n, live := range z.proxies {
		if live == z.processed && live > 0 {
			continue
		}
		row.Lagging++
		if live > 0 {
			row.Live = min(row.Live, live)
		}
		put := p.proxy(z.name, z.name+"."+n, &systemv1.ProxyPosition{Live: live, Joining: live == 0})
		want[put.Key] = put
	}
	for n, r := range z.byProxy {
		put := p.put(resource.Key{Kind: resource.KindProxyRejection, Name: z.name + ".Timeout/default/" + n}, resource.Origin(z.name),
			&systemv1.ProxyRejection{Kind: "Timeout", Scope: "default", Name: n, Revision: r.own})
		want[put.Key] = put
	}
	for _, r := range z.bySync {
		row.Refused = max(row.Refused, r.own)
	}
	b := store.Batch{Puts: []store.Put{p.row(z.name, row)}, Cursor: z.cursor(1)}
	for _, kind := range []resource.Kind{resource.KindProxyPosition, resource.KindProxyRejection} {
		for o := range p.s.Store.Status().View().Scan(store.OfKind(kind)) {
			if _, ok := want[o.Key]; !ok && o.Origin == resource.Origin(z.name) {
				b.Deletes = append(b.Deletes, o.Key)
			}
		}
	}
	for _, put := range want {
		b.Puts = append(b.Puts, put)
	}
	p.apply(p.s.Store.Status(), b)
}

func (z *scripted) cursor(r uint64) *store.CursorMove {
	return &store.CursorMove{Peer: z.name, To: store.Cursor{Store: "store of " + z.name, Revision: resource.Revision(r)}}
}

// send brings the zone's refusals to the global, as its config log does: at another time than the rows.
func (p *plane) send(z *scripted) {
	if z.session == "" {
		return
	}
	z.sent = z.own
	b := store.Batch{Cursor: z.cursor(z.own)}
	want := map[resource.Key]bool{}
	for n, r := range z.bySync {
		put := p.put(resource.Key{Kind: resource.KindSyncRejection, Name: z.name + ".Timeout/default/" + n}, resource.Origin(z.name),
			&systemv1.SyncRejection{Kind: "Timeout", Scope: "default", Name: n, Revision: r.revision})
		b.Puts = append(b.Puts, put)
		want[put.Key] = true
	}
	for o := range p.s.Store.Config().View().Scan(store.OfKind(resource.KindSyncRejection)) {
		if o.Origin == resource.Origin(z.name) && !want[o.Key] {
			b.Deletes = append(b.Deletes, o.Key)
		}
	}
	p.apply(p.s.Store.Config(), b)
}

// settled says, from what is true, whether a revision is on every connected proxy of every zone that counts, and
// what of it is refused.
func (p *plane) settled(r uint64) (settled bool, refused []string) {
	for _, z := range p.zones {
		if !z.enabled || z.session == "" {
			continue
		}
		if z.processed < r {
			return false, nil
		}
		for _, live := range z.proxies {
			if live == 0 || live < r {
				return false, nil
			}
		}
		for _, of := range []map[string]refusedObject{z.bySync, z.byProxy} {
			for n, o := range of {
				if o.revision <= r {
					refused = append(refused, z.name+"/"+n)
				}
			}
		}
	}
	return true, refused
}

// check says what is wrong with an answer, by what is true.
func (p *plane) check(res *apiv1.GetPositionsResponse) string {
	settled, refused := p.settled(res.GetRevision())
	state := res.GetState()
	if state != statePending && !settled || state == stateLive && len(refused) > 0 {
		return fmt.Sprintf("%s, though settled is %v and refused %v", summary(res), settled, refused)
	}
	// told: all that is true has been told; vague: the form that proxies refuse is not the present one.
	told, vague := true, false
	for _, z := range p.zones {
		if z.session == "" || !z.enabled {
			continue
		}
		told = told && z.known && z.sent == z.own
		for n, r := range z.byProxy {
			vague = vague || p.objects[n] != r.revision
		}
	}
	want := stateLive
	switch {
	case !settled:
		want = statePending
	case len(refused) > 0:
		want = stateRejected
	}
	if told && state != want && (!vague || state != stateRejected || want != stateLive) {
		return fmt.Sprintf("%s, want %s", summary(res), want)
	}
	return ""
}

// step does one thing, with at most one write, and says what.
func (p *plane) step(v uint32) string {
	z, n := p.zones[v>>8%2], string(rune('a'+v>>10%2))
	refuses := v>>16%3 == 0
	told := func(what string) string {
		p.tell(z)
		return z.name + " " + what
	}
	switch v % 12 {
	case 0, 1:
		p.objects[n] = uint64(p.policy(n))
		return fmt.Sprintf("write %s@%d", n, p.objects[n])
	case 2: // by itself, or because its control plane was started anew
		if refuses {
			z.proxies = map[string]uint64{}
		}
		z.session, z.known = "", false
		p.online(z.name, "")
		return z.name + " offline"
	case 3:
		p.sessions++
		z.session, z.known = fmt.Sprint("session ", p.sessions), false
		p.online(z.name, z.session)
		return z.name + " in " + z.session
	case 4:
		z.known = z.session != ""
		return told("learns its session")
	case 5:
		if !z.known {
			return "-"
		}
		for n, r := range p.objects {
			if r <= z.applied {
				continue
			}
			delete(z.bySync, n)
			z.own++
			if refuses {
				z.bySync[n] = refusedObject{revision: r, own: z.own}
			}
		}
		z.applied = uint64(p.s.Store.Config().View().Revision())
		return told(fmt.Sprint("applies ", z.applied, refuses))
	case 6:
		z.processed = z.applied
		for n, r := range z.byProxy {
			if now := p.objects[n]; now != r.revision && now <= z.processed {
				delete(z.byProxy, n)
			}
		}
		return told(fmt.Sprint("works out ", z.processed))
	case 7:
		if _, ok := z.proxies[n]; !ok {
			z.proxies[n] = 0
		}
		return told("gets proxy " + n)
	case 8:
		delete(z.proxies, n)
		return told("loses proxy " + n)
	case 9, 10:
		if _, ok := z.proxies[n]; !ok {
			return "-"
		}
		z.proxies[n] = z.processed
		o := p.objects[n]
		if _, held := z.bySync[n]; refuses && o > 0 && o <= z.processed && !held {
			// The zone had it together with all that came up to what it has worked out.
			z.byProxy[n] = refusedObject{revision: o, own: z.processed}
		}
		return told(fmt.Sprint("has an ACK of ", n, " for ", z.processed, refuses))
	default:
		if refuses {
			z.enabled = !z.enabled
			p.zone(z.name, z.enabled)
			return fmt.Sprint(z.name, " enabled ", z.enabled)
		}
		p.send(z)
		return z.name + " sends its refusals"
	}
}

// play runs a script in a bubble, with some who wait, and says what went wrong.
func play(t *testing.T, steps []uint32) string {
	p := &plane{world: newWorld(t, Global), objects: map[string]uint64{}}
	for _, n := range []string{"x", "y"} {
		p.zone(n, true)
		p.zones = append(p.zones, &scripted{
			name: n, enabled: true, proxies: map[string]uint64{}, bySync: map[string]refusedObject{}, byProxy: map[string]refusedObject{},
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer synctest.Wait()
	defer cancel()
	type waiter struct {
		revision string
		got      chan *apiv1.GetPositionsResponse
	}
	var waiters []waiter
	var log []string
	for _, v := range steps {
		// Drawn numbers are small as a rule; all bits are to vary.
		v = (v + 1) * 0x9e3779b1
		v = (v ^ v>>15) * 0x85ebca6b
		v ^= v >> 13
		log = append(log, p.step(v))
		synctest.Wait()
		wrong := func(what string) string { return what + "\n" + strings.Join(log, "\n") }
		var still []waiter
		for _, w := range waiters {
			now, err := p.s.GetPositions(ctx, &apiv1.GetPositionsRequest{Revision: w.revision})
			if err != nil {
				return wrong(err.Error())
			}
			select {
			case res := <-w.got:
				if res.GetState() != now.GetState() || res.GetState() == statePending {
					return wrong(fmt.Sprintf("a wait for %s ended with %s, it is %s", w.revision, summary(res), summary(now)))
				}
			default:
				if now.GetState() != statePending {
					return wrong(fmt.Sprintf("a wait for %s goes on, though it is %s", w.revision, summary(now)))
				}
				still = append(still, w)
			}
		}
		waiters = still
		head := p.s.Store.Config().View().Revision()
		r := resource.Revision(uint64(v>>20) % uint64(head+1))
		if v>>18%2 == 0 {
			r = head
		}
		res, err := p.s.GetPositions(ctx, &apiv1.GetPositionsRequest{Revision: r.String()})
		if err != nil {
			return wrong(err.Error())
		}
		if what := p.check(res); what != "" {
			return wrong(what)
		}
		if res.GetState() == statePending && len(waiters) < 8 {
			w := waiter{r.String(), make(chan *apiv1.GetPositionsResponse, 1)}
			waiters = append(waiters, w)
			go func() {
				res, _ := p.s.GetPositions(ctx, &apiv1.GetPositionsRequest{Revision: w.revision, Wait: "5m"})
				w.got <- res
			}()
			synctest.Wait()
		}
	}
	return ""
}

// No answer says live, or ends a wait, while some connected proxy of an online and enabled zone has not come so far
// or something is refused, whatever was written, connected, cut, refused and told in which order; and no wait goes on
// when there is nothing to wait for.
func TestNoFalseLive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Uint32(), 30, 150).Draw(rt, "steps")
		var failed string
		synctest.Test(t, func(t *testing.T) {
			failed = play(t, steps)
		})
		if failed != "" {
			rt.Fatal(failed)
		}
	})
}
