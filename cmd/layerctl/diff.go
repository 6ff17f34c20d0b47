package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// diffFlags are what diff was asked for.
type diffFlags struct {
	stat, patch, tree, packages bool
	format                      string
	opt                         diff.Options
}

func (a *app) diffCommand() *cobra.Command {
	var o diffFlags
	cmd := &cobra.Command{
		Use:   "diff [flags] X [Y]",
		Short: "Show what a container, a layer or an image changes, or what Y changes in X",
		Long: `Show what a container changed in the files of its image, or what a layer, or the top layer of an image, changes in those below; with
two, what Y changes in X. A line is A for added, C for changed, D for deleted, and the path, as docker diff prints it; of what is in a
directory that is deleted nothing is said.

X and Y are containers, images, layers (IMAGE#N, or a diff ID, digest or chain ID, or its first digits), and, where two are compared,
directories and tarballs, whose names begin with "/", "./" or "../". A name is a container's first, then an image's, then a layer's. Of a
container only what it wrote is walked, of images and layers only their indexes are read.`,
		Example: `  layerctl diff work
  layerctl diff debian#2
  layerctl diff --stat ubuntu:22.04 ubuntu:24.04
  layerctl diff --packages ubuntu:22.04 ubuntu:24.04
  layerctl diff --patch --path /etc debian ./rootfs`,
		Args: rangeArgs(1, 2, "one or two of container, image, layer, directory and tarball"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return a.diff(cmd.Context(), o, args)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.stat, "stat", false, "how many names and bytes changed, by directory (two levels below --path) and in total")
	f.BoolVarP(&o.patch, "patch", "p", false, "a unified diff of text files, as git prints it")
	f.BoolVar(&o.tree, "tree", false, "the changed names as a tree, with sizes")
	f.BoolVar(&o.packages, "packages", false, "what dpkg, apk or rpm has installed on the one side and on the other: added, removed, upgraded, with versions")
	f.StringVar(&o.format, "format", "", "a Go template, or json (one object a line, with what both sides have)")
	f.StringVar(&o.opt.Path, "path", "", "only this path and what is below it")
	f.BoolVar(&o.opt.NoTimes, "no-mtime", false, "a name of which nothing but the modification time differs has not changed")
	f.BoolVarP(&o.opt.Moves, "moves", "M", false, "find files that moved, by their content: R FROM -> PATH")
	return cmd
}

func (o *diffFlags) check() error {
	n := 0
	for _, on := range []bool{o.stat, o.patch, o.tree, o.packages} {
		if on {
			n++
		}
	}
	switch {
	case n > 1:
		return usagef("diff: --stat, --patch, --tree and --packages are different answers: ask for one")
	case o.packages && o.opt != (diff.Options{}):
		return usagef("diff: --path, --no-mtime and -M are about files: --packages takes none of them")
	case o.format != "" && (o.patch || o.tree):
		return usagef("diff: --format is for records, which --patch and --tree have none of")
	}
	return nil
}

// side is one of what is compared.
type side struct {
	name      string
	kind      string // container, image, layer, directory, tarball
	view      *image.View
	stack     *diff.Stack // all of it
	below     *diff.Stack // what it stands on, where it stands on something
	container *containerSide
	lease     snapshot.Lease // of a container
}

// containerSide is what docker's diff asks of a container.
type containerSide struct {
	uppers, lowers []string // highest first
}

func (s *side) close() {
	s.lease.Close()
	if s.view != nil {
		s.view.Close()
	}
}

// sides opens what names say.
type sides struct {
	images     *image.Store
	containers *runtime.Store
	single     bool // it is asked for what it changes in what is below it
}

func (s sides) open(ctx context.Context, name string) (*side, error) {
	if isPath(name) {
		return s.file(ctx, name)
	}
	c, cerr := s.containers.Lookup(ctx, name)
	if cerr != nil && !errors.Is(cerr, runtime.ErrNotFound) {
		return nil, cerr
	}
	img, ierr := s.images.Resolve(ctx, name)
	if ierr != nil && !errors.Is(ierr, image.ErrNotFound) && !errors.Is(ierr, image.ErrAmbiguous) && !errors.Is(ierr, reference.ErrInvalid) {
		return nil, ierr
	}
	named := cerr == nil && (c.Name == name || c.ID == name)
	if !named && ierr == nil && !strings.HasPrefix(strings.TrimPrefix(img.ID, "sha256:"), strings.TrimPrefix(name, "sha256:")) {
		return s.image(ctx, name) // it is the image's name, and at most the first digits of a container
	}
	if named {
		if ierr == nil && !s.single {
			slog.Warn(name + " is a container and an image: the container is meant here; the image is " + img.Name)
		}
		return s.ofContainer(ctx, name, c)
	}
	v, lerr := s.images.LookLayer(ctx, name, !s.single)
	if v != nil {
		defer v.Close()
	}
	var meant []string
	if cerr == nil {
		meant = append(meant, "container "+c.Name+" ("+c.ID[:12]+")")
	}
	if ierr == nil {
		meant = append(meant, "image "+img.ID)
	}
	if lerr == nil {
		meant = append(meant, "layer "+v.Layers[v.Top()].DiffID)
	}
	switch {
	case errors.Is(ierr, image.ErrAmbiguous):
		return nil, ierr
	case lerr != nil && !errors.Is(lerr, image.ErrNoLayer) && (!errors.Is(lerr, image.ErrNotFound) || strings.Contains(name, "#")):
		return nil, lerr
	case lerr != nil && strings.Contains(name, "#"):
		return nil, lerr
	case len(meant) > 1:
		return nil, start.Hinted(fmt.Errorf("%s may be %s", name, strings.Join(meant, ", or ")), "give more digits")
	case cerr == nil:
		return s.ofContainer(ctx, name, c)
	case ierr == nil:
		return s.image(ctx, name)
	case lerr == nil:
		return s.layer(ctx, name)
	}
	hint := "`layerctl ps -a`, `layerctl images` and `layerctl layers IMAGE` list what is here"
	if _, err := os.Lstat(name); err == nil {
		hint = "for the file or directory write ./" + name
	}
	return nil, start.Hinted(fmt.Errorf("%s: no such container, image or layer", name), hint)
}

func isPath(name string) bool {
	return name == "." || name == ".." || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "./") || strings.HasPrefix(name, "../")
}

