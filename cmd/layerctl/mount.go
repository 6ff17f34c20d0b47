package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// Labels of the view that is an image's mount.
const (
	labelImage = "image" // its ID
	labelName  = "name"  // how it was called when it was mounted
)

// mountRow is a line of `mount`.
type mountRow struct {
	ID   string
	Kind string // container or image
	Name string
	Path string
}

func (a *app) mountCommand() *cobra.Command {
	var format string
	var noTrunc bool
	cmd := &cobra.Command{
		Use:   "mount [flags] [CONTAINER|IMAGE [DIR]]",
		Short: "Mount the files of a container or an image on the host, or list what is mounted",
		Long: `Mount the merged root of a container, running or not, or of an image at DIR, or at a directory of its own below the run root, and print
the path. An image is mounted read-only. A container's mount is the overlay that the container has or will have when it is started: what is
written at one place is seen at the other. What is mounted in a running container, /proc or /dev, is not in it.

What is mounted stays so until "layerctl umount", umount(8) or a reboot. Until then the container is not removed, but by "rm -f", and the
image is not, but by "rmi -f", which keeps its layers. Without arguments, what is mounted is listed.`,
		Example: `  cd "$(layerctl mount work)"
  layerctl mount debian /mnt && ls /mnt
  layerctl mount`,
		Args: rangeArgs(0, 2, "nothing, or a container or image and perhaps a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.listMounts(cmd.Context(), format, noTrunc)
			}
			if format != "" || noTrunc {
				return usagef("mount: --format and --no-trunc are for the list, which has no arguments")
			}
			dir := ""
			if len(args) == 2 {
				dir = args[1]
			}
			path, err := a.mount(cmd.Context(), args[0], dir)
			if err != nil {
				return fmt.Errorf("mount %s: %w", args[0], err)
			}
			fmt.Fprintln(a.stdout, path)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "", "of the list: a Go template, or json (one object a line)")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten IDs in the list")
	return cmd
}

// mount mounts what has a name at a directory, "" for one that is made for it. What is mounted there already stays as it is.
func (a *app) mount(ctx context.Context, name, dir string) (path string, err error) {
	images, snaps, containers, err := a.stores()
	if err != nil {
		return "", err
	}
	var img image.Image
	id := ""
	c, err := containers.Lookup(ctx, name)
	if err == nil {
		id = c.ID
	} else if errors.Is(err, runtime.ErrNotFound) {
		img, err = images.Resolve(ctx, name)
		if errors.Is(err, image.ErrNotFound) {
			err = noSuch(name)
		}
		id = img.ID
	}
	if err != nil {
		return "", err
	}
	if dir == "" {
		path, err = containers.HostDir(id)
	} else if path, err = filepath.Abs(dir); err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", err
	}
	list, err := containers.Mounts(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range list {
		if m.Path != path {
			continue
		}
		if m.Container != id && m.Labels[labelImage] != id {
			return "", fmt.Errorf("%s is mounted at %s", nameOf(m), path)
		}
		return path, nil
	}
	if c != nil {
		return path, containers.Mount(ctx, c, path)
	}
	return path, snaps.MountView(ctx, img.Chain, path, map[string]string{labelImage: img.ID, labelName: img.Name})
}

// usesOf says what uses an image.
func usesOf(ctx context.Context, containers *runtime.Store, img image.Image) (uses []string) {
	for _, name := range containers.Using(ctx, img.Chain) {
		uses = append(uses, "container "+name+" was made from it")
	}
	list, err := containers.Mounts(ctx)
	if err != nil {
		uses = append(uses, err.Error())
	}
	for _, m := range list {
		if m.Labels[labelImage] == img.ID {
			uses = append(uses, "it is mounted at "+m.Path)
		}
	}
	return uses
}

// nameOf says what is mounted.
func nameOf(m runtime.HostMount) string {
	if m.Container != "" {
		return fmt.Sprintf("container %.12s", m.Container)
	}
	return "image " + m.Labels[labelName]
}

