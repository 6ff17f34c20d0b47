package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// Finding is something in the store that is not as it was written.
type Finding struct {
	File    string   // below the store's root; "" where Tree and Path say it
	Tree    string   // the number of the tree that is concerned
	Path    string   // in the tree; "." is its root
	Problem string   // what is wrong, as the end of a sentence that begins with the above
	Chains  []string // names of the committed snapshots whose own layer it is
	Keys    []string // keys of the active snapshots that stand on it
}

// CheckedTree is a tree that committed snapshots name.
type CheckedTree struct {
	Tree
	Chains []string // the snapshots whose own layer it is
	Keys   []string // active snapshots that stand on it
}

// Report is what Check found.
type Report struct {
	Findings []Finding
	Remakes  int // small copies of rows that are not there, as after a power cut; commands then read the rows
	Unnamed  int // trees that nothing names: prune frees them
	Trees    []CheckedTree
	Chains   map[string]ChainInfo // the committed snapshots by name
}

// ChainInfo is what the row of a committed snapshot says.
type ChainInfo struct{ Parent, Tree, DiffID, Settling string }

// Check compares the rows with each other and with what they name: trees' directories and the sums of what lies beside them, chains/,
// children/, and active snapshots. It does not look into trees. It blocks nobody and may run beside anything; what is under way at that
// moment may look wrong in it, so a caller looks again before he believes a finding.
func (s *Store) Check(ctx context.Context) (*Report, error) {
	r, err := s.check(ctx)
	if err != nil {
		return nil, fmt.Errorf("check snapshots: %w", err)
	}
	return r, nil
}

// state is what the database holds, as far as it can be read and believed.
type state struct {
	verified *rowdb.Verified
	rows     map[string]row
	trees    map[string]treeRow // by key
	children map[string]bool
	users    map[string]bool   // by tree and snapshot; nil in an older store
	broken   map[string]string // rows that cannot be believed, by bucket/key: why
}

func (s *Store) readState() (*state, error) {
	v, err := s.db.Verify()
	if err != nil {
		return nil, err
	}
	contents := v.Rows
	st := &state{verified: v, rows: map[string]row{}, trees: map[string]treeRow{}, children: map[string]bool{}, broken: map[string]string{}}
	if _, err := os.Lstat(s.path("meta.db")); errors.Is(err, fs.ErrNotExist) && s.committedOnce() {
		v.Problems = append(v.Problems, "is not there")
	}
	decode := func(bucket []byte, key string, b []byte, v any) bool {
		return rowdb.Decode(st.broken, rowWhere(bucket, key), b, v)
	}
	for key, b := range contents[string(bucketSnapshots)] {
		var r row
		if decode(bucketSnapshots, key, b, &r) {
			st.rows[key] = r
		}
	}
	for key, b := range contents[string(bucketTrees)] {
		var t treeRow
		if decode(bucketTrees, key, b, &t) {
			st.trees[key] = t
		}
	}
	for key := range contents[string(bucketChildren)] {
		st.children[key] = true
	}
	if users, ok := contents[string(bucketUsers)]; ok {
		st.users = map[string]bool{}
		for key := range users {
			st.users[key] = true
		}
	}
	return st, nil
}

// committedOnce says whether there are files that are made only where there is a database.
func (s *Store) committedOnce() bool {
	for _, dir := range []string{"chains", "children"} {
		if names, err := dirNames(s.path(dir)); err == nil && len(names) > 0 {
			return true
		}
	}
	return false
}

// treesOf returns a snapshot's trees, lowest first; ok is false where a parent is missing, or parents go in a circle.
func (st *state) treesOf(name string) (trees []string, ok bool) {
	for at := name; at != ""; {
		r, known := st.rows[at]
		if !known || len(trees) > len(st.rows) {
			return nil, false
		}
		trees = append(trees, r.Tree)
		at = r.Parent
	}
	slices.Reverse(trees)
	return trees, true
}

// movedTo are the trees below a snapshot's own, of which a commit that was killed has not written the rows.
func (st *state) movedTo(rec record) (trees []string, ok bool) {
	if rec.Moved == nil || len(rec.Trees) == 0 {
		return nil, false
	}
	return st.treesOf(rec.Moved.Parent)
}

type checker struct {
	*Store
	st *state
	r  *Report
}

