package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a machine, and the time at which something is made, say of a file is not in its tar: labels of security modules, and with a bound
// what is later.
func TestPackIsTheSameEverywhere(t *testing.T) {
	const tree = `mkdir -p d; echo x > d/f; cp /bin/true d/cap; ln -s f d/l; mkfifo d/p; setcap cap_net_raw+ep d/cap; find . -exec touch -h -d 2020-01-01T00:00:00Z {} +`
	bound := time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)
	pack := func(script string, notAfter time.Time) []byte {
		dir := t.TempDir()
		sh(t, dir, script)
		var b bytes.Buffer
		if err := Pack(context.Background(), openDir1(t, dir), &b, PackOptions{NotAfter: notAfter}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	plain := pack(tree, time.Time{})
	if !bytes.Contains(plain, []byte("security.capability")) {
		t.Error("capabilities are not packed")
	}
	if !bytes.Equal(plain, pack(tree+"; setfattr -n security.selinux -v label d d/f; setfattr -n security.ima -v x d/f", time.Time{})) {
		t.Error("a label of the machine's is packed")
	}
	if !bytes.Equal(plain, pack(tree, bound)) {
		t.Error("a time before the bound changed")
	}
	early := pack(tree+"; touch -h -d 2021-01-01T00:00:00Z d d/l d/cap", time.Time{})
	late := tree + "; touch -h -d 2022-01-01T01:02:03.4Z d/l d/cap d"
	if bytes.Equal(early, pack(late, time.Time{})) || !bytes.Equal(early, pack(late, bound)) {
		t.Error("a time after the bound is not the bound")
	}
	// The same of a tree that a tar with later times was unpacked to.
	dir := t.TempDir()
	if _, err := Apply(context.Background(), bytes.NewReader(pack(late, time.Time{})), openDir1(t, dir), Options{NotAfter: bound}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Pack(context.Background(), openDir1(t, filepath.Join(dir, "fs")), &b, PackOptions{}); err != nil || !bytes.Equal(early, b.Bytes()) {
		t.Errorf("unpacked with the bound it packs to something else: %v", err)
	}
}

// A layer that hides something is packed again byte for byte, from its tree and from its index: marks stand where the names stand that
// they hide, and say nothing else.
func TestPackMarks(t *testing.T) {
	long := strings.Repeat("n", 120)
	canonical := tarOf(t, h(tar.TypeDir, "./", "", ""), h(tar.TypeDir, "a/", "", ""), h(tar.TypeReg, "a/.wh..wh..opq", "", ""), h(tar.TypeReg, "a/f", "", "x"),
		h(tar.TypeReg, "a/.wh."+long, "", ""), h(tar.TypeReg, "a-b", "", "y"), h(tar.TypeReg, ".wh.gone", "", ""), h(tar.TypeReg, "h", "", "z"))
	dir, _ := apply(t, bytes.NewReader(canonical))
	var b, again, salvaged bytes.Buffer
	fs := openDir1(t, filepath.Join(dir, "fs"))
	if err := Pack(context.Background(), fs, &b, PackOptions{Marks: true}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		hdr, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, hdr.Name)
		if strings.Contains(hdr.Name, ".wh.") && (hdr.Mode != 0 || hdr.Size != 0 || hdr.ModTime.Unix() != 0 || hdr.Typeflag != tar.TypeReg) {
			t.Errorf("the mark %+v says more than its name", hdr)
		}
	}
	if got, want := strings.Join(names, " "), "./ a/ a/.wh..wh..opq a/f a/.wh."+long+" a-b .wh.gone h"; got != want {
		t.Errorf("packed as %s, want %s", got, want)
	}
	dir2, res := apply(t, bytes.NewReader(b.Bytes()))
	if err := Pack(context.Background(), openDir1(t, filepath.Join(dir2, "fs")), &again, PackOptions{Marks: true}); err != nil || !bytes.Equal(again.Bytes(), b.Bytes()) {
		t.Errorf("packed again it is another layer: %v", err)
	}
	if err := Salvage(context.Background(), dir, &salvaged); err != nil || !bytes.Equal(salvaged.Bytes(), b.Bytes()) {
		t.Errorf("of its index it is another layer: %v", err)
	}
	if res.Needs == 0 {
		t.Error("the whiteouts need nothing")
	}
	if err := Pack(context.Background(), fs, &b, PackOptions{}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a directory with a whiteout's device: %v", err)
	}
}
