package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
)

const changeHelp = "a Dockerfile instruction for the image's settings: CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, EXPOSE, VOLUME, STOPSIGNAL"

func (a *app) configCommand() *cobra.Command {
	var changes []string
	cmd := &cobra.Command{
		Use:   "config [flags] IMAGE REF",
		Short: "Make an image with other settings and the same layers",
		Long: `Make an image that has the layers of IMAGE and other settings, and call it REF; IMAGE stays as it is, unless REF is its name. Layers,
trees and blobs are shared. The instructions are those of a Dockerfile, applied in order; as there, an ENTRYPOINT without a CMD takes
IMAGE's CMD away. Each becomes a step of the image's history. Prints the image ID.`,
		Example: `  layerctl config --change 'ENV LANG=C.UTF-8' --change 'CMD ["bash"]' debian localhost/debian:bash
  layerctl config -c 'USER www-data' app app`,
		Args: exactArgs(2, "an image and a new name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(changes) == 0 {
				return usagef("config: nothing to change: give at least one --change")
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			img, err := images.Configure(cmd.Context(), args[0], args[1], changes)
			if err != nil {
				return err
			}
			a.imageEvent("tag", img.ID, img.Name)
			fmt.Fprintln(a.stdout, img.ID)
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&changes, "change", "c", nil, changeHelp)
	return cmd
}

func (a *app) squashCommand() *cobra.Command {
	var from int
	cmd := &cobra.Command{
		Use:   "squash [flags] IMAGE REF",
		Short: "Make an image whose upper layers are one",
		Long: `Make an image that shows the same files as IMAGE with fewer layers, and call it REF; IMAGE stays as it is, unless REF is its name. The
layers from number N (as "layers" counts them, 1 is the lowest) up to the top become one. What they hide of each other takes no place
any more; what they hide of the layers below stays hidden. The layers below are shared, and nothing is compressed. The files are
copied, verified by their digests. Prints the image ID.`,
		Example: `  layerctl squash app app:flat
  layerctl squash --from 2 app app:two-layers`,
		Args: exactArgs(2, "an image and a new name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from < 1 {
				return usagef("squash: --from %d: layers are counted from 1", from)
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			img, err := images.Squash(cmd.Context(), args[0], args[1], from)
			if err != nil {
				return err
			}
			a.imageEvent("tag", img.ID, img.Name)
			fmt.Fprintln(a.stdout, img.ID)
			return nil
		},
	}
	cmd.Flags().IntVar(&from, "from", 1, "the number of the lowest `layer` that becomes part of the one")
	return cmd
}

func (a *app) rebaseCommand() *cobra.Command {
	var opt image.RebaseOptions
	cmd := &cobra.Command{
		Use:   "rebase [flags] --onto NEWBASE IMAGE REF",
		Short: "Put an image's own layers on another base",
		Long: `Make an image of the layers that IMAGE has above its base, put on NEWBASE, and call it REF; IMAGE stays as it is, unless REF is its
name. Settings that IMAGE changed in its base's go along, variables and labels one by one; all others are NEWBASE's. So do the steps of
its history. The layers themselves are shared. Prints the image ID.

It is refused where the layers would not make the same change: a path that they change, hide or delete is not in NEWBASE as it is in the
old base, one that they add is there already, a directory that they use is none. Each such path is then printed with the reason, and no
image is made.

The old base is the image here whose layers are IMAGE's lowest. Where there is none, or several can be meant, --base says it.`,
		Example: `  layerctl rebase --onto debian:13 app app:on-13
  layerctl rebase --base python:3.12 --onto python:3.13 app app:next`,
		Args: exactArgs(2, "an image and a new name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.Onto == "" {
				return usagef("rebase: --onto NEWBASE is missing")
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			opt.Ref = args[1]
			img, err := images.Rebase(cmd.Context(), args[0], opt)
			var conflicts *image.ConflictsError
			switch {
			case errors.As(err, &conflicts):
				for _, c := range conflicts.Conflicts {
					fmt.Fprintf(a.stdout, "%s: %s\n", start.OneLine(c.Path), start.OneLine(c.Why))
				}
				if more := conflicts.Count - len(conflicts.Conflicts); more > 0 {
					fmt.Fprintf(a.stdout, "and %d more\n", more)
				}
				return err
			case errors.Is(err, image.ErrBase):
				return start.Hinted(usageError{err}, "say which image it is made on by --base")
			case err != nil:
				return err
			}
			a.imageEvent("tag", img.ID, img.Name)
			fmt.Fprintln(a.stdout, img.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Onto, "onto", "", "the `image` that becomes the base")
	f.StringVar(&opt.Base, "base", "", "the `image` that is the base now")
	return cmd
}
