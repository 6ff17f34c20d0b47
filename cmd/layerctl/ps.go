package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// psRow is a line of `ps`, in Docker's field names.
type psRow struct {
	Command      string
	CreatedAt    string
	ID           string
	Image        string
	Labels       string
	LocalVolumes string
	Mounts       string
	Names        string
	Networks     string
	Ports        string
	RunningFor   string
	Size         string `json:",omitempty"` // where it was asked for
	State        string
	Status       string

	LabelValues map[string]string `json:"-"`
}

// Label is the value of one of the container's labels, for templates.
func (r psRow) Label(name string) string { return r.LabelValues[name] }

type psOptions struct {
	all, quiet, noTrunc, size, latest bool
	last                              int
	format                            string
	filters                           []string
}

func (a *app) psCommand() *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:   "ps [flags]",
		Short: "List containers",
		Long: `List containers, newest first: those that run, or all with --all.

Filters are KEY=VALUE. Of several with one key one must hold, of label all; of different keys, all.
  id, name           a part of the ID or of the name, as a regular expression
  label              KEY or KEY=VALUE
  status             created, running, paused, restarting, exited or dead; all containers are looked at
  exited             the exit status of those that have ended
  ancestor           an image that the container's image is or stands on
  before, since      a container that was made later, or earlier
  network            none or host`,
		Example: "  layerctl ps -a\n  layerctl ps -a --format '{{.Names}} {{.Status}}'\n  layerctl ps -q --filter label=job --filter status=exited",
		Args:    exactArgs(0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.ps(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "show the ones that do not run, too")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print only IDs")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten IDs and commands")
	f.BoolVarP(&o.size, "size", "s", false, "show how much they have written (and with the image's files)")
	f.BoolVarP(&o.latest, "latest", "l", false, "show the one that was made last")
	f.IntVarP(&o.last, "last", "n", -1, "show the `N` that were made last")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "only those for which KEY=VALUE holds")
	f.StringVar(&o.format, "format", "", "a Go template, or json")
	return cmd
}

func (a *app) ps(ctx context.Context, o psOptions) error {
	images, snaps, containers, err := a.stores()
	if err != nil {
		return err
	}
	if o.latest {
		o.last = 1
	}
	filter, err := parsePsFilter(o.filters)
	if err != nil {
		return err
	}
	// Settled before the list is read: a container's record is only read once.
	if err := filter.resolve(ctx, images, snaps, containers); err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	debug.SetGCPercent(400) // the list lasts as long as the command: who collects garbage finds little
	list, unread := containers.List(ctx, o.all || o.last > 0 || filter.all)
	o.size = o.size || strings.Contains(o.format, ".Size")
	sizes := sizer{snaps: snaps, images: map[string]int64{}}
	rows := make([]psRow, 0, len(list))
	for _, c := range list {
		if o.last > 0 && len(rows) == o.last {
			break
		}
		if !filter.match(&c) {
			continue
		}
		row := psRowOf(c, o.noTrunc)
		if o.size && !o.quiet {
			if row.Size, err = sizes.of(ctx, &c); err != nil {
				return fmt.Errorf("ps: %w", err)
			}
		}
		rows = append(rows, row)
	}
	columns := []column{{"CONTAINER ID", "ID"}, {"IMAGE", "Image"}, {"COMMAND", "Command"}, {"CREATED", "RunningFor"},
		{"STATUS", "Status"}, {"PORTS", "Ports"}, {"NAMES", "Names"}}
	if o.size {
		columns = append(columns, column{"SIZE", "Size"})
	}
	if o.quiet {
		o.format = "{{.ID}}"
	}
	if err := printList(a.stdout, o.format, columns, rows); err != nil {
		return err
	}
	if unread != nil {
		return fmt.Errorf("ps: %w", unread)
	}
	return nil
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
	labels := make([]string, 0, len(c.Labels))
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		labels = append(labels, k+"="+c.Labels[k])
	}
	return psRow{
		ID: shortID(c.ID, noTrunc), Image: img, Command: fmt.Sprintf("%q", command), CreatedAt: timestamp(c.Created),
		RunningFor: ago(c.Created), State: string(c.State.Status), Status: statusText(c.State), Names: c.Name,
		Labels: strings.Join(labels, ","), LabelValues: c.Labels, Networks: c.Network, LocalVolumes: "0",
	}
}

// statusText says a state as Docker's STATUS column does.
func statusText(s runtime.State) string {
	up := "Up " + humanDuration(time.Since(s.StartedAt))
	switch s.Status {
	case runtime.StatusRunning:
		return up
	case runtime.StatusPaused:
		return up + " (Paused)"
	case runtime.StatusRestarting:
		return fmt.Sprintf("Restarting (%d) %s", s.ExitCode, ago(s.FinishedAt))
	case runtime.StatusExited:
		if s.FinishedAt.IsZero() {
			return fmt.Sprintf("Exited (%d)", s.ExitCode)
		}
		return fmt.Sprintf("Exited (%d) %s", s.ExitCode, ago(s.FinishedAt))
	case runtime.StatusDead:
		return "Dead"
	}
	return "Created"
}

// sizer finds out how large containers are; what an image has is asked once.
type sizer struct {
	snaps  *snapshot.Store
	images map[string]int64 // by chain
}

// sizeOf are the bytes of the files that the container has written, and of those and its image's.
func (s *sizer) bytes(ctx context.Context, c *runtime.Container) (written, all int64, err error) {
	if written, err = s.snaps.Written(ctx, c.Key()); err != nil || c.RootFS != "" {
		return written, written, err
	}
	below, known := s.images[c.Image.Chain]
	if !known {
		trees, err := s.snaps.Chain(ctx, c.Image.Chain)
		if err != nil {
			return written, written, err
		}
		for _, t := range trees {
			below += t.Usage.Size
		}
		s.images[c.Image.Chain] = below
	}
	return written, written + below, nil
}

func (s *sizer) of(ctx context.Context, c *runtime.Container) (string, error) {
	written, all, err := s.bytes(ctx, c)
	if errors.Is(err, snapshot.ErrNotFound) { // removed meanwhile
		return "0B", nil
	}
	if c.RootFS != "" {
		return humanSize(written), err
	}
	return humanSize(written) + " (virtual " + humanSize(all) + ")", err
}
