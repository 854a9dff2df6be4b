package ctl

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a command line with which nothing can be done. The exit status is 2, that of all other errors 1.
type usageError struct{ err error }

// Error implements error.
func (e usageError) Error() string { return e.err.Error() }

// Unwrap is for errors.Is.
func (e usageError) Unwrap() error { return e.err }

// ExitCode is the exit status.
func (usageError) ExitCode() int { return 2 }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// named takes as many arguments as the command's use names, and says which where there are more or fewer.
func named(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("%s: takes %s", c.CommandPath(), strings.TrimPrefix(c.Use, c.Name()+" "))
		}
		return nil
	}
}

func usage(err error) error {
	if err == nil {
		return nil
	}
	return usageError{err}
}

// group is a command that does nothing without one of its commands.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(commands...)
	return c
}

// noSuchCommand refuses arguments, since the first one is no command, and names those that are like it.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = max(c.SuggestionsMinimumDistance, 2)
	like := c.SuggestionsFor(args[0])
	if len(like) == 0 {
		return fmt.Errorf("%s: there is no command %q; %s --help lists them", c.CommandPath(), args[0], c.CommandPath())
	}
	return fmt.Errorf("%s: there is no command %q; is it %s?", c.CommandPath(), args[0], strings.Join(like, " or "))
}

// refuseUsage makes usage errors of what cobra refuses before a command runs.
func refuseUsage(c *cobra.Command) {
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, a []string) error { return usage(args(c, a)) }
	}
	if c.PreRunE == nil {
		c.PreRunE = func(c *cobra.Command, _ []string) error {
			if err := c.ValidateRequiredFlags(); err != nil {
				return usage(err)
			}
			return usage(c.ValidateFlagGroups())
		}
	}
	for _, sub := range c.Commands() {
		refuseUsage(sub)
	}
}
