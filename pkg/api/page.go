package api

import (
	"context"
	"encoding/base64"
	"errors"
	"iter"
	"strconv"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

const (
	defaultPage = 1000
	maxPage     = 10_000
	// maxPageBytes is where a page ends even if it has fewer items than asked for, callPageBytes where it does in the
	// answer of a gRPC call, of which clients take 4 MiB by default.
	maxPageBytes  = 32 << 20
	callPageBytes = 3 << 20
	// pageBytesKey is the metadata in which the gateway says how much it can hold.
	pageBytesKey = "meridian-page-bytes"
)

// window is the page that was asked for.
type window struct {
	size int
	// bytes is where the page ends even if it has fewer items.
	bytes int
	// Either the number of items to pass over, or the key after which to go on.
	index int
	after *resource.Key
}

// window reads size and offset as a client gave them.
func (s *Service) window(ctx context.Context, title, size, offset string) (window, error) {
	w, err := parseWindow(title, size, offset, s.MaxPageItems)
	w.bytes = callPageBytes
	if n, err := strconv.Atoi(incoming(ctx, pageBytesKey)); err == nil && n > 0 {
		w.bytes = n
	}
	w.bytes = min(w.bytes, s.MaxPageBytes)
	return w, err
}

// parseWindow is window without the limit in bytes.
func parseWindow(title, size, offset string, most int) (window, error) {
	w := window{size: min(defaultPage, most), bytes: maxPageBytes}
	if size != "" {
		n, err := strconv.ParseUint(size, 10, 31)
		switch {
		case err != nil || int(n) > most:
			return w, invalid(title, "Invalid page size", resource.Violations{{Field: "size", Message: "must be a number from 0 to " + strconv.Itoa(most) + " (limits.pageItems), of which 0 means the largest page"}})
		case n == 0:
			n = uint64(most)
		}
		w.size = int(n)
	}
	if offset == "" {
		return w, nil
	}
	if key, err := parseOffset(offset); err == nil {
		w.after = &key
		return w, nil
	}
	// What is out of range is an index, too: one behind the last item.
	n, err := strconv.ParseUint(offset, 10, 31)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return w, invalid(title, "Invalid offset", resource.Violations{{Field: "offset", Message: "must be taken from the next of a page, or be the index of an item"}})
	}
	w.index = int(n)
	return w, nil
}

// offsetPrefix tells a key from an index.
const offsetPrefix = "k"

// formatOffset names the key after which the next page goes on. It stays right whatever is written meanwhile.
func formatOffset(k resource.Key) string {
	return offsetPrefix + base64.RawURLEncoding.EncodeToString([]byte(string(k.Kind)+"\x00"+k.Scope+"\x00"+k.Name))
}

func parseOffset(s string) (resource.Key, error) {
	rest, ok := strings.CutPrefix(s, offsetPrefix)
	if !ok {
		return resource.Key{}, errors.New("not a key")
	}
	b, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil {
		return resource.Key{}, err
	}
	parts := strings.Split(string(b), "\x00")
	if len(parts) != 3 {
		return resource.Key{}, errors.New("not a key")
	}
	key := resource.Key{Kind: resource.Kind(parts[0]), Scope: parts[1], Name: parts[2]}
	if formatOffset(key) != s {
		return resource.Key{}, errors.New("not in the form that is given out")
	}
	return key, nil
}

// rest is what of a range can be on the page: nothing before the key after which it goes on, which costs no walk then.
func (w window) rest(v store.View, r store.Range) iter.Seq[*resource.Object] {
	if w.after == nil {
		return v.Scan(r)
	}
	return func(yield func(*resource.Object) bool) {
		for c := range v.History().Sweep(r, *w.after, 0, false) {
			if !yield(c.Object) {
				return
			}
		}
	}
}

// turn waits until a page may be put together. Of many that are asked for at once only so many are worked on as
// there are processors, so that they keep nobody else from one. The caller calls done at the end.
func (s *Service) turn(ctx context.Context, title string) (done func(), err error) {
	select {
	case s.turns <- struct{}{}:
		return func() { <-s.turns }, nil
	case <-ctx.Done():
		return nil, s.storeError(ctx.Err(), title)
	}
}

// page is one page of a list.
type page[T any] struct {
	total uint32
	items []T
	next  string
}

// paginate takes a page out of objects in key order. total is the number of objects, or negative where they
// must be counted by going through all of them; where it is given, those before the page need not be among them.
// encode gives an item and its size in bytes.
func paginate[T any](w window, objects iter.Seq[*resource.Object], total int, encode func(*resource.Object) (T, int, error)) (page[T], error) {
	var p page[T]
	seen, bytes := 0, 0
	var last resource.Key
	for o := range objects {
		seen++
		if seen <= w.index || w.after != nil && o.Key.Compare(*w.after) <= 0 || p.next != "" {
			continue
		}
		if len(p.items) == w.size {
			p.next = formatOffset(last)
		} else {
			item, n, err := encode(o)
			if err != nil {
				return p, err
			}
			if bytes+n > w.bytes && len(p.items) > 0 {
				p.next = formatOffset(last)
			} else {
				p.items, bytes, last = append(p.items, item), bytes+n, o.Key
			}
		}
		if p.next != "" && total >= 0 {
			break
		}
	}
	if total < 0 {
		total = seen
	}
	p.total = uint32(total)
	return p, nil
}
