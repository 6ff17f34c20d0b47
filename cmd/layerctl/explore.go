package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/explore"
	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/archive"
	"github.com/layerctl/layerctl/image/files"
	"github.com/layerctl/layerctl/snapshot"
)

func (a *app) exploreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explore IMAGE [IMAGE2]",
		Short: "Look into an image's layers on the whole screen",
		Long: `Look into an image on the whole screen: its layers on the left, the tree of files on the right, of the whole image or of what one layer
changes; with a second image, what that changes in the first. The key ? shows the others, q ends. NO_COLOR and TERM are honoured.`,
		Example: "  layerctl explore debian\n  layerctl explore debian:12 debian:13",
		Args:    rangeArgs(1, 2, "one image or two"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, out, err := a.terminal()
			if err != nil {
				return err
			}
			images, snaps, _, err := a.stores()
			if err != nil {
				return err
			}
			var shown []explore.Image
			var views []*image.View
			for _, name := range args {
				v, err := images.Look(cmd.Context(), name)
				if err != nil {
					return fmt.Errorf("explore: %w", err)
				}
				defer v.Close()
				shared, err := images.Sharers(v.Image)
				if err != nil {
					return fmt.Errorf("explore %s: %w", name, err)
				}
				shown, views = append(shown, explored(name, v, shared)), append(views, v)
			}
			// The view takes the signals over: SIGINT belongs to the pager while there is one.
			a.stopSignals()
			err = explore.Run(context.WithoutCancel(cmd.Context()), shown, selectionExporter(snaps, views), in, out)
			if err != nil {
				return fmt.Errorf("explore: %w", err)
			}
			return nil
		},
	}
}

// terminal is what a full-screen view is shown on.
func (a *app) terminal() (in, out *os.File, err error) {
	in, inFile := a.stdin.(*os.File)
	var stdout any = a.stdout
	if w, ok := stdout.(*answer); ok {
		stdout = w.Writer
	}
	out, outFile := stdout.(*os.File)
	hint := "`layerctl layers` and `layerctl diff` print what is in the layers"
	switch {
	case !inFile || !term.IsTerminal(int(in.Fd())):
		err = errors.New("explore: stdin is not a terminal")
	case !outFile || !term.IsTerminal(int(out.Fd())):
		err = errors.New("explore: stdout is not a terminal")
	case os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "":
		err = fmt.Errorf("explore: a terminal of the type TERM=%q cannot show a full screen", os.Getenv("TERM"))
	}
	if err != nil {
		return nil, nil, start.Hinted(err, hint)
	}
	return in, out, nil
}

func explored(name string, v *image.View, shared [][]string) explore.Image {
	img := explore.Image{Name: name, View: v}
	for i := range v.Layers {
		l := &v.Layers[i]
		img.Layers = append(img.Layers, explore.Layer{DiffID: l.DiffID, Command: createdBy(l.Instruction(), true), Size: l.Size, Created: l.Created, SharedBy: shared[i]})
	}
	return img
}

// selectionExporter copies what is selected out of the images: to a new directory or file, or as a tar to a file whose name ends in .tar.
func selectionExporter(snaps *snapshot.Store, views []*image.View) explore.Exporter {
	return func(ctx context.Context, sel explore.Selection, to string) (said string, err error) {
		if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
			if err == nil {
				err = fmt.Errorf("%s: %w", to, fs.ErrExist)
			}
			return "", err
		}
		l := &views[sel.Image].Layers[sel.Layer]
		src := files.Place{Path: "/" + sel.Path}
		var left []string
		opt := files.Options{Warn: func(s string) { left = append(left, s) }}
		if sel.Alone {
			// A 0/0 device is a whiteout: it says what the layer hides, and is nothing that it brings.
			opt.Skip = func(_ string, st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }
			if src.Root, err = os.Open(l.FS()); err != nil {
				return "", err
			}
			defer src.Root.Close()
		} else {
			root, err := snaps.AttachChain(ctx, l.Chain)
			if err != nil {
				return "", err
			}
			defer root.Close()
			src.Root = root.FD
		}
		var n int64
		if strings.HasSuffix(to, ".tar") {
			err = archive.WriteFile(to, func(w io.Writer) error {
				count := &counter{Writer: w}
				err := files.Send(ctx, src, count, opt)
				n = count.n
				return err
			})
		} else {
			n, err = copyNew(ctx, src, to, opt)
		}
		if err != nil {
			return "", err
		}
		said = fmt.Sprintf("exported to %s: %s", to, humanSize(n))
		if len(left) > 0 {
			said += ", but: " + strings.Join(left, "; ")
		}
		return said, nil
	}
}

// copyNew copies to a name that nobody has, all or nothing; what somebody else makes there meanwhile stays his.
func copyNew(ctx context.Context, src files.Place, to string, opt files.Options) (int64, error) {
	dir, err := os.MkdirTemp(filepath.Dir(to), ".export-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, filepath.Base(to))
	n, err := files.Copy(ctx, src, files.Place{Path: made}, opt)
	if err == nil {
		if err = unix.Renameat2(unix.AT_FDCWD, made, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
			err = fmt.Errorf("%s: %w", to, err)
		}
	}
	return n, err
}

// counter counts what is written.
type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}
