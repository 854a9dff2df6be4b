// Command zone-dp runs one data plane proxy: Envoy, configured by the zone's control plane.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/cmd/internal/cli"
	"github.com/meridian-mesh/meridian/pkg/telemetry"
	"github.com/meridian-mesh/meridian/pkg/zonedp"
)

func main() {
	os.Exit(cli.Main(cli.Root("zone-dp", "Meridian's data plane proxy: Envoy, configured by the zone control plane", run())))
}

func run() *cobra.Command {
	var options zonedp.Options
	var level string
	c := &cobra.Command{Use: "run", Short: "Run Envoy", Args: cobra.NoArgs}
	fromEnvironment := options.Bind(c)
	c.Flags().StringVar(&level, "log-level", "info", "what to log: off, error, warn, info or debug")
	c.RunE = func(c *cobra.Command, _ []string) error {
		// While it waits for the control plane it must be able to say so: nothing is held back.
		log, err := telemetry.NewLogger(c.ErrOrStderr(), level)
		if err != nil {
			return err
		}
		if err := fromEnvironment(os.Environ()); err != nil {
			return err
		}
		p, err := zonedp.New(options, log, c.ErrOrStderr())
		if err != nil {
			return err
		}
		// It has the drain time to end, and it watches over its own steps.
		return cli.Serve(c.Context(), p, c.OutOrStdout(), cli.Hold(c.ErrOrStderr()), 0)
	}
	return c
}
