package restore

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// Command is the command line of File.
func Command() *cobra.Command {
	var workDir, keyFile string
	c := &cobra.Command{
		Use: "restore --work-dir DIR BACKUP", Short: "Make the store of a control plane that is not running out of a backup", Args: cobra.ExactArgs(1),
		Long: "Make the store of a control plane that is not running out of a backup, in a work directory that is empty or not yet\n" +
			"there. The backup's checksum is verified first. Secrets in it are encrypted with the store.key of the control plane\n" +
			"that it was taken from: name that file with --key-file, or put it beside the store before the start.",
		RunE: func(c *cobra.Command, args []string) error {
			if workDir == "" {
				return errors.New("--work-dir: is needed")
			}
			r, err := File(c.Context(), args[0], workDir, keyFile)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: revision %d, %d objects\n", r.Path, r.Revision, r.Objects)
			if err == nil && keyFile == "" {
				_, err = fmt.Fprintf(c.OutOrStdout(), "put the store.key that belongs to it into %s before the start\n", workDir)
			}
			return err
		},
	}
	c.Flags().StringVar(&workDir, "work-dir", "", "general.workDir of the control plane to be, empty or not yet there")
	c.Flags().StringVar(&keyFile, "key-file", "", "the store.key that belongs to the backup")
	return c
}
