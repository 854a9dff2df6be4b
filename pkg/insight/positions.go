package insight

import (
	"slices"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// maxPlaces is how many places are remembered before those that nobody needs are forgotten.
const maxPlaces = 4096

// place says that the state of the own config log at a revision holds all of the peer's log up to a cursor.
type place struct {
	own, peer resource.Revision
}

// positions maps revisions of the own config log to the numbering that positions are given in: that of the
// peer from which configuration comes, or, without one, the own.
type positions struct {
	peer   string
	store  string
	epoch  string
	places []place // both numbers rise
}

// note learns from a view of the config log.
func (p *positions) note(v store.View) {
	if p.peer == "" {
		return
	}
	c, ok := v.Cursor(p.peer)
	if !ok {
		return
	}
	n := len(p.places)
	if n > 0 && (c.Store != p.store || c.Epoch != p.epoch || c.Revision < p.places[n-1].peer) {
		// Another history, or perhaps a restored one: what was learnt may not hold in it.
		p.places = p.places[:0]
		n = 0
	}
	p.store, p.epoch = c.Store, c.Epoch
	switch r := v.Revision(); {
	case n > 0 && r < p.places[n-1].own: // an older view than one that was seen
	case n > 0 && r == p.places[n-1].own:
		p.places[n-1].peer = c.Revision
	default:
		p.places = append(p.places, place{r, c.Revision})
	}
}

// floor is a revision up to which everything is in the own log at r: exact where the log was seen at r, else
// earlier. It is 0 for a revision before all that was seen.
func (p *positions) floor(r resource.Revision) resource.Revision {
	if p.peer == "" {
		return r
	}
	i, found := p.find(r)
	switch {
	case found:
		return p.places[i].peer
	case i == 0:
		return 0
	default:
		return p.places[i-1].peer
	}
}

// ceiling is the position at which a change of revision r had surely come.
func (p *positions) ceiling(r resource.Revision) resource.Revision {
	if p.peer == "" {
		return r
	}
	i, _ := p.find(r)
	switch {
	case i < len(p.places):
		return p.places[i].peer
	case i == 0:
		return 0
	default:
		return p.places[i-1].peer
	}
}

func (p *positions) find(r resource.Revision) (int, bool) {
	return slices.BinarySearchFunc(p.places, r, func(x place, r resource.Revision) int {
		switch {
		case x.own < r:
			return -1
		case x.own > r:
			return 1
		default:
			return 0
		}
	})
}

// applied is how far the own log has come at a view: a place in the log whose numbering positions are given in.
// Of the own one the revision alone matters.
func (p *positions) applied(v store.View) store.Cursor {
	if p.peer == "" {
		return store.Cursor{Revision: v.Revision()}
	}
	c, _ := v.Cursor(p.peer)
	return c
}

// full says that it is time to trim.
func (p *positions) full() bool { return len(p.places) > maxPlaces }

// trim forgets the older half, but what floor answers for the revisions that are still needed.
func (p *positions) trim(needed []resource.Revision) {
	keep := map[int]bool{}
	for _, r := range needed {
		i, found := p.find(r)
		if !found {
			i--
		}
		keep[i] = true
	}
	var kept []place
	for i, x := range p.places {
		if i >= len(p.places)-maxPlaces/2 || keep[i] {
			kept = append(kept, x)
		}
	}
	p.places = kept
}
