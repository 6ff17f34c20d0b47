package tests

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tarEntry is "TYPE NAME[=LINK OR CONTENT]"; TYPE is f, d, l, h (a hard link), c (a character device 0/0).
func writeTar(t testing.TB, file string, entries ...string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		name, rest, _ := strings.Cut(e[2:], "=")
		hdr := &tar.Header{Name: name, Mode: 0o644, Format: tar.FormatPAX}
		switch e[0] {
		case 'f':
			hdr.Typeflag, hdr.Size = tar.TypeReg, int64(len(rest))
			if strings.HasPrefix(name, "bin/") {
				hdr.Mode = 0o755
			}
		case 'd':
			hdr.Typeflag, hdr.Mode = tar.TypeDir, 0o755
		case 'l':
			hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, rest, 0o777
		case 'h':
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, rest
		case 'c':
			hdr.Typeflag = tar.TypeChar
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if e[0] == 'f' {
			w.Write([]byte(rest))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listRoot tells a root from within: "d/", "f=content", "l->target", in one line.
const listRoot = `cd /; B=/bin/busybox; $B find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./etc -o -path ./bin \) -prune -o -print | $B sort | while read -r p; do p=${p#./}
if [ "$p" = . ]; then :; elif [ -L "$p" ]; then echo "$p->$($B readlink "$p")"; elif [ -d "$p" ]; then echo "$p/"; elif [ -f "$p" ]; then echo "$p=$($B cat "$p")"; else echo "$p?"; fi; done`

// Layers that lead out, change names between entries and lean on links below, pulled by us and unpacked by umoci and podman. Where they
// make something else of one, containerd and the specification (image-spec, layer.md) are on our side for the reason that is given.
func TestHostileLayers(t *testing.T) {
	reg := startRegistry(t, "")
	e := newEnv(t)
	t.Cleanup(func() { // podman leaves what it has mounted
		sh(t, e.dir, "for m in $(findmnt -rn -o TARGET | grep ^$PWD/pod/ | sort -r); do umount $m; done")
	})
	canary := filepath.Join(e.dir, "canary")
	if err := os.WriteFile(canary, []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, e.dir, "mkdir -p b/bin b/usr/lib b/d; cp /bin/busybox b/bin/; ln -s usr/lib b/lib; echo -n 1 > b/d/below; ln -s ../../../../../../.. b/up; tar -C b -cf base.tar .")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	const (
		out   = "../../../../../../.."
		rest  = "lib->usr/lib up->" + out + " usr/ usr/lib/"
		below = "d/ d/below=1 " + rest
	)
	for i, row := range []struct {
		name                string
		layer               []string
		want, umoci, podman string // of the peers only what differs; "error" for a refusal
		text                string // of our refusal
	}{
		{name: "dot dot, absolute", layer: []string{"f ../../canary=x", "f /abs=y"}, want: "abs=y canary=x " + below},
		{name: "a link out, then through it", layer: []string{"l out=" + out, "f out/canary=x"}, want: "canary=x d/ d/below=1 lib->usr/lib out->" + out + " up->" + out + " usr/ usr/lib/"},
		// containerd and Docker follow the links of the layers below within the root; podman unpacks each layer by itself, and loses them.
		{name: "through a link out of the layer below", layer: []string{"f up/canary=x"}, want: "canary=x " + below, podman: "d/ d/below=1 lib->usr/lib up/ up/canary=x usr/ usr/lib/"},
		{name: "through a link of the layer below", layer: []string{"f lib/x=1"}, want: below + " usr/lib/x=1", podman: "d/ d/below=1 lib/ lib/x=1 up->" + out + " usr/ usr/lib/"},
		// containerd replaces what an earlier entry made; podman refuses names that come twice.
		{name: "a directory becomes a link", layer: []string{"d e", "d t", "l e=t", "f e/x=1"}, want: "d/ d/below=1 e->t lib->usr/lib t/ t/x=1 up->" + out + " usr/ usr/lib/", podman: "error"},
		{name: "a file becomes a directory", layer: []string{"f d=1", "d d", "f d/x=2"}, want: "d/ d/x=2 lib->usr/lib up->" + out + " usr/ usr/lib/", podman: "error"},
		{name: "a hard link whose file is then another", layer: []string{"f a=1", "h b=a", "f a=2"}, want: "a=2 b=1 " + below, podman: "error"},
		// "Whiteout files MUST only apply to resources in lower/parent layers", in whatever order.
		{name: "a file after its whiteout", layer: []string{"f d/.wh.below=", "f d/below=2"}, want: "d/ d/below=2 " + rest},
		{name: "a whiteout after its file", layer: []string{"f d/below=2", "f d/.wh.below="}, want: "d/ d/below=2 " + rest, podman: "error"},
		{name: "a whiteout through a link", layer: []string{"l w=d", "f w/.wh.below="}, want: "d/ " + rest + " w->d", podman: "error"},
		{name: "opaque after", layer: []string{"f d/x=1", "f d/.wh..wh..opq="}, want: "d/ d/x=1 " + rest},
		// overlayfs does not ask a layer's root whether it is opaque, and podman does not either.
		{name: "an opaque root", layer: []string{"f .wh..wh..opq=", "f x=1", "f bin/busybox=" + string(busybox)}, want: "x=1", podman: below + " x=1"},
		// A link to what only a layer below has is made in the merged root by containerd.
		{name: "a hard link to a file below", layer: []string{"h x=d/below"}, want: below + " x=1", podman: "error"},
		{name: "a hard link through a link", layer: []string{"f usr/lib/a=1", "h x=lib/a"}, want: below + " usr/lib/a=1 x=1", podman: "error"},
		// The specification knows one kind of whiteout. umoci makes the device, podman's overlayfs takes it for a deletion.
		{name: "a planted whiteout", layer: []string{"c d/below"}, want: "error", text: "0/0", umoci: "d/ d/below? " + rest, podman: "d/ " + rest},
		{name: "a whiteout of the directory itself", layer: []string{"f d/.wh.=", "f x=1"}, want: "error", text: "whiteout"},
	} {
		sub := *e
		t.Run(row.name, func(t *testing.T) {
			sub.t = t
			writeTar(t, filepath.Join(e.dir, "top.tar"), row.layer...)
			ref := fmt.Sprintf("%s/hostile:%d", reg.addr, i)
			sh(t, e.dir, "rm -rf img; umoci init --layout img; umoci new --image img:t; umoci raw add-layer --image img:t base.tar; umoci raw add-layer --image img:t top.tar; skopeo copy -q --dest-tls-verify=false oci:img:t docker://"+ref)
			ours := "error"
			if r := sub.run("pull", "-q", ref); r.code == 0 {
				ours = sub.ok("run", "--rm", ref, "/bin/busybox", "sh", "-c", listRoot)
			} else if row.text == "" || !strings.Contains(r.stderr, row.text) {
				t.Errorf("pull: %s", r.stderr)
			}
			peer := func(script string) string {
				out := sh(t, e.dir, script+` || { echo error; exit 0; }; chroot "$root" /bin/busybox sh -c '`+listRoot+"'")
				return out
			}
			umoci := peer(`rm -rf u; umoci raw unpack --image img:t u >/dev/null 2>&1 && root=u`)
			podman := peer(`P="podman --root $PWD/pod --runroot $PWD/podrun"; skopeo copy -q oci:img:t "containers-storage:[overlay@$PWD/pod+$PWD/podrun]localhost/x:t" >/dev/null 2>&1 && root=$($P image mount localhost/x:t 2>/dev/null)`)
			for _, c := range [][3]string{{"layerctl", ours, row.want}, {"umoci", umoci, cmp.Or(row.umoci, row.want)}, {"podman", podman, cmp.Or(row.podman, row.want)}} {
				if got := strings.Join(strings.Fields(c[1]), " "); got != c[2] {
					t.Errorf("%s makes %.500s\nwant %s", c[0], got, c[2])
				}
			}
			if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
				t.Errorf("the canary: %q, %v", b, err)
			}
		})
	}
}

// 10 GB in 10 MB end where the disk does, before they are written, and so do two million files where its inodes do. Neither leaves
// anything. (That no layer has more than ten million entries on any disk is a test of package layer.)
func TestBomb(t *testing.T) {
	e := newEnv(t)
	member := func(b []byte) []byte {
		var z bytes.Buffer
		w, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed)
		w.Write(b)
		w.Close()
		return z.Bytes()
	}
	var head, files bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeroes", Mode: 0o644, Size: 100 * 100 << 20, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(&files)
	for i := range 100_000 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i/1000, i), Mode: 0o644, Format: tar.FormatGNU}); err != nil {
			t.Fatal(err)
		}
	}
	end := member(make([]byte, 1024))
	sh(t, e.dir, "truncate -s 64M disk; mkfs.ext4 -q disk; mkdir mnt; mount -o loop disk mnt")
	t.Cleanup(func() { sh(t, e.dir, "umount mnt") })
	small := *e
	small.root = filepath.Join(e.dir, "mnt/store")
	small.ok("images")
	for _, b := range []struct {
		name  string
		parts [][]byte
		says  string
	}{
		{"gigabytes", [][]byte{member(head.Bytes()), bytes.Repeat(member(make([]byte, 100<<20)), 100), end}, "zeroes"},
		{"entries", [][]byte{bytes.Repeat(member(files.Bytes()), 20), end}, "/f"},
	} {
		bomb := bytes.Join(b.parts, nil)
		if len(bomb) > 60<<20 {
			t.Fatalf("a bomb of %d bytes", len(bomb))
		}
		if err := os.WriteFile(filepath.Join(e.dir, b.name+".tar.gz"), bomb, 0o600); err != nil {
			t.Fatal(err)
		}
		small.fails(1, []string{"import " + b.name + ".tar.gz", b.says, "no space left"}, "import", b.name+".tar.gz", "bomb")
		if out := small.ok("images", "-q"); out != "" {
			t.Errorf("%s: an image has a name: %s", b.name, out)
		}
		small.waitForReaper()
		for _, dir := range []string{"staging", "trees", "trash"} {
			if names := list(filepath.Join(small.root, "snapshots", dir)); len(names) > 0 {
				t.Errorf("%s: left in %s: %q", b.name, dir, names)
			}
		}
	}
}
