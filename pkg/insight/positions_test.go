package insight

import (
	"testing"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// seen is a view of which only the revision and the cursor are looked at.
type seen struct {
	store.View
	own, peer resource.Revision
	id        string
}

func (s seen) Revision() resource.Revision { return s.own }

func (s seen) Cursor(peer string) (store.Cursor, bool) {
	return store.Cursor{Store: s.id, Revision: s.peer}, peer == "global" && s.id != ""
}

func TestPositions(t *testing.T) {
	p := positions{peer: "global"}
	want := func(own, floor, ceiling resource.Revision) {
		t.Helper()
		if f, c := p.floor(own), p.ceiling(own); f != floor || c != ceiling {
			t.Errorf("at %s: floor %s, ceiling %s, want %s and %s", own, f, c, floor, ceiling)
		}
	}
	want(1, 0, 0)
	p.note(seen{own: 1})
	want(1, 0, 0)
	p.note(seen{own: 3, peer: 10, id: "g"})
	p.note(seen{own: 3, peer: 12, id: "g"})
	p.note(seen{own: 7, peer: 20, id: "g"})
	p.note(seen{own: 5, peer: 20, id: "g"}) // too late to be of use
	want(2, 0, 12)
	want(3, 12, 12)
	want(5, 12, 20)
	want(7, 20, 20)
	want(9, 20, 20)
	p.note(seen{own: 8, peer: 4, id: "g"}) // a restored backup
	want(7, 0, 4)
	want(8, 4, 4)
	p.note(seen{own: 9, peer: 50, id: "other"})
	want(8, 0, 50)
	want(9, 50, 50)

	own := positions{}
	own.note(seen{own: 4})
	if own.floor(9) != 9 || own.ceiling(9) != 9 {
		t.Error("without a peer the own numbers hold")
	}
}

func TestPositionsAreBounded(t *testing.T) {
	p := positions{peer: "global"}
	for i := resource.Revision(1); i <= 10*maxPlaces; i++ {
		p.note(seen{own: 2 * i, peer: 3 * i, id: "g"})
		if p.full() {
			p.trim([]resource.Revision{21, 400, 0})
		}
	}
	if len(p.places) > maxPlaces {
		t.Fatalf("%d places are remembered", len(p.places))
	}
	if p.floor(21) != 30 || p.floor(400) != 600 || p.floor(20*maxPlaces) != 30*maxPlaces {
		t.Errorf("what is needed was forgotten: %s %s", p.floor(21), p.floor(400))
	}
	if p.floor(39) != 30 {
		t.Errorf("more is claimed than is known: %s", p.floor(39))
	}
}
