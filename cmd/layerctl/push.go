package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/image"
)

func (a *app) pushCommand() *cobra.Command {
	var opt image.PushOptions
	var compression string
	var quiet, all bool
	cmd := &cobra.Command{
		Use:   "push [flags] REF",
		Short: "Put an image into a registry",
		Long: `Put an image into the registry that its name says: only what the registry lacks is sent, layers in parallel and from where a cut
connection ended; what another repository of the registry has is mounted from there; the manifest comes last. An image that came from a
registry keeps its manifest and every digest. Layers that were made here are compressed on all cores while they are sent, the same layer
always to the same bytes; what came of one is remembered, so that it is not compressed again. Prints the NAME@DIGEST that was pushed, a line a tag.`,
		Example: "  layerctl tag app registry.example/team/app:1\n  layerctl push registry.example/team/app:1\n  layerctl push --compression zstd:9 localhost:5000/app",
		Args:    exactArgs(1, "one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if compression != "" {
				var err error
				if opt.Compression, err = image.ParseCompression(compression); err != nil {
					return usagef("--compression %s: want gzip, gzip:1 to gzip:9, zstd, or zstd:1 to zstd:22", compression)
				}
			}
			if quiet {
				a.progress = "none"
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			if all {
				if args, err = images.Tags(cmd.Context(), args[0]); err != nil {
					return err
				}
			}
			return a.each(cmd, args, func(ctx context.Context, name string) error {
				p := a.newProgress("pushing", "pushed")
				opt.Progress = p
				done, err := images.Push(ctx, name, opt)
				p.Close()
				if err == nil {
					a.imageEventOf(ctx, images, "push", name)
					fmt.Fprintln(a.stdout, done)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all-tags", "a", false, "push all tags of the repository that are here")
	f.StringVar(&compression, "compression", "", "how layers that were made here are compressed: gzip[:1-9] or zstd[:1-22] (default: as before under this name, gzip at first)")
	f.BoolVar(&opt.PlainHTTP, "plain-http", false, "speak HTTP without TLS (a registry on loopback is tried so by itself)")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}
