package tests

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// seeds is how many stores TestSeeds damages.
const seeds = 200

// TestSeeds damages one file of a store, at random and in every way that a disk or a hand does, 200 times. Each time check must say so
// and name the file or its layer, and never end in any other way; then check --repair, with the registry at hand, must leave a store in
// which check --full finds nothing and every image is as it was, or name the image as lost, and that one is gone and the others are as
// they were. What is harmless is decided here, not by layerctl: see harmless. LAYERCTL_TEST_SEED=N repeats one that failed.
func TestSeeds(t *testing.T) {
	e, _ := richStore(t)
	want := describeImages(e, e.root)
	files := storeFiles(t, e.root)
	if len(files) < 60 {
		t.Fatalf("the store has only %d files", len(files))
	}
	found, skipped, lost := 0, 0, 0
	for seed := range uint64(seeds) {
		if only := os.Getenv("LAYERCTL_TEST_SEED"); only != "" && only != fmt.Sprint(seed) {
			continue
		}
		root := filepath.Join(e.dir, "seed")
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		sh(t, e.dir, "cp -a --reflink=auto store seed")
		rng := rand.New(rand.NewPCG(seed, 4))
		file := files[rng.IntN(len(files))]
		if rng.IntN(3) == 0 { // the databases are few files, and most of what there is to go wrong
			file = []string{"images/meta.db", "snapshots/meta.db"}[rng.IntN(2)]
		}
		what, err := damage(rng, root, file, files)
		if err != nil {
			t.Fatalf("seed %d: %s of %s: %v", seed, what, file, err)
		}
		fail := func(step string, r result) {
			t.Errorf("seed %d: %s of %s: %s: status %d\n%s%s", seed, what, file, step, r.code, r.stdout, r.stderr)
		}
		check := func(args ...string) result {
			r := e.run(append([]string{"--root", root, "check"}, args...)...)
			if r.code != 0 && r.code != 1 || strings.Contains(r.stdout+r.stderr, "goroutine ") || r.stderr != "" && !errorForm.MatchString(r.stderr) {
				fail(strings.Join(args, " "), r)
			}
			if (r.code == 0) != strings.Contains(r.stdout, "\nok: ") && (r.code == 0) != strings.HasPrefix(r.stdout, "ok: ") {
				fail("says one thing and means another", r)
			}
			return r
		}
		if reason := harmless(t, e.root, root, file, what); reason != "" {
			skipped++
			if r := check("--full"); r.code != 0 {
				check("--full", "--repair") // it may say more than it has to, and then must heal it
				if r := check("--full"); r.code != 0 {
					fail("harmless ("+reason+"), and not healed", r)
				}
			}
		} else {
			r := check("--full")
			if r.code == 0 {
				fail("not found", r)
				continue
			}
			found++
			other, _ := strings.CutPrefix(what, "swap with ")
			if !named(r.stdout, file) && !named(r.stdout, other) {
				fail("found, and not named", r)
			}
			repair := check("--full", "--repair")
			names := map[string]bool{}
			for _, m := range regexp.MustCompile(`(?m)^lost: image (.*?): (?:[a-z]|layer|images/)`).FindAllStringSubmatch(repair.stdout, -1) {
				for _, name := range strings.Split(m[1], ", ") {
					names[name] = true
				}
			}
			if len(names) > 0 {
				lost++
			}
			after := check("--full")
			if after.code != 0 {
				fail("not healed", repair)
				fail("after the repair", after)
				continue
			}
			expect := maps.Clone(want)
			for name := range names {
				if expect[name] == "" {
					fail("lost what never was", repair)
				}
				delete(expect, name)
			}
			got := describeImages(e, root)
			if len(names) > 0 {
				got["index.json"] = expect["index.json"] // it has what is left
			}
			if !maps.Equal(got, expect) {
				fail("repaired", repair)
				t.Errorf("seed %d:\n%s", seed, differences(got, expect))
			}
			continue
		}
		got := describeImages(e, root)
		if strings.HasPrefix(file, "images/index.json") || strings.Contains(what, "images/index.json") {
			got["index.json"] = want["index.json"] // it is written with the next name
		}
		if !maps.Equal(got, want) {
			t.Errorf("seed %d: %s of %s:\n%s", seed, what, file, differences(got, want))
		}
	}
	if os.Getenv("LAYERCTL_TEST_SEED") != "" {
		return
	}
	t.Logf("%d found, %d harmless, %d lost an image", found, skipped, lost)
	if found < seeds/2 {
		t.Errorf("only %d of %d did any harm", found, seeds)
	}
	if lost == 0 || lost > seeds/5 {
		t.Errorf("%d of %d lost an image", lost, seeds)
	}
}

