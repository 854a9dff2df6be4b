package insight

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

const (
	// maxText bounds what is kept of a reason, maxProxies the proxies that are named.
	maxText    = 2 << 10
	maxProxies = 10
	// maxHeld bounds the rejections that a proxy's insight names, and the sources of each.
	maxHeld = 10
)

// refusalID names a resource that is held back from a proxy.
type refusalID struct {
	proxy         resource.Key
	typeURL, name string
}

// refusal is such a resource; its sources are the rejections that it belongs to.
type refusal struct {
	// told numbers refusals as they come in.
	told    uint64
	sources []resource.Key
	shown   *meshv1.DataplaneInsight_Rejection
}

// rejection is what proxies refused of one source object.
type rejection struct {
	// revision of the source in the own log, and its position.
	revision, position resource.Revision
	// since is the position from which on the source was refused, in older forms too.
	since         resource.Revision
	count         uint64
	text          string
	typeURL, name string
	last          time.Time
	// held are the refusals for which the rejection stands.
	held map[refusalID]holding
}

// holding is a refusal, and the revision of the source that is refused.
type holding struct {
	*refusal
	revision resource.Revision
}

// before is since when older forms of the source were refused; 0: it is the first one.
func (j *rejection) before() resource.Revision {
	if j.since == j.position {
		return 0
	}
	return j.since
}

// proxies are the first ten that refuse the source as it is now, in the order in which they did.
func (j *rejection) proxies() []string {
	ids := slices.SortedFunc(maps.Keys(j.held), func(a, b refusalID) int { return cmp.Compare(j.held[a].told, j.held[b].told) })
	var names []string
	for _, id := range ids {
		if name := id.proxy.Scope + "." + id.proxy.Name; j.held[id].revision == j.revision && !slices.Contains(names, name) {
			names = append(names, name)
		}
		if len(names) == maxProxies {
			break
		}
	}
	return names
}

// Refused implements Observer.
func (r *Recorder) Refused(f Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.positions.note(r.store.Config().View())
	id := refusalID{f.Proxy, f.TypeURL, f.Name}
	if len(f.Sources) == 0 {
		f.Sources = []Source{{Key: f.Proxy}}
	}
	r.told++
	held := &refusal{told: r.told, shown: &meshv1.DataplaneInsight_Rejection{
		ResourceType: cut(f.TypeURL, maxText), ResourceName: cut(f.Name, maxText),
		Reason: cut(strings.TrimSpace(f.Text), maxText), Time: stamp(f.At),
	}}
	for _, src := range f.Sources {
		held.sources = append(held.sources, src.Key)
		if len(held.shown.Sources) < maxHeld {
			held.shown.Sources = append(held.shown.Sources, &meshv1.DataplaneInsight_Source{
				Kind: string(src.Key.Kind), Mesh: src.Key.Scope, Name: src.Key.Name, Revision: uint64(r.positions.ceiling(src.Revision)),
			})
		}
		j := r.rejections[src.Key]
		if j == nil {
			j = &rejection{held: map[refusalID]holding{}}
			r.rejections[src.Key] = j
		}
		if j.count == 0 || src.Revision > j.revision {
			position := r.positions.ceiling(src.Revision)
			*j = rejection{revision: src.Revision, position: position, since: position, held: j.held}
		}
		if f.Since != 0 {
			j.since = min(j.since, r.positions.ceiling(f.Since))
		}
		j.held[id] = holding{held, src.Revision}
		j.count++
		j.text, j.typeURL, j.name, j.last = held.shown.Reason, held.shown.ResourceType, held.shown.ResourceName, f.At
		r.dirty.rejections[src.Key] = struct{}{}
	}
	of := r.refusals[f.Proxy]
	if of == nil {
		of = map[refusalID]*refusal{}
		r.refusals[f.Proxy] = of
	}
	if old := of[id]; old != nil {
		held.told = old.told // it keeps its place
		// The same resource in another version may have been made from other objects.
		for _, k := range old.sources {
			if !slices.Contains(held.sources, k) {
				r.release(k, id)
			}
		}
	}
	of[id] = held
	r.dirty.insights[f.Proxy] = struct{}{}
	r.dirty.positions = true
	r.wake()
}

// Cleared implements Observer.
func (r *Recorder) Cleared(proxy resource.Key, typeURL, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear(refusalID{proxy, typeURL, name})
	r.wake()
}

func (r *Recorder) clear(id refusalID) {
	of := r.refusals[id.proxy]
	f := of[id]
	if f == nil {
		return
	}
	if delete(of, id); len(of) == 0 {
		delete(r.refusals, id.proxy)
	}
	r.dirty.insights[id.proxy] = struct{}{}
	for _, k := range f.sources {
		r.release(k, id)
	}
	r.dirty.positions = true
}

// release a rejection from one refusal; the last one takes it along.
func (r *Recorder) release(k resource.Key, id refusalID) {
	j := r.rejections[k]
	if j == nil {
		return
	}
	delete(j.held, id)
	if len(j.held) == 0 {
		delete(r.rejections, k)
	}
	r.dirty.rejections[k] = struct{}{}
}

// heldFrom gives the first rejections of a proxy, and the number of all.
func (r *Recorder) heldFrom(proxy resource.Key) ([]*meshv1.DataplaneInsight_Rejection, uint32) {
	of := slices.SortedFunc(maps.Values(r.refusals[proxy]), func(a, b *refusal) int { return cmp.Compare(a.told, b.told) })
	var out []*meshv1.DataplaneInsight_Rejection
	for _, f := range of[:min(len(of), maxHeld)] {
		out = append(out, f.shown)
	}
	return out, uint32(len(of))
}

// rejectionOf is the key of the row of a source object.
func rejectionOf(source resource.Key) resource.Key {
	return resource.Key{
		Kind: resource.KindProxyRejection,
		Name: string(source.Kind) + "/" + source.Scope + "/" + source.Name,
	}
}

// cut shortens what a proxy says, and makes it fit for a message.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		// A character that was cut through goes, rather than become a foreign one.
		for range 3 {
			if r := strings.ToValidUTF8(s, ""); len(r) == len(s) {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
