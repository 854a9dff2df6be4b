// Command zone-cp is the control plane of one zone.
package main

import (
	"os"

	"github.com/meridian-mesh/meridian/cmd/internal/cli"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/zonecp"
)

func main() {
	run := cli.ControlPlane("Run the zone control plane", config.LoadZone, zonecp.New)
	os.Exit(cli.Main(cli.Root("zone-cp", "Meridian's zone control plane: configures the Envoys of one zone", run)))
}
