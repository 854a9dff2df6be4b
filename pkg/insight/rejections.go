package insight

import (
	"slices"
	"strings"
	"time"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

const (
	// maxText bounds what is kept of a reason, maxProxies the proxies that are named.
	maxText    = 2 << 10
	maxProxies = 10
)

// refusalID names a resource that is held back from a proxy.
type refusalID struct {
	proxy         resource.Key
	typeURL, name string
}

// refusal is such a resource; its sources are the rejections that it belongs to.
type refusal struct{ sources []resource.Key }

// rejection is what proxies refused of one source object.
type rejection struct {
	// revision of the source in the own log, and its position.
	revision, position resource.Revision
	count              uint64
	proxies            []string
	text               string
	typeURL, name      string
	last               time.Time
	// held are the refusals for which the rejection stands.
	held map[refusalID]struct{}
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
	held := &refusal{}
	for _, src := range f.Sources {
		held.sources = append(held.sources, src.Key)
		j := r.rejections[src.Key]
		if j == nil {
			j = &rejection{held: map[refusalID]struct{}{}}
			r.rejections[src.Key] = j
		}
		if j.count == 0 || src.Revision > j.revision {
			*j = rejection{revision: src.Revision, position: r.positions.ceiling(src.Revision), held: j.held}
		}
		j.held[id] = struct{}{}
		j.count++
		if name := f.Proxy.Scope + "." + f.Proxy.Name; len(j.proxies) < maxProxies && !slices.Contains(j.proxies, name) {
			j.proxies = append(j.proxies, name)
		}
		j.text, j.typeURL, j.name, j.last = cut(strings.TrimSpace(f.Text), maxText), cut(f.TypeURL, maxText), cut(f.Name, maxText), f.At
		r.dirty.rejections[src.Key] = struct{}{}
	}
	if old := r.refusals[id]; old != nil {
		// The same resource in another version may have been made from other objects.
		for _, k := range old.sources {
			if !slices.Contains(held.sources, k) {
				r.release(k, id)
			}
		}
	}
	r.refusals[id] = held
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
	f := r.refusals[id]
	if f == nil {
		return
	}
	delete(r.refusals, id)
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
		r.dirty.rejections[k] = struct{}{}
	}
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
