package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// bytesOf is a size: a number in JSON, and as people write it elsewhere.
type bytesOf int64

func (n bytesOf) String() string { return humanSize(int64(n)) }

// listOf is a list: one in JSON, and with commas elsewhere.
type listOf []string

func (l listOf) String() string { return strings.Join(l, ", ") }

// layerRow is a line of `layers`.
type layerRow struct {
	Layer     int // 1 is the lowest
	Digest    string
	MediaType string
	DiffID    string
	ChainID   string
	BlobSize  bytesOf // of the blob, 0 for a layer that was made here
	TarSize   bytesOf // of the tar in it, 0 where nobody has counted
	Size      bytesOf // of the files
	Files     int     // all names but directories
	Dirs      int
	Deleted   int // names that the layer hides: whiteouts and opaque directories
	CreatedAt string
	CreatedBy string
	Comment   string
	SharedBy  listOf
}

func (a *app) layersCommand() *cobra.Command {
	var quiet, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "layers [flags] IMAGE",
		Short: "Show an image's layers, the lowest first",
		Long: `Show the layers of an image, the lowest first: what each takes, the command that made it, and which other images have it, too.
IMAGE#N names layer N to other commands, as its diff ID, chain ID or the digest of its blob does.`,
		Example: "  layerctl layers debian\n  layerctl layers --no-trunc --format '{{.Layer}} {{.DiffID}} {{.Size}}' debian\n  layerctl diff debian#2",
		Args:    exactArgs(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			v, err := images.Look(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("layers: %w", err)
			}
			defer v.Close()
			shared, err := images.Sharers(v.Image)
			if err != nil {
				return fmt.Errorf("layers %s: %w", args[0], err)
			}
			var rows []layerRow
			for i := range v.Layers {
				l := &v.Layers[i]
				if quiet {
					fmt.Fprintln(a.stdout, shortID(l.DiffID, noTrunc))
					continue
				}
				n, err := l.Count()
				if err != nil {
					return fmt.Errorf("layers %s: layer %s: %w", args[0], l.DiffID, err)
				}
				rows = append(rows, layerRow{Layer: i + 1, Digest: shortID(l.Digest, noTrunc), MediaType: l.MediaType, DiffID: shortID(l.DiffID, noTrunc),
					ChainID: shortID(l.Chain, noTrunc), BlobSize: bytesOf(l.BlobSize), TarSize: bytesOf(l.TarSize), Size: bytesOf(l.Size),
					Files: n.Files, Dirs: n.Dirs, Deleted: n.Deleted, CreatedAt: timestamp(l.Created), CreatedBy: createdBy(l.CreatedBy, noTrunc),
					Comment: l.Comment, SharedBy: append(listOf{}, shared[i]...)})
			}
			if quiet {
				return nil
			}
			columns := []column{{"LAYER", "Layer"}, {"DIFF ID", "DiffID"}, {"SIZE", "Size"}, {"BLOB", "BlobSize"}, {"FILES", "Files"},
				{"CREATED BY", "CreatedBy"}, {"SHARED BY", "SharedBy"}}
			if noTrunc {
				columns = []column{{"LAYER", "Layer"}, {"DIGEST", "Digest"}, {"DIFF ID", "DiffID"}, {"CHAIN ID", "ChainID"}, {"SIZE", "Size"},
					{"BLOB", "BlobSize"}, {"TAR", "TarSize"}, {"FILES", "Files"}, {"CREATED BY", "CreatedBy"}, {"SHARED BY", "SharedBy"}}
			}
			return printList(a.stdout, format, columns, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print only diff IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten anything, and show digests and chain IDs")
	f.StringVar(&format, "format", "", "a Go template, or json (one object a line)")
	return cmd
}

// createdBy is a step of an image's history on one line, short enough for a table unless noTrunc.
func createdBy(by string, noTrunc bool) string {
	by = strings.Join(strings.Fields(by), " ")
	if r := []rune(by); !noTrunc && len(r) > 45 {
		return string(r[:44]) + "…"
	}
	return by
}
