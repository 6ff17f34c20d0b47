package main

import (
	"fmt"

	"github.com/spf13/cobra"
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
			fmt.Fprintln(a.stdout, img.ID)
			return nil
		},
	}
	cmd.Flags().IntVar(&from, "from", 1, "the number of the lowest `layer` that becomes part of the one")
	return cmd
}
