package ctl

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp asks for the help of each command in both ways, and wants each flag explained.
func TestHelp(t *testing.T) {
	newRoot := func() *cobra.Command {
		root := &cobra.Command{Use: "meridianctl", SilenceErrors: true, SilenceUsage: true}
		AddCommands(root)
		return root
	}
	asked := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		for _, args := range [][]string{append(slices.Clone(path), "-h"), append(slices.Clone(path), "--help"), append([]string{"help"}, path...)} {
			var out, stderr bytes.Buffer
			root := newRoot()
			root.SetArgs(args)
			root.SetOut(&out)
			root.SetErr(&stderr)
			if err := root.Execute(); err != nil || !strings.Contains(out.String(), "Usage:\n  "+c.CommandPath()) || stderr.Len() > 0 {
				t.Errorf("%v: %v\n%s%s", args, err, out.String(), stderr.String())
			}
		}
		if c.HasParent() && c.Short == "" {
			t.Errorf("%s says not what it does", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s is not explained", c.CommandPath(), f.Name)
			}
		})
		asked++
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	t.Logf("%d commands", asked)
}
