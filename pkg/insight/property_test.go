package insight_test

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/meridian-mesh/meridian/pkg/insight"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// scripted is one stream of a proxy as it really is.
type scripted struct {
	id, name string
	seq      uint64
	complete bool
	// pending are the own revisions whose changes the proxy has not ACKed.
	pending []resource.Revision
	// live is the own revision up to which the proxy has ACKed everything, now or when it ended.
	live resource.Revision
}

// server is a scripted server of proxies.
type server struct {
	*zone
	peer      string
	seq       uint64
	processed resource.Revision
	open      map[string]*scripted
	byID      map[string]*scripted
	// global is the peer's revision that the own log holds, by own revision: the highest that was true of it.
	global   map[resource.Revision]resource.Revision
	cursor   resource.Revision
	revision resource.Revision
	// told are progresses that were taken and are yet to be told, in order.
	told []insight.Progress
}

func (s *server) settleLive() {
	for _, p := range s.open {
		switch {
		case !p.complete:
			p.live = 0
		case len(p.pending) > 0:
			p.live = p.pending[0] - 1
		default:
			p.live = s.processed
		}
	}
}

func (s *server) progress() insight.Progress {
	p := insight.Progress{Processed: s.processed, Lagging: map[resource.Key]insight.Lag{}, Sequence: s.seq}
	for n, x := range s.open {
		switch {
		case !x.complete:
			p.Lagging[dp(n)] = insight.Lag{Joining: true}
		case len(x.pending) > 0:
			p.Lagging[dp(n)] = insight.Lag{Live: x.live}
		}
	}
	return p
}

// numbered maps a true own revision to the highest position that may be claimed for it.
func (s *server) numbered(own resource.Revision) resource.Revision {
	if s.peer == "" {
		return own
	}
	return s.global[own]
}

// check reads what any reader would, and compares it with what is so.
func (s *server) check() error {
	view := s.store.Status().View()
	zp := s.position()
	if zp == nil {
		return nil
	}
	if zp.Live > zp.Processed || zp.Processed > zp.Applied {
		return fmt.Errorf("live %d, processed %d, applied %d", zp.Live, zp.Processed, zp.Applied)
	}
	if got, want := zp.Processed, uint64(s.numbered(s.processed)); got > want {
		return fmt.Errorf("processed is said to be %d, and is %d", got, want)
	}
	for o := range view.Scan(store.OfKind(resource.KindDataplaneInsight)) {
		m, err := resource.Decode[meshv1.DataplaneInsight](o)
		if err != nil {
			return err
		}
		var p *scripted
		for _, sub := range m.Subscriptions {
			if sub.DisconnectTime == nil {
				p = s.byID[sub.Id]
			}
		}
		if p == nil {
			continue
		}
		claim := zp.Processed
		if row, ok := view.Get(as(resource.KindProxyPosition, o.Key)); ok {
			m, err := resource.Decode[systemv1.ProxyPosition](row)
			if err != nil {
				return err
			}
			if m.Joining {
				continue
			}
			claim = m.Live
		}
		if !p.complete {
			return fmt.Errorf("%s of %s is said to be live at %d, and is joining", p.id, p.name, claim)
		}
		if got := uint64(s.numbered(p.live)); claim > got {
			return fmt.Errorf("%s of %s is said to be live at %d, and is at %d", p.id, p.name, claim, got)
		}
		if got := uint64(s.numbered(p.live)); zp.Live > got {
			return fmt.Errorf("the zone is said to be live at %d, and %s of %s is at %d", zp.Live, p.id, p.name, got)
		}
	}
	return nil
}

// final checks that what is so is also said, once nothing more happens.
func (s *server) final() error {
	s.tell(len(s.told))
	s.processed = s.revision // the server catches up
	s.settleLive()
	s.Progress(s.progress())
	s.CursorMoved()
	time.Sleep(time.Minute)
	synctest.Wait()
	live, lagging, exact := s.numbered(s.processed), uint32(0), true
	for _, p := range s.open {
		if !p.complete || len(p.pending) > 0 {
			lagging++
		}
		if p.complete {
			live = min(live, s.numbered(p.live))
			exact = exact && len(p.pending) == 0
		}
	}
	applied := s.cursor
	if s.peer == "" {
		applied = s.store.Config().View().Revision()
	}
	want := &systemv1.ZonePosition{Applied: uint64(applied), Processed: uint64(s.numbered(s.processed)), Live: uint64(live), Lagging: lagging}
	got := s.position()
	if got.Applied != want.Applied || got.Processed != want.Processed || exact && got.Live != want.Live || got.Lagging != want.Lagging {
		return fmt.Errorf("at last it says %v, and it is %v", got, want)
	}
	return nil
}

