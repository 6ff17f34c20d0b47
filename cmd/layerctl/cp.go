package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/files"
	"github.com/layerctl/layerctl/runtime"
)

func (a *app) cpCommand() *cobra.Command {
	var opt files.Options
	var quiet bool
	cmd := &cobra.Command{
		Use:   "cp [flags] CONTAINER:PATH|IMAGE:PATH|SRC|- DEST|CONTAINER:PATH|-",
		Short: "Copy files out of a container or an image, or into a container",
		Long: `Copy files or directories between the host and a container, running or not, or out of an image. Paths and what they lead to are as docker
cp has them: those in a container or an image are relative to its root; a directory is copied into DEST where that is a directory, and
becomes DEST where there is nothing yet; "DIR/." is what is in a directory; a file replaces a file. Links lead to where they lead for the
container, never out of it. A local name with a colon is written with a path: ./a:b.

With "-" for the source a tar on stdin, which may be compressed, is extracted into a directory of the container; with "-" for the
destination a tar goes to stdout.

On the host, files belong to the caller, and lose setuid, setgid, capabilities and ACLs; devices are left out. In a container they belong
to root. -a keeps owners, by number, and all of this; so does a tar from stdin.`,
		Example: `  layerctl cp work:/etc/os-release .
  layerctl cp ./site/. work:/srv/www
  layerctl cp debian:/etc/apt apt
  tar -c src | layerctl cp - work:/root`,
		Args: exactArgs(2, "a source and a destination"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") {
				quiet = !isTerminal(a.stdout)
			}
			opt.Warn = func(s string) { slog.Warn(s) }
			n, err := a.cp(cmd.Context(), args[0], args[1], opt)
			if err == nil && !quiet && args[1] != "-" {
				fmt.Fprintf(a.stderr, "Successfully copied %s to %s\n", humanSize(n), args[1])
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&opt.Archive, "archive", "a", false, "keep owners (by number), setuid and setgid, capabilities, ACLs and devices")
	f.BoolVarP(&opt.Follow, "follow-link", "L", false, "copy what a link at the end of the source's path leads to, not the link")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not say on a terminal what was copied")
	return cmd
}

func (a *app) cp(ctx context.Context, src, dst string, opt files.Options) (int64, error) {
	fromAway, toAway := isAway(src), isAway(dst)
	switch {
	case src == "-" && dst == "-":
		return 0, usagef("cp: one of both is a container's or an image's")
	case fromAway && toAway:
		return 0, start.Hinted(usagef("cp: copying between containers is not supported"),
			"`layerctl cp "+src+" - | layerctl cp - "+dst+"` does it, where the destination is a directory")
	case !fromAway && !toAway:
		return 0, usagef("cp: neither %s nor %s is in a container or an image: want CONTAINER:PATH or IMAGE:PATH", src, dst)
	case dst == "-" && isTerminal(a.stdout):
		return 0, usagef("cp: stdout is a terminal: pipe the tar somewhere, or name a destination")
	case src == "-" && isTerminal(a.stdin):
		return 0, usagef("cp: stdin is a terminal: pipe a tar in, or name a source")
	}
	name := src
	if toAway {
		name = dst
	}
	away, done, err := a.place(ctx, name, toAway)
	if err != nil {
		return 0, fmt.Errorf("cp: %w", err)
	}
	var n int64
	switch {
	case dst == "-":
		// A write that nobody reads ends by its signal, and there is nothing to tidy up.
		signal.Reset(os.Interrupt, syscall.SIGTERM)
		err = files.Send(ctx, away, a.stdout, opt)
	case src == "-":
		n, err = files.Receive(ctx, a.stdin, away, opt)
	case toAway:
		n, err = files.Copy(ctx, files.Place{Path: src}, away, opt)
	default:
		n, err = files.Copy(ctx, away, files.Place{Path: dst}, opt)
	}
	if derr := done(); derr != nil {
		err = derr
	}
	if err != nil {
		err = fmt.Errorf("cp: %w", err)
	}
	return n, err
}

// isAway says whether an argument names something in a container or an image, by docker cp's rule: there is a colon, and before it no
// path.
func isAway(arg string) bool {
	name, _, ok := strings.Cut(arg, ":")
	return ok && !filepath.IsAbs(arg) && !strings.HasPrefix(name, ".")
}

// place opens what is named by CONTAINER:PATH or IMAGE:PATH. done lets it go, and says whether it was removed meanwhile.
func (a *app) place(ctx context.Context, arg string, write bool) (p files.Place, done func() error, err error) {
	images, snaps, containers, err := a.stores()
	if err != nil {
		return p, nil, err
	}
	name, path, _ := strings.Cut(arg, ":")
	c, err := containers.Lookup(ctx, name)
	if err == nil {
		f, err := containers.OpenFiles(ctx, c, write)
		if err != nil {
			return p, nil, err
		}
		return files.Place{Root: f.Root, Path: path, Live: f.Live}, func() error {
			gone := f.Gone()
			err := f.Close()
			if gone {
				err = fmt.Errorf("container %s was removed meanwhile: %w", c.Name, runtime.ErrNotFound)
			}
			return err
		}, nil
	}
	if !errors.Is(err, runtime.ErrNotFound) {
		return p, nil, err
	}
	// An image's name may have colons, and a path, too: a path that begins with a slash is told from a tag by that.
	at := strings.Index(arg, ":/")
	if at < 0 {
		at = strings.LastIndexByte(arg, ':')
	}
	name, path = arg[:at], arg[at+1:]
	img, err := images.Resolve(ctx, name)
	if errors.Is(err, image.ErrNotFound) {
		return p, nil, noSuch(name)
	}
	if err != nil {
		return p, nil, err
	}
	if write {
		return p, nil, start.Hinted(fmt.Errorf("%s is an image, which is never written", name),
			"make a container of it, copy into that, and make an image of the container: `layerctl commit`")
	}
	root, err := snaps.AttachChain(ctx, img.Chain)
	if err != nil {
		return p, nil, err
	}
	return files.Place{Root: root.FD, Path: path}, root.Close, nil
}
