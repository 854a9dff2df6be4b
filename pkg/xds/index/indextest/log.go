// Package indextest feeds an index without a store: a small log of objects, and objects written as YAML.
package indextest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// Log is a config log in memory, for one goroutine.
type Log struct {
	objects map[resource.Key]*resource.Object
	changed map[resource.Key]resource.Revision
	origin  map[resource.Key]resource.Origin
	head    resource.Revision
}

// New makes an empty log.
func New() *Log {
	return &Log{
		objects: map[resource.Key]*resource.Object{}, changed: map[resource.Key]resource.Revision{},
		origin: map[resource.Key]resource.Origin{},
	}
}

// Put writes an object at the next revision. A zero time of creation stays that of the object before, or
// follows the revision. What is not changed keeps the revision of its spec.
func (l *Log) Put(k resource.Key, origin resource.Origin, created time.Time, spec []byte) *resource.Object {
	l.head++
	o := &resource.Object{Key: k, Origin: origin, Revision: l.head, SpecRevision: l.head, Created: created, Spec: spec}
	if old := l.objects[k]; old != nil {
		if created.IsZero() {
			o.Created = old.Created
		}
		if slices.Equal(old.Spec, spec) && old.Origin == origin {
			o.SpecRevision = old.SpecRevision
		}
	} else if created.IsZero() {
		o.Created = time.Unix(int64(l.head), 0).UTC()
	}
	o.Modified = o.Created
	l.objects[k], l.changed[k], l.origin[k] = o, l.head, origin
	return o
}

// PutMessage is Put for a spec that is not yet encoded; it panics on what can't be.
func (l *Log) PutMessage(k resource.Key, origin resource.Origin, created time.Time, m proto.Message) *resource.Object {
	spec, err := resource.Encode(m)
	if err != nil {
		panic(err)
	}
	return l.Put(k, origin, created, spec)
}

// Delete takes an object away at the next revision.
func (l *Log) Delete(k resource.Key) {
	l.head++
	delete(l.objects, k)
	l.changed[k] = l.head
}

// PutYAML writes all objects of a YAML stream. What zones tell one another comes from elsewhere.
func (l *Log) PutYAML(text string) error {
	objects, err := Parse(text)
	if err != nil {
		return err
	}
	for _, o := range objects {
		origin := resource.Local
		if o.Key.Kind == resource.KindZoneIngress || o.Key.Kind == resource.KindZoneService {
			origin = resource.Global
		}
		l.PutMessage(o.Key, origin, o.Created, o.Spec)
	}
	return nil
}

// View is the present state.
func (l *Log) View() store.View {
	keys := make([]resource.Key, 0, len(l.objects))
	for k := range l.objects {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, resource.Key.Compare)
	v := view{head: l.head, byKey: make(map[resource.Key]*resource.Object, len(keys))}
	for _, k := range keys {
		v.objects = append(v.objects, l.objects[k])
		v.byKey[k] = l.objects[k]
	}
	return v
}

// Since is everything that changed after a revision, as a watch would give it.
func (l *Log) Since(r resource.Revision) store.Changes {
	c := store.Changes{From: r, To: l.head, View: l.View()}
	for k, rev := range l.changed {
		if rev > r {
			c.Items = append(c.Items, store.Change{Key: k, Object: l.objects[k], Origin: l.origin[k], Revision: rev})
		}
	}
	slices.SortFunc(c.Items, func(a, b store.Change) int { return a.Key.Compare(b.Key) })
	return c
}

// Head is the newest revision.
func (l *Log) Head() resource.Revision { return l.head }

// view is a copy of the objects of a log, in key order.
type view struct {
	head    resource.Revision
	objects []*resource.Object
	byKey   map[resource.Key]*resource.Object
}

func (v view) Revision() resource.Revision { return v.head }
func (v view) At() store.Cursor            { return store.Cursor{Revision: v.head} }
func (v view) Epochs() []store.Epoch       { return nil }
func (v view) History() store.History      { return nil }

func (v view) Cursor(string) (store.Cursor, bool) { return store.Cursor{}, false }

func (v view) Get(k resource.Key) (*resource.Object, bool) {
	o, ok := v.byKey[k]
	return o, ok
}

func (v view) Scan(r store.Range) iter.Seq[*resource.Object] {
	return func(yield func(*resource.Object) bool) {
		for _, o := range v.objects {
			if r.Contains(o.Key) && !yield(o) {
				return
			}
		}
	}
}

func (v view) Count(r store.Range) int {
	n := 0
	for range v.Scan(r) {
		n++
	}
	return n
}

// Object is an object written as YAML.
type Object struct {
	Key     resource.Key
	Created time.Time
	Spec    proto.Message
}

// Parse reads a stream of YAML documents in the flat public form (type, mesh, name, creationTime and the
// spec's fields), with durations in seconds.
func Parse(text string) ([]Object, error) {
	table := resource.NewTable()
	d := yaml.NewDecoder(strings.NewReader(text))
	var out []Object
	for {
		var doc map[string]any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		var o Object
		take := func(key string) string {
			s, _ := doc[key].(string)
			delete(doc, key)
			return s
		}
		o.Key = resource.Key{Kind: resource.Kind(take("type")), Scope: take("mesh"), Name: take("name")}
		if created := take("creationTime"); created != "" {
			t, err := time.Parse(time.RFC3339, created)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", o.Key, err)
			}
			o.Created = t.UTC()
		}
		row, ok := table.ByKind(o.Key.Kind)
		if !ok {
			return nil, fmt.Errorf("%s: %w", o.Key, resource.ErrUnknownKind)
		}
		body, err := json.Marshal(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.Key, err)
		}
		o.Spec = row.New()
		if err := protojson.Unmarshal(body, o.Spec); err != nil {
			return nil, fmt.Errorf("%s: %w", o.Key, err)
		}
		out = append(out, o)
	}
}
