package zonecp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/controlplane"
	"github.com/meridian-mesh/meridian/pkg/store"
	"github.com/meridian-mesh/meridian/pkg/store/sqlite"
)

// open opens what every control plane has. A zone with a damaged store can do without it: what it had from the global
// control plane comes again. It says so, and does so where it is told to.
func open(ctx context.Context, c *config.Zone, log *slog.Logger) (*controlplane.Base, error) {
	base, err := controlplane.New(ctx, c.General, c.Store, log)
	if !errors.Is(err, store.ErrCorrupt) || c.Mode == config.ModeStandalone {
		return base, err
	}
	if !c.Multizone.Zone.KDS.Resync {
		return nil, fmt.Errorf("%w; this zone can begin anew with what the global control plane has: start it once with --resync (multizone.zone.kds.resync)", err)
	}
	aside, asideErr := sqlite.SetAside(c.Store.SQLite.Path)
	if asideErr != nil {
		return nil, errors.Join(err, asideErr)
	}
	log.WarnContext(ctx, "the damaged store is set aside, and the zone begins anew: its policies come from the global control plane, and "+
		"dataplanes that proxies bring with them come back with these; those that were registered in this zone are lost, and so are the keys "+
		"that were made here, with the dataplane tokens that they signed", "reason", err, "aside", aside)
	return controlplane.New(ctx, c.General, c.Store, log)
}