// file is a directory or a tarball.
func (s sides) file(ctx context.Context, name string) (*side, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if s.single {
		return nil, start.Hinted(usagef("%s stands on nothing that it could change", name), "give another to compare it with")
	}
	if info.IsDir() {
		return &side{name: name, kind: "directory", stack: diff.Dir(name)}, nil
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: neither a directory nor a tarball", name)
	}
	v, err := s.images.LookTar(ctx, name)
	if err != nil {
		return nil, err
	}
	return &side{name: name, kind: "tarball", view: v, stack: v.Only(0)}, nil
}

func (s sides) image(ctx context.Context, name string) (*side, error) {
	v, err := s.images.Look(ctx, name)
	if err != nil {
		return nil, err
	}
	return &side{name: name, kind: "image", view: v, stack: v.Stack, below: v.Upto(v.Top())}, nil
}

func (s sides) layer(ctx context.Context, name string) (*side, error) {
	v, err := s.images.LookLayer(ctx, name, !s.single)
	if err != nil {
		return nil, err
	}
	l := &side{name: name, kind: "layer", view: v, stack: v.Stack, below: v.Upto(v.Top())}
	if !s.single {
		l.stack = v.Only(v.Top())
	}
	return l, nil
}

func (s sides) ofContainer(ctx context.Context, name string, c *runtime.Container) (*side, error) {
	found := &side{name: name, kind: "container"}
	uppers, lowers, err := s.containers.Written(ctx, &found.lease, c)
	if err != nil {
		found.close()
		return nil, err
	}
	found.container = &containerSide{uppers, lowers}
	if c.RootFS != "" {
		found.below = diff.Merged(lowers[0], lowers[1:]...)
	} else if found.view, err = s.images.LookChain(ctx, c.Image.Chain); err != nil {
		found.close()
		return nil, err
	} else {
		found.below = found.view.Stack
	}
	layers := slices.Clone(found.below.Layers())
	for _, dir := range slices.Backward(uppers) {
		layers = append(layers, diff.UpperLayer(dir))
	}
	found.stack = diff.NewStack(layers...)
	return found, nil
}

