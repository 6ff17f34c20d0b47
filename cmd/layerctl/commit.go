package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/runtime"
)

func (a *app) commitCommand() *cobra.Command {
	var opt image.CommitOptions
	var pause bool
	cmd := &cobra.Command{
		Use:   "commit [flags] CONTAINER [REF]",
		Short: "Make an image of what a container has written",
		Long: `Make an image that has the layers of the container's image and, as one more, what the container has written in them. The container's
command, environment, user and working directory become the image's settings. What is mounted in the container is not part of the layer.
The container shows the same files afterwards. Nothing is compressed. What a stopped container has written is read once and not copied;
that of a running one is copied, while it is paused. Without REF the image has no name. Prints the image ID.`,
		Example: `  layerctl commit work app:1
  layerctl commit -a 'Ann <ann@example.org>' -m 'configured' -c 'CMD ["nginx"]' -c 'EXPOSE 80' work registry.example.org/web
  layerctl commit --pause=false database`,
		Args: rangeArgs(1, 2, "a CONTAINER and at most one REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				opt.Ref = args[1]
			}
			images, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			c, err := lookUp(cmd, containers, args[0])
			if err != nil {
				return err
			}
			from := image.Committed{Key: c.Key(), Image: c.Image.ID, Command: c.Command, Settings: record.Settings(c.Settings())}
			if pause {
				from.Pause = func(ctx context.Context) (func() error, error) { return containers.Suspend(ctx, c) }
			}
			opt.Warn = func(s string) { slog.Warn(s) }
			img, err := images.Commit(cmd.Context(), from, opt)
			if err != nil {
				return fmt.Errorf("commit %s: %w", args[0], err)
			}
			containers.Happened(runtime.EventOf(&c.Config, "commit", "comment", opt.Message, "imageID", img.ID, "imageRef", img.Name))
			fmt.Fprintln(a.stdout, img.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&opt.Author, "author", "a", "", "who made it, for the image and its history")
	f.StringArrayVarP(&opt.Changes, "change", "c", nil, changeHelp)
	f.StringVarP(&opt.Message, "message", "m", "", "a comment for the image's history")
	f.BoolVarP(&pause, "pause", "p", true, "stop a running container while what it wrote is copied")
	return cmd
}
