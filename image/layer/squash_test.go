package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// stackOf is the merged view of trees, lowest first.
func stackOf(t testing.TB, dirs []string) *snapshot.Stack {
	t.Helper()
	s, err := snapshot.OpenStack(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, dir := range dirs {
		if err := s.Push(filepath.Join(dir, "fs")); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// over unpacks a layer and settles it for what is below.
func over(t testing.TB, below []string, packed []byte) (string, error) {
	t.Helper()
	dir := t.TempDir()
	if _, err := Apply(context.Background(), bytes.NewReader(packed), openDir1(t, dir), Options{}); err != nil {
		return "", err
	}
	stack := stackOf(t, below)
	plan, err := PlanSettlement(dir, stack)
	if err == nil {
		err = plan.Execute(dir, stack)
	}
	return dir, err
}

// seen lists all that a merged view shows, and which names are one file.
func seen(t testing.TB, dirs []string) string {
	t.Helper()
	var b strings.Builder
	s := stackOf(t, dirs)
	files := map[uint64]string{}
	var walk func(at string, d *snapshot.Dir)
	walk = func(at string, d *snapshot.Dir) {
		names, err := d.Names()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		for _, name := range append([]string{"."}, names...) {
			at := path.Join(at, name)
			st, err := s.Lookup(at)
			if err != nil {
				t.Fatal(err)
			}
			xattrs, err := s.Xattrs(at)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %o %d:%d %d.%d %q", at, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, xattrs)
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				if files[st.Ino] == "" {
					files[st.Ino] = at
				}
				f, err := s.Open(at)
				if err != nil {
					t.Fatal(err)
				}
				content, err := io.ReadAll(f)
				f.Close()
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, " %q is %s", content, files[st.Ino])
			case unix.S_IFLNK:
				target, err := s.Readlink(at)
				if err != nil {
					t.Fatal(err)
				}
				b.WriteString(" -> " + target)
			case unix.S_IFDIR:
				if name != "." {
					b.WriteString("/\n")
					sub, err := d.Enter(name)
					if err != nil {
						t.Fatal(err)
					}
					walk(at, sub)
					sub.Close()
					continue
				}
			}
			b.WriteByte('\n')
		}
	}
	walk(".", s.Root())
	return b.String()
}

// squashed squashes the layers above the first n, and says what it came to.
func squashed(t testing.TB, dirs []string, n int) (packed []byte, stacked []string) {
	t.Helper()
	var b bytes.Buffer
	if err := Squash(context.Background(), opened(t, dirs[n:]), stackOf(t, dirs[:n]), &b); err != nil {
		t.Fatal(err)
	}
	dir, _ := apply(t, bytes.NewReader(b.Bytes()))
	plan, err := PlanSettlement(dir, stackOf(t, dirs[:n]))
	if err != nil || plan.Digest() != "" {
		t.Errorf("it does not stand on what is below: %+v, %v", plan, err)
	}
	var again bytes.Buffer
	if err := Pack(context.Background(), openDir1(t, filepath.Join(dir, "fs")), &again, PackOptions{Marks: true}); err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
		t.Errorf("its tar is not the canonical one: %v", err)
	}
	return b.Bytes(), append(slices.Clone(dirs[:n]), dir)
}

func TestSquash(t *testing.T) {
	const reg, hard, dir, link = tar.TypeReg, tar.TypeLink, tar.TypeDir, tar.TypeSymlink
	base := es(h(dir, "a", "", ""), h(reg, "a/1", "", "1"), h(reg, "a/2", "", "2"), h(reg, "b", "", "b"), h(dir, "d", "", ""), h(reg, "d/x", "", "x"))
	for _, row := range []struct {
		name         string
		second, rest []func(*tar.Writer) error
		want         string // the names of the squashed layer over the first one
	}{
		{"a name that is deleted stays deleted", es(h(reg, "a/.wh.1", "", "")), nil, "./ a/ a/.wh.1"},
		{"one that was made and deleted is nothing", es(h(reg, "a/3", "", "3")), es(h(reg, "a/.wh.3", "", "")), "./ a/"},
		{"one that was deleted and made again is new", es(h(reg, "a/.wh.1", "", "")), es(h(reg, "a/1", "", "new")), "./ a/ a/1"},
		{"a directory that was deleted and made again is opaque", es(h(reg, ".wh.a", "", "")), es(h(reg, "a/3", "", "3")), "./ a/ a/.wh..wh..opq a/3"},
		{"so is one that was a file meanwhile", es(h(reg, ".wh.a", "", ""), h(reg, "a", "", "file")), es(h(reg, ".wh.a", "", ""), h(dir, "a", "", "")), "./ a/ a/.wh..wh..opq"},
		{"but not over a file", es(h(reg, ".wh.b", "", "")), es(h(dir, "b", "", ""), h(reg, "b/1", "", "1")), "./ b/ b/1"},
		{"and not where there was nothing", es(h(dir, "n", "", ""), h(reg, "n/1", "", "1")), es(h(reg, ".wh.n", "", ""), h(reg, "n/2", "", "2")), "./ n/ n/2"},
		{"what an opaque directory hides needs no whiteout", es(h(reg, "a/.wh..wh..opq", "", ""), h(reg, "a/3", "", "3")), es(h(reg, "a/.wh.3", "", "")), "./ a/ a/.wh..wh..opq"},
		{"a file over a directory", es(h(reg, ".wh.a", "", ""), h(reg, "a", "", "file")), nil, "./ a"},
		{"what a file covers", es(h(dir, "a/s", "", ""), h(reg, "a/s/1", "", "1")), es(h(reg, "a/s", "", "file")), "./ a/ a/s"},
		{"hard links", es(h(reg, "z", "", "z"), h(hard, "a/z", "z", ""), h(hard, "m", "z", "")), nil, "./ a/ a/z m=a/z z=a/z"},
		{"hard links whose first name is hidden", es(h(reg, "e", "", "z"), h(hard, "m", "e", ""), h(hard, "z", "e", "")), es(h(reg, "e", "", "other")), "./ e m z=m"},
		{"a hard link that is alone now", es(h(reg, "e", "", "z"), h(hard, "m", "e", "")), es(h(reg, ".wh.e", "", "")), "./ m"},
		{"a link over a directory", es(h(reg, ".wh.d", "", ""), h(link, "d", "a", "")), nil, "./ d"},
		{"a name that sorts before its directory's", es(h(reg, "a-", "", "1"), h(dir, "a", "", "")), es(h(reg, "a.", "", "2")), "./ a/ a- a."},
	} {
		t.Run(row.name, func(t *testing.T) {
			dirs := []string{}
			for _, l := range [][]func(*tar.Writer) error{base, row.second, row.rest} {
				if l == nil {
					continue
				}
				d, err := over(t, dirs, tarOf(t, l...))
				if err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, d)
			}
			want := seen(t, dirs)
			packed, now := squashed(t, dirs, 1)
			if got := seen(t, now); got != want {
				t.Errorf("it shows\n%swant\n%s", got, want)
			}
			var names []string
			for r := tar.NewReader(bytes.NewReader(packed)); ; {
				hdr, err := r.Next()
				if err != nil {
					break
				}
				if hdr.Typeflag == tar.TypeLink {
					hdr.Name += "=" + hdr.Linkname
				}
				names = append(names, hdr.Name)
			}
			if got := strings.Join(names, " "); got != row.want {
				t.Errorf("it has %s, want %s", got, row.want)
			}
			if packed, now = squashed(t, dirs, 0); seen(t, now) != want || bytes.Contains(packed, []byte(".wh.")) {
				t.Errorf("all of it in one layer shows\n%swant\n%s", seen(t, now), want)
			}
		})
	}
}