// differences are the lines in which two descriptions differ.
func differences(got, want map[string]string) string {
	var b strings.Builder
	for _, m := range []struct {
		sign     string
		of, than map[string]string
	}{{"+", got, want}, {"-", want, got}} {
		for _, name := range slices.Sorted(maps.Keys(m.of)) {
			for _, line := range strings.Split(m.of[name], "\n") {
				if !slices.Contains(strings.Split(m.than[name], "\n"), line) {
					fmt.Fprintf(&b, "%s %s: %s\n", m.sign, name, line)
				}
			}
		}
	}
	return b.String()
}

// storeFiles are all files, links and empty directories of the store, by their paths in it.
func storeFiles(t *testing.T, root string) []string {
	var files []string
	for _, dir := range []string{"images", "snapshots", "containers"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				rel, _ := filepath.Rel(root, path)
				files = append(files, rel)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// damage does one thing to a file, and keeps its times: nobody is to see by them what a disk would not show.
func damage(rng *rand.Rand, root, file string, files []string) (what string, err error) {
	path := filepath.Join(root, file)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "stat", err
	}
	regular := st.Mode&unix.S_IFMT == unix.S_IFREG
	keep := func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	parent := filepath.Dir(path)
	info, err := os.Stat(parent)
	if err != nil {
		return "stat", err
	}
	keepParent := func() error { return os.Chtimes(parent, time.Time{}, info.ModTime()) }
	rewrite := func(change func([]byte) []byte) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(change(b))
		return errors.Join(err, f.Close(), keep())
	}
	for {
		switch kind := rng.IntN(9); {
		case kind <= 2 && regular && st.Size > 0:
			return "a bit", rewrite(func(b []byte) []byte { b[rng.IntN(len(b))] ^= 1 << rng.IntN(8); return b })
		case kind == 3 && regular && st.Size > 0:
			return "the end", rewrite(func(b []byte) []byte { return b[:rng.IntN(len(b))] })
		case kind == 4 && regular && st.Size > 0:
			return "a block", rewrite(func(b []byte) []byte {
				at := rng.IntN(len(b)) &^ 511
				clear(b[at:min(at+512, len(b))])
				return b
			})
		case kind == 5 && regular:
			return "more at the end", rewrite(func(b []byte) []byte { return append(b, make([]byte, 1+rng.IntN(600))...) })
		case kind == 6:
			return "deletion", errors.Join(os.Remove(path), keepParent())
		case kind == 7 && st.Mode&unix.S_IFMT != unix.S_IFLNK:
			switch rng.IntN(3) {
			case 0:
				return "mode", os.Chmod(path, os.FileMode(st.Mode&0o777)^(1<<rng.IntN(9)))
			case 1:
				return "owner", errors.Join(os.Lchown(path, int(st.Uid)+1+rng.IntN(1000), int(st.Gid)), unix.Chmod(path, st.Mode&0o7777))
			}
			name := "trusted.added" // the kernel allows user attributes on files alone
			return "attribute", unix.Lsetxattr(path, name, []byte("x"), 0)
		case kind == 8 && regular:
			other := files[rng.IntN(len(files))]
			to := filepath.Join(root, other)
			var ost unix.Stat_t
			if err := unix.Lstat(to, &ost); err != nil || ost.Mode&unix.S_IFMT != unix.S_IFREG || other == file {
				continue
			}
			oinfo, err := os.Stat(filepath.Dir(to))
			if err != nil {
				return "swap", err
			}
			err = unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
			return "swap with " + other, errors.Join(err, keepParent(), os.Chtimes(filepath.Dir(to), time.Time{}, oinfo.ModTime()))
		}
	}
}

