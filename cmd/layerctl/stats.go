package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/procfs"
)

// statsInterval is how often stats looks.
const statsInterval = time.Second

// statsRow is a line of `stats`, in Docker's field names.
type statsRow struct {
	Container string // as the user called it
	ID        string
	Name      string
	CPUPerc   string
	MemUsage  string
	MemPerc   string
	NetIO     string
	BlockIO   string
	PIDs      string
}

func (a *app) statsCommand() *cobra.Command {
	var w statsWatch
	var noStream bool
	var format string
	cmd := &cobra.Command{
		Use:   "stats [flags] [CONTAINER...]",
		Short: "Show what containers use: processor, memory, network, disks",
		Long: `stats shows what containers use, again every second: without names those that run. CPU % is of one processor, over the last second.
Memory is without the files that have not been used for long; without a limit it is compared with the machine's. A container that does
not run uses nothing.`,
		Example: "  layerctl stats\n  layerctl stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}' web",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, containers, err := a.stores()
			if err != nil {
				return err
			}
			w.containers, w.named = containers, args
			for _, name := range args {
				c, err := lookUp(cmd, containers, name)
				if err != nil {
					return err
				}
				w.ids = append(w.ids, c.ID)
			}
			live := !noStream && (format == "" || strings.HasPrefix(format, "table")) && isTerminal(a.stdout)
			for again := live; ; again = true {
				rows, err := w.look(cmd.Context())
				if rows == nil {
					return err
				}
				// The first look is what the second one compares with; a user who waits sees it, too.
				if again || noStream && len(w.before) == 0 {
					var text bytes.Buffer
					if err := printList(&text, format, statsColumns, rows); err != nil {
						return err
					}
					b := text.Bytes()
					if live { // over what was there before
						b = append([]byte("\x1b[H"), bytes.ReplaceAll(b, []byte("\n"), []byte("\x1b[K\n"))...)
						b = append(b, "\x1b[J"...)
					}
					if _, err := a.stdout.Write(b); err != nil {
						return err
					}
					if noStream && err != nil {
						return fmt.Errorf("stats: %w", err)
					}
					if noStream || len(w.ids) > 0 && len(rows) == 0 { // all that were named are gone
						return nil
					}
				}
				select {
				case <-time.After(statsInterval):
				case <-cmd.Context().Done():
					return exitStatus(130)
				}
			}
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&w.all, "all", "a", false, "show the ones that do not run, too")
	f.BoolVar(&noStream, "no-stream", false, "look once, for a second")
	f.BoolVar(&w.noTrunc, "no-trunc", false, "do not shorten IDs")
	f.StringVar(&format, "format", "", "a Go template, or json")
	return cmd
}

var statsColumns = []column{{"CONTAINER ID", "ID"}, {"NAME", "Name"}, {"CPU %", "CPUPerc"}, {"MEM USAGE / LIMIT", "MemUsage"}, {"MEM %", "MemPerc"},
	{"NET I/O", "NetIO"}, {"BLOCK I/O", "BlockIO"}, {"PIDS", "PIDs"}}

// statsWatch looks at containers again and again.
type statsWatch struct {
	containers   *runtime.Store
	named, ids   []string // of those that were named
	all, noTrunc bool
	before       map[string]procfs.Sample
}

// look returns a row a container. With an error that tells of containers whose records cannot be read it returns the others.
func (w *statsWatch) look(ctx context.Context) ([]statsRow, error) {
	list, unread := w.containers.List(ctx, w.all || len(w.ids) > 0)
	if list == nil {
		return nil, unread
	}
	called := map[string]string{}
	if len(w.ids) > 0 {
		unread = nil
		byID := map[string]runtime.Container{}
		for _, c := range list {
			byID[c.ID] = c
		}
		list = nil
		for i, id := range w.ids {
			if c, ok := byID[id]; ok && called[id] == "" {
				list = append(list, c)
				called[id] = w.named[i]
			}
		}
	}
	now := map[string]procfs.Sample{}
	rows := []statsRow{}
	for _, c := range list {
		row := statsRow{Container: called[c.ID], ID: shortID(c.ID, w.noTrunc), Name: c.Name}
		if row.Container == "" {
			row.Container = row.ID
		}
		var s procfs.Sample
		if c.State.Pid != 0 {
			var err error
			if s, err = alive(&c).Sample(); err != nil {
				row.unknown()
				rows = append(rows, row)
				continue
			}
			now[c.ID] = s
		}
		before, seen := w.before[c.ID]
		row.fill(s, before)
		if c.State.Pid != 0 && !seen {
			row.CPUPerc = "--"
		}
		rows = append(rows, row)
	}
	w.before = now
	return rows, unread
}

func (r *statsRow) fill(s, before procfs.Sample) {
	r.CPUPerc = fmt.Sprintf("%.2f%%", s.CPUPercent(before))
	r.MemUsage = binarySize(s.Memory) + " / " + binarySize(s.MemoryLimit)
	r.MemPerc = fmt.Sprintf("%.2f%%", s.MemoryPercent())
	r.NetIO = humanSize(int64(s.NetRead)) + " / " + humanSize(int64(s.NetWritten))
	r.BlockIO = humanSize(int64(s.BlockRead)) + " / " + humanSize(int64(s.BlockWrite))
	r.PIDs = strconv.Itoa(s.Tasks)
}

// unknown is for a container whose use nothing counts.
func (r *statsRow) unknown() {
	r.CPUPerc, r.MemUsage, r.MemPerc, r.NetIO, r.BlockIO, r.PIDs = "--", "-- / --", "--", "--", "--", "--"
}

// binarySize prints bytes in powers of 1024 with at most four significant digits, as Docker does: 1.934MiB.
func binarySize(n uint64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.4g%s", f, units[i])
}
