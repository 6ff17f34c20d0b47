package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

func (a *app) inspectCommand() *cobra.Command {
	var kind, format string
	cmd := &cobra.Command{
		Use:     "inspect [flags] NAME|ID...",
		Short:   "Show all there is to know of images, containers, layers and snapshots, as JSON",
		Example: "  layerctl inspect debian\n  layerctl inspect --type container --format '{{.State.ExitCode}}' work\n  layerctl inspect --type layer debian#1",
		Args:    minArgs(1, "at least one name or ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch kind {
			case "", "image", "container", "layer", "snapshot":
			default:
				return usagef("--type %s: want image, container, layer or snapshot", kind)
			}
			images, snaps, containers, err := a.stores()
			if err != nil {
				return err
			}
			in := inspector{images, snaps, containers}
			var found []any
			var failed error
			for _, name := range args {
				v, err := in.inspect(cmd.Context(), kind, name)
				if err != nil {
					failed = errors.Join(failed, err)
					continue
				}
				found = append(found, v)
			}
			if len(found) > 0 {
				if err := printDocument(a.stdout, format, found, found...); err != nil {
					return err
				}
			}
			return failed
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "type", "", "image, container, layer or snapshot (default: the first of container, image, snapshot and layer that has the name)")
	f.StringVarP(&format, "format", "f", "", "a Go template")
	return cmd
}

type inspector struct {
	images     *image.Store
	snaps      *snapshot.Store
	containers *runtime.Store
}

func (in inspector) inspect(ctx context.Context, kind, name string) (any, error) {
	if kind == "" || kind == "container" {
		c, err := in.containers.Lookup(ctx, name)
		if err == nil {
			return in.container(ctx, c)
		}
		if kind != "" || !errors.Is(err, runtime.ErrNotFound) {
			return nil, fmt.Errorf("inspect: %w", err)
		}
	}
	if kind == "" || kind == "image" {
		d, err := in.images.Inspect(ctx, name)
		if err == nil {
			return d, nil
		}
		if kind != "" || !errors.Is(err, image.ErrNotFound) {
			return nil, err
		}
	}
	if kind == "" || kind == "snapshot" {
		d, err := in.snapshot(ctx, name)
		if err == nil {
			return d, nil
		}
		if kind != "" || !errors.Is(err, snapshot.ErrNotFound) {
			return nil, fmt.Errorf("inspect: %w", err)
		}
	}
	d, err := in.images.InspectLayer(ctx, name)
	if kind == "" && (errors.Is(err, image.ErrNoLayer) || errors.Is(err, image.ErrNotFound)) && !strings.Contains(name, "#") {
		return nil, start.Hinted(fmt.Errorf("inspect %s: no such image, container, layer or snapshot", name), "`layerctl images`, `layerctl ps -a` and `layerctl layers IMAGE` list what is here")
	}
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	return d, nil
}

// snapshotDetails is what inspect shows of a snapshot.
type snapshotDetails struct {
	snapshot.Info
	Usage       snapshot.Usage
	GraphDriver struct {
		Name string
		Data map[string]string
	}
}

func (in inspector) snapshot(ctx context.Context, name string) (d snapshotDetails, err error) {
	if d.Info, err = in.snaps.Stat(ctx, name); err != nil {
		return d, err
	}
	if d.Usage, err = in.snaps.Usage(ctx, name); err != nil {
		return d, err
	}
	d.GraphDriver.Name, d.GraphDriver.Data = "overlay", map[string]string{}
	if d.Kind == snapshot.KindCommitted {
		trees, err := in.snaps.Chain(ctx, name)
		if err != nil {
			return d, err
		}
		var dirs []string
		for _, t := range slices.Backward(trees) {
			dirs = append(dirs, t.Dir+"/fs")
		}
		d.GraphDriver.Data["LowerDir"] = strings.Join(dirs, ":")
		return d, nil
	}
	lowers, upper, err := in.snaps.Lowers(ctx, name)
	d.GraphDriver.Data["LowerDir"] = strings.Join(lowers, ":")
	if d.Kind == snapshot.KindActive {
		d.GraphDriver.Data["UpperDir"] = upper
	}
	return d, err
}

// containerDetails is what inspect shows of a container, in Docker's field names.
type containerDetails struct {
	ID      string `json:"Id"`
	Name    string
	Created string
	Path    string
	Args    []string
	State   struct {
		Status     string
		Running    bool
		Pid        int
		ExitCode   int
		Error      string
		StartedAt  string
		FinishedAt string
	}
	Image  string // the image's ID
	Config struct {
		Hostname    string
		User        string
		Tty         bool
		OpenStdin   bool
		Env         []string
		Cmd         []string
		Image       string
		WorkingDir  string
		Entrypoint  []string
		Labels      map[string]string
		StopSignal  string
		StopTimeout int
	}
	HostConfig struct {
		NetworkMode string
		AutoRemove  bool
	}
	RootFS      string `json:",omitempty"`
	GraphDriver struct {
		Name string
		Data map[string]string
	}
}

func (in inspector) container(ctx context.Context, c *runtime.Container) (containerDetails, error) {
	const stamp = "2006-01-02T15:04:05.999999999Z07:00"
	d := containerDetails{ID: c.ID, Name: c.Name, Created: c.Created.Format(stamp), Path: c.Command[0], Args: c.Command[1:],
		Image: c.Image.ID, RootFS: c.RootFS}
	d.State.Status, d.State.Running, d.State.Pid = string(c.State.Status), c.State.Running(), c.State.Pid
	d.State.ExitCode, d.State.Error = c.State.ExitCode, c.State.Error
	d.State.StartedAt, d.State.FinishedAt = c.State.StartedAt.Format(stamp), c.State.FinishedAt.Format(stamp)
	d.Config.Hostname, d.Config.User, d.Config.Tty, d.Config.OpenStdin = c.Hostname, c.User, c.TTY, c.Interactive
	d.Config.Env, d.Config.Image = environment(c), c.Image.Name
	d.Config.Entrypoint, d.Config.Cmd, d.Config.WorkingDir = c.Command[:c.Entrypoint], c.Command[c.Entrypoint:], c.WorkDir
	signal, timeout := c.EndsBy()
	d.Config.Labels, d.Config.StopSignal, d.Config.StopTimeout = c.Labels, runtime.SignalName(signal), timeout
	d.HostConfig.NetworkMode, d.HostConfig.AutoRemove = c.Network, c.AutoRemove
	upper, lowers, err := in.containers.Dirs(ctx, c)
	if err != nil {
		return d, fmt.Errorf("inspect: %w", err)
	}
	d.GraphDriver.Name = "overlay"
	d.GraphDriver.Data = map[string]string{"UpperDir": upper, "LowerDir": strings.Join(lowers, ":")}
	return d, nil
}

// environment is what a container's image sets, and what the user set or took away.
func environment(c *runtime.Container) []string {
	env := slices.Clone(c.Image.Settings.Env)
	for _, kv := range c.Env {
		name, _, given := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if given {
			env = append(env, kv)
		}
	}
	return env
}
