package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
)

// checkFinding is one finding of `check`.
type checkFinding struct {
	File       string `json:",omitempty"`
	Layer      string `json:",omitempty"`
	Path       string `json:",omitempty"`
	Problem    string
	Images     []string `json:",omitempty"`
	Containers []string `json:",omitempty"`
	subject    string
}

func (f checkFinding) String() string {
	var whose []string
	for _, list := range []struct {
		one, many string
		names     []string
	}{{"image ", "images ", f.Images}, {"container ", "containers ", f.Containers}} {
		switch len(list.names) {
		case 0:
		case 1:
			whose = append(whose, list.one+list.names[0])
		default:
			whose = append(whose, list.many+strings.Join(list.names, ", "))
		}
	}
	s := f.subject + ": " + f.Problem
	if len(whose) > 0 {
		s += " (" + strings.Join(whose, "; ") + ")"
	}
	return s
}

// checkReport is the answer of `check`.
type checkReport struct {
	Healed, Lost, Left                              []string `json:",omitempty"` // by --repair
	Findings                                        []checkFinding
	Notes                                           []string
	Images, Containers, Layers, Blobs, Names, Files int64
	Bytes                                           int64
}

func (a *app) checkCommand() *cobra.Command {
	var quick, full, repair bool
	var format string
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "Compare everything in the store with what it should be",
		Long: `Compare everything in the store with what it should be: every blob with its digest, every name of every layer with the layer's index,
every reference with what it names. It may run beside anything. Prints a line for each thing that is wrong, with the images and
containers that it concerns, and ends with status 1; or prints ok. What containers wrote themselves is not looked at.

With --repair it makes right what it finds: rows and records from each other, blobs from where the image was pulled, layers from their
blobs. An image of which something is nowhere any more is removed, and named; it then ends with status 1, too. Layers of containers that
run are left as they are.`,
		Example: "  layerctl check\n  layerctl check --full\n  layerctl check --full --repair",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := image.CheckNormal
			switch {
			case quick && full:
				return usagef("--quick and --full: want one of them")
			case quick:
				level = image.CheckQuick
			case full:
				level = image.CheckFull
			}
			r, err := a.check(cmd.Context(), level, repair)
			if err != nil {
				return err
			}
			if err := r.print(a.stdout, format); err != nil {
				return err
			}
			if n := len(r.Findings); n > 0 {
				err := fmt.Errorf("check: %s not as it should be", plural(n, "thing is", "things are"))
				if repair {
					return err
				}
				return start.Hinted(err, "`layerctl check --repair` makes right what can be made right")
			}
			if n := len(r.Lost); n > 0 {
				return fmt.Errorf("check: %s lost", plural(n, "thing is", "things are"))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&quick, "quick", false, "rows, references, small files and the sizes of blobs; not what is in blobs and trees")
	f.BoolVar(&full, "full", false, "also read every file of every layer")
	f.BoolVar(&repair, "repair", false, "make right what is found, or remove it and say which image is lost")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// check compares everything and, with repair, makes right what it finds and compares again.
func (a *app) check(ctx context.Context, level image.CheckLevel, repair bool) (*checkReport, error) {
	images, _, containers, err := a.stores()
	if err != nil {
		return nil, err
	}
	theirs, err := containers.Check(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := images.Check(ctx, level)
	if err != nil {
		return nil, err
	}
	var did image.RepairReport
	// What is repaired may show what lay behind it: a layer that no row named is not looked at.
	for pass := 0; repair && pass < 3 && len(ours.Findings)+len(theirs.Findings) > 0; pass++ {
		before := len(did.Healed) + len(did.Lost)
		first, err := containers.Repair(ctx)
		if err != nil {
			return nil, err
		}
		more, err := images.Repair(ctx, ours, image.RepairOptions{Claims: first.Claims, Notice: func(line string) { slog.Info(line) }})
		did.Healed, did.Lost = slices.Concat(did.Healed, first.Healed, more.Healed), slices.Concat(did.Lost, first.Lost, more.Lost)
		did.Left = append(first.Left, more.Left...)
		if err != nil {
			return nil, err
		}
		for i, line := range did.Left {
			for key, name := range theirs.Names {
				line = strings.ReplaceAll(line, key, "container "+name)
			}
			did.Left[i] = line
		}
		if theirs, err = containers.Check(ctx); err != nil {
			return nil, err
		}
		if ours, err = images.Check(ctx, level); err != nil {
			return nil, err
		}
		if len(did.Healed)+len(did.Lost) == before {
			break
		}
	}
	r := &checkReport{Healed: did.Healed, Lost: did.Lost, Left: did.Left, Findings: []checkFinding{}, Notes: ours.Notes, Images: ours.Images, Containers: int64(theirs.Containers),
		Layers: ours.Layers, Blobs: ours.Blobs, Names: ours.Names, Files: ours.Files, Bytes: ours.Bytes}
	for _, f := range ours.Findings {
		out := checkFinding{File: f.File, Layer: f.Layer, Path: f.Path, Problem: f.Problem, Images: f.Images, subject: f.Subject()}
		for _, key := range f.Snapshots {
			if name, ok := theirs.Names[key]; ok {
				key = name
			}
			out.Containers = append(out.Containers, key)
		}
		r.Findings = append(r.Findings, out)
	}
	for _, f := range theirs.Findings {
		out := checkFinding{File: f.File, Problem: f.Problem, subject: f.File}
		if f.Container != "" {
			out.Containers = []string{f.Container}
		}
		r.Findings = append(r.Findings, out)
	}
	return r, nil
}

func (r *checkReport) print(w io.Writer, format string) error {
	if format != "" {
		return printDocument(w, format, r, r)
	}
	out := newBuffered(w)
	for _, list := range []struct {
		what  string
		lines []string
	}{{"healed: ", r.Healed}, {"lost: ", r.Lost}, {"left: ", r.Left}} {
		for _, line := range list.lines {
			fmt.Fprintln(out, list.what+line)
		}
	}
	for _, f := range r.Findings {
		fmt.Fprintln(out, f)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(out, "note: "+n)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintf(out, "ok: %d images, %d containers, %d layers, %d blobs, %d names, %d files, %s read\n", r.Images, r.Containers, r.Layers, r.Blobs,
			r.Names, r.Files, humanSize(r.Bytes))
	}
	return out.Flush()
}
