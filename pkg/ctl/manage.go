package ctl

import "github.com/spf13/cobra"

func (t *tool) manage() *cobra.Command { return group("manage", "Manage certificate authorities") }
