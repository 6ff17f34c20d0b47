package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

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
	Findings                                        []checkFinding
	Notes                                           []string
	Images, Containers, Layers, Blobs, Names, Files int64
	Bytes                                           int64
}

func (a *app) checkCommand() *cobra.Command {
	var quick, full bool
	var format string
	cmd := &cobra.Command{
		Use:   "check [flags]",
		Short: "Compare everything in the store with what it should be",
		Long: `Compare everything in the store with what it should be: every blob with its digest, every name of every layer with the layer's index,
every reference with what it names. It may run beside anything. Prints a line for each thing that is wrong, with the images and
containers that it concerns, and ends with status 1; or prints ok. What containers wrote themselves is not looked at.`,
		Example: "  layerctl check\n  layerctl check --full",
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
			r, err := a.check(cmd.Context(), level)
			if err != nil {
				return err
			}
			if err := r.print(a.stdout, format); err != nil || len(r.Findings) == 0 {
				return err
			}
			what := "1 thing is"
			if n := len(r.Findings); n > 1 {
				what = fmt.Sprintf("%d things are", n)
			}
			return fmt.Errorf("check: %s not as it should be", what)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&quick, "quick", false, "rows, references, small files and the sizes of blobs; not what is in blobs and trees")
	f.BoolVar(&full, "full", false, "also read every file of every layer")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

func (a *app) check(ctx context.Context, level image.CheckLevel) (*checkReport, error) {
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
	r := &checkReport{Findings: []checkFinding{}, Notes: ours.Notes, Images: ours.Images, Containers: int64(theirs.Containers),
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
