package procfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// errPS is a mistake in what ps(1) was asked for.
var errPS = errors.New("invalid options for ps")

// Top runs the host's ps(1) with some options ("-ef" without any) and returns what it prints of some processes, cut into columns: the
// titles, and a row a process. The options must make it print a column called PID, which tells whose a row is.
func Top(ctx context.Context, pids []int, options []string) (titles []string, rows [][]string, err error) {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	if name := renamedPid(options); name != "" {
		return nil, nil, fmt.Errorf("%q gives a column the name PID: %w", name, errPS)
	}
	list := make([]string, len(pids))
	for i, pid := range pids {
		list[i] = strconv.Itoa(pid)
	}
	// -q reads only these, but does not go with some options (such as f): then all are printed, and sorted out here.
	out, err := ps(ctx, append(slices.Clone(options), "-q"+strings.Join(list, ",")))
	if err != nil && !errors.Is(err, exec.ErrNotFound) && ctx.Err() == nil {
		out, err = ps(ctx, options)
	}
	if err != nil {
		return nil, nil, err
	}
	return parsePS(out, pids)
}

func ps(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, "ps", args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return "", fmt.Errorf("run ps: %w", err)
	}
	said, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
	if said == "" {
		said = exit.Error()
	}
	return "", fmt.Errorf("ps: %s: %w", strings.TrimPrefix(said, "error: "), errPS)
}

// renamedPid finds an option such as -o user=PID: a column of that name which is not the process's number would choose the rows.
func renamedPid(options []string) string {
	for _, o := range options {
		for _, part := range strings.FieldsFunc(o, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
			if strings.Contains(part, "=PID") {
				return part
			}
		}
	}
	return ""
}

// parsePS picks the rows of some processes. The last column takes what is left of a line, for a command has blanks.
func parsePS(out string, pids []int) (titles []string, rows [][]string, err error) {
	header, lines, _ := strings.Cut(out, "\n")
	titles = strings.Fields(header)
	column := slices.Index(titles, "PID")
	if column < 0 {
		return nil, nil, fmt.Errorf("ps prints no column PID, by which a container's processes are found: %w", errPS)
	}
	mine := false
	for line := range strings.Lines(lines) {
		fields := cutFields(line, len(titles))
		if len(fields) <= column {
			continue
		}
		// A thread's line, of ps m, has "-" there and follows its process's.
		if fields[column] != "-" {
			pid, err := strconv.Atoi(fields[column])
			if err != nil {
				return nil, nil, fmt.Errorf("ps prints %q where PID should be (a column with blanks comes before it): %w", fields[column], errPS)
			}
			mine = slices.Contains(pids, pid)
		}
		if mine {
			rows = append(rows, fields)
		}
	}
	return titles, rows, nil
}

// cutFields cuts a line at blanks into n fields at most.
func cutFields(line string, n int) (fields []string) {
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimLeft(line, " \t") {
		end := strings.IndexAny(line, " \t")
		if end < 0 || len(fields) == n-1 {
			return append(fields, line)
		}
		fields = append(fields, line[:end])
		line = line[end:]
	}
	return fields
}