// Whatever layers say, squashed from any of them on they show the same.
func TestSquashAnything(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			var dirs []string
			for len(dirs) < 4 {
				if d, err := over(t, dirs, randomLayer(t, rng)); err == nil {
					dirs = append(dirs, d)
				} // else nobody can have such a layer
			}
			want := seen(t, dirs)
			for n := range dirs {
				if _, now := squashed(t, dirs, n); seen(t, now) != want {
					t.Errorf("squashed from %d it shows\n%swant\n%s", n, seen(t, now), want)
				}
			}
		})
	}
}

// randomLayer is a layer of names that meet those of others in every way.
func randomLayer(t testing.TB, rng *rand.Rand) []byte {
	names := []string{"a", "b", "a-", "c"}
	name := func() string {
		s := names[rng.IntN(len(names))]
		for rng.IntN(2) == 0 && len(s) < 6 {
			s += "/" + names[rng.IntN(len(names))]
		}
		return s
	}
	var entries []func(*tar.Writer) error
	var files []string
	for range 1 + rng.IntN(8) {
		n := name()
		switch rng.IntN(8) {
		case 0, 1:
			entries = append(entries, h(tar.TypeDir, n, "", ""))
		case 2:
			entries = append(entries, h(tar.TypeReg, path.Join(path.Dir(n), ".wh."+path.Base(n)), "", ""))
		case 3:
			entries = append(entries, h(tar.TypeReg, n+"/.wh..wh..opq", "", ""))
		case 4:
			entries = append(entries, h(tar.TypeSymlink, n, name(), ""))
		case 5:
			if len(files) > 0 {
				entries = append(entries, h(tar.TypeLink, n, files[rng.IntN(len(files))], ""))
			}
		default:
			files = append(files, n)
			entries = append(entries, h(tar.TypeReg, n, "", fmt.Sprint(rng.IntN(1000))))
		}
	}
	return tarOf(t, entries...)
}

func TestSquashOfDamage(t *testing.T) {
	dir, _ := apply(t, bytes.NewReader(tarOf(t, h('0', "f", "", "content"))))
	if err := os.WriteFile(filepath.Join(dir, "fs/f"), []byte("c0ntent"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Squash(context.Background(), opened(t, []string{dir}), stackOf(t, nil), io.Discard); !errors.Is(err, ErrMalformed) {
		t.Errorf("a damaged file was squashed: %v", err)
	}
}

// The index of whatever was unpacked and settled is made again of its tree, byte for byte; a layer with hard links may have been in another
// order.
func TestReindexAnything(t *testing.T) {
	made := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 8))
			var dirs []string
			for len(dirs) < 3 {
				d, err := over(t, dirs, randomLayer(t, rng))
				if err != nil {
					continue
				}
				dirs = append(dirs, d)
				linked := false
				for e, err := range opened(t, dirs[len(dirs)-1:])[0].All() {
					if linked = linked || e.Type == TypeHardlink; err != nil {
						t.Fatal(err)
					}
				}
				if linked {
					continue
				}
				want, err := os.ReadFile(filepath.Join(d, "index"))
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if err := Reindex(context.Background(), d, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
					t.Errorf("made again it is another index: %v", err)
				}
				made++
			}
		})
	}
	if made < 100 {
		t.Errorf("only %d layers had no hard links", made)
	}
}
