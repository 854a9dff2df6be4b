// Command meridianctl speaks with a control plane's REST API.
package main

import (
	"os"

	"github.com/meridian-mesh/meridian/cmd/internal/cli"
	"github.com/meridian-mesh/meridian/pkg/ctl"
	"github.com/meridian-mesh/meridian/pkg/restore"
)

func main() {
	root := cli.Root("meridianctl", "Meridian's command line: read and write resources, make tokens, look at zones and proxies")
	ctl.AddCommands(root, restore.Command())
	os.Exit(cli.Main(root))
}
