package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/waste"
)

// wasteReport is what `waste` answers. Sizes are bytes of content.
type wasteReport struct {
	Image       string
	ID          string
	Files       int
	Bytes       int64
	WastedBytes int64
	Efficiency  float64 // per cent
	Kinds       map[waste.Kind]int64
	TwinBytes   int64 // that layers have twice within themselves; not wasted
	Layers      []wasteLayer
	Items       []wasteItem
	Twins       []wasteItem
}

type wasteLayer struct {
	Layer       int // 1 is the lowest, as in layers
	DiffID      string
	CreatedBy   string
	Files       int
	Bytes       int64
	WastedBytes int64
	Kinds       map[waste.Kind]int64
	TwinBytes   int64
	by          string // CreatedBy as a Dockerfile has it
}

type wasteItem struct {
	Kind  waste.Kind
	Path  string // with a slash at its end for what is below a directory
	Files int
	Bytes int64
	Layer int    // that has the bytes
	By    int    // that hides them, or has the first copy
	Of    string `json:",omitempty"` // the first copy
	Cache string `json:",omitempty"`
	How   string
}

const wasteTop = 20

func (a *app) wasteCommand() *cobra.Command {
	var format string
	var failOver percent
	var noTrunc bool
	cmd := &cobra.Command{
		Use:   "waste [flags] IMAGE",
		Short: "Show the bytes that an image carries for nothing",
		Long: `Show the bytes that an image carries for nothing, by layer and the command that made it. A byte is counted once, as

  overwritten  a later layer brings another file of that name
  rewritten    a later layer brings the same content again, for its owner, mode or time (chmod and chown in a layer of their own)
  deleted      a later layer deletes the file, or a directory above it
  cached       it is in the cache of a package manager (apt, apk, dnf, yum, zypper, pacman, pip, uv, poetry, npm, yarn, conda, gem, cargo,
               Go, composer, maven), or in /tmp or /var/tmp
  duplicate    another layer has the same content under another name

Efficiency is 100 × (1 − wasted / all bytes of files in all layers). With --fail-over the exit status is 1 where more than that share is
wasted. Content that one layer has twice is listed by --format json and does not count. Only the layers' indexes are read.`,
		Example: `  layerctl waste app:latest
  layerctl waste --fail-over 10 app:latest
  layerctl waste --format '{{.Efficiency}}' app:latest`,
		Args: exactArgs(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.wasteOf(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("waste: %w", err)
			}
			out := newBuffered(a.stdout)
			if format != "" {
				err = printDocument(out, format, r, r)
			} else {
				err = r.print(out, noTrunc)
			}
			if err == nil {
				err = out.Flush()
			}
			if err != nil {
				return err
			}
			if wasted := 100 - r.Efficiency; failOver.set && wasted > failOver.value {
				return start.Hinted(fmt.Errorf("waste: %s of %s are wasted, %.1f%%: more than the %s%% of --fail-over", humanSize(r.WastedBytes), humanSize(r.Bytes), wasted, failOver.String()),
					"clean up in the command that makes the mess: what a later layer deletes is still there")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.Var(&failOver, "fail-over", "exit with status 1 where more than this `PERCENT` of the bytes is wasted")
	f.StringVar(&format, "format", "", "a Go template, or json")
	f.BoolVar(&noTrunc, "no-trunc", false, "show everything that is wasted, and whole commands")
	return cmd
}

// percent is a flag's value from 0 to 100.
type percent struct {
	value float64
	set   bool
}

func (p *percent) String() string {
	if !p.set {
		return ""
	}
	return strconv.FormatFloat(p.value, 'f', -1, 64)
}

func (p *percent) Type() string { return "percent" }

func (p *percent) Set(s string) error {
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(v >= 0 && v <= 100) || math.IsNaN(v) {
		return fmt.Errorf("want a number from 0 to 100")
	}
	p.value, p.set = v, true
	return nil
}

func (a *app) wasteOf(ctx context.Context, ref string) (*wasteReport, error) {
	images, _, _, err := a.stores()
	if err != nil {
		return nil, err
	}
	view, err := images.Look(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	found, err := waste.Analyse(view.Stack.Layers(), nil)
	if err != nil {
		return nil, err
	}
	return newWasteReport(view, found), nil
}

func newWasteReport(view *image.View, found *waste.Analysis) *wasteReport {
	r := &wasteReport{Image: view.Image.Name, ID: view.Image.ID, Files: found.Files, Bytes: found.Bytes, WastedBytes: found.Wasted, Efficiency: found.Efficiency(), Kinds: found.Kinds,
		TwinBytes: found.Twins, Items: wasteItems(found.Items), Twins: wasteItems(found.Copies)}
	for i, l := range found.Layers {
		of := view.Layers[i]
		r.Layers = append(r.Layers, wasteLayer{i + 1, of.DiffID, of.CreatedBy, l.Files, l.Bytes, l.Wasted, l.Kinds, l.Twins, of.Instruction()})
	}
	return r
}

func wasteItems(found []waste.Item) []wasteItem {
	list := []wasteItem{}
	for _, i := range found {
		w := wasteItem{Kind: i.Kind, Path: "/" + i.Path, Files: i.Files, Bytes: i.Bytes, Layer: i.Layer + 1, By: i.By + 1, Cache: i.Cache, How: i.How()}
		if i.Dir {
			w.Path += "/"
		}
		if i.Of != "" {
			w.Of = "/" + i.Of
		}
		list = append(list, w)
	}
	return list
}

// print is the answer for people.
func (r *wasteReport) print(w io.Writer, all bool) error {
	fmt.Fprintf(w, "Efficiency %.1f%%: of %s in %s, %s are wasted.\n\n", r.Efficiency, humanSize(r.Bytes), plural(len(r.Layers), "layer", "layers"), humanSize(r.WastedBytes))
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "LAYER\tSIZE\tWASTED\tCREATED BY")
	for _, l := range r.Layers {
		wasted := "-"
		if l.WastedBytes > 0 {
			wasted = humanSize(l.WastedBytes)
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", l.Layer, humanSize(l.Bytes), wasted, start.OneLine(createdBy(l.by, all)))
	}
	if len(r.Items) > 0 {
		fmt.Fprintln(tw, "\nWASTED\tWHY\tPATH\tHOW")
	}
	more, bytes := 0, int64(0)
	for n, i := range r.Items {
		if n >= wasteTop && !all {
			more++
			bytes += i.Bytes
			continue
		}
		what := start.OneLine(i.Path)
		if i.Files > 1 {
			what += " (" + plural(i.Files, "file", "files") + ")"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", humanSize(i.Bytes), i.Kind, what, start.OneLine(i.How))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if more > 0 {
		fmt.Fprintf(w, "and %d more, %s: --no-trunc shows them\n", more, humanSize(bytes))
	}
	return nil
}
