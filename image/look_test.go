package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/layerctl/layerctl/image/layer"
	"github.com/layerctl/layerctl/snapshot"
	"github.com/layerctl/layerctl/snapshot/diff"
)

// testStore is a store of its own.
func testStore(t testing.TB) *Store {
	t.Helper()
	root := t.TempDir()
	snaps, err := snapshot.Open(filepath.Join(root, "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(root, snaps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// layerTar is a layer of entries "PATH", "PATH/" for a directory, "PATH=CONTENT", "PATH->TARGET" and "PATH=>HARD LINK'S TARGET".
func layerTar(t testing.TB, entries ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e, Mode: 0o644, ModTime: time.Unix(1600000000, 0), Typeflag: tar.TypeReg}
		content := ""
		if name, target, ok := strings.Cut(e, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		} else if name, target, ok := strings.Cut(e, "=>"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if name, text, ok := strings.Cut(e, "="); ok {
			h.Name, content = name, text
		} else if strings.HasSuffix(e, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(content))
	}
	w.Close()
	return b.Bytes()
}

// loadImage brings an image of layers into the store; made says how each was made.
func loadImage(t testing.TB, s *Store, name string, layers [][]byte, made []string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, data []byte) {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg})
		w.Write(data)
	}
	config := map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{}}
	var diffIDs, names []string
	history := []any{map[string]any{"created_by": "ENV A=1", "empty_layer": true}}
	for i, l := range layers {
		sum := sha256.Sum256(l)
		diffIDs = append(diffIDs, "sha256:"+hex.EncodeToString(sum[:]))
		names = append(names, fmt.Sprintf("%d.tar", i))
		add(names[i], l)
		history = append(history, map[string]any{"created_by": made[i]})
	}
	config["rootfs"] = map[string]any{"type": "layers", "diff_ids": diffIDs}
	config["history"] = history
	c, _ := json.Marshal(config)
	add("config.json", c)
	m, _ := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": names}})
	add("manifest.json", m)
	w.Close()
	if _, err := s.Load(context.Background(), LoadSource{Reader: &b}, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
}

var lookLayers = [][]string{
	{"./", "etc/", "etc/passwd=root", "etc/motd=hi", "etc/old/", "etc/old/a=1", "bin->usr/bin", "usr/", "usr/bin/", "usr/bin/ash=sh", "usr/bin/sh=>usr/bin/ash"},
	{"etc/", "etc/passwd=root\nuser", "etc/.wh.motd", "srv/", "srv/x=x"},
	{"etc/", "etc/old/", "etc/old/.wh..wh..opq", "etc/old/b=2", "etc/motd=back", "srv/", "srv/.wh.x"},
}

func lookStore(t testing.TB) *Store {
	s := testStore(t)
	var layers [][]byte
	for _, l := range lookLayers {
		layers = append(layers, layerTar(t, l...))
	}
	loadImage(t, s, "base:1", layers[:1], []string{"ADD base"})
	loadImage(t, s, "app:1", layers, []string{"ADD base", "RUN useradd", "RUN tidy"})
	return s
}

