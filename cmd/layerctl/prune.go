package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// pruneFlags are those of the prune commands.
type pruneFlags struct {
	all, force bool
	filters    []string
}

func (p *pruneFlags) register(cmd *cobra.Command, all string) {
	f := cmd.Flags()
	if all != "" {
		f.BoolVarP(&p.all, "all", "a", false, all)
	}
	f.StringArrayVar(&p.filters, "filter", nil, "only what is older than until=TIME (24h, a date), has label=KEY[=VALUE], or has not label!=KEY[=VALUE]")
	f.BoolVarP(&p.force, "force", "f", false, "do not ask")
}

const (
	pruneContainers = "all stopped containers"
	pruneDangling   = "all dangling images"
	pruneUnused     = "all images without at least one container associated to them"
)

func (a *app) pruneCommand() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Free what nobody needs: stopped containers, images, and what a crash left",
		Long: `Remove all stopped containers, all images that have lost their name (with --all, every image that no container was made from), and
whatever interrupted commands left: half-made layers and containers, downloads, mounts, cgroups. What a command in flight needs is never
touched.`,
		Example: "  layerctl prune\n  layerctl prune -af --filter until=72h",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := []string{pruneContainers, pruneDangling, "what interrupted commands left behind"}
			if p.all {
				what[1] = pruneUnused
			}
			return a.prune(cmd, p, what, true, true)
		},
	}
	p.register(cmd, "images that have a name, too, where no container was made from them")
	return cmd
}

// groupCommand holds commands that Docker has under a noun.
func groupCommand(name, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

func (a *app) imagePruneCommand() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove images that have lost their name, and layers and downloads that no image needs",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := pruneDangling
			if p.all {
				what = pruneUnused
			}
			return a.prune(cmd, p, []string{what}, false, true)
		},
	}
	p.register(cmd, "images that have a name, too, where no container was made from them")
	return cmd
}

func (a *app) containerPruneCommand() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove all stopped containers",
		Args:  exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.prune(cmd, p, []string{pruneContainers}, true, false)
		},
	}
	p.register(cmd, "")
	return cmd
}

// prune asks, removes, and says what was removed, as Docker does.
func (a *app) prune(cmd *cobra.Command, p pruneFlags, what []string, containersToo, imagesToo bool) error {
	filter, err := parsePruneFilter(p.filters, time.Now())
	if err != nil {
		return err
	}
	if !p.force {
		if yes, err := a.confirm(what, filter); err != nil || !yes {
			return err
		}
	}
	images, snaps, containers, err := a.stores()
	if err != nil {
		return err
	}
	snaps.DeleteDetached(false) // what is said to be free, is
	ctx := cmd.Context()
	var freed int64
	if containersToo {
		n, perr := a.pruneContainers(ctx, containers, snaps, runtime.PruneOptions{Match: filter.match})
		freed, err = freed+n, errors.Join(err, perr)
	}
	if containersToo && imagesToo {
		err = errors.Join(err, containers.Sweep(ctx))
	}
	if imagesToo {
		err = errors.Join(err, snaps.SweepViews(ctx)) // an image that was mounted once is not needed for that
		survey, serr := containers.Survey(ctx, nil)
		if serr != nil {
			return errors.Join(err, serr)
		}
		n, perr := a.pruneImages(ctx, images, image.PruneOptions{All: p.all, Match: filter.match, Made: survey.ImageOf})
		freed, err = freed+n, errors.Join(err, perr)
	} else {
		err = errors.Join(err, snaps.EmptyTrash(ctx))
	}
	fmt.Fprintf(a.stdout, "Total reclaimed space: %s\n", humanSize(freed))
	if err != nil {
		return fmt.Errorf("prune: %w", err)
	}
	return nil
}

func (a *app) pruneContainers(ctx context.Context, containers *runtime.Store, snaps *snapshot.Store, o runtime.PruneOptions) (freed int64, err error) {
	actives, err := snaps.Actives()
	if err != nil {
		return 0, err
	}
	for i := range actives {
		if err := actives[i].Measure(ctx); err != nil {
			return 0, err
		}
	}
	survey, err := containers.Survey(ctx, actives)
	if err != nil {
		return 0, err
	}
	removed, err := containers.ExecutePrune(ctx, survey.Plan(o))
	if len(removed) > 0 {
		fmt.Fprintln(a.stdout, "Deleted Containers:")
		for _, c := range removed {
			fmt.Fprintln(a.stdout, c.ID)
			freed += c.Records + c.Written
		}
		fmt.Fprintln(a.stdout)
	}
	return freed, err
}

func (a *app) pruneImages(ctx context.Context, images *image.Store, o image.PruneOptions) (freed int64, err error) {
	survey, err := images.Survey(ctx)
	if err != nil {
		return 0, err
	}
	plan := survey.Plan(o)
	done, err := images.ExecutePrune(ctx, plan)
	for _, img := range plan.Images {
		a.removalEvents(img.ID, img.Names, done)
	}
	if len(done) > 0 {
		fmt.Fprintln(a.stdout, "Deleted Images:")
		for _, d := range done {
			fmt.Fprintf(a.stdout, "%s: %s\n", strings.ToLower(d.Kind), d.What)
		}
		fmt.Fprintln(a.stdout)
	}
	var swept []snapshot.Item
	for _, item := range plan.Items() {
		if _, serr := os.Lstat(item.Path); serr == nil {
			continue // somebody needed it after all
		}
		freed += item.Size
		if item.Leftover {
			swept = append(swept, item)
		}
	}
	if len(swept) > 0 {
		fmt.Fprintln(a.stdout, "Deleted Leftovers:")
		for _, item := range swept {
			fmt.Fprintf(a.stdout, "%s (%s)\n", item.Name, humanSize(item.Size))
		}
		fmt.Fprintln(a.stdout)
	}
	return freed, err
}

// confirm asks on stdout and reads the answer from stdin, whatever that is: what is no "y" is a no, the end of a file, too.
func (a *app) confirm(what []string, filter *pruneFilter) (bool, error) {
	if len(what) == 1 {
		fmt.Fprintf(a.stdout, "WARNING! This will remove %s.\n", what[0])
	} else {
		fmt.Fprintln(a.stdout, "WARNING! This will remove:")
		for _, w := range what {
			fmt.Fprintf(a.stdout, "  - %s\n", w)
		}
		fmt.Fprintln(a.stdout)
	}
	if len(filter.given) > 0 {
		fmt.Fprintln(a.stdout, "  Items to be pruned will be filtered with:")
		for _, g := range filter.given {
			fmt.Fprintf(a.stdout, "  - %s\n", g)
		}
		fmt.Fprintln(a.stdout)
	}
	fmt.Fprint(a.stdout, "Are you sure you want to continue? [y/N] ")
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && err != io.EOF {
		return false, fmt.Errorf("prune: read the answer: %w", err)
	}
	if err == io.EOF {
		fmt.Fprintln(a.stdout)
	}
	return strings.EqualFold(strings.TrimSpace(answer), "y"), nil
}
