package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/runtime"
)

// psRow is a line of `ps`, in Docker's field names.
type psRow struct {
	ID         string
	Image      string
	Command    string
	CreatedAt  string
	RunningFor string
	State      string
	Status     string
	Names      string
}

func (a *app) psCommand() *cobra.Command {
	var all, quiet, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:     "ps [flags]",
		Short:   "List containers",
		Example: "  layerctl ps -a\n  layerctl ps -a --format '{{.Names}} {{.Status}}'",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			list, err := containers.List(cmd.Context(), all)
			if err != nil {
				return err
			}
			rows := make([]psRow, 0, len(list))
			for _, c := range list {
				if quiet {
					fmt.Fprintln(a.stdout, shortID(c.ID, noTrunc))
					continue
				}
				rows = append(rows, psRowOf(c, noTrunc))
			}
			if quiet {
				return nil
			}
			return printList(a.stdout, format, []column{
				{"CONTAINER ID", "ID"}, {"IMAGE", "Image"}, {"COMMAND", "Command"}, {"CREATED", "RunningFor"},
				{"STATUS", "Status"}, {"NAMES", "Names"},
			}, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "show the ones that have exited, too")
	f.BoolVarP(&quiet, "quiet", "q", false, "print only IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten IDs and commands")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

func psRowOf(c runtime.Container, noTrunc bool) psRow {
	command := strings.Join(c.Command, " ")
	if !noTrunc && len([]rune(command)) > 20 {
		command = string([]rune(command)[:19]) + "…"
	}
	img := c.Image.Name
	if c.RootFS != "" {
		img = c.RootFS
	}
	return psRow{
		ID: shortID(c.ID, noTrunc), Image: img, Command: fmt.Sprintf("%q", command), CreatedAt: timestamp(c.Created),
		RunningFor: ago(c.Created), State: string(c.State.Status), Status: statusText(c.State), Names: c.Name,
	}
}

// statusText says a state as Docker's STATUS column does.
func statusText(s runtime.State) string {
	switch s.Status {
	case runtime.StatusRunning:
		return "Up " + humanDuration(time.Since(s.StartedAt))
	case runtime.StatusExited:
		if s.FinishedAt.IsZero() {
			return fmt.Sprintf("Exited (%d)", s.ExitCode)
		}
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.FinishedAt))
	}
	return "Created"
}

func (a *app) rmCommand() *cobra.Command {
	var force, volumes bool
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
				c, err := containers.Lookup(ctx, name)
				if err != nil {
					err = fmt.Errorf("rm: %w", err)
					if force && errors.Is(err, runtime.ErrNotFound) {
						a.report(err)
						return nil
					}
					return err
				}
				if err := containers.Remove(ctx, c, force); err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, name)
				return nil
			})
		},
	}
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