func (s *server) tell(n int) {
	for range min(n, len(s.told)) {
		s.Progress(s.told[0])
		s.told = s.told[1:]
	}
}

func (s *server) step(do, which int, wait time.Duration) {
	names := []string{"a", "b", "c"}
	name := names[which%len(names)]
	x := s.open[name]
	switch do {
	case 0: // a write, and with a peer the group that it came in
		b := store.Batch{Puts: []store.Put{{Key: resource.Key{Kind: resource.KindTimeout, Name: "t"}, Spec: []byte(fmt.Sprint(s.revision))}}}
		if s.peer != "" && which%3 > 0 {
			s.cursor += resource.Revision(which%5 + 1)
			b = from(b, s.cursor)
		}
		s.revision = s.apply(b)
		s.global[s.revision] = s.cursor
	case 1: // the cursor alone
		if s.peer == "" {
			return
		}
		s.cursor += resource.Revision(which%5 + 1)
		s.apply(from(store.Batch{}, s.cursor))
		s.global[s.revision] = s.cursor
		s.CursorMoved()
	case 2: // plans are worked out up to some revision; some proxies are touched
		if s.processed < s.revision {
			first := s.processed + 1
			s.processed += resource.Revision(which)%(s.revision-s.processed) + 1
			for i, n := range names {
				if p := s.open[n]; p != nil && which>>i&1 == 1 {
					p.pending = append(p.pending, first)
				}
			}
		}
	case 3: // a proxy ACKs the oldest change
		if x != nil && len(x.pending) > 0 {
			x.pending = x.pending[1:]
		}
	case 4: // a proxy has its first complete configuration
		if x != nil {
			x.complete = true
		}
	case 5: // a proxy comes; the progress takes it in before it is told
		if x == nil {
			s.seq++
			x = &scripted{id: fmt.Sprint(s.seq), name: name, seq: s.seq}
			s.open[name], s.byID[x.id] = x, x
			s.Connected(insight.Session{ID: x.id, Proxy: dp(name), Since: time.Now(), Sequence: x.seq})
		}
	case 6: // a proxy goes
		if x != nil {
			delete(s.open, name)
			s.Disconnected(x.id, time.Now())
		}
	case 7: // a progress is taken
		s.settleLive()
		s.told = append(s.told, s.progress())
		return
	case 8: // and told, now or later
		s.tell(which + 1)
	case 9:
		time.Sleep(wait)
	}
	s.settleLive()
}

// TestNeverTooEarly: whatever happens and whenever it is told, what is written never says that something is
// live which the proxies have not ACKed; and in the end it says all that they have.
func TestNeverTooEarly(t *testing.T) {
	type op struct {
		do, which int
		wait      time.Duration
	}
	ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
		return op{
			do: rapid.IntRange(0, 9).Draw(rt, "do"), which: rapid.IntRange(0, 15).Draw(rt, "which"),
			wait: time.Duration(rapid.SampledFrom([]int{1, 5, 15, 60, 150, 2000}).Draw(rt, "wait")) * time.Millisecond,
		}
	}), 1, 80)
	rapid.Check(t, func(rt *rapid.T) {
		peer := rapid.SampledFrom([]string{"", "global"}).Draw(rt, "peer")
		script := ops.Draw(rt, "script")
		var failed error
		synctest.Test(t, func(t *testing.T) {
			z := run(t, peer, "a", "b", "c")
			s := &server{
				zone: z, peer: peer, open: map[string]*scripted{}, byID: map[string]*scripted{},
				global: map[resource.Revision]resource.Revision{}, revision: 3, processed: 3,
			}
			for i, o := range script {
				s.step(o.do, o.which, o.wait)
				for _, rest := range []bool{false, true} {
					// Just as it is, and often when what is to be written is; else the next step comes into it.
					if rest && o.which%4 > 0 {
						synctest.Wait()
					}
					if failed = s.check(); failed != nil {
						failed = fmt.Errorf("step %d %+v: %w", i, o, failed)
						return
					}
				}
			}
			failed = s.final()
			maps.DeleteFunc(s.open, func(string, *scripted) bool { return true })
		})
		if failed != nil {
			rt.Fatal(failed)
		}
	})
}
