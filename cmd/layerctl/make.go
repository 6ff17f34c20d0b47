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