// harmless says why a change does no harm, or "". It knows the store's form, and believes nothing that layerctl says.
func harmless(t *testing.T, before, after, file, what string) string {
	t.Helper()
	if other, swapped := strings.CutPrefix(what, "swap with "); swapped {
		// Equal bytes and attributes: nothing has changed.
		if sameFile(t, before, file, after, file) && sameFile(t, before, other, after, other) {
			return "the two are equal"
		}
		a, b := harmless(t, before, after, file, "content"), harmless(t, before, after, other, "content")
		if a != "" && b != "" {
			return a + "; " + b
		}
		return ""
	}
	tree := regexp.MustCompile(`^snapshots/trees/[0-9a-z]+/fs/`).MatchString(file)
	meta := what == "mode" || what == "owner" || what == "attribute"
	switch {
	case strings.HasSuffix(file, ".lock") || strings.HasSuffix(file, "/lock"):
		return "a lock is locked, not read"
	case strings.HasPrefix(file, "snapshots/active/") && !strings.HasSuffix(file, "/record.json"):
		return "what a container wrote is its own: nobody knows what it should be"
	case strings.HasPrefix(file, "containers/") && strings.HasSuffix(file, "/log"):
		return "what a container printed is its own, too"
	case strings.HasSuffix(file, "/exit.json") && empty(filepath.Join(after, file)):
		return "nobody saw how it ended, as after a power cut"
	case strings.HasPrefix(file, "snapshots/children/") && what != "deletion":
		return "a link to a parent is its name; its content is nothing"
	case meta && !tree:
		return "root reads the store's own files whatever their mode, owner and further attributes"
	case strings.HasPrefix(file, "snapshots/trees/init/") && what == "attribute":
		return "no container sees what is mounted over"
	}
	copies := strings.HasPrefix(file, "images/names/") || strings.HasPrefix(file, "snapshots/chains/") || file == "images/index.json" || file == "images/oci-layout"
	var b []byte
	if copies {
		b, _ = os.ReadFile(filepath.Join(after, file))
	}
	switch {
	case copies && len(bytes.Trim(b, "\x00")) == 0:
		return "a copy of rows that is not there, as after a power cut: the rows are read"
	case strings.HasSuffix(file, "/meta.db"):
		return sameRows(t, filepath.Join(before, file), filepath.Join(after, file))
	}
	if sameFile(t, before, file, after, file) {
		return "the bytes are the same"
	}
	return ""
}

// empty says whether a file has nothing but zeroes, or is not there.
func empty(path string) bool {
	b, err := os.ReadFile(path)
	return err != nil || len(bytes.Trim(b, "\x00")) == 0
}

// sameFile says whether two files have the same type, attributes and content.
func sameFile(t *testing.T, rootA, a, rootB, b string) bool {
	t.Helper()
	x, y := filepath.Join(rootA, a), filepath.Join(rootB, b)
	var sx, sy unix.Stat_t
	if unix.Lstat(x, &sx) != nil || unix.Lstat(y, &sy) != nil {
		return false
	}
	if sx.Mode != sy.Mode || sx.Uid != sy.Uid || sx.Gid != sy.Gid || sx.Size != sy.Size || sx.Mtim != sy.Mtim || sx.Nlink != sy.Nlink {
		return false
	}
	if n, _ := unix.Llistxattr(y, nil); n > 0 {
		m, _ := unix.Llistxattr(x, nil)
		return n == m
	}
	if sx.Mode&unix.S_IFMT != unix.S_IFREG {
		return sx.Mode&unix.S_IFMT == unix.S_IFIFO
	}
	p, err1 := os.ReadFile(x)
	q, err2 := os.ReadFile(y)
	return err1 == nil && err2 == nil && bytes.Equal(p, q)
}

// sameRows lets bbolt itself judge, in a process of its own, which it may bring down.
func sameRows(t *testing.T, before, after string) string {
	t.Helper()
	dump := func(path string) (string, error) {
		cmd := exec.Command(os.Args[0], "-test.run", "^$")
		cmd.Env = append(os.Environ(), "LAYERCTL_TEST_DUMP="+path)
		out, err := cmd.Output()
		return string(out), err
	}
	want, err := dump(before)
	if err != nil || len(want) < 1000 {
		t.Fatalf("dump %s: %v", before, err)
	}
	if got, err := dump(after); err == nil && got == want {
		return "bbolt's own check finds nothing, and every row is the same"
	}
	return ""
}

