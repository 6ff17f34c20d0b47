package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/packages"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/image/report"
	"github.com/layerctl/layerctl/image/waste"
)

func (a *app) reportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "report [flags] IMAGE",
		Short: "Write what is inside an image as one HTML page",
		Long: `Write what is inside an image as one HTML page: a map of its files by size, layer and directory, the layers with the commands that made
them, what is wasted, and the packages that are installed. The page is one file that loads nothing, works offline and from a mail's
attachment, and runs nothing that is in the image. The same image always gives the same bytes.

Without -o the page is written to stdout, or, where that is a terminal, to a file in this directory that is named after the image. The
path of a file that was written is printed.`,
		Example: `  layerctl report app:1
  layerctl report -o app.html app:1
  layerctl report app:1 | ssh host 'cat > /var/www/html/app.html'`,
		Args: exactArgs(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			view, err := images.Look(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("report: %w", err)
			}
			defer view.Close()
			page, err := pageOf(view)
			if err != nil {
				return fmt.Errorf("report on %s: %w", args[0], err)
			}
			if output == "" && isTerminal(a.stdout) {
				output = pageName(view.Image)
			}
			if output == "" || output == "-" {
				_, err := a.stdout.Write(page)
				return err
			}
			if err := writeWhole(output, page); err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
			fmt.Fprintln(a.stdout, output)
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the `FILE` to write; - is stdout")
	return cmd
}

// pageOf makes the page; it has a megabyte or two.
func pageOf(view *image.View) ([]byte, error) {
	img := view.Image
	r := report.Report{Name: shortID(img.ID, false), ID: img.ID, Digest: img.Digest, Platform: img.Platform, Created: img.Created, Tree: &report.Tree{}}
	if ref, err := reference.Parse(img.Name); err == nil {
		r.Name = strings.TrimPrefix(ref.FamiliarName(), "localhost/")
		if ref.Tag != "" {
			r.Name += ":" + ref.Tag
		}
	}
	for _, l := range view.Layers {
		r.Layers = append(r.Layers, report.Layer{DiffID: l.DiffID, CreatedBy: l.Instruction(), Created: l.Created})
	}
	var err error
	if r.Analysis, err = waste.Analyse(view.Stack.Layers(), r.Tree.Add); err != nil {
		return nil, err
	}
	r.Packages, r.PackagesError = packages.List(view.Stack)
	var b bytes.Buffer
	err = r.Write(&b)
	return b.Bytes(), err
}

// pageName is a file named after an image: app-1.html for localhost/app:1.
func pageName(img image.Image) string {
	name := shortID(img.ID, false)
	if ref, err := reference.Parse(img.Name); err == nil {
		name = lastPart(ref.Name())
		if ref.Tag != "" && ref.Tag != "latest" {
			name += "-" + ref.Tag
		}
	}
	return name + ".html"
}

// writeWhole puts a file in its place when all of it is written. A link stays one, and what is no file is written to.
func writeWhole(path string, content []byte) error {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(path, content, 0)
	}
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s-%d", filepath.Base(path), os.Getpid()))
	err := os.WriteFile(tmp, content, 0o666)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}
