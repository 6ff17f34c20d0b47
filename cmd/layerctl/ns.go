package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/procfs"
)

func (a *app) nsCommand() *cobra.Command {
	var noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "ns [flags] [CONTAINER...]",
		Short: "Show the namespaces of containers, who shares them, and the processes in them",
		Long: `ns shows each namespace of a container: its type and inode (the name that /proc/PID/ns has for it), who else is in it, how many of the
container's processes are, and the command that enters it; then the processes, with their numbers on the host and in the container.
Without names it shows all containers that run.`,
		Example: "  layerctl ns\n  layerctl ns web\n  layerctl ns --format '{{range .Namespaces}}{{.Type}} {{.Inode}}{{println}}{{end}}' web",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			list, failed := containers.List(cmd.Context(), false) // with an error, those that can be read
			if failed != nil {
				failed = fmt.Errorf("ns: %w", failed)
			}
			var running []procfs.Container
			for _, c := range list {
				if c.State.Pid != 0 {
					running = append(running, alive(&c))
				}
			}
			of := running
			if len(args) > 0 {
				of = nil
				failed = a.each(cmd, args, func(ctx context.Context, name string) error {
					c, err := runningContainer(cmd, containers, name)
					if err == nil {
						of = append(of, alive(c))
					}
					return err
				})
			}
			found := procfs.ListNamespaces(of, running)
			for i := range found {
				found[i].ID = shortID(found[i].ID, noTrunc)
			}
			if format == "" {
				err = a.printNamespaces(found, noTrunc)
			} else {
				err = printList(a.stdout, format, nil, found)
			}
			if err != nil {
				return err
			}
			return failed
		},
	}
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "do not shorten IDs and commands")
	cmd.Flags().StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

// alive is a running container as procfs looks at it.
func alive(c *runtime.Container) procfs.Container {
	return procfs.Container{ID: c.ID, Name: c.Name, Pid: c.State.Pid}
}

// runningContainer finds a container whose processes are to be looked at.
func runningContainer(cmd *cobra.Command, containers *runtime.Store, name string) (*runtime.Container, error) {
	c, err := lookUp(cmd, containers, name)
	if err == nil && c.State.Pid == 0 {
		err = fmt.Errorf("%s: container %s is not running: it is %s", cmd.Name(), c.Name, c.State.Status)
	}
	return c, err
}

// A container's namespaces and its processes as lines of two tables.
type (
	nsRow      struct{ Namespace, Inode, Shared, Processes, Enter string }
	processRow struct{ Pid, ContainerPid, UID, Command string }
)

func (a *app) printNamespaces(found []procfs.Namespaces, noTrunc bool) error {
	for i, n := range found {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		fmt.Fprintf(a.stdout, "%s (%s): `%s` enters it\n\n", n.Name, n.ID, n.Enter)
		var spaces []nsRow
		for _, s := range n.Namespaces {
			enter := s.Enter
			if enter == "" {
				enter = "-"
			}
			spaces = append(spaces, nsRow{s.Type, strconv.FormatUint(s.Inode, 10), sharers(s), strconv.Itoa(len(s.Processes)), enter})
		}
		if err := printList(a.stdout, "", []column{{"NAMESPACE", "Namespace"}, {"INODE", "Inode"}, {"SHARED WITH", "Shared"},
			{"PROCESSES", "Processes"}, {"ENTERED BY", "Enter"}}, spaces); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
		var processes []processRow
		for _, p := range n.Processes {
			row := processRow{strconv.Itoa(p.Pid), "-", strconv.Itoa(p.UID), p.Command}
			if p.ContainerPid != 0 {
				row.ContainerPid = strconv.Itoa(p.ContainerPid)
			}
			if r := []rune(row.Command); !noTrunc && len(r) > 60 {
				row.Command = string(r[:59]) + "…"
			}
			processes = append(processes, row)
		}
		if err := printList(a.stdout, "", []column{{"PID", "Pid"}, {"IN CONTAINER", "ContainerPid"}, {"UID", "UID"}, {"COMMAND", "Command"}}, processes); err != nil {
			return err
		}
	}
	return nil
}

// sharers says who else is in a namespace. What is the host's, most containers share.
func sharers(s procfs.Namespace) string {
	if s.Host {
		return "host"
	}
	with := append([]string(nil), s.Containers...)
	for _, pid := range s.Others {
		with = append(with, fmt.Sprintf("process %d", pid))
	}
	if len(with) == 0 {
		return "-"
	}
	return strings.Join(with, ", ")
}

func (a *app) topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [PS OPTIONS...]",
		Short: "Show the processes of a container, as ps(1) does",
		Long: `top runs the host's ps with the options that follow the container's name (-ef without any) and shows what it prints of the container's
processes. Their numbers are the host's; ` + "`layerctl ns`" + ` shows those inside, too.`,
		Example: "  layerctl top web\n  layerctl top web aux\n  layerctl top web -o pid,pcpu,args",
		Args:    minArgs(1, "a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			c, err := runningContainer(cmd, containers, args[0])
			if err != nil {
				return err
			}
			titles, rows, err := procfs.Top(cmd.Context(), alive(c).Pids(), strings.Fields(strings.Join(args[1:], " ")))
			if err != nil {
				return fmt.Errorf("top %s: %w", c.Name, err)
			}
			tw := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
			printCells(tw, titles)
			for _, row := range rows {
				printCells(tw, row)
			}
			return tw.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func printCells(w io.Writer, cells []string) {
	line := make([]string, len(cells))
	for i, c := range cells {
		line[i] = start.OneLine(c)
	}
	fmt.Fprintln(w, strings.Join(line, "\t"))
}
