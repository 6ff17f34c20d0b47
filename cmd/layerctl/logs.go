package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/logs"
)

// interrupted is the exit status of a command that goes on until somebody ends it: 128 and SIGINT, as a shell says it.
const interrupted = exitStatus(130)

func (a *app) logsCommand() *cobra.Command {
	var o logs.ReadOptions
	var tail, since, until string
	var details bool
	cmd := &cobra.Command{
		Use:   "logs [flags] CONTAINER",
		Short: "Show what a container has printed",
		Long: `Show what a container has printed: what came on its stdout on stdout, what came on its stderr on stderr, byte for byte. With -f it goes on
with what is still to come, until the container ends. A container that was made with --log-driver none has no log, nor has one that
"run --rm" runs in the foreground.

A TIME is how long ago (10m), seconds since 1970, or a date and time (2026-11-25T17:00:00).`,
		Example: `  layerctl logs --tail 100 web
  layerctl logs -f --since 10m web
  layerctl logs -t --since 2026-11-25T17:00:00 --until 2026-11-25T18:00:00 web`,
		Args: exactArgs(1, "a container"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if details {
				return start.Hinted(runtime.Refuse("logs --details"), "`layerctl inspect` shows a container's labels and environment")
			}
			o.Tail = -1
			if tail != "all" {
				n, err := strconv.Atoi(tail)
				if err != nil || n < -1 {
					return usagef("logs: --tail %s: want a number of lines, or all", tail)
				}
				o.Tail = n
			}
			var err error
			if o.Since, o.Until, err = parseWindow("logs", since, until); err != nil {
				return err
			}
			s, c, err := a.container(cmd, args[0])
			if err != nil {
				return err
			}
			err = s.Logs(cmd.Context(), c, o, a.stdout, a.stderr)
			if err == nil && cmd.Context().Err() != nil {
				return interrupted
			}
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "go on with what is still to come")
	f.StringVarP(&tail, "tail", "n", "all", "only so many lines at the end")
	f.StringVar(&since, "since", "", "only what was printed at a `TIME` or behind it")
	f.StringVar(&until, "until", "", "only what was printed up to a `TIME`")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "the time before each line")
	f.BoolVar(&details, "details", false, "refused: a log has no attributes")
	return cmd
}

// parseWindow reads --since and --until.
func parseWindow(command, since, until string) (from, to time.Time, err error) {
	now := time.Now()
	for _, f := range []struct {
		name, given string
		at          *time.Time
	}{{"since", since, &from}, {"until", until, &to}} {
		if f.given == "" {
			continue
		}
		at, ok := parseUntil(f.given, now)
		if !ok {
			return from, to, usagef("%s: --%s %s: want how long ago (10m), seconds since 1970, or a date (2006-01-02T15:04:05)", command, f.name, f.given)
		}
		*f.at = at
	}
	return from, to, nil
}
