package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/reference"
)

func (a *app) pullCommand() *cobra.Command {
	var opt image.PullOptions
	var policy string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "pull [flags] REF",
		Short: "Fetch an image from a registry",
		Long: `Fetch an image from a registry: layers are downloaded and unpacked in parallel, each while it downloads, and every digest, size
and diff ID is verified before anything names it. Prints the resolved NAME@DIGEST.`,
		Example: "  layerctl pull ubuntu\n  layerctl pull --platform linux/arm64 debian:12\n  layerctl pull localhost:5000/app@sha256:…",
		Args:    exactArgs(1, "one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opt.Policy, err = image.ParsePolicy(policy); err != nil {
				return usagef("--policy %s: want always, missing or never", policy)
			}
			if quiet {
				a.progress = "none"
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			img, err := a.pullImage(cmd.Context(), images, args[0], opt)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%s@%s\n", pulledName(args[0], img), img.Digest)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Platform, "platform", "", "OS/ARCH[/VARIANT], where the image has several (default: this host's)")
	f.StringVar(&policy, "policy", "always", "always ask the registry, only for what is missing, or never")
	f.BoolVar(&opt.PlainHTTP, "plain-http", false, "speak HTTP without TLS (a registry on loopback is tried so by itself)")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return cmd
}

// pulledName is the name without tag and digest, for NAME@DIGEST.
func pulledName(arg string, img image.Image) string {
	if ref, err := reference.Parse(arg); err == nil {
		return ref.Name()
	}
	return img.Name
}

func (a *app) pullImage(ctx context.Context, images *image.Store, ref string, opt image.PullOptions) (image.Image, error) {
	p := a.newProgress("pulling", "pulled")
	opt.Progress = p
	img, err := images.Pull(ctx, ref, opt)
	p.Close()
	if err == nil {
		a.imageEvent("pull", img.ID, img.Name)
	}
	return img, err
}

func (a *app) importCommand() *cobra.Command {
	var opt image.ImportOptions
	cmd := &cobra.Command{
		Use:   "import [flags] SOURCE|- [REF]",
		Short: "Make an image of a directory or a tarball",
		Long: `Make a one-layer image of a directory (a debootstrap tree), a tarball (plain, gzip, zstd, xz or bzip2) or, with -, of a tarball on
stdin. The source is never written. The same tree always gives the same layer, which is stored once. Without REF the image is named
after the source: ./debian becomes localhost/debian:latest. Prints the image ID.`,
		Example: `  layerctl import ./debian
  layerctl import --change 'CMD ["bash"]' -m 'from debootstrap' rootfs.tar.zst app:1
  tar -C ./debian -c . | layerctl import - debian:local`,
		Args: rangeArgs(1, 2, "SOURCE and at most one REF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				opt.Ref = args[1]
			}
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			src := image.ImportSource{Path: args[0]}
			if args[0] == "-" {
				src = image.ImportSource{Reader: a.stdin}
			}
			opt.Warn = func(s string) { slog.Warn(s) }
			img, err := images.Import(cmd.Context(), src, opt)
			if err != nil {
				return err
			}
			a.imageEvent("import", img.ID, img.Name)
			fmt.Fprintln(a.stdout, img.ID)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&opt.Changes, "change", "c", nil, changeHelp)
	f.StringVarP(&opt.Message, "message", "m", "", "a comment for the image's history")
	f.StringVar(&opt.Platform, "platform", "", "OS/ARCH[/VARIANT] of what the tree holds (default: this host's)")
	return cmd
}

// imageRow is a line of `images`, in Docker's field names.
type imageRow struct {
	Repository   string
	Tag          string
	ID           string
	Digest       string
	CreatedSince string
	CreatedAt    string
	Size         string
	Platform     string
}

func (a *app) imagesCommand() *cobra.Command {
	var quiet, noTrunc, digests bool
	var format string
	cmd := &cobra.Command{
		Use:     "images [flags] [REF]",
		Short:   "List images",
		Example: "  layerctl images\n  layerctl images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
		Args:    rangeArgs(0, 1, "at most one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			list, err := images.List(cmd.Context())
			if err != nil {
				return err
			}
			var rows []imageRow
			seen := map[string]bool{}
			for _, img := range list {
				if len(args) == 1 && !matchesName(args[0], img.Name) {
					continue
				}
				if quiet {
					if !seen[img.ID] {
						fmt.Fprintln(a.stdout, shortID(img.ID, noTrunc))
					}
					seen[img.ID] = true
					continue
				}
				rows = append(rows, imageRowOf(img, noTrunc))
			}
			if quiet {
				return nil
			}
			columns := []column{{"REPOSITORY", "Repository"}, {"TAG", "Tag"}, {"IMAGE ID", "ID"}, {"CREATED", "CreatedSince"}, {"SIZE", "Size"}}
			if digests {
				columns = append(columns[:2:2], append([]column{{"DIGEST", "Digest"}}, columns[2:]...)...)
			}
			return printList(a.stdout, format, columns, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print only IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten IDs")
	f.BoolVar(&digests, "digests", false, "show manifest digests")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

func imageRowOf(img image.Image, noTrunc bool) imageRow {
	row := imageRow{
		Repository: "<none>", Tag: "<none>", ID: shortID(img.ID, noTrunc), Digest: cmp.Or(img.Digest, "<none>"),
		CreatedSince: ago(img.Created), CreatedAt: timestamp(img.Created), Size: humanSize(img.Size), Platform: img.Platform,
	}
	if ref, err := reference.Parse(img.Name); err == nil {
		row.Repository = ref.FamiliarName()
		if ref.Tag != "" {
			row.Tag = ref.Tag
		}
	}
	return row
}

// matchesName says whether an image's name is what the user typed: the repository alone, or with its tag.
func matchesName(typed, name string) bool {
	full, err := reference.Parse(name)
	if err != nil {
		return false
	}
	for _, candidate := range reference.Candidates(typed) {
		want, err := reference.Parse(candidate)
		if err != nil {
			continue
		}
		if want.Name() == full.Name() && (want.Tag == full.Tag || !strings.Contains(lastPart(typed), ":")) {
			return true
		}
	}
	return false
}

func lastPart(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }

// historyRow is a line of `history`, in Docker's field names.
type historyRow struct {
	ID           string
	CreatedSince string
	CreatedAt    string
	CreatedBy    string
	Size         string
	Comment      string
}

func (a *app) historyCommand() *cobra.Command {
	var quiet, noTrunc bool
	var format string
	cmd := &cobra.Command{
		Use:   "history [flags] IMAGE",
		Short: "Show how an image was made, newest step first",
		Args:  exactArgs(1, "one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			entries, err := images.History(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rows := make([]historyRow, 0, len(entries))
			for i, e := range entries {
				id := "<missing>"
				if i == 0 {
					id = shortID(e.ID, noTrunc)
				}
				if quiet {
					fmt.Fprintln(a.stdout, id)
					continue
				}
				rows = append(rows, historyRow{ID: id, CreatedSince: ago(e.Created), CreatedAt: timestamp(e.Created), CreatedBy: createdBy(e.CreatedBy, noTrunc),
					Size: humanSize(e.Size), Comment: e.Comment})
			}
			if quiet {
				return nil
			}
			return printList(a.stdout, format, []column{{"IMAGE", "ID"}, {"CREATED", "CreatedSince"}, {"CREATED BY", "CreatedBy"},
				{"SIZE", "Size"}, {"COMMENT", "Comment"}}, rows)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quiet, "quiet", "q", false, "print only IDs")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten anything")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

func (a *app) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "tag IMAGE REF",
		Short:   "Give an image another name",
		Example: "  layerctl tag debian registry.example/debian:ours",
		Args:    exactArgs(2, "an image and a new name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, _, err := a.stores()
			if err != nil {
				return err
			}
			if err := images.Tag(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			a.imageEventOf(cmd.Context(), images, "tag", args[1])
			return nil
		},
	}
}

func (a *app) rmiCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [flags] IMAGE...",
		Short: "Remove image names, and images that nothing names any more",
		Args:  minArgs(1, "at least one image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			// A container keeps its layers, and so does a mount: these images are only untagged.
			inUse := func(img image.Image) []string { return usesOf(cmd.Context(), containers, img) }
			return a.each(cmd, args, func(ctx context.Context, name string) error {
				img, _ := images.Resolve(ctx, name) // where that fails, Remove says it
				done, err := images.Remove(ctx, name, image.RemoveOptions{Force: force, InUse: inUse})
				a.removalEvents(img.ID, img.Names, done)
				for _, d := range done {
					fmt.Fprintf(a.stdout, "%s: %s\n", d.Kind, d.What)
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "remove all names of an ID, and names that containers were made from")
	return cmd
}
