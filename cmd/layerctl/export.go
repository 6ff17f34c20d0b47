package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/archive"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/runtime"
)

func (a *app) exportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "export [flags] CONTAINER|IMAGE",
		Short: "Write the files of a container or an image as one tar",
		Long: `Write the merged root file system of a container, running or not, or of an image as one tar: what is in it, without its history and its
settings, and without what is mounted in a running container. The tar is the canonical one: the same files always give the same bytes.
"layerctl import" makes an image of one layer from it. Without -o it goes to stdout.`,
		Example: "  layerctl export work -o work.tar\n  layerctl export debian | tar -t\n  layerctl export work | ssh host layerctl import - work:flat",
		Args:    exactArgs(1, "one container or image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			toStdout := output == "" || output == "-"
			if toStdout && isTerminal(a.stdout) {
				return usagef("export: stdout is a terminal: name a file with -o, or pipe the tar somewhere")
			}
			if toStdout {
				// A write that nobody reads ends by its signal, and there is nothing to tidy up.
				signal.Reset(os.Interrupt, syscall.SIGTERM)
			}
			write, done, err := a.exporter(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("export %s: %w", args[0], err)
			}
			defer done()
			if toStdout {
				err = write(a.stdout)
			} else {
				err = archive.WriteFile(output, write)
			}
			switch {
			case errors.Is(err, unix.EISDIR):
				return fmt.Errorf("export %s: %s is a directory: name the file to write", args[0], output)
			case err != nil && !toStdout:
				return fmt.Errorf("export %s to %s: %w", args[0], output, err)
			case err != nil:
				return fmt.Errorf("export %s: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the file to write (default: stdout)")
	return cmd
}

// exporter finds what is to be exported, and returns what writes it. done ends what holds it.
func (a *app) exporter(ctx context.Context, name string) (write func(io.Writer) error, done func() error, err error) {
	images, snaps, containers, err := a.stores()
	if err != nil {
		return nil, nil, err
	}
	opt := layer.PackOptions{Files: true, Warn: func(s string) { slog.Warn(s) }}
	c, err := containers.Lookup(ctx, name)
	if errors.Is(err, runtime.ErrNotFound) {
		img, err := images.Resolve(ctx, name)
		if errors.Is(err, image.ErrNotFound) {
			err = noSuch(name)
		}
		if err != nil {
			return nil, nil, err
		}
		root, err := snaps.AttachChain(ctx, img.Chain)
		if err != nil {
			return nil, nil, err
		}
		return func(w io.Writer) error { return layer.Pack(ctx, root.FD, w, opt) }, root.Close, nil
	}
	if err != nil {
		return nil, nil, err
	}
	files, err := containers.OpenFiles(ctx, c, false)
	if err != nil {
		return nil, nil, err
	}
	stubs, err := containers.Stubs(ctx, c)
	if err != nil {
		files.Close()
		return nil, nil, err
	}
	opt.Live = files.Live
	opt.Skip = func(path string, _ *unix.Stat_t) bool { return slices.Contains(stubs, path) }
	return func(w io.Writer) error {
		own, err := files.Own()
		if err != nil {
			return err
		}
		defer own.Close()
		err = layer.Pack(ctx, own, w, opt)
		if files.Gone() {
			err = fmt.Errorf("container %s was removed meanwhile: %w", c.Name, runtime.ErrNotFound)
		}
		return err
	}, files.Close, nil
}

// noSuch is the error for a name that is neither a container's nor an image's.
func noSuch(name string) error {
	return start.Hinted(fmt.Errorf("%s: no such container or image", name), "`layerctl ps -a` and `layerctl images` list what is here")
}
