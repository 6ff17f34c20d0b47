package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/image"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/snapshot"
)

// dfRow is a line of `df`, in Docker's field names, with the exact sizes beside.
type dfRow struct {
	Type             string
	TotalCount       int
	Active           int
	Size             string
	Reclaimable      string
	Bytes            int64
	ReclaimableBytes int64
}

func newDFRow(kind string, total, active int, size, reclaimable int64) dfRow {
	r := dfRow{Type: kind, TotalCount: total, Active: active, Size: humanSize(size), Reclaimable: humanSize(reclaimable), Bytes: size, ReclaimableBytes: reclaimable}
	if size > 0 {
		r.Reclaimable += fmt.Sprintf(" (%d%%)", reclaimable*100/size)
	}
	return r
}

// dfImage, dfContainer and dfLeftover are lines of `df -v`.
type dfImage struct {
	Repository   string
	Tag          string
	ID           string
	CreatedSince string
	Size         string
	SharedSize   string
	UniqueSize   string
	Containers   int
	SharedBytes  int64
	UniqueBytes  int64
}

type dfContainer struct {
	ID         string
	Image      string
	Command    string
	Size       string
	RunningFor string
	Status     string
	Names      string
	Bytes      int64
}

type dfLeftover struct {
	Name  string
	Size  string
	State string
	Bytes int64
}

// dfReport is the whole answer. What a prune would free is what the plan says that prune would make now.
type dfReport struct {
	Summary       []dfRow
	Images        []dfImage
	SharedBytes   int64 // what several images have, counted once
	Containers    []dfContainer
	Leftovers     []dfLeftover
	PruneFrees    int64
	PruneAllFrees int64
}

