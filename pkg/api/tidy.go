package api

import (
	"context"
	"fmt"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// ForgetDeletedZones drops what was observed of zones that are no more. The deletion of a zone does so itself, but
// in the log of what is observed, after it is answered for: a process that ends in between leaves it. It is for the
// assembly of the global control plane to call at the start, before zones are served; it costs one walk.
func (s *Service) ForgetDeletedZones(ctx context.Context) error {
	config, log := s.Store.Config().View(), s.Store.Status()
	gone := func(zone string) bool {
		_, there := config.Get(resource.Key{Kind: resource.KindZone, Name: zone})
		return !there
	}
	b := store.Batch{Author: store.Author{Who: "start"}}
	observed := log.View()
	for o := range observed.Scan(store.Everything()) {
		switch {
		case o.Origin != resource.Local && gone(string(o.Origin)),
			o.Key.Kind == resource.KindZoneInsight && gone(o.Key.Name):
			b.Deletes = append(b.Deletes, o.Key)
		}
	}
	for peer := range observed.History().Cursors() {
		if gone(peer) {
			b.Forget = append(b.Forget, peer)
		}
	}
	if len(b.Deletes)+len(b.Forget) == 0 {
		return nil
	}
	if _, err := log.Apply(ctx, b); err != nil {
		return fmt.Errorf("forget what was observed of deleted zones: %w", err)
	}
	return nil
}
