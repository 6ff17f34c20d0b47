package packages

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// ChangeKind says what became of a package.
type ChangeKind string

// What can become of one. Changed is another build under a version that compares as equal, or another architecture.
const (
	Added      ChangeKind = "added"
	Removed    ChangeKind = "removed"
	Upgraded   ChangeKind = "upgraded"
	Downgraded ChangeKind = "downgraded"
	Changed    ChangeKind = "changed"
)

// Change is what became of a package between two lists. Old is nil for one that was added, New for one that was removed.
type Change struct {
	Kind     ChangeKind
	Old, New *Package
}

// Name is the package's name.
func (c Change) Name() string {
	if c.New != nil {
		return c.New.Name
	}
	return c.Old.Name
}

// Diff compares two lists of packages, by manager and name, and returns what became of each name in order. Where a name is there several times
// (kernels, keys, two architectures), what is in both lists is the same, what is left is paired where each side has one of an
// architecture, or one at all, and the rest was added or removed.
func Diff(before, after []Package) []Change {
	type key struct {
		manager Manager
		name    string
	}
	sides := map[key]*[2][]*Package{}
	for side, list := range [2][]Package{before, after} {
		for i := range list {
			k := key{list[i].Manager, list[i].Name}
			if sides[k] == nil {
				sides[k] = &[2][]*Package{}
			}
			sides[k][side] = append(sides[k][side], &list[i])
		}
	}
	keys := slices.SortedFunc(maps.Keys(sides), func(a, b key) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.manager, b.manager))
	})
	var changes []Change
	for _, k := range keys {
		old, new := sides[k][0], sides[k][1]
		old, new, _ = pairs(old, new, func(p *Package) string { return p.Arch + "\x00" + p.Version })
		var became []Change
		old, new, became = pairs(old, new, func(p *Package) string { return p.Arch })
		changes = append(changes, became...)
		old, new, became = pairs(old, new, func(*Package) string { return "" })
		changes = append(changes, became...)
		for _, p := range old {
			changes = append(changes, Change{Kind: Removed, Old: p})
		}
		for _, p := range new {
			changes = append(changes, Change{Kind: Added, New: p})
		}
	}
	return changes
}

// pairs takes out of two lists what is alone with its key in each, and says what became of it.
func pairs(old, new []*Package, key func(*Package) string) (restOld, restNew []*Package, became []Change) {
	type at struct{ olds, news, new int }
	byKey := map[string]*at{}
	of := func(p *Package) *at {
		k := key(p)
		if byKey[k] == nil {
			byKey[k] = &at{}
		}
		return byKey[k]
	}
	for _, p := range old {
		of(p).olds++
	}
	for i, p := range new {
		a := of(p)
		a.news, a.new = a.news+1, i
	}
	alone := func(p *Package) bool { a := of(p); return a.olds == 1 && a.news == 1 }
	for _, p := range old {
		if !alone(p) {
			restOld = append(restOld, p)
			continue
		}
		c := Change{Kind: Changed, Old: p, New: new[of(p).new]}
		switch v := Compare(p.Manager, p.Version, c.New.Version); {
		case v < 0:
			c.Kind = Upgraded
		case v > 0:
			c.Kind = Downgraded
		}
		became = append(became, c)
	}
	for _, p := range new {
		if !alone(p) {
			restNew = append(restNew, p)
		}
	}
	return restOld, restNew, became
}