func look(t testing.TB, s *Store, name string) *View {
	t.Helper()
	v, err := s.Look(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestLook(t *testing.T) {
	s := lookStore(t)
	v := look(t, s, "app:1")
	var got []string
	for f, err := range v.Merged() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %c %s", f.Layer, f.Type, f.Path))
	}
	want := []string{"2 5 .", "0 2 bin", "2 5 etc", "2 0 etc/motd", "2 5 etc/old", "2 0 etc/old/b", "1 0 etc/passwd", "2 5 srv", "0 5 usr", "0 5 usr/bin", "0 0 usr/bin/ash", "0 1 usr/bin/sh"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	f, err := v.Open("etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 20)
	n, _ := f.Read(b)
	if string(b[:n]) != "root\nuser" {
		t.Errorf("etc/passwd is %q", b[:n])
	}
	if _, err := v.OpenIn(0, "etc/motd"); err != nil {
		t.Error(err)
	}
	shared, err := s.Sharers(v.Image)
	if err != nil || len(shared[0]) != 1 || !strings.HasSuffix(shared[0][0], "base:1") || shared[1] != nil {
		t.Errorf("shared by %q, %v", shared, err)
	}
	if v.Layers[0].CreatedBy != "ADD base" || v.Layers[2].CreatedBy != "RUN tidy" {
		t.Errorf("made by %q, %q", v.Layers[0].CreatedBy, v.Layers[2].CreatedBy)
	}
	if n, err := v.Layers[1].Count(); err != nil || n != (Counts{Files: 2, Dirs: 3, Deleted: 1}) {
		t.Errorf("counts %+v, %v", n, err)
	}
	// What the top layer changes.
	got = nil
	for c, err := range diff.Compare(context.Background(), v.Upto(2), v.Stack, diff.Options{NoTimes: true}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%c %s", c.Kind, c.Path))
	}
	if want := []string{"A /etc/motd", "D /etc/old/a", "A /etc/old/b", "D /srv/x"}; !slices.Equal(got, want) {
		t.Errorf("top layer: got %q, want %q", got, want)
	}
}

func TestInstruction(t *testing.T) {
	for by, want := range map[string]string{
		"COPY rootfs / # buildkit":                              "COPY rootfs /",
		"/bin/sh -c apt-get update":                             "RUN apt-get update",
		"/bin/sh -c #(nop) ADD file:1 in /srv ":                 "ADD file:1 in /srv",
		"/bin/sh -c #(nop)  CMD [\"sh\"]":                       "CMD [\"sh\"]",
		"RUN /bin/sh -c chown -R app /srv\n\tline # buildkit\n": "RUN chown -R app /srv\n\tline",
		"layerctl import":                                       "layerctl import",
		"":                                                      "",
	} {
		if got := (&LayerView{CreatedBy: by}).Instruction(); got != want {
			t.Errorf("%q is %q, want %q", by, got, want)
		}
	}
}

// Who looks into an image goes on doing so when it is removed: what it shows is deleted by whoever sweeps after him.
func TestLookOutlivesTheImage(t *testing.T) {
	s, ctx := lookStore(t), context.Background()
	v := look(t, s, "app:1")
	for _, name := range []string{"app:1", "base:1"} {
		if _, err := s.Remove(ctx, name, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	sweep := func() {
		t.Helper()
		if err := s.snaps.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	for i := range v.Layers {
		if _, err := os.Lstat(v.Layers[i].FS()); err != nil {
			t.Error(err)
		}
	}
	if f, err := v.Open("etc/passwd"); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	v.Close()
	sweep()
	for i := range v.Layers {
		if _, err := os.Lstat(v.Layers[i].Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after the last look: %v", v.Layers[i].Dir, err)
		}
	}
}

func TestBlame(t *testing.T) {
	s := lookStore(t)
	v := look(t, s, "app:1")
	for path, want := range map[string]string{
		"/etc/passwd":    "0 A etc/passwd, 1 C etc/passwd content,size wins",
		"etc/motd":       "0 A etc/motd, 1 D etc/motd, 2 A etc/motd wins",
		"etc/old/a":      "0 A etc/old/a, 2 H etc/old",
		"/srv/x":         "1 A srv/x, 2 D srv/x",
		"etc":            "0 A etc wins",
		"usr/bin/ash":    "0 A usr/bin/ash wins",
		"./usr/../srv/x": "1 A srv/x, 2 D srv/x",
	} {
		list, err := v.Blame(path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		var got []string
		for _, b := range list {
			line := fmt.Sprintf("%d %c %s", b.Layer, b.Kind, b.By)
			if b.Differs != 0 {
				line += " " + strings.Join(b.Differs.Names(), ",")
			}
			if b.Wins {
				line += " wins"
			}
			got = append(got, line)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: got %q, want %q", path, strings.Join(got, ", "), want)
		}
	}
	if _, err := v.Blame("etc/nothing"); !errors.Is(err, ErrNoPath) {
		t.Errorf("a path that is not there: %v", err)
	}
}

func TestFollow(t *testing.T) {
	s := testStore(t)
	loadImage(t, s, "links:1", [][]byte{layerTar(t, "./", "usr/", "usr/lib/", "usr/lib/x=x", "usr/lib/deep/", "usr/lib/deep/y=y", "bin->usr/lib", "abs->/usr/lib/deep", "out->../../../usr",
		"odd->abs/../x", "usr/odd->../abs/./..//deep", "loop->loop", "dangling->nowhere/at", "chain->bin/deep")}, []string{"links"})
	v := look(t, s, "links:1")
	for path, want := range map[string]string{
		"usr/lib/x": "usr/lib/x 0", "/bin/x": "usr/lib/x 1", "bin": "bin 0", "abs/y": "usr/lib/deep/y 1", "out/lib/x": "usr/lib/x 1", "chain/y": "usr/lib/deep/y 2",
		"usr/odd/y": "usr/lib/deep/y 2", "odd/z": "usr/lib/x/z 2", "dangling/q": "nowhere/at/q 1", "/": ". 0", "nowhere/q": "nowhere/q 0",
		"/../../nowhere/../bin": "bin 0", "abs/../q": "q 0", // what a user types is cleaned first, as a shell's cd does
	} {
		at, links, err := v.Follow(path)
		if got := fmt.Sprint(at, " ", len(links)); err != nil || got != want {
			t.Errorf("%s leads to %s, %v; want %s", path, got, err, want)
		}
	}
	if _, _, err := v.Follow("loop/x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a loop: %v", err)
	}
}

func TestLookLayer(t *testing.T) {
	s := lookStore(t)
	v := look(t, s, "app:1")
	loadImage(t, s, "other:1", [][]byte{layerTar(t, "./", "x=1"), layerTar(t, lookLayers[1]...)}, []string{"one", "two"})
	ctx := context.Background()
	for name, want := range map[string]int{v.Layers[2].DiffID: 2, v.Layers[2].DiffID[7:19]: 2, v.Layers[1].Chain: 1, v.Layers[1].Chain[7:17]: 1, "app:1#1": 0, "app#3": -1} {
		got, err := s.LookLayer(ctx, name, false)
		if want < 0 {
			if err == nil {
				t.Errorf("%s is found", name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Top() != want || got.Layers[want].DiffID != v.Layers[want].DiffID {
			t.Errorf("%s is layer %d, want %d", name, got.Top(), want)
		}
		got.Close()
	}
	if _, err := s.LookLayer(ctx, v.Layers[1].DiffID, false); !errors.Is(err, ErrSeveralChains) {
		t.Errorf("a layer on different others: %v", err)
	}
	if got, err := s.LookLayer(ctx, v.Layers[1].DiffID, true); err != nil {
		t.Error(err)
	} else {
		got.Close()
	}
	for _, name := range []string{"sha256:0123456789", "abc", "app:1#4", "app:1#0", "app:1#x"} {
		if _, err := s.LookLayer(ctx, name, false); !errors.Is(err, ErrNoLayer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An index that is damaged or missing is made again of the tree, and only if that is what it was made of.
func TestLookRemakesIndex(t *testing.T) {
	s := lookStore(t)
	var said []string
	s.Warn = func(line string) { said = append(said, line) }
	v := look(t, s, "app:1")
	index := filepath.Join(v.Layers[0].Dir, "index")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"missing": func() error { return os.Remove(index) },
		"older":   func() error { return os.WriteFile(index, []byte("layerctl-index 0\nwhatever"), 0o600) },
		"a bit":   func() error { b := slices.Clone(whole); b[60] ^= 1; return os.WriteFile(index, b, 0o600) },
		"cut":     func() error { return os.WriteFile(index, whole[:len(whole)-5], 0o600) },
		"a length": func() error {
			b := slices.Clone(whole)
			b[len("layerctl-index 1\n")] ^= 2
			return os.WriteFile(index, b, 0o600)
		},
	} {
		said = nil
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		v := look(t, s, "app:1")
		n := 0
		for _, err := range v.Merged() {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			n++
		}
		if b, err := os.ReadFile(index); err != nil || !bytes.Equal(b, whole) || n != 12 || len(said) != 1 {
			t.Errorf("%s: %d entries, said %q, %v; the same again: %v", name, n, said, err, bytes.Equal(b, whole))
		}
	}
	said = nil
	if err := os.WriteFile(filepath.Join(v.Layers[0].FS(), "etc/passwd"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Look(context.Background(), "app:1"); !errors.Is(err, ErrDamaged) || said != nil {
		t.Errorf("the tree is damaged, too: %v, said %q", err, said)
	}
	if _, err := os.Stat(index); err == nil {
		t.Error("an index of a damaged tree was put in place")
	}
}

// A tarball is a layer of its own while it is looked at.
func TestLookTar(t *testing.T) {
	s := testStore(t)
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(file, layerTar(t, lookLayers[0]...), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := s.LookTar(context.Background(), file)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := v.Lookup("etc/motd"); err != nil || f.Size != 2 || f.Content == ([16]byte{}) {
		t.Errorf("etc/motd: %+v, %v", f, err)
	}
	dir := v.Layers[0].Dir
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the place where it was unpacked is left")
	}
	os.WriteFile(file, []byte("no tar at all"), 0o600)
	if _, err := s.LookTar(context.Background(), file); !errors.Is(err, layer.ErrMalformed) {
		t.Errorf("no tarball: %v", err)
	}
}

// Which name of a file is the link is the tar's affair; what is whole of a damaged index says it.
func TestLookRemakesLinks(t *testing.T) {
	s := testStore(t)
	layers := []string{"./", "zz/", "zz/file=x", "aa=>zz/file", "mm=>zz/file"}
	for i := range 2000 { // more than a block
		layers = append(layers, fmt.Sprintf("n%04d=%d", i, i))
	}
	loadImage(t, s, "links:1", [][]byte{layerTar(t, layers...)}, []string{"links"})
	v := look(t, s, "links:1")
	index := filepath.Join(v.Layers[0].Dir, "index")
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(whole)
	damaged[len(damaged)-100] ^= 1 // in the last block
	if err := os.WriteFile(index, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	w := look(t, s, "links:1")
	if f, err := w.Lookup("n1999"); err != nil || f.Size != 4 {
		t.Errorf("%+v, %v", f, err)
	}
	if b, err := os.ReadFile(index); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("it is not the same again: %v", err)
	}
}
