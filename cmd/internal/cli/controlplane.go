package cli

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/meridian-mesh/meridian/pkg/config"
	"github.com/meridian-mesh/meridian/pkg/telemetry"
)

// stopTime is how long a control plane may take to end; it promises five seconds.
const stopTime = 4500 * time.Millisecond

// ControlPlane makes the command run of a control plane: load reads its configuration, start makes it.
func ControlPlane[C any, P Process](
	short string,
	load func(config.Source) (C, []string, error),
	start func(context.Context, C, *slog.Logger) (P, error),
) *cobra.Command {
	var file, level string
	c := &cobra.Command{
		Use: "run", Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			held := Hold(c.ErrOrStderr())
			log, err := telemetry.NewLogger(held, level)
			if err != nil {
				return err
			}
			cfg, warnings, err := load(config.Source{File: file, Environ: os.Environ()})
			if err != nil {
				return err
			}
			for _, w := range warnings {
				log.Warn(w)
			}
			p, err := start(c.Context(), cfg, log)
			if err != nil {
				return err
			}
			return Serve(c.Context(), p, c.OutOrStdout(), held, stopTime)
		},
	}
	c.Flags().StringVarP(&file, "config-file", "c", "", "configuration file (YAML)")
	c.Flags().StringVar(&level, "log-level", "info", "what to log: off, error, warn, info or debug")
	return c
}
