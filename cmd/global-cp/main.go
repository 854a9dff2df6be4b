// Command global-cp is the global control plane.
package main

import (
	"os"

	"github.com/meridian-mesh/meridian/cmd/internal/cli"
	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/globalcp"
)

func main() {
	run := cli.ControlPlane("Run the global control plane", config.LoadGlobal, globalcp.New)
	os.Exit(cli.Main(cli.Root("global-cp", "Meridian's global control plane: keeps the configuration and hands it to the zones", run)))
}
