package layer

import (
	"archive/tar"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Names and links: nothing that a layer plants leads out of its tree.
func TestHostileNames(t *testing.T) {
	old := unix.Umask(0o077) // a caller's umask changes nothing
	defer unix.Umask(old)
	long := strings.Repeat("n", 255)
	far := 4000
	if underRace {
		far = 500 // looking at what came of it takes the square of that
	}
	for _, c := range []hostile{
		// containerd joins a cleaned name to the root: ".." cannot leave it.
		{name: "dot dot", tar: tarOf(t, h(reg, "../../canary", "", "x")), want: "canary=x"},
		{name: "dot dot in the middle", tar: tarOf(t, h(reg, "a/../../../canary", "", "x")), want: "canary=x"},
		{name: "dot dot at the end", tar: tarOf(t, h(dirT, "a/b/..", "", "")), want: "a/"},
		{name: "absolute", tar: tarOf(t, h(reg, "/etc/x", "", "x")), want: "etc/ etc/x=x"},
		{name: "absolute with dot dot", tar: tarOf(t, h(reg, "/../../x", "", "x")), want: "x=x"},
		{name: "many slashes", tar: tarOf(t, h(reg, "//a///b", "", "x")), want: "a/ a/b=x"},
		{name: "dots", tar: tarOf(t, h(reg, "././a/./b", "", "x")), want: "a/ a/b=x"},
		{name: "an empty name is the root, as GNU tar takes it", tar: tarOf(t, with(tar.Header{Typeflag: dirT, Name: "", Mode: 0o700, Format: tar.FormatUSTAR}, "")), want: "./(700)"},
		{name: "an empty name of a file", tar: tarOf(t, h(reg, "", "", "x")), err: ErrMalformed, text: "root"},
		{name: "the root as a file", tar: tarOf(t, h(reg, ".", "", "x")), err: ErrMalformed, text: "root"},
		{name: "the root as a link", tar: tarOf(t, h(lnk, "./", "/", "")), err: ErrMalformed, text: "root"},
		{name: "the root as a hard link", tar: tarOf(t, h(reg, "f", "", "x"), h(hard, "a/..", "f", "")), err: ErrMalformed, text: "root"},
		// archive/tar, and with it containerd and Docker, take a file with a slash for a file; only the oldest tars said directories so.
		{name: "a file with a trailing slash", tar: join(file("f/", "x")), want: "f=x"},
		{name: "v7's directory", tar: join(head("d/", 0, 0, "", field{atMagic, "\x00\x00\x00\x00\x00\x00\x00\x00"})), want: "d/(644)"},
		{name: "a directory without a slash", tar: tarOf(t, h(dirT, "d", "", "")), want: "d/"},
		{name: "a newline", tar: tarOf(t, h(reg, "a\nb", "", "x")), want: "a\nb=x"},
		{name: "not UTF-8", tar: join(append(head("\xff\xfe", '0', 1, "", field{0, "\xff\xfe"}), padded("x")...)), want: "\xff\xfe=x"},
		{name: "a backslash separates nothing", tar: tarOf(t, h(reg, `..\..\x`, "", "x")), want: `..\..\x=x`},
		{name: "control characters", tar: tarOf(t, h(reg, "\x1b[31mx", "", "x")), want: "\x1b[31mx=x"},
		// A header's name ends at a NUL; a pax record may not hold one (POSIX.1-2001, pax).
		{name: "NUL in a header", tar: join(file("a\x00/../../x", "x")), want: "a=x"},
		{name: "NUL in a pax record", tar: join(pax('x', "path=a\x00b"), file("c", "x")), err: ErrMalformed},
		{name: "a component that just fits", tar: tarOf(t, h(reg, long, "", "x")), want: long + "=x"},
		{name: "a component too long", tar: tarOf(t, h(reg, long+"n", "", "x")), err: ErrLimit, text: "component"},
		{name: "far down", tar: tarOf(t, h(reg, strings.Repeat("d/", far)+"f", "", "x")), want: deep(far)},
		{name: "too deep", tar: tarOf(t, h(reg, strings.Repeat("d/", 4200)+"f", "", "x")), err: ErrLimit, text: "deep"},
		{name: "a name of 70,000 bytes", tar: tarOf(t, h(reg, strings.Repeat("d/", 35000)+"f", "", "x")), err: ErrMalformed, text: "bytes"},
		{name: "like our own files", tar: tarOf(t, h(reg, "index", "", "x"), h(reg, "needs", "", "y"), h(dirT, "fs", "", ""), h(reg, "../index", "", "z"), h(reg, "fs/../../needs", "", "w")),
			want: "fs/ index=z needs=w"},

		{name: "a link out, then through it", tar: tarOf(t, h(lnk, "out", "../..", ""), h(reg, "out/canary", "", "x")), want: "canary=x out->../.."},
		{name: "an absolute link, then through it", tar: tarOf(t, h(lnk, "a", "/b", ""), h(reg, "a/f", "", "x")), want: "a->/b b/ b/f=x"},
		{name: "a link to the root", tar: tarOf(t, h(lnk, "a", "/", ""), h(reg, "a/a/a/f", "", "x")), want: "a->/ f=x"},
		{name: "a chain of links", tar: tarOf(t, h(lnk, "a", "b", ""), h(lnk, "b", "c/d", ""), h(reg, "a/f", "", "x")), want: "a->b b->c/d c/ c/d/ c/d/f=x"},
		{name: "a link with dots through a link", tar: tarOf(t, h(dirT, "x/y", "", ""), h(lnk, "l", "x/y", ""), h(lnk, "m", "l/..", ""), h(reg, "m/f", "", "1")),
			want: "l->x/y m->l/.. x/ x/f=1 x/y/"},
		{name: "a link to itself", tar: tarOf(t, h(lnk, "a", "a", ""), h(reg, "a/f", "", "x")), err: ErrMalformed, text: "symbolic links"},
		{name: "links in a circle", tar: tarOf(t, h(lnk, "a", "b", ""), h(lnk, "b", "a", ""), h(reg, "a/f", "", "x")), err: ErrMalformed, text: "symbolic links"},
		{name: "a circle over directories", tar: tarOf(t, h(lnk, "d/a", "../e", ""), h(lnk, "e", "d/a/x", ""), h(reg, "d/a/f", "", "x")), err: ErrMalformed, text: "symbolic links"},
		{name: "a link of nothing", tar: tarOf(t, h(lnk, "a", "", "")), err: ErrMalformed, text: "symbolic link"},
		{name: "a link too long", tar: tarOf(t, h(lnk, "a", strings.Repeat("x", 4096), "")), err: ErrMalformed, text: "symbolic link"},
		{name: "a link of 4,095 bytes", tar: tarOf(t, h(lnk, "a", strings.Repeat("x", 4095), "")), want: "a->" + strings.Repeat("x", 4095)},
		{name: "a link to /proc", tar: tarOf(t, h(lnk, "p", "/proc/self/cwd", ""), h(reg, "p/canary", "", "x")), want: "p->/proc/self/cwd proc/ proc/self/ proc/self/cwd/ proc/self/cwd/canary=x"},
		{name: "links that grow beyond all paths", tar: tarOf(t, grow()...), err: ErrLimit, text: "path of"},

		// What containerd resolves for a hard link is the target's directory, within the root; the target itself is not followed.
		{name: "a hard link out", tar: tarOf(t, h(hard, "x", "../../canary", "")), want: "needs x==canary"},
		{name: "an absolute hard link", tar: tarOf(t, h(reg, "etc/f", "", "1"), h(hard, "x", "/etc/f", "")), want: "etc/ etc/f=1 x==etc/f"},
		{name: "a hard link through a link out", tar: tarOf(t, h(lnk, "out", "../..", ""), h(hard, "x", "out/canary", "")), want: "out->../.. needs x==out/canary"},
		{name: "a hard link through a link in", tar: tarOf(t, h(reg, "d/f", "", "1"), h(lnk, "l", "/d", ""), h(hard, "l/x", "l/f", "")), want: "d/ d/f=1 d/x==d/f l->/d"},
		{name: "a hard link to a directory", tar: tarOf(t, h(dirT, "d", "", ""), h(hard, "x", "d", "")), err: ErrMalformed, text: "directory"},
		{name: "a hard link to the root", tar: tarOf(t, h(hard, "x", "/", "")), err: ErrMalformed, text: "hard link"},
		{name: "a hard link to nothing at all", tar: tarOf(t, h(hard, "x", "", "")), err: ErrMalformed, text: "hard link"},
		{name: "a hard link before its file", tar: tarOf(t, h(hard, "d/x", "f", ""), h(reg, "f", "", "1")), want: "d/ d/x=1 f==d/x"},
		{name: "a hard link to itself", tar: tarOf(t, h(reg, "f", "", "1"), h(hard, "f", "f", "")), want: "f=1"},
		{name: "a hard link to itself alone", tar: tarOf(t, h(hard, "f", "f", "")), want: "needs f==f"},
		{name: "a hard link to a link", tar: tarOf(t, h(lnk, "l", "../../canary", ""), with(tar.Header{Typeflag: hard, Name: "x", Linkname: "l", Mode: 0o777}, "")), want: "l->../../canary x==l"},
		{name: "a hard link to a device", tar: tarOf(t, with(tar.Header{Typeflag: chr, Name: "n", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""), with(tar.Header{Typeflag: hard, Name: "x", Linkname: "n", Mode: 0o666}, "")), want: "nc1:3(666) x==n"},
		{name: "a hard link to what the layer deletes", tar: tarOf(t, h(reg, ".wh.f", "", ""), h(hard, "x", "f", "")), err: ErrMalformed, text: "deletes"},
		{name: "a hard link to what the layer then deletes", tar: tarOf(t, h(hard, "x", "f", ""), h(reg, ".wh.f", "", "")), want: "-f needs x==f"},
		{name: "a hard link over the directory of its target", tar: tarOf(t, h(reg, "d/f", "", "1"), h(hard, "d", "d/f", "")), err: ErrMalformed, text: "in place of"},
		{name: "a hard link that waits, and its directory becomes a file", tar: tarOf(t, h(hard, "d/x", "f", ""), h(reg, "d", "", "2")), err: ErrMalformed, text: "no directory"},
		{name: "hard links of hard links, backwards", tar: tarOf(t, h(hard, "a", "b", ""), h(hard, "b", "c", ""), h(reg, "c", "", "1")), want: "b=1 c==b needs a==b"},
		{name: "hard links of hard links", tar: tarOf(t, h(reg, "c", "", "1"), h(hard, "b", "c", ""), h(hard, "a", "b", "")), want: "a=1 b==a c==a"},
		{name: "a hard link whose file is then another", tar: tarOf(t, h(reg, "a", "", "1"), h(hard, "b", "a", ""), h(hard, "c", "a", ""), h(reg, "a", "", "2")), want: "a=2 b=1 c==b"},
		{name: "a hard link whose file goes with its directory", tar: tarOf(t, h(reg, "d/a", "", "1"), h(hard, "b", "d/a", ""), h(reg, "d", "", "2")), want: "b=1 d=2"},
		{name: "a hard link that becomes a file", tar: tarOf(t, h(reg, "a", "", "1"), h(hard, "b", "a", ""), h(reg, "b", "", "2")), want: "a=1 b=2"},
		// The link's own header counts, as for containerd and Docker.
		{name: "a hard link with another mode", tar: tarOf(t, h(reg, "a", "", "1"), with(tar.Header{Typeflag: hard, Name: "b", Linkname: "a", Mode: 0o4755, Uid: 3, Gid: 4}, "")), want: "a=1(4755,3:4) b==a"},
		{name: "a file in a hard link's place, not in its file's", tar: tarOf(t, h(reg, "passwd", "", "root"), h(hard, "l", "passwd", ""), h(reg, "l", "", "evil"), h(reg, "l", "", "evil2")), want: "l=evil2 passwd=root"},
		{name: "a file in a link's place, not its target's", tar: tarOf(t, h(reg, "t", "", "old"), h(lnk, "l", "t", ""), h(reg, "l", "", "new")), want: "l=new t=old"},
	} {
		c.run(t)
	}
}

func deep(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		b.WriteString(strings.Repeat("d/", i) + " ")
	}
	return b.String() + strings.Repeat("d/", n) + "f=x"
}

// grow is links that lead on from where the ones before led to: a short name that lies at a path of a megabyte.
func grow() []func(*tar.Writer) error {
	step := strings.TrimSuffix(strings.Repeat(strings.Repeat("x", 250)+"/", 16), "/")
	var all []func(*tar.Writer) error
	at := ""
	for range 19 {
		all = append(all, h(lnk, at+"l", step, ""))
		at += "l/"
	}
	return append(all, h(reg, at+"f", "", "x"))
}

// Every type in the place of every other: the later one counts (containerd and Docker remove what was there, unless both are directories).
func TestHostileTwice(t *testing.T) {
	type kind struct {
		name  string
		tar   func(name, content string) []func(*tar.Writer) error
		tree  string // of the name "n" with the content 2
		isDir bool
	}
	kinds := []kind{
		{"file", func(n, c string) []func(*tar.Writer) error { return es(h(reg, n, "", c)) }, "n=2", false},
		{"directory", func(n, c string) []func(*tar.Writer) error { return es(h(dirT, n, "", ""), h(reg, n+"/f"+c, "", c)) }, "n/ n/f2=2", true},
		{"symlink", func(n, c string) []func(*tar.Writer) error { return es(h(lnk, n, "nowhere"+c, "")) }, "n->nowhere2", false},
		{"hard link", func(n, c string) []func(*tar.Writer) error { return es(h(reg, "a"+c, "", c), h(hard, n, "a"+c, "")) }, "n==a2", false},
		{"device", func(n, c string) []func(*tar.Writer) error {
			return es(with(tar.Header{Typeflag: chr, Name: n, Mode: 0o644, Devmajor: 1, Devminor: int64(c[0] - '0')}, ""))
		}, "nc1:2", false},
		{"FIFO", func(n, c string) []func(*tar.Writer) error { return es(h(fifo, n, "", "")) }, "n|", false},
		{"whiteout", func(n, c string) []func(*tar.Writer) error { return es(h(reg, ".wh."+n, "", "")) }, "-n", false},
	}
	for _, first := range kinds {
		for _, second := range kinds {
			want := second.tree
			switch {
			case first.isDir && second.isDir:
				want = "n/ n/f1=1 n/f2=2" // they merge
			case second.isDir:
				want = strings.Replace(want, "n/", "n/!", 1) // what was below the name went with the first
			case second.name == "whiteout" && first.isDir:
				want = "n/! n/f1=1" // it hides what is below, not what the layer brings (layer.md, "Whiteouts")
			case second.name == "whiteout":
				want = strings.ReplaceAll(first.tree, "2", "1")
			}
			var before []string
			if first.name == "hard link" {
				before = append(before, "a1=1")
			}
			if second.name == "hard link" {
				before = append(before, "a2=2")
			}
			hostile{name: second.name + " after " + first.name, tar: tarOf(t, append(first.tar("n", "1"), second.tar("n", "2")...)...),
				want: strings.Join(append(before, want), " ")}.run(t)
		}
	}
	for _, c := range []hostile{
		{name: "directory, link, then through it", tar: tarOf(t, h(dirT, "d", "", ""), h(dirT, "e", "", ""), h(lnk, "d", "e", ""), h(reg, "d/f", "", "1")), want: "d->e e/ e/f=1"},
		{name: "directory, link out, file", tar: tarOf(t, h(reg, "d/f", "", "1"), h(lnk, "d", "../..", ""), h(reg, "d/canary", "", "2")), want: "canary=2 d->../.."},
		{name: "a link in the middle changes while names go through it", tar: tarOf(t, h(dirT, "a", "", ""), h(dirT, "b", "", ""), h(lnk, "l", "a", ""), h(reg, "l/1", "", "1"), h(lnk, "l", "b", ""), h(reg, "l/2", "", "2")),
			want: "a/ a/1=1 b/ b/2=2 l->b"},
		{name: "a directory deep in one that becomes a link", tar: tarOf(t, h(reg, "a/b/c/f", "", "1"), h(dirT, "x/b/c", "", ""), h(lnk, "a", "x", ""), h(reg, "a/b/c/g", "", "2")), want: "a->x x/ x/b/ x/b/c/ x/b/c/g=2"},
		{name: "a file on the way", tar: tarOf(t, h(reg, "f", "", "1"), h(reg, "f/g", "", "2")), err: ErrMalformed, text: "no directory"},
		{name: "a device on the way", tar: tarOf(t, with(tar.Header{Typeflag: chr, Name: "n", Devmajor: 1, Devminor: 3}, ""), h(reg, "n/g", "", "2")), err: ErrMalformed, text: "no directory"},
		{name: "a link to a file on the way", tar: tarOf(t, h(reg, "f", "", "1"), h(lnk, "l", "f", ""), h(reg, "l/g", "", "2")), err: ErrMalformed, text: "no directory"},
		{name: "a directory twice keeps the first's attributes and takes the second's mode", tar: tarOf(t,
			with(tar.Header{Typeflag: dirT, Name: "d", Mode: 0o700, PAXRecords: map[string]string{paxXattr + "user.a": "1", paxXattr + "user.b": "1"}}, ""),
			with(tar.Header{Typeflag: dirT, Name: "d", Mode: 0o711, PAXRecords: map[string]string{paxXattr + "user.b": "2"}}, "")), want: `d/(711,user.a="1",user.b="2")`},
		{name: "a directory after what is in it", tar: tarOf(t, h(reg, "d/f", "", "1"), with(tar.Header{Typeflag: dirT, Name: "d", Mode: 0o700}, "")), want: "d/(700) d/f=1"},
		{name: "directory, file, directory: nothing of the first", tar: tarOf(t, h(reg, "d/f", "", "1"), h(reg, "d", "", "2"), h(dirT, "d", "", ""), h(reg, "d/g", "", "3")), want: "d/! d/g=3"},
		{name: "a deep directory that goes", tar: tarOf(t, h(reg, strings.Repeat("d/", 2000)+"f", "", "1"), h(reg, "d", "", "2")), want: "d=2"},
	} {
		c.run(t)
	}
}

// A store in a directory that hands down its group and an ACL hands them to no tree.
func TestHostileStoreDirectory(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "chgrp 50 .; chmod 2775 .; setfacl -d -m u:99:rwx .; mkdir tree")
	d := openDir1(t, dir+"/tree")
	if _, err := Apply(t.Context(), strings.NewReader(string(tarOf(t, h(reg, "d/f", "", "1"), h(dirT, "e", "", "")))), d, Options{}); err != nil {
		t.Fatal(err)
	}
	if got := describe(t, dir+"/tree"); got != "d/ d/f=1 e/" {
		t.Errorf("tree %s", got)
	}
	checkIndex(t, dir+"/tree")
	if info, err := os.Stat(dir + "/tree/fs"); err != nil || info.Mode() != os.ModeDir|0o755 {
		t.Errorf("the root: %v, %v", info.Mode(), err)
	}
}
