// Command zone-cp is the control plane of one zone.
package main

import (
	"os"

	"github.com/meridian-mesh/meridian/cmd/internal/cli"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/zonecp"
)

func main() {
	var resync bool
	load := func(src config.Source) (*config.Zone, []string, error) {
		c, warnings, err := config.LoadZone(src)
		if err == nil && resync {
			c.Multizone.Zone.KDS.Resync = true
		}
		return c, warnings, err
	}
	run := cli.ControlPlane("Run the zone control plane", load, zonecp.New)
	run.Flags().BoolVar(&resync, "resync", false, "begin anew with what the global control plane has, where the store is damaged or follows another one")
	os.Exit(cli.Main(cli.Root("zone-cp", "Meridian's zone control plane: configures the Envoys of one zone", run)))
}
