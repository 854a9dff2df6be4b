package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// logs is how many logs a store has; resource.LogID counts them.
const logs = 2

// mark is a short name of something: the beginning of its SHA-256. Who gives a wrong one deceives only himself.
type mark [8]byte

func markOf(parts ...string) mark {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return mark(sum[:8])
}

// seal puts the sections in order, and marks them.
func (x *selection) seal() {
	slices.SortFunc(x.sections, func(a, b section) int { return cmp.Compare(a.kind.Kind, b.kind.Kind) })
	parts := make([]string, 0, 4*len(x.sections))
	for _, p := range x.sections {
		all := ""
		if p.rng.AnyScope {
			all = "*"
		}
		parts = append(parts, string(p.kind.Kind), all, p.rng.Scope, p.name)
	}
	x.mark = markOf(parts...)
}

// place is how far the client of a watch is.
type place struct {
	// of is the watch's selection.
	of   mark
	logs [logs]position
	// sweeping: all keys are being gone through; those up to swept were.
	sweeping bool
	swept    resource.Key
	// fresh: the client had nothing when that began.
	fresh bool
	// lost: the client's place is in no history that is known here.
	lost bool
}

// position is a place in one log.
type position struct {
	// done is the revision up to which the client has all that there was.
	done resource.Revision
	// until is what done becomes when all keys were gone through.
	until resource.Revision
	// epoch of the newer of them, as a client gave it.
	epoch mark
}

// newest is the newest revision that a position knows of.
func (p position) newest() resource.Revision { return max(p.done, p.until) }

// needs is the revision after which a log must know all deletions. A client that had nothing need not be told of those
// before it began to take the present state.
func (p *place) needs(log int) resource.Revision {
	if p.fresh {
		return p.logs[log].until
	}
	return p.logs[log].done
}

// epochs are what is known of the history of each log. That does not change while it is open.
type epochs [logs][]epoch

type epoch struct {
	mark mark
	store.Epoch
}

func newEpochs(s store.Store) epochs {
	var all epochs
	for l, log := range [logs]store.Log{resource.ConfigLog: s.Config(), resource.StatusLog: s.Status()} {
		for _, e := range log.View().Epochs() {
			all[l] = append(all[l], epoch{markOf(s.ID(), e.ID), e})
		}
	}
	return all
}

// of gives the mark of the epoch that a revision is in.
func (e epochs) of(log int, r resource.Revision) mark {
	for _, x := range slices.Backward(e[log]) {
		if x.First <= r+1 {
			return x.mark
		}
	}
	return mark{}
}

// know says whether a place is in the history of logs that are at v.
func (e epochs) know(used [logs]bool, p place, v views) bool {
	for l, at := range p.logs {
		if !used[l] {
			continue
		}
		i := slices.IndexFunc(e[l], func(x epoch) bool { return x.mark == at.epoch })
		if i < 0 {
			return false
		}
		c := v[l].At()
		c.Epoch, c.Revision = e[l][i].ID, at.newest()
		if p.sweeping && at.done > at.until || !store.ValidCursor(c.Store, v[l].Epochs(), v[l].Revision(), c) {
			return false
		}
	}
	return true
}

const (
	// placeForm is the first byte of an id, its form.
	placeForm = 1
	// Bits above those of the logs.
	sweepingFlag = 1 << logs
	freshFlag    = sweepingFlag << 1
)

// format gives the id by which a client comes back.
func (p *place) format(used [logs]bool, e epochs) string {
	flags := byte(0)
	for l := range used {
		if used[l] {
			flags |= 1 << l
		}
	}
	if p.sweeping {
		flags |= sweepingFlag
	}
	if p.fresh {
		flags |= freshFlag
	}
	b := make([]byte, 0, 96)
	b = append(b, placeForm, flags)
	b = append(b, p.of[:]...)
	for l, at := range p.logs {
		if !used[l] {
			continue
		}
		m := e.of(l, at.newest())
		b = append(b, m[:]...)
		b = binary.AppendUvarint(b, uint64(at.done))
		if p.sweeping {
			b = binary.AppendUvarint(b, uint64(at.until))
		}
	}
	if p.sweeping {
		for _, s := range []string{string(p.swept.Kind), p.swept.Scope, p.swept.Name} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// errPlace: a text is no id of a watch.
var errPlace = errors.New("not the id of an event")

// parsePlace reads an id.
func parsePlace(text string) (*place, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 2 || b[0] != placeForm || b[1] >= freshFlag<<1 || b[1]&(sweepingFlag-1) == 0 || b[1]&(freshFlag|sweepingFlag) == freshFlag {
		return nil, errPlace
	}
	flags := b[1]
	r := placeReader{b: b[2:]}
	p := &place{of: r.mark(), sweeping: flags&sweepingFlag != 0, fresh: flags&freshFlag != 0}
	for l := range p.logs {
		if flags&(1<<l) == 0 {
			continue
		}
		at := &p.logs[l]
		at.epoch, at.done = r.mark(), resource.Revision(r.number())
		if p.sweeping {
			at.until = resource.Revision(r.number())
		}
	}
	if p.sweeping {
		p.swept = resource.Key{Kind: resource.Kind(r.text()), Scope: r.text(), Name: r.text()}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errPlace
	}
	return p, nil
}

// placeReader takes an id apart.
type placeReader struct {
	b   []byte
	bad bool
}

func (r *placeReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *placeReader) mark() (m mark) {
	copy(m[:], r.take(uint64(len(m))))
	return m
}

func (r *placeReader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if r.bad || size <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *placeReader) text() string { return string(r.take(r.number())) }
