package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/layerctl/layerctl/image/packages"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// packageRow is a line of `diff --packages`. Of a package that was added the old fields are empty, of one that was removed the new ones.
type packageRow struct {
	Change  packages.ChangeKind
	Package string
	Old     string // version
	New     string
	Manager packages.Manager
	OldArch string
	NewArch string
	OldSize int64 // bytes, as the package claims
	NewSize int64
}

// printPackages prints what became of the packages of one view in another.
func (a *app) printPackages(format string, from, to *diff.Stack) error {
	before, err := packages.List(from)
	if err != nil {
		return err
	}
	after, err := packages.List(to)
	if err != nil {
		return err
	}
	if len(before)+len(after) == 0 {
		slog.Warn("no database of dpkg, apk or rpm is on either side")
	}
	rows := []packageRow{}
	number := map[packages.ChangeKind]int{}
	for _, c := range packages.Diff(before, after) {
		r := packageRow{Change: c.Kind, Package: c.Name()}
		if p := c.Old; p != nil {
			r.Manager, r.Old, r.OldArch, r.OldSize = p.Manager, p.Version, p.Arch, p.Size
		}
		if p := c.New; p != nil {
			r.Manager, r.New, r.NewArch, r.NewSize = p.Manager, p.Version, p.Arch, p.Size
		}
		rows = append(rows, r)
		number[c.Kind]++
	}
	if format != "" {
		return printList(a.stdout, format, packageColumns, rows)
	}
	if len(rows) == 0 {
		return nil
	}
	for i := range rows {
		r := &rows[i]
		if r.Change == packages.Changed && r.OldArch != r.NewArch {
			r.Old, r.New = r.Old+" "+r.OldArch, r.New+" "+r.NewArch
		}
	}
	if err := printList(a.stdout, "", packageColumns, rows); err != nil {
		return err
	}
	var sum []string
	for _, k := range []packages.ChangeKind{packages.Upgraded, packages.Downgraded, packages.Changed, packages.Added, packages.Removed} {
		if n := number[k]; n > 0 {
			sum = append(sum, fmt.Sprintf("%d %s", n, k))
		}
	}
	_, err = fmt.Fprintf(a.stdout, "\n%s, of %d before and %d after\n", strings.Join(sum, ", "), len(before), len(after))
	return err
}

var packageColumns = []column{{"CHANGE", "Change"}, {"PACKAGE", "Package"}, {"OLD", "Old"}, {"NEW", "New"}}
