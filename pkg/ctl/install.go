package ctl

import "github.com/spf13/cobra"

func (t *tool) install() *cobra.Command { return group("install", "x") }
func uninstall() *cobra.Command         { return group("uninstall", "x") }
