package insight

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// CloseLeftovers ends what earlier instances of this control plane left open in the status log of their own
// store: the subscriptions of proxies and zones, and the rows of proxies that were connected. It is called
// before anything listens, when no session can be this instance's own, so it ends all of them. What came from
// a peer's store is the peer's to end. It writes nothing where nothing is left over.
func CloseLeftovers(ctx context.Context, s store.Store, instance string, now time.Time) error {
	b := store.Batch{Author: store.Author{Who: "insight", Request: instance}}
	view, config := s.Status().View(), s.Config().View()
	end := timestamppb.New(now)
	put := func(o *resource.Object, m proto.Message) error {
		spec, err := resource.Encode(m)
		if err != nil {
			return fmt.Errorf("close leftovers: %s: %w", o.Key, err)
		}
		b.Puts = append(b.Puts, store.Put{Key: o.Key, Origin: o.Origin, Spec: spec})
		return nil
	}

	for o := range local(view, resource.KindDataplaneInsight) {
		if _, ok := config.Get(dataplane(o.Key)); !ok {
			b.Deletes = append(b.Deletes, o.Key)
			continue
		}
		stored, err := resource.Decode[meshv1.DataplaneInsight](o)
		if err != nil {
			// What can't be read can't be continued either.
			b.Deletes = append(b.Deletes, o.Key)
			continue
		}
		m, open := proto.CloneOf(stored), false
		for _, sub := range m.Subscriptions {
			if sub.DisconnectTime == nil {
				sub.DisconnectTime, open = end, true
			}
		}
		if m.Rejected > 0 {
			m.Rejected, m.Rejections, open = 0, nil, true // what is still refused will be told again
		}
		if open {
			if err := put(o, m); err != nil {
				return err
			}
		}
	}
	for o := range local(view, resource.KindZoneInsight) {
		stored, err := resource.Decode[systemv1.ZoneInsight](o)
		if err != nil {
			b.Deletes = append(b.Deletes, o.Key)
			continue
		}
		m, open := proto.CloneOf(stored), false
		for _, sub := range m.Subscriptions {
			if sub.DisconnectTime == nil {
				sub.DisconnectTime, open = end, true
			}
		}
		if open {
			if err := put(o, m); err != nil {
				return err
			}
		}
	}
	for _, kind := range []resource.Kind{resource.KindProxyPosition, resource.KindProxyRejection} {
		for o := range local(view, kind) {
			b.Deletes = append(b.Deletes, o.Key)
		}
	}
	if o, ok := view.Get(self); ok && o.Origin == resource.Local {
		stored, err := resource.Decode[systemv1.ZonePosition](o)
		if err != nil {
			b.Deletes = append(b.Deletes, o.Key)
		} else if stored.Lagging > 0 || stored.Rejected > 0 {
			m := proto.CloneOf(stored)
			m.Lagging, m.Rejected = 0, 0
			if err := put(o, m); err != nil {
				return err
			}
		}
	}

	if len(b.Puts)+len(b.Deletes) == 0 {
		return nil
	}
	if _, err := s.Status().Apply(ctx, b); err != nil {
		return fmt.Errorf("close leftovers: %w", err)
	}
	return nil
}

// self is the row of the own zone.
var self = resource.Key{Kind: resource.KindZonePosition, Name: "self"} //nolint:gochecknoglobals // never changes

// local yields the objects of a kind that were born in this store.
func local(v store.View, k resource.Kind) func(func(*resource.Object) bool) {
	return func(yield func(*resource.Object) bool) {
		for o := range v.Scan(store.OfKind(k)) {
			if o.Origin == resource.Local && !yield(o) {
				return
			}
		}
	}
}

// dataplane, insightOf and positionOf are the keys of what is named like a dataplane.
func dataplane(k resource.Key) resource.Key  { return named(resource.KindDataplane, k) }
func insightOf(k resource.Key) resource.Key  { return named(resource.KindDataplaneInsight, k) }
func positionOf(k resource.Key) resource.Key { return named(resource.KindProxyPosition, k) }

func named(kind resource.Kind, k resource.Key) resource.Key {
	return resource.Key{Kind: kind, Scope: k.Scope, Name: k.Name}
}
