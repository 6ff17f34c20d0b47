package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/runtime"
)

// containerCommands are Docker's commands under "container": those that there are without that word, and ls.
func (a *app) containerCommands() []*cobra.Command {
	ls := a.psCommand()
	ls.Use, ls.Aliases = "ls [flags]", []string{"list", "ps"}
	ls.Example = "  layerctl container ls -a"
	return append(a.lifeCommands(), ls, a.containerInspectCommand(), a.containerPruneCommand(), a.runCommand(), a.execCommand(), a.rmCommand(), a.topCommand(),
		a.statsCommand(), a.renameCommand(), a.updateCommand(), a.portCommand(), a.logsCommand(), a.cpCommand(), a.exportCommand(), a.commitCommand(), a.diffCommand())
}

func (a *app) portCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PORT[/PROTO]]",
		Short: "List the ports that a container publishes: none, for containers have no networks of their own yet",
		Args:  rangeArgs(1, 2, "a container and perhaps a port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, c, err := a.container(cmd, args[0])
			if err != nil {
				return err
			}
			if len(args) > 1 {
				return fmt.Errorf("port: container %s does not publish %s", c.Name, args[1])
			}
			fmt.Fprintf(a.stderr, "layerctl: container %s publishes no ports\n", c.Name)
			return nil
		},
	}
}

func (a *app) rmCommand() *cobra.Command {
	var force, volumes, explain bool
	cmd := &cobra.Command{
		Use:     "rm [flags] CONTAINER...",
		Short:   "Remove containers and what they wrote",
		Example: "  layerctl rm work\n  layerctl rm -f $(layerctl ps -aq)",
		Args:    minArgs(1, "at least one container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			return a.each(cmd, args, func(ctx context.Context, name string) error {
				c, err := lookUp(cmd, containers, name)
				switch {
				case force && errors.Is(err, runtime.ErrNotFound):
					a.report(err) // what scripts wanted is so
					return nil
				case err != nil:
					return err
				case explain:
					return containers.ExplainRemove(ctx, c, force, a.stdout)
				}
				if err := containers.Remove(ctx, c, force); err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, name)
				return nil
			})
		},
	}
	explainFlag(cmd, &explain)
	cmd.Flags().BoolVarP(&force, "force", "f", false, "end a running container first")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "its anonymous volumes, too; there are none yet, so that nothing is left")
	return cmd
}

// each does one thing to each name, goes on after a failure, and fails if one failed: what scripts know from docker rm and rmi.
func (a *app) each(cmd *cobra.Command, names []string, do func(context.Context, string) error) error {
	failed := false
	for _, name := range names {
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		if err := do(cmd.Context(), name); err != nil {
			a.report(withHint(err, cmd))
			failed = true
		}
	}
	if failed {
		return exitStatus(1)
	}
	return nil
}
