package image

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/snapshot/rowdb"
)

// rows is what the database holds, as far as it can be read and believed.
type rows struct {
	verified *rowdb.Verified
	images   map[string]imageRow
	names    map[string]nameRow
	uses     map[string]bool
	named    map[string]bool   // nil in an old store
	packed   map[string][]byte // nil where nothing was pushed; only of use, and needed by nobody
	broken   map[string]string // rows that cannot be believed, by bucket/key: why
	remakes  int
}

func (s *Store) readRows() (*rows, error) {
	v, err := s.db.Verify()
	if err != nil {
		return nil, err
	}
	contents := v.Rows
	st := &rows{verified: v, images: map[string]imageRow{}, names: map[string]nameRow{}, uses: map[string]bool{}, broken: map[string]string{}}
	if _, err := os.Lstat(filepath.Join(s.dir, "meta.db")); errors.Is(err, fs.ErrNotExist) {
		if names, err := os.ReadDir(filepath.Join(s.dir, "names")); err == nil && len(names) > 0 {
			v.Problems = append(v.Problems, "is not there")
		}
	}
	decode := func(bucket []byte, key string, b []byte, v any) bool {
		return rowdb.Decode(st.broken, string(bucket)+"/"+key, b, v)
	}
	for key, b := range contents[string(bucketImages)] {
		var r imageRow
		if decode(bucketImages, key, b, &r) {
			st.images[key] = r
		}
	}
	for key, b := range contents[string(bucketNames)] {
		var n nameRow
		if decode(bucketNames, key, b, &n) {
			st.names[key] = n
		}
	}
	for key := range contents[string(bucketUses)] {
		st.uses[key] = true
	}
	if rows, ok := contents[string(bucketPacked)]; ok {
		st.packed = map[string][]byte{}
		for key, b := range rows {
			if decode(bucketPacked, key, b, &packedRow{}) {
				st.packed[key] = b
			}
		}
	}
	if named, ok := contents[string(bucketNamed)]; ok {
		st.named = map[string]bool{}
		for key := range named {
			st.named[key] = true
		}
	}
	return st, nil
}

// namesOf are an image's names, or its ID where it has none.
func (st *rows) namesOf(ids ...string) []string {
	var list []string
	for _, id := range ids {
		n := len(list)
		for name, row := range st.names {
			if row.ID == id {
				list = append(list, name)
			}
		}
		if len(list) == n {
			list = append(list, id)
		}
	}
	sort.Strings(list)
	return slices.Compact(list)
}

// users are the images that need a blob ("sha256:…") or are a chain ("chain:…").
func (st *rows) users(what string) []string {
	var ids []string
	for id, r := range st.images {
		if slices.Contains(r.uses(), what) {
			ids = append(ids, id)
		}
	}
	return ids
}

// vouched says whether an image relies on a blob's being here.
func (st *rows) vouched(digest string) bool {
	return slices.ContainsFunc(st.users(digest), func(id string) bool { return !slices.Contains(st.images[id].Absent, digest) })
}

// onChains are the names of the images that have a layer which is one of these snapshots.
func (st *rows) onChains(chains []string) []string {
	var ids []string
	for id, r := range st.images {
		if slices.ContainsFunc(r.Layers, func(l Layer) bool { return slices.Contains(chains, l.Chain) }) {
			ids = append(ids, id)
		}
	}
	return st.namesOf(ids...)
}

// all are all names that are known, from the rows or, where those are lost, from the records.
func (s *Store) allNames(st *rows) []string {
	names := slices.Collect(maps.Keys(st.names))
	for _, r := range s.records() {
		names = append(names, r.Name)
	}
	sort.Strings(names)
	return slices.Compact(names)
}

// records are the records that can be read.
func (s *Store) records() []record.Record {
	var list []record.Record
	entries, _ := os.ReadDir(filepath.Join(s.dir, "names"))
	for _, e := range entries {
		path := filepath.Join(s.dir, "names", e.Name())
		if r, err := record.Read(path); err == nil && record.Path(s.dir, r.Name) == path {
			list = append(list, *r)
		}
	}
	return list
}

