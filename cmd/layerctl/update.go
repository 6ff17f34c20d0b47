package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/runtime"
)

func (a *app) renameCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rename CONTAINER NEW_NAME",
		Short:   "Give a container another name",
		Example: "  layerctl rename brave_clay7 work",
		Args:    exactArgs(2, "a container and its new name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, c, err := a.container(cmd, args[0])
			if err != nil {
				return err
			}
			return s.Rename(cmd.Context(), c, args[1])
		},
	}
}

func (a *app) updateCommand() *cobra.Command {
	var restart string
	cmd := a.eachContainer(&cobra.Command{
		Use:     "update [flags] CONTAINER...",
		Short:   "Change when containers are started again",
		Example: "  layerctl update --restart unless-stopped work",
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("restart") {
				return usagef("update: nothing to change: give --restart")
			}
			if _, err := runtime.ParseRestart(restart); err != nil {
				return usageError{err}
			}
			return nil
		},
	}, func(ctx context.Context, s *runtime.Store, c *runtime.Container) error {
		return s.SetRestart(ctx, c, restart)
	}, nil)
	cmd.Flags().StringVar(&restart, "restart", "", "no, on-failure[:N], always or unless-stopped")
	return cmd
}