func (a *app) listMounts(ctx context.Context, format string, noTrunc bool) error {
	_, _, containers, err := a.stores()
	if err != nil {
		return err
	}
	list, err := containers.Mounts(ctx)
	if err != nil {
		return err
	}
	rows := make([]mountRow, 0, len(list))
	for _, m := range list {
		row := mountRow{ID: shortID(m.Labels[labelImage], noTrunc), Kind: "image", Name: m.Labels[labelName], Path: m.Path}
		if m.Container != "" {
			row.ID, row.Kind, row.Name = shortID(m.Container, noTrunc), "container", ""
			if c, err := containers.Lookup(ctx, m.Container); err == nil {
				row.Name = c.Name
			}
		}
		rows = append(rows, row)
	}
	return printList(a.stdout, format, []column{{"ID", "ID"}, {"KIND", "Kind"}, {"NAME", "Name"}, {"PATH", "Path"}}, rows)
}

func (a *app) umountCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "umount [flags] CONTAINER|IMAGE|DIR...",
		Aliases: []string{"unmount"},
		Short:   "Unmount what `layerctl mount` has mounted",
		Long: `Unmount a container or an image wherever it is mounted, or what is mounted at a directory. What is not mounted is no error; what a process
uses is.`,
		Example: "  layerctl umount work\n  layerctl umount /mnt\n  layerctl umount --all",
		Args: func(cmd *cobra.Command, args []string) error {
			if all && len(args) > 0 || !all && len(args) == 0 {
				return usagef("umount: want at least one container, image or directory, or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			if all {
				args = []string{""}
			}
			return a.each(cmd, args, func(ctx context.Context, name string) error {
				list, err := containers.Mounts(ctx)
				if err != nil {
					return fmt.Errorf("umount: %w", err)
				}
				is, err := whichMounts(ctx, images, containers, name)
				if err != nil {
					return fmt.Errorf("umount %s: %w", name, err)
				}
				for i := len(list) - 1; i >= 0; i-- { // what was mounted last may lie over others
					if !is(list[i]) {
						continue
					}
					if err := containers.Unmount(ctx, list[i]); err != nil {
						err = fmt.Errorf("umount: %w", err)
						if errors.Is(err, snapshot.ErrInUse) {
							err = start.Hinted(err, "`fuser -vm "+list[i].Path+"` says which process; a shell whose directory is in it is one")
						}
						return err
					}
				}
				if !all {
					fmt.Fprintln(a.stdout, name)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all that is mounted of this store")
	return cmd
}

// whichMounts finds out which mounts a name means: "" is all.
func whichMounts(ctx context.Context, images *image.Store, containers *runtime.Store, name string) (func(runtime.HostMount) bool, error) {
	if name == "" {
		return func(runtime.HostMount) bool { return true }, nil
	}
	if c, err := containers.Lookup(ctx, name); err == nil {
		return func(m runtime.HostMount) bool { return m.Container == c.ID }, nil
	} else if !errors.Is(err, runtime.ErrNotFound) {
		return nil, err
	}
	img, err := images.Resolve(ctx, name)
	if err == nil {
		return func(m runtime.HostMount) bool { return m.Labels[labelImage] == img.ID }, nil
	}
	if len(name) >= 4 && strings.Trim(name, "0123456789abcdef") == "" { // the ID of an image that was removed since
		return func(m runtime.HostMount) bool { return strings.HasPrefix(m.Labels[labelImage], "sha256:"+name) }, nil
	}
	path, perr := filepath.Abs(name)
	if perr == nil {
		path, perr = filepath.EvalSymlinks(path)
	}
	if perr != nil && strings.Contains(name, "/") {
		return nil, perr
	}
	if perr != nil {
		return nil, start.Hinted(errors.New("no such container, image or directory"), "`layerctl mount` lists what is mounted")
	}
	return func(m runtime.HostMount) bool { return m.Path == path }, nil
}
