package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "demo", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return errors.New("unfinished") },
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the lab running")
	return cmd
}
