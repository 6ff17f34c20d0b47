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
	cmd, kind := a.inspectOf("")
	cmd.Flags().StringVar(kind, "type", "", "image, container, layer or snapshot (default: the first of container, image, snapshot and layer that has the name)")
	return cmd
}

func (a *app) containerInspectCommand() *cobra.Command {
	cmd, _ := a.inspectOf("container")
	cmd.Use = "inspect [flags] CONTAINER..."
	cmd.Short = "Show all there is to know of containers, as JSON"
	cmd.Example = "  layerctl container inspect --format '{{.State.ExitCode}}' work"
	return cmd
}

// inspectOf is the command for things of a kind, "" for any.
func (a *app) inspectOf(of string) (cmd *cobra.Command, kind *string) {
	var format string
	kind = &of
	cmd = &cobra.Command{
		Use:     "inspect [flags] NAME|ID...",
		Short:   "Show all there is to know of images, containers, layers and snapshots, as JSON",
		Example: "  layerctl inspect debian\n  layerctl inspect --type container --format '{{.State.ExitCode}}' work\n  layerctl inspect --type layer debian#1",
		Args:    minArgs(1, "at least one name or ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch *kind {
			case "", "image", "container", "layer", "snapshot":
			default:
				return usagef("--type %s: want image, container, layer or snapshot", *kind)
			}
			images, snaps, containers, err := a.stores()
			if err != nil {
				return err
			}
			in := inspector{images, snaps, containers}
			var found []any
			var failed error
			for _, name := range args {
				v, err := in.inspect(cmd.Context(), *kind, name)
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
	cmd.Flags().StringVarP(&format, "format", "f", "", "a Go template")
	return cmd, kind
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
