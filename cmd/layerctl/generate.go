package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

func (a *app) generateSystemdCommand() *cobra.Command {
	var o runtime.UnitOptions
	var files, fresh bool
	cmd := &cobra.Command{
		Use:   "systemd [flags] CONTAINER",
		Short: "Make a systemd unit that starts a container at boot",
		Long: `Print a systemd unit for a container, or write it to a file. There is no daemon that starts containers at boot: systemd does, by "layerctl
start", and stops them by "layerctl stop". The service lives as long as the container and ends with its status; its output is
shown by "layerctl logs".

Either systemd or the container's own monitor starts it again when it has ended: where the container has a restart policy
(run --restart), the unit has none. "layerctl stop" by hand ends the service, too; "on-failure" does not start it again then.`,
		Example: `  layerctl create --name web debian python3 -m http.server
  layerctl generate systemd -n web > /etc/systemd/system/container-web.service
  systemctl daemon-reload && systemctl enable --now container-web.service`,
		Args: exactArgs(1, "a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fresh {
				return start.Hinted(fmt.Errorf("generate systemd: %w", runtime.Refuse("--new")),
					"the unit starts the container that is here, and it keeps what it wrote; for a fresh one write \"layerctl run --rm\" into a unit")
			}
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			c, err := containers.Lookup(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("generate systemd: %w", err)
			}
			program, err := os.Executable()
			if err != nil {
				return fmt.Errorf("generate systemd: %w", err)
			}
			o.Program, o.Dirs = []string{program}, []string{a.Root}
			// systemd's environment is not the caller's.
			if a.Root != start.DefaultRoot {
				o.Program = append(o.Program, "--root", a.Root)
			}
			if a.RunRoot != start.DefaultRunRoot {
				o.Program = append(o.Program, "--run-root", a.RunRoot)
			}
			name, text, err := containers.Unit(cmd.Context(), c, o)
			if err != nil {
				return err
			}
			if !files {
				fmt.Fprint(a.stdout, text)
				return nil
			}
			path, err := filepath.Abs(name)
			if err == nil {
				err = snapshot.WriteFile(path, []byte(text), true)
			}
			if err != nil {
				return fmt.Errorf("generate systemd: %w", err)
			}
			fmt.Fprintln(a.stdout, path)
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Names, "name", "n", false, "call containers by name, in the unit and in its file's name (default: by ID)")
	f.BoolVarP(&files, "files", "f", false, "write the unit to a file in the working directory and print its path")
	f.StringVar(&o.Restart, "restart-policy", "", "systemd's Restart= (default: on-failure, or no where the container has a policy of its own)")
	f.BoolVar(&fresh, "new", false, "refused: make a new container at each start")
	return cmd
}
