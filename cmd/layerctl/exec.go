package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
)

func (a *app) execCommand() *cobra.Command {
	var x start.Exec
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run a command in a running container",
		Long: `Run a command in a running container, beside what runs there: in all its namespaces and cgroups, over its files, with its
environment, user and working directory where no flag says otherwise.

Signals go to the command. It ends with the container, and with this program; with -d it goes on in the background. The keys Ctrl-P Ctrl-Q leave
a command with a terminal running; nobody can come back to it. Where the terminal goes away, the command's is hung up.

The exit status is the command's own; 125 when layerctl failed, 126 when the command could not be invoked, 127 when it was not found.`,
		Example: `  layerctl exec work ls -l /
  layerctl exec -i work sh < script
  layerctl exec -it work bash
  layerctl exec -u nobody -w /tmp -e LANG=C work env`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := x.Check(args); err != nil {
				return err
			}
			x.Globals = a.Globals
			// From here on the signals are the command's. Letting go of them cancels the context, which is not meant.
			a.stopSignals()
			code, err := x.Execute(context.WithoutCancel(cmd.Context()), args)
			if err == nil && code != 0 {
				err = exitStatus(code)
			}
			return err
		},
	}
	register(cmd.Flags(), x.Flags())
	cmd.Flags().SetInterspersed(false)
	return cmd
}