// dumpRows is the process that sameRows starts.
func dumpRows(path string) int {
	debug.SetPanicOnFault(true)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err == nil {
		err = db.View(func(tx *bbolt.Tx) error {
			for err := range tx.Check() {
				return err
			}
			return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
				return b.ForEach(func(k, v []byte) error { _, err := fmt.Printf("%q %q %q\n", name, k, v); return err })
			})
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// named says whether check's answer names the file: itself, or as a file of a layer's tree.
func named(out, file string) bool {
	if strings.Contains(out, file+":") || strings.Contains(out, file+" of layer") {
		return true
	}
	if strings.HasPrefix(file, "snapshots/active/") { // a record that is not there was that container's
		return strings.Contains(out, "its snapshot is not there (container stopped)")
	}
	if m := regexp.MustCompile(`^snapshots/trees/(\d+)/fs/(.*)$`).FindStringSubmatch(file); m != nil {
		return strings.Contains(out, "(tree "+m[1]+"): /"+m[2]+":") || hardLinked(out, m[1], m[2])
	}
	return false
}

// hardLinked: of the names of one file the index knows one as the file; what is wrong with its content is told under that.
func hardLinked(out, tree, path string) bool {
	return (path == "data/numbers" || path == "data/same") && strings.Contains(out, "(tree "+tree+"): /data/")
}

// describeImages is all that a user can see of each image: its record, and every file of its merged tree with owner, mode, time, link and
// content, read from the trees that inspect names.
func describeImages(e *env, root string) map[string]string {
	e.t.Helper()
	all := map[string]string{}
	if b, err := os.ReadFile(filepath.Join(root, "images/index.json")); err == nil {
		all["index.json"] = strings.ReplaceAll(string(b), "},", "},\n")
	}
	if out := e.run("--root", root, "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.CreatedAt}}"); out.code == 0 {
		all["container"] = out.stdout
	}
	trees := map[string]string{}
	for _, name := range strings.Fields(e.ok("--root", root, "images", "--format", "{{.Repository}}:{{.Tag}}")) {
		r := e.run("--root", root, "inspect", name)
		if r.code != 0 {
			all[name] = r.stderr
			continue
		}
		var image struct {
			GraphDriver struct{ Data map[string]string }
		}
		doc := strings.Trim(r.stdout, "[]\n ")
		if err := json.Unmarshal([]byte(doc), &image); err != nil {
			e.t.Fatalf("%s: %v", doc, err)
		}
		s := strings.ReplaceAll(r.stdout, root, "ROOT")
		s = regexp.MustCompile(`"TarSize": \d+`).ReplaceAllString(s, "") // 0 where nobody has counted
		for _, dir := range strings.Split(image.GraphDriver.Data["LowerDir"], ":") {
			if trees[dir] == "" {
				trees[dir] = describeTree(e.t, dir)
			}
			s += trees[dir]
		}
		all[canonical(name)] = s
	}
	return all
}

// describeTree is the digest of all that there is to see of a tree.
func describeTree(t testing.TB, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		size := st.Size
		if d.IsDir() {
			size = 0
		}
		fmt.Fprintf(sum, "%q %o %d:%d %d %d.%d %d\n", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec, size)
		list := make([]byte, 4096)
		if n, err := unix.Llistxattr(path, list); err == nil {
			for _, name := range strings.Split(string(list[:n]), "\x00") {
				value := make([]byte, 4096)
				if n, err := unix.Lgetxattr(path, name, value); err == nil {
					fmt.Fprintf(sum, "%s=%q\n", name, value[:n])
				}
			}
		}
		switch d.Type() {
		case 0:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, "%x\n", sha256.Sum256(b))
		case fs.ModeSymlink:
			link, err := os.Readlink(path)
			fmt.Fprintln(sum, link, err)
		}
		return nil
	})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x ", sum.Sum(nil))
}

// canonical is the name as check says it.
func canonical(name string) string {
	if !strings.Contains(name, "/") {
		return "localhost/" + name
	}
	return name
}