func (a *app) diff(ctx context.Context, o diffFlags, args []string) (err error) {
	what := strings.Join(args, " ")
	defer func() {
		if err != nil && !strings.HasPrefix(err.Error(), "diff: ") {
			err = fmt.Errorf("diff %s: %w", what, err)
		}
	}()
	images, _, containers, err := a.stores()
	if err != nil {
		return err
	}
	in := sides{images, containers, len(args) == 1}
	x, err := in.open(ctx, args[0])
	if err != nil {
		return err
	}
	defer x.close()
	from, to := x.below, x.stack
	var docker *containerSide
	if len(args) == 2 {
		y, err := in.open(ctx, args[1])
		if err != nil {
			return err
		}
		defer y.close()
		from, to = x.stack, y.stack
	} else {
		docker = x.container
	}
	if o.opt.Path != "" {
		o.opt.Path = diff.Clean(o.opt.Path)
		if err := isIn(o.opt.Path, from, to); err != nil {
			return err
		}
	}
	switch {
	case o.packages:
		return a.printPackages(o.format, from, to)
	case o.stat:
		return a.printStat(o, diff.Compare(ctx, from, to, o.opt))
	case o.patch:
		return a.printPatch(from, to, diff.Compare(ctx, from, to, o.opt))
	case o.tree:
		return a.printTree(o, diff.Compare(ctx, from, to, o.opt))
	}
	// What a container wrote is listed as docker does, even where it is what was there before.
	plain := docker != nil && o.opt == diff.Options{}
	if o.format == "" {
		if plain {
			return a.printLines(func(yield func(diff.Change, error) bool) {
				stopped := errors.New("enough")
				err := diff.Uppers(ctx, docker.uppers, docker.lowers, nil, func(c diff.Change) error {
					if !yield(c, nil) {
						return stopped
					}
					return nil
				})
				if err != nil && err != stopped {
					yield(diff.Change{}, err)
				}
			})
		}
		return a.printLines(outermost(diff.Compare(ctx, from, to, o.opt)))
	}
	changes := diff.Compare(ctx, from, to, o.opt)
	if plain {
		changes = outermost(changes)
		var wrote []diff.Change
		if err := diff.Uppers(ctx, docker.uppers, docker.lowers, nil, func(c diff.Change) error { wrote = append(wrote, c); return nil }); err != nil {
			return err
		}
		changes = joined(wrote, changes)
	}
	return a.printRecords(o.format, changes)
}

// isIn fails where none of two views has a path.
func isIn(path string, views ...*diff.Stack) error {
	for _, v := range views {
		for _, err := range v.Under(path) {
			return err
		}
	}
	return fmt.Errorf("--path /%s: %w", path, image.ErrNoPath)
}

// outermost leaves out what is deleted because a directory that it was in is, or is another thing now.
func outermost(changes iter.Seq2[diff.Change, error]) iter.Seq2[diff.Change, error] {
	return func(yield func(diff.Change, error) bool) {
		gone := ""
		for c, err := range changes {
			if err == nil && c.Kind == diff.Deleted && gone != "" && strings.HasPrefix(c.Path, gone) {
				continue
			}
			if c.Kind == diff.Deleted || c.Kind == diff.Changed && c.Old != nil && c.Old.IsDir() && !c.New.IsDir() {
				gone = c.Path + "/"
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// joined is what docker lists, with what Compare knows of it. Both are in one order, and what a container wrote as it was is not a change to
// Compare.
func joined(wrote []diff.Change, changes iter.Seq2[diff.Change, error]) iter.Seq2[diff.Change, error] {
	return func(yield func(diff.Change, error) bool) {
		order := func(p string) string { return diff.Clean(p) }
		for c, err := range changes {
			if err == nil && c.Path == "/" {
				continue // docker says nothing of the root itself
			}
			for err == nil && len(wrote) > 0 && diff.ComparePaths(order(wrote[0].Path), order(c.Path)) < 0 {
				if !yield(wrote[0], nil) {
					return
				}
				wrote = wrote[1:]
			}
			if err == nil && len(wrote) > 0 && wrote[0].Path == c.Path {
				wrote = wrote[1:]
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
		for _, c := range wrote {
			if !yield(c, nil) {
				return
			}
		}
	}
}
