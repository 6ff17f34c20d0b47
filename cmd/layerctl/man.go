//go:build man

package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// buildCommands are the commands of the program that `make install` builds for itself: the generator of the man pages is not linked into
// the one that is installed.
func (a *app) buildCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIR",
		Hidden: true,
		Args:   exactArgs(1, "a directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true // it would tell when they were made
			for name, value := range map[string]string{"root": "/var/lib/layerctl", "run-root": "/run/layerctl"} {
				root.PersistentFlags().Lookup(name).DefValue = value // whoever builds
			}
			return doc.GenManTree(root, &doc.GenManHeader{Title: "LAYERCTL", Section: "1", Source: "layerctl " + version, Manual: "layerctl"}, args[0])
		},
	}}
}