func (s *Store) check(ctx context.Context) (*Report, error) {
	st, err := s.readState()
	if err != nil {
		return nil, err
	}
	c := &checker{s, st, &Report{Chains: map[string]ChainInfo{}}}
	for _, p := range st.verified.Problems {
		c.find(Finding{File: "meta.db", Problem: p, Chains: c.allChains()})
	}
	for _, where := range slices.Sorted(maps.Keys(st.broken)) {
		bucket, key, _ := strings.Cut(where, "/")
		f := Finding{File: "meta.db", Problem: "the row of snapshot " + key + " " + st.broken[where], Chains: []string{key}}
		if bucket == string(bucketTrees) {
			diffID, _, _ := strings.Cut(key, "\x00")
			f.Problem, f.Chains = "the row of the tree of layer "+diffID+" "+st.broken[where], nil
			for name, r := range st.rows {
				if r.DiffID == diffID {
					f.Chains = append(f.Chains, name)
				}
			}
		}
		c.find(f)
	}
	used := map[string]*CheckedTree{}
	for _, name := range slices.Sorted(maps.Keys(st.rows)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.committed(name, used)
	}
	if err := c.actives(used); err != nil {
		return nil, err
	}
	if err := c.trees(used); err != nil {
		return nil, err
	}
	for _, d := range c.initDifferences() {
		c.find(Finding{File: "trees/init/fs/" + d.stub.path, Problem: d.problem})
	}
	for key := range st.children {
		parent, child, _ := strings.Cut(key, "\x00")
		if r, ok := st.rows[child]; (!ok || r.Parent != parent) && st.broken[rowWhere(bucketSnapshots, child)] == "" {
			c.find(Finding{File: "meta.db", Problem: "it says that " + child + " stands on " + parent + ", which is not so", Chains: []string{child}})
		}
	}
	for key := range st.users {
		tree, name, _ := strings.Cut(key, "\x00")
		if r, ok := st.rows[name]; (!ok || r.Tree != tree) && st.broken[rowWhere(bucketSnapshots, name)] == "" {
			c.find(Finding{File: "meta.db", Problem: "it says that " + name + " has the tree " + tree + ", which is not so", Chains: []string{name}})
		}
	}
	for _, t := range used {
		c.r.Trees = append(c.r.Trees, *t)
	}
	sort.Slice(c.r.Trees, func(i, j int) bool {
		a, _ := strconv.Atoi(c.r.Trees[i].ID)
		b, _ := strconv.Atoi(c.r.Trees[j].ID)
		return a < b
	})
	return c.r, nil
}

func (c *checker) find(f Finding) {
	if f.File != "" {
		f.File = filepath.Join(filepath.Base(c.root), f.File)
	}
	sort.Strings(f.Chains)
	sort.Strings(f.Keys)
	c.r.Findings = append(c.r.Findings, f)
}

func (c *checker) allChains() []string { return slices.Collect(maps.Keys(c.st.rows)) }

// committed looks at one row and what is made of it.
func (c *checker) committed(name string, used map[string]*CheckedTree) {
	r, h := c.st.rows[name], hashName(name)
	trees, whole := c.st.treesOf(name)
	if !whole {
		c.find(Finding{File: "meta.db", Problem: "snapshot " + name + " stands on " + r.Parent + ", which is not there", Chains: []string{name}})
	}
	if r.Parent != "" && !c.st.children[string(childKey(r.Parent, name))] {
		c.find(Finding{File: "meta.db", Problem: "it does not say that " + name + " stands on " + r.Parent, Chains: []string{name}})
	}
	if c.st.users != nil && !c.st.users[string(childKey(r.Tree, name))] {
		c.find(Finding{File: "meta.db", Problem: "it does not say that " + name + " has the tree " + r.Tree, Chains: []string{name}})
	}
	t := used[r.Tree]
	if t == nil {
		t = &CheckedTree{Tree: Tree{ID: r.Tree, DiffID: r.DiffID, Settling: r.Settling, Usage: r.Usage, Dir: c.path("trees", r.Tree)}}
		used[r.Tree] = t
	}
	t.Chains = append(t.Chains, name)
	c.r.Chains[name] = ChainInfo{r.Parent, r.Tree, r.DiffID, r.Settling}
	if r.DiffID != "" {
		key := string(treeKey(r.DiffID, r.Settling))
		if have, ok := c.st.trees[key]; !ok && c.st.broken[rowWhere(bucketTrees, key)] == "" || ok && have.ID != r.Tree {
			c.find(Finding{File: "meta.db", Problem: "layer " + r.DiffID + " of snapshot " + name + " has no row for its tree " + r.Tree, Chains: []string{name}})
		}
	}
	if !whole {
		return
	}
	want, err := rowdb.Seal(chainWhere(h), chain{Name: name, Trees: trees, Row: r})
	if err != nil {
		return
	}
	c.copyOfRow("chains/"+h+".json", want, name)
}

// copyOfRow compares a small file with what the rows make it. One that is not there is no damage: the rows are read instead.
func (c *checker) copyOfRow(file string, want []byte, name string) {
	b, err := os.ReadFile(c.path(file))
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.Trim(b, "\x00")) == 0:
		c.r.Remakes++
	case err != nil:
		c.find(Finding{File: file, Problem: "cannot be read: " + unwrap(err), Chains: []string{name}})
	case !bytes.Equal(b, want):
		c.find(Finding{File: file, Problem: "does not say what the row of " + name + " says", Chains: []string{name}})
	}
}