// checkRows compares the rows with each other, with the snapshots, and with the small files that are made of them.
func (s *Store) checkRows(ctx context.Context) (*CheckReport, error) {
	st, err := s.readRows()
	if err != nil {
		return nil, err
	}
	snaps, err := s.snaps.Check(ctx)
	if err != nil {
		return nil, err
	}
	r := &CheckReport{Images: int64(len(st.images)), Layers: int64(len(snaps.Trees)), state: st, snaps: snaps}
	base := filepath.Base(s.dir)
	find := func(file, problem string, images []string) {
		r.Findings = append(r.Findings, Finding{File: filepath.Join(base, file), Problem: problem, Images: images})
	}
	for _, p := range st.verified.Problems {
		find("meta.db", p, s.allNames(st))
	}
	for _, where := range slices.Sorted(maps.Keys(st.broken)) {
		bucket, key, _ := strings.Cut(where, "/")
		images := []string{key}
		switch bucket {
		case string(bucketImages):
			images = st.namesOf(key)
		case string(bucketPacked):
			images = nil
		}
		find("meta.db", "the row of "+key+" "+st.broken[where], images)
	}
	for _, f := range snaps.Findings {
		images := st.onChains(f.Chains)
		if f.File == "snapshots/meta.db" && len(snaps.Chains) == 0 {
			images = s.allNames(st)
		}
		out := Finding{File: f.File, Path: f.Path, Problem: f.Problem, Images: images, Snapshots: f.Keys, tree: f.Tree}
		for _, t := range snaps.Trees {
			if t.ID == f.Tree {
				out.Layer = t.DiffID
			}
		}
		r.Findings = append(r.Findings, out)
	}
	for _, name := range slices.Sorted(maps.Keys(st.names)) {
		n := st.names[name]
		if _, ok := st.images[n.ID]; !ok && st.broken[string(bucketImages)+"/"+n.ID] == "" {
			find("meta.db", name+" names the image "+n.ID+", which has no row", []string{name})
		}
		if st.named != nil && !st.named[string(useKey(n.ID, name))] {
			find("meta.db", "it does not list "+name+" among the names of "+n.ID, []string{name})
		}
	}
	uses := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(st.images)) {
		row := st.images[id]
		for _, what := range row.uses() {
			uses[string(useKey(what, id))] = true
			if !st.uses[string(useKey(what, id))] {
				find("meta.db", "it does not say that "+id+" needs "+what, st.namesOf(id))
			}
		}
		parent := ""
		for _, l := range row.Layers {
			c, ok := snaps.Chains[l.Chain]
			switch {
			case !ok:
				find("meta.db", "layer "+l.DiffID+" of image "+id+" has no snapshot ("+l.Chain+")", st.namesOf(id))
			case c.DiffID != l.DiffID || c.Parent != parent || chainID(parent, l.DiffID) != l.Chain:
				find("meta.db", "layer "+l.DiffID+" of image "+id+" is another snapshot's", st.namesOf(id))
			}
			parent = l.Chain
		}
		if parent != row.Chain {
			find("meta.db", "image "+id+" has the layers of another", st.namesOf(id))
		}
	}
	for key := range st.uses {
		if !uses[key] {
			what, id, _ := strings.Cut(key, "\x00")
			if st.broken[string(bucketImages)+"/"+id] == "" {
				find("meta.db", "it says that "+id+" needs "+what+", which is not so", st.namesOf(id))
			}
		}
	}
	for key := range st.named {
		id, name, _ := strings.Cut(key, "\x00")
		if n, ok := st.names[name]; (!ok || n.ID != id) && st.broken[string(bucketNames)+"/"+name] == "" {
			find("meta.db", "it lists "+name+" among the names of "+id+", which is not so", st.namesOf(id))
		}
	}
	if err := s.checkCopies(st, find); err != nil {
		return nil, err
	}
	return r, nil
}

// checkCopies compares what is made of the rows for others: the record of each name, for run, and the layout's own files. One that is
// not there is no damage, for the rows are read instead; a record of a name that has no row would be believed.
func (s *Store) checkCopies(st *rows, find func(file, problem string, images []string)) error {
	compare := func(file string, want []byte, images []string) {
		b, err := os.ReadFile(filepath.Join(s.dir, file))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.Trim(b, "\x00")) == 0:
			st.remakes++
		case err != nil:
			find(file, err.Error(), images)
		case !bytes.Equal(b, want):
			find(file, "does not say what the rows say", images)
		}
	}
	known := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(st.names)) {
		n := st.names[name]
		path := record.Path(s.dir, name)
		known[path] = true
		row, ok := st.images[n.ID]
		if !ok {
			continue
		}
		rec := recordOf(name, n, &row)
		want, err := record.Marshal(&rec)
		if err != nil {
			return err
		}
		compare(filepath.Join("names", filepath.Base(path)), want, []string{name})
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "names"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, "names", e.Name())
		if info, err := e.Info(); err == nil && !known[path] && !strings.HasPrefix(e.Name(), ".") && info.Size() > 0 && len(st.verified.Problems) == 0 {
			find(filepath.Join("names", e.Name()), "is the record of a name that has no row", nil)
		}
	}
	if len(st.names) > 0 || len(st.images) > 0 {
		index, err := layoutOf(st.names)
		if err != nil {
			return err
		}
		compare("index.json", index, nil)
	}
	compare("oci-layout", []byte(content.Layout), nil)
	return nil
}

// recordOf is the record that run reads of a name.
func recordOf(name string, n nameRow, row *imageRow) record.Record {
	return record.Record{Name: name, ID: n.ID, Digest: n.Digest, Chain: row.Chain, OS: row.OS, Arch: row.Arch, Settings: row.Settings}
}