func (a *app) dfCommand() *cobra.Command {
	var verbose bool
	var format string
	cmd := &cobra.Command{
		Use:   "df [flags]",
		Short: "Show what the store takes on the disk, and what a prune would free",
		Long: `Show what the store takes on the disk, as du counts it, and what a prune would free. Images are their layers, unpacked, and the blobs
that these came as; what several images share is counted once. Leftovers are what commands in flight are making, and what interrupted
ones left. RECLAIMABLE is what no container needs.`,
		Example: "  layerctl df\n  layerctl df -v --format json",
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.diskReport(cmd.Context())
			if err != nil {
				return fmt.Errorf("df: %w", err)
			}
			if verbose {
				return a.printVerbose(r, format)
			}
			if err := printList(a.stdout, format, []column{{"TYPE", "Type"}, {"TOTAL", "TotalCount"}, {"ACTIVE", "Active"}, {"SIZE", "Size"},
				{"RECLAIMABLE", "Reclaimable"}}, r.Summary); err != nil || format != "" {
				return err
			}
			return a.printPrunable(r)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show each image, container and leftover")
	cmd.Flags().StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

func (a *app) printPrunable(r *dfReport) error {
	_, err := fmt.Fprintf(a.stdout, "\n`layerctl prune` would free %s, `layerctl prune --all` %s.\n", humanSize(r.PruneFrees), humanSize(r.PruneAllFrees))
	return err
}

func (a *app) printVerbose(r *dfReport, format string) error {
	if format != "" {
		return printDocument(a.stdout, format, r, r)
	}
	fmt.Fprint(a.stdout, "Images space usage:\n\n")
	if err := printList(a.stdout, "", []column{{"REPOSITORY", "Repository"}, {"TAG", "Tag"}, {"IMAGE ID", "ID"}, {"CREATED", "CreatedSince"},
		{"SIZE", "Size"}, {"SHARED SIZE", "SharedSize"}, {"UNIQUE SIZE", "UniqueSize"}, {"CONTAINERS", "Containers"}}, r.Images); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\nShared by several images, counted once: %s\n\nContainers space usage:\n\n", humanSize(r.SharedBytes))
	if err := printList(a.stdout, "", []column{{"CONTAINER ID", "ID"}, {"IMAGE", "Image"}, {"COMMAND", "Command"}, {"SIZE", "Size"},
		{"CREATED", "RunningFor"}, {"STATUS", "Status"}, {"NAMES", "Names"}}, r.Containers); err != nil {
		return err
	}
	fmt.Fprint(a.stdout, "\nLeftovers space usage:\n\n")
	if err := printList(a.stdout, "", []column{{"NAME", "Name"}, {"SIZE", "Size"}, {"STATE", "State"}}, r.Leftovers); err != nil {
		return err
	}
	return a.printPrunable(r)
}

// diskReport asks each part of the store, and sorts the answers.
func (a *app) diskReport(ctx context.Context) (*dfReport, error) {
	images, _, containers, err := a.stores()
	if err != nil {
		return nil, err
	}
	is, err := images.Survey(ctx)
	if err != nil {
		return nil, err
	}
	cs, err := containers.Survey(ctx, is.Snapshots.Actives)
	if err != nil {
		return nil, err
	}
	own, err := snapshot.OwnUsage(ctx, a.Root, func(name string) bool {
		return slices.Contains([]string{"images", "snapshots", "containers"}, name)
	})
	if err != nil {
		return nil, err
	}
	r := &dfReport{Images: []dfImage{}, Containers: []dfContainer{}, Leftovers: []dfLeftover{}}
	usage := is.Usage(func(key string) bool { return cs.ByKey(key) != nil })
	r.images(usage, cs, is)
	r.containers(cs)
	r.leftovers(append(usage.Leftovers, cs.Leftovers...))
	r.Summary = append(r.Summary, newDFRow("Store", 1, 1, own+usage.Own+cs.Own, 0))
	r.PruneFrees, r.PruneAllFrees = prunable(is, cs, false), prunable(is, cs, true)
	return r, nil
}

func (r *dfReport) images(usage *image.Usage, cs *runtime.Survey, is *image.Survey) {
	made := map[string]int{}
	for _, c := range cs.Containers {
		made[c.Image.ID]++
	}
	active := 0
	for _, img := range usage.Images {
		row := dfImage{Repository: "<none>", Tag: "<none>", ID: shortID(img.ID, false), CreatedSince: ago(img.Created), Size: humanSize(img.Shared + img.Unique),
			SharedSize: humanSize(img.Shared), UniqueSize: humanSize(img.Unique), Containers: made[img.ID], SharedBytes: img.Shared, UniqueBytes: img.Unique}
		if len(img.Names) > 0 {
			if ref, err := reference.Parse(img.Names[0]); err == nil {
				row.Repository, row.Tag = ref.FamiliarName(), ref.Tag
			}
		}
		if row.Containers > 0 {
			active++
		}
		r.Images = append(r.Images, row)
	}
	r.SharedBytes = usage.Shared
	leftovers := int64(0)
	for _, l := range usage.Leftovers {
		if !l.Held {
			leftovers += l.Size
		}
	}
	free := sum(is.Plan(image.PruneOptions{All: true, Made: cs.ImageOf}).Items()) - leftovers
	r.Summary = append(r.Summary, newDFRow("Images", len(r.Images), active, usage.Size(), free))
}

func (r *dfReport) containers(cs *runtime.Survey) {
	running, total, free := 0, int64(0), int64(0)
	for _, c := range cs.Containers {
		size := c.Records + c.Written
		p := psRowOf(c.Container, false)
		r.Containers = append(r.Containers, dfContainer{ID: p.ID, Image: p.Image, Command: p.Command, Size: humanSize(size), RunningFor: p.RunningFor,
			Status: p.Status, Names: p.Names, Bytes: size})
		if c.State.Running() {
			running++
		}
		total += size
	}
	for _, c := range cs.Plan(runtime.PruneOptions{}) {
		free += c.Records + c.Written
	}
	r.Summary = append(r.Summary, newDFRow("Containers", len(cs.Containers), running, total, free))
}

func (r *dfReport) leftovers(items []snapshot.Item) {
	active, total, free := 0, int64(0), int64(0)
	for _, l := range items {
		state := "reclaimable"
		if l.Held {
			state = "in use"
			active++
		} else {
			free += l.Size
		}
		total += l.Size
		r.Leftovers = append(r.Leftovers, dfLeftover{Name: l.Name, Size: humanSize(l.Size), State: state, Bytes: l.Size})
	}
	slices.SortFunc(r.Leftovers, func(a, b dfLeftover) int { return int(b.Bytes - a.Bytes) })
	r.Summary = append(r.Summary, newDFRow("Leftovers", len(items), active, total, free))
}

// prunable is what prune would free.
func prunable(is *image.Survey, cs *runtime.Survey, all bool) int64 {
	leaving := map[string]bool{}
	free := int64(0)
	for _, c := range cs.Plan(runtime.PruneOptions{}) {
		leaving[c.Key()] = true
		free += c.Records + c.Written
	}
	for _, l := range cs.Leftovers {
		if !l.Held {
			free += l.Size
		}
	}
	plan := is.Plan(image.PruneOptions{All: all, Made: cs.ImageOf, Leaving: func(key string) bool { return leaving[key] }})
	return free + sum(plan.Items())
}

func sum(items []snapshot.Item) (total int64) {
	for _, i := range items {
		total += i.Size
	}
	return total
}