func unwrap(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// actives looks at the active snapshots: their records, their parents, and the links that keep those.
func (c *checker) actives(used map[string]*CheckedTree) error {
	names, err := dirNames(c.path("active"))
	if err != nil {
		return err
	}
	sort.Strings(names)
	stand := map[string]bool{} // parents that active snapshots stand on
	for _, a := range names {
		file := "active/" + a + "/record.json"
		rec, err := readRecordFile(c.path("active", a))
		if errors.Is(err, fs.ErrNotExist) {
			continue // being made, or never finished
		}
		if err != nil {
			c.find(Finding{File: file, Problem: "is damaged"})
			continue
		}
		if b, err := os.ReadFile(c.path(file)); err == nil && rowdb.Unsealed(b) {
			c.find(Finding{File: file, Problem: "has no checksum", Keys: []string{rec.Key}})
		}
		if hashName(rec.Key) != a {
			c.find(Finding{File: file, Problem: "is another snapshot's", Keys: []string{rec.Key}})
			continue
		}
		for _, dir := range []string{"fs", "work"} {
			if info, err := os.Lstat(c.path("active", a, dir)); rec.Kind == KindActive && (err != nil || !info.IsDir()) {
				c.find(Finding{File: "active/" + a + "/" + dir, Problem: map[string]string{"fs": "is not there: what was written in it is lost", "work": "is not there"}[dir],
					Keys: []string{rec.Key}})
			}
		}
		for _, id := range rec.Trees {
			if t := used[id]; t != nil {
				t.Keys = append(t.Keys, rec.Key)
			}
		}
		if rec.Parent == "" {
			continue
		}
		stand[rec.Parent] = true
		trees, ok := c.st.treesOf(rec.Parent)
		if below, known := c.st.movedTo(rec); !ok && known {
			trees, ok = append(below, rec.Trees[len(rec.Trees)-1]), true
			c.r.Remakes++ // the rows are written by whoever needs them next
		}
		if !ok {
			c.find(Finding{File: file, Problem: "stands on " + rec.Parent + ", which is not there", Chains: []string{rec.Parent}, Keys: []string{rec.Key}})
		} else if !slices.EqualFunc(c.uncovered(trees), rec.Trees, func(a, own string) bool { return a == own || c.ownsTree(own) }) {
			c.find(Finding{File: file, Problem: "names other trees than its parent " + rec.Parent, Chains: []string{rec.Parent}, Keys: []string{rec.Key}})
		}
		link := "children/" + hashName(rec.Parent) + "/" + a
		if _, err := os.Lstat(c.path(link)); err != nil {
			c.find(Finding{File: link, Problem: "is not there: " + rec.Parent + " could be removed", Chains: []string{rec.Parent}, Keys: []string{rec.Key}})
		}
	}
	for name := range c.st.rows {
		if info, err := os.Lstat(c.path("children", hashName(name))); errors.Is(err, fs.ErrNotExist) && !stand[name] {
			c.r.Remakes++
		} else if err == nil && !info.IsDir() {
			c.find(Finding{File: "children/" + hashName(name), Problem: "is no directory", Chains: []string{name}})
		}
	}
	return nil
}

// trees looks at the trees' directories, and at the sums of what lies beside fs.
func (c *checker) trees(used map[string]*CheckedTree) error {
	byID := map[string]treeRow{}
	for _, key := range slices.Sorted(maps.Keys(c.st.trees)) {
		r := c.st.trees[key]
		byID[r.ID] = r
		if used[r.ID] == nil {
			if _, err := os.Lstat(c.path("trees", r.ID)); err != nil {
				diffID, _, _ := strings.Cut(key, "\x00")
				c.find(Finding{File: "meta.db", Problem: "the row of tree " + r.ID + " of layer " + diffID + " has no tree"})
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(used)) {
		t := used[id]
		if info, err := os.Lstat(filepath.Join(t.Dir, "fs")); err != nil || !info.IsDir() {
			c.find(Finding{Tree: id, Path: ".", Problem: "the tree is not there", Chains: t.Chains, Keys: t.Keys})
			continue
		}
		r, ok := byID[id]
		if !ok || r.Sums == nil {
			continue
		}
		sums, err := sumFiles(t.Dir)
		if err != nil {
			c.find(Finding{Tree: id, File: "trees/" + id, Problem: unwrap(err), Chains: t.Chains, Keys: t.Keys})
			continue
		}
		for _, name := range []string{"index", "needs"} {
			sum, is := sums[name]
			want, was := r.Sums[name]
			problem := ""
			switch {
			case was && !is:
				problem = "is missing"
			case is && !was:
				problem = "should not be there"
			case sum != want:
				problem = "is damaged"
			default:
				continue
			}
			c.find(Finding{Tree: id, File: "trees/" + id + "/" + name, Problem: problem, Chains: t.Chains, Keys: t.Keys})
		}
	}
	names, err := dirNames(c.path("trees"))
	for _, name := range names {
		if isNumber(name) && used[name] == nil && !c.ownsTree(name) {
			c.r.Unnamed++
		}
	}
	return err
}
