package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// blameRow is a line of `blame`.
type blameRow struct {
	Layer     int // 1 is the lowest
	DiffID    string
	Kind      string // A added, C changed, D deleted, H hidden
	Path      string
	By        string `json:",omitempty"` // the directory above that was deleted or put in the way, where it was not the path itself
	Differs   listOf
	Wins      bool
	Entry     *entryRecord `json:",omitempty"`
	CreatedAt string
	CreatedBy string

	What string `json:"-"` // Kind, By and Differs in words
	Mark string `json:"-"` // "*" where it wins
	Mode string `json:"-"`
	Size string `json:"-"`
}

func (a *app) blameCommand() *cobra.Command {
	var noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "blame [flags] IMAGE PATH",
		Short: "Show which layers of an image added, changed, hid or deleted a path",
		Long: `Show every layer of an image that added, changed, hid or deleted a path, the lowest first, and the command that made it. A star marks
the layer whose file the image shows. Links in the directories that lead to the path are followed within the image, and said on stderr;
the path itself is not.`,
		Example: "  layerctl blame debian /etc/passwd\n  layerctl blame --format '{{.Layer}} {{.Kind}} {{.CreatedBy}}' app /usr/lib/os-release",
		Args:    exactArgs(2, "an image and a path"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			v, err := images.Look(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("blame: %w", err)
			}
			defer v.Close()
			rows, err := a.blame(v, args[1], noTrunc)
			if errors.Is(err, image.ErrNoPath) {
				return start.Hinted(fmt.Errorf("blame %s: %w", args[0], err), "`layerctl diff --tree "+args[0]+"#1` shows what its lowest layer brings")
			}
			if err != nil {
				return fmt.Errorf("blame %s: %w", args[0], err)
			}
			return printList(a.stdout, format, []column{{"", "Mark"}, {"LAYER", "Layer"}, {"DIFF ID", "DiffID"}, {"WHAT", "What"}, {"MODE", "Mode"},
				{"SIZE", "Size"}, {"CREATED BY", "CreatedBy"}}, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten anything")
	f.StringVar(&format, "format", "", "a Go template, or json (one object a line)")
	return cmd
}

func (a *app) blame(v *image.View, name string, noTrunc bool) ([]blameRow, error) {
	at, links, err := v.Follow(name)
	if err != nil {
		return nil, err
	}
	if len(links) > 0 {
		// The literal path may have been there before the link was.
		if _, err := v.Blame(at); errors.Is(err, image.ErrNoPath) {
			at = diff.Clean(name)
		}
	}
	list, err := v.Blame(at)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		fmt.Fprintf(a.stderr, "/%s is a link to %s\n", printable(l.Path), printable(l.Target))
	}
	if len(links) > 0 {
		fmt.Fprintf(a.stderr, "/%s is /%s\n", printable(diff.Clean(name)), printable(at))
	}
	for _, b := range list {
		if b.Wins && b.Entry.Type == layer.TypeSymlink {
			fmt.Fprintf(a.stderr, "/%s is itself a link, to %s\n", printable(at), printable(b.Entry.Link))
		}
	}
	var rows []blameRow
	for _, b := range list {
		l := &v.Layers[b.Layer]
		row := blameRow{Layer: b.Layer + 1, DiffID: shortID(l.DiffID, noTrunc), Kind: string(rune(b.Kind)), Path: "/" + strings.TrimPrefix(at, "."), Wins: b.Wins,
			Differs: b.Differs.Names(), CreatedAt: timestamp(l.Created), CreatedBy: createdBy(l.CreatedBy, noTrunc)}
		if b.By != at {
			row.By = "/" + b.By
		}
		if b.Wins {
			row.Mark = "*"
		}
		switch b.Kind {
		case diff.Added:
			row.What = "added"
		case diff.Changed:
			row.What = "changed " + strings.Join(b.Differs.Names(), ", ")
			if b.Differs == 0 {
				row.What = "brought again, the same"
			}
		case diff.Deleted:
			row.What = "deleted"
		case image.Hidden:
			row.What = "hidden"
		}
		if row.By != "" {
			row.What += " with " + row.By
		}
		if b.Kind == diff.Added || b.Kind == diff.Changed {
			row.Entry = recordOf(&b.Entry)
			row.Mode, row.Size = modeString(&b.Entry), humanSize(b.Entry.Size)
		}
		rows = append(rows, row)
	}
	return rows, nil
}
