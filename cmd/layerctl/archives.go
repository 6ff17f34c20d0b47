package main

import (
	"cmp"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/image"
)

func (a *app) loadCommand() *cobra.Command {
	var opt image.LoadOptions
	var input string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load [flags]",
		Short: "Load images from an archive",
		Long: `Load the images of an archive that docker save, podman save, skopeo, buildx or layerctl save wrote: docker-archive, oci-archive, or a
directory with an OCI layout. The form is detected, also when the whole is compressed (gzip, zstd, xz, bzip2). Without -i the archive
comes from stdin. Layers are verified and unpacked in parallel; nothing is named before all of it was found whole.
Prints a line an image: "Loaded image: NAME", or "Loaded image ID: ID" for one that has no name.`,
		Example: `  layerctl load -i app.tar
  layerctl load -i ./oci-layout --platform linux/arm64
  ssh host docker save app | layerctl load -q`,
		Args: exactArgs(0, "no arguments (the archive's name goes behind -i)"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			src := image.LoadSource{Path: input}
			if input == "" || input == "-" {
				if isTerminal(a.stdin) {
					return usagef("load: stdin is a terminal: name an archive with -i, or pipe one in")
				}
				src = image.LoadSource{Reader: a.stdin}
			}
			if quiet {
				a.progress = "none"
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			p := a.newProgress("loading", "loaded")
			opt.Progress = p
			list, err := images.Load(cmd.Context(), src, opt)
			p.Close()
			for _, img := range list {
				a.imageEvent("load", img.ID, cmp.Or(img.Names...))
				for _, name := range img.Names {
					fmt.Fprintf(a.stdout, "Loaded image: %s\n", name)
				}
				if len(img.Names) == 0 {
					fmt.Fprintf(a.stdout, "Loaded image ID: %s\n", img.ID)
				}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "the archive: a file or an OCI layout's directory (default: stdin)")
	f.StringVar(&opt.Platform, "platform", "", "OS/ARCH[/VARIANT], where an image has several (default: this host's)")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}

func (a *app) saveCommand() *cobra.Command {
	var output, format string
	cmd := &cobra.Command{
		Use:   "save [flags] IMAGE...",
		Short: "Save images as an archive",
		Long: `Save images as one archive, which docker load, podman load, skopeo and layerctl load read. Layers that images share are in it once.
With an OCI format what came from a registry or an archive keeps its manifest and every digest; docker-archive holds the layers as plain
tars. The same images always give the same bytes. Without -o the archive goes to stdout.`,
		Example: `  layerctl save -o app.tar app:1
  layerctl save --format oci-dir -o ./layout debian ubuntu
  layerctl save app:1 | zstd | ssh host layerctl load`,
		Args: minArgs(1, "at least one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			form, err := image.ParseFormat(format)
			if err != nil {
				return usagef("--format %s: want docker-archive, oci-archive or oci-dir", format)
			}
			to := image.SaveTarget{Path: output}
			if output == "" || output == "-" {
				switch {
				case form == image.OCIDir:
					return usagef("save: a directory is written with --format oci-dir: name it with -o")
				case isTerminal(a.stdout):
					return usagef("save: stdout is a terminal: name a file with -o, or pipe the archive somewhere")
				}
				to = image.SaveTarget{Writer: a.stdout}
				// A write that nobody reads ends by its signal, and there is nothing to tidy up.
				signal.Reset(os.Interrupt, syscall.SIGTERM)
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			if err := images.Save(cmd.Context(), args, form, to); err != nil {
				return err
			}
			for _, name := range args {
				a.imageEventOf(cmd.Context(), images, "save", name)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "the file, or with oci-dir the directory, to write (default: stdout)")
	f.StringVar(&format, "format", string(image.DockerArchive), "docker-archive, oci-archive or oci-dir")
	return cmd
}

func isTerminal(stream any) bool {
	if a, ok := stream.(*answer); ok {
		stream = a.Writer
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
