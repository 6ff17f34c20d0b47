package main

import (
	"context"
	"fmt"

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
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			c, err := containers.Lookup(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("rename: %w", err)
			}
			return containers.Rename(cmd.Context(), c, args[1])
		},
	}
}

func (a *app) updateCommand() *cobra.Command {
	var restart string
	cmd := &cobra.Command{
		Use:     "update [flags] CONTAINER...",
		Short:   "Change when containers are started again",
		Example: "  layerctl update --restart unless-stopped work",
		Args:    minArgs(1, "at least one container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("restart") {
				return usagef("update: nothing to change: give --restart")
			}
			if _, err := runtime.ParseRestart(restart); err != nil {
				return usageError{err}
			}
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			return a.each(cmd, args, func(ctx context.Context, name string) error {
				c, err := containers.Lookup(ctx, name)
				if err != nil {
					return fmt.Errorf("update: %w", err)
				}
				if err := containers.SetRestart(ctx, c, restart); err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, name)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&restart, "restart", "", "no, on-failure[:N], always or unless-stopped")
	return cmd
}
