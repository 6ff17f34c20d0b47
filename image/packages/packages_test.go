package packages

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/snapshot/diff"
)

// root lays files into a directory and returns how they are opened.
func root(t testing.TB, files map[string]string) func(string) (*os.File, error) {
	dir := t.TempDir()
	lay(t, dir, files)
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r.Open
}

func lay(t testing.TB, dir string, files map[string]string) {
	for name, content := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// unpacked is a file of testdata.
func unpacked(t testing.TB, name string) string {
	f, err := os.Open("testdata/" + name + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func describe(list []Package) string {
	var b strings.Builder
	for _, p := range list {
		fmt.Fprintf(&b, "%s %s %s %s %d\n", p.Manager, p.Name, p.Version, p.Arch, p.Size)
	}
	return b.String()
}

const status = `Package: zlib1g
Status: install ok installed
Installed-Size: 167
Architecture: amd64
Version: 1:1.2.13.dfsg-1
Description: compression library - runtime
 Version: 9 is not the version
 .
 more

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

package: half
status: install ok half-configured
architecture: all
version: 2~rc1-1
Conffiles:
 /etc/half 0123
`

const installed = `C:Q1pSfk0x
P:musl
V:1.2.4-r2
A:x86_64
S:383152
I:622592
T:the musl c library (libc) implementation
F:lib
R:ld-musl-x86_64.so.1

P:busybox
V:1.36.1-r5
A:x86_64
I:950272
`

// What rpm 4.18 made of three packages, in each of its forms. testdata/Packages was loaded into Berkeley DB 5.3 with what the
// SQLite database has, and rpm reads it; logged.sqlite has one package fewer by its write-ahead log alone.
const rpms = "rpm alpha 1.0-1 noarch 40\nrpm beta 3:2.3~rc1-4.fc40 noarch 2592\nrpm gamma 10-2 noarch 8\n"

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"dpkg", map[string]string{"var/lib/dpkg/status": status}, "dpkg half 2~rc1-1 all 0\ndpkg zlib1g 1:1.2.13.dfsg-1 amd64 171008\n"},
		{"status.d", map[string]string{
			"var/lib/dpkg/status.d/base":         "Package: base-files\nVersion: 12\nArchitecture: all\n",
			"var/lib/dpkg/status.d/base.md5sums": "0123  etc/os-release\n",
			"var/lib/dpkg/status.d/tz":           "Package: tzdata\nVersion: 2024a\nArchitecture: all\nStatus: install ok installed\n",
		}, "dpkg base-files 12 all 0\ndpkg tzdata 2024a all 0\n"},
		{"apk", map[string]string{"lib/apk/db/installed": installed}, "apk busybox 1.36.1-r5 x86_64 950272\napk musl 1.2.4-r2 x86_64 622592\n"},
		{"apk under /usr, and the same again by a link", map[string]string{"usr/lib/apk/db/installed": installed, "lib/apk/db/installed": installed},
			"apk busybox 1.36.1-r5 x86_64 950272\napk musl 1.2.4-r2 x86_64 622592\n"},
		{"rpm's SQLite", map[string]string{"var/lib/rpm/rpmdb.sqlite": unpacked(t, "rpmdb.sqlite"), "var/lib/rpm/rpmdb.sqlite-wal": ""}, rpms},
		{"with a log", map[string]string{"usr/lib/sysimage/rpm/rpmdb.sqlite": unpacked(t, "logged.sqlite"), "usr/lib/sysimage/rpm/rpmdb.sqlite-wal": unpacked(t, "logged.sqlite-wal")},
			rpms[:strings.Index(rpms, "rpm gamma")]},
		{"with a log that ends early", map[string]string{"var/lib/rpm/rpmdb.sqlite": unpacked(t, "logged.sqlite"), "var/lib/rpm/rpmdb.sqlite-wal": unpacked(t, "logged.sqlite-wal")[:1000]}, rpms},
		{"rpm's ndb", map[string]string{"var/lib/rpm/Packages.db": ndb(t)}, rpms},
		{"rpm's Berkeley DB", map[string]string{"var/lib/rpm/Packages": unpacked(t, "Packages")}, rpms},
		{"an older form left behind", map[string]string{"var/lib/rpm/rpmdb.sqlite": unpacked(t, "logged.sqlite"), "var/lib/rpm/rpmdb.sqlite-wal": unpacked(t, "logged.sqlite-wal"), "var/lib/rpm/Packages": unpacked(t, "Packages"), "var/lib/rpm/Packages.db": "old"},
			rpms[:strings.Index(rpms, "rpm gamma")]},
		{"none", map[string]string{"etc/passwd": "root"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var paths []string
			for _, name := range fixed() {
				if _, ok := c.files[name]; ok {
					paths = append(paths, name)
				}
			}
			for name := range c.files {
				if strings.HasPrefix(name, dpkgParts) {
					paths = append(paths, name)
				}
			}
			got, err := read(root(t, c.files), paths)
			if err != nil {
				t.Fatal(err)
			}
			if s := describe(got); s != c.want {
				t.Errorf("got\n%swant\n%s", s, c.want)
			}
		})
	}
}

// ndb writes the headers of testdata/Packages as rpm's ndb.
func ndb(t testing.TB) string {
	db := unpacked(t, "Packages")
	b := make([]byte, 4096)
	le := binary.LittleEndian
	copy(b, "RpmP")
	le.PutUint32(b[12:], 1)
	for at := 32; at < len(b); at += 16 {
		copy(b[at:], "Slot")
	}
	index := uint32(0)
	err := readBDB(file{strings.NewReader(db), int64(len(db))}, func(blob []byte) error {
		index++
		slot := b[32+16*index:]
		le.PutUint32(slot[4:], index)
		le.PutUint32(slot[8:], uint32(len(b)/16))
		head := make([]byte, 16)
		copy(head, "BlbS")
		le.PutUint32(head[4:], index)
		le.PutUint32(head[12:], uint32(len(blob)))
		b = append(append(b, head...), blob...)
		b = append(b, make([]byte, 16-len(b)%16)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A damaged database is said by its name, and does not take the others with it.
func TestReadDamaged(t *testing.T) {
	sqlite := unpacked(t, "rpmdb.sqlite")
	for _, c := range []struct{ name, path, content string }{
		{"text", "var/lib/rpm/rpmdb.sqlite", "hello"},
		{"cut", "var/lib/rpm/rpmdb.sqlite", sqlite[:8192]},
		{"an empty ndb", "var/lib/rpm/Packages.db", ""},
		{"an ndb of nothing", "var/lib/rpm/Packages.db", strings.Repeat("x", 5000)},
		{"a cut hash", "var/lib/rpm/Packages", unpacked(t, "Packages")[:4096*4]},
		{"no fields", "lib/apk/db/installed", "hello\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := read(root(t, map[string]string{"var/lib/dpkg/status": status, c.path: c.content}), []string{"var/lib/dpkg/status", c.path})
			if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.path) {
				t.Errorf("error %v", err)
			}
			if len(got) != 2 {
				t.Errorf("%d packages of the other", len(got))
			}
		})
	}
}

func TestReadBounds(t *testing.T) {
	var many strings.Builder
	for i := range maxPackages + 1 {
		fmt.Fprintf(&many, "P:p%d\nV:1\n\n", i)
	}
	for _, c := range []struct {
		content string
		want    error
	}{
		{many.String(), ErrLimit},
		{"P:" + strings.Repeat("x", 2000) + "\nV:1\n", ErrMalformed},
		{"P:x\n", ErrMalformed},
		{"P:x\nV:1\nT:" + strings.Repeat("long ", 100_000) + "\nA:all\n", nil},
	} {
		_, err := read(root(t, map[string]string{"lib/apk/db/installed": c.content}), []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"})
		if !errors.Is(err, c.want) {
			t.Errorf("%.20q: %v", c.content, err)
		}
	}
}

func TestDiff(t *testing.T) {
	p := func(m Manager, name, version, arch string) Package {
		return Package{Manager: m, Name: name, Version: version, Arch: arch}
	}
	before := []Package{p(Dpkg, "a", "1", "amd64"), p(Dpkg, "b", "1:1", "amd64"), p(Dpkg, "c", "1", "all"), p(Dpkg, "d", "1", "amd64"), p(Dpkg, "lib", "1", "amd64"), p(Dpkg, "lib", "1", "i386"),
		p(RPM, "kernel", "5-1", "x"), p(RPM, "kernel", "6-1", "x"), p(Dpkg, "same", "1", "all"), p(APK, "musl", "1-r0", "x")}
	after := []Package{p(Dpkg, "a", "2", "amd64"), p(Dpkg, "b", "2", "amd64"), p(Dpkg, "c", "1", "amd64"), p(Dpkg, "e", "1", "all"), p(Dpkg, "lib", "2", "amd64"), p(Dpkg, "lib", "0", "i386"),
		p(RPM, "kernel", "6-1", "x"), p(RPM, "kernel", "7-1", "x"), p(Dpkg, "same", "1", "all"), p(Dpkg, "musl", "1", "x")}
	var got []string
	for _, c := range Diff(before, after) {
		s := fmt.Sprintf("%s %s", c.Name(), c.Kind)
		if c.Old != nil {
			s += " " + c.Old.Version + "/" + c.Old.Arch
		}
		if c.New != nil {
			s += " " + c.New.Version + "/" + c.New.Arch
		}
		got = append(got, s)
	}
	want := []string{"a upgraded 1/amd64 2/amd64", "b downgraded 1:1/amd64 2/amd64", "c changed 1/all 1/amd64", "d removed 1/amd64", "e added 1/all", "kernel upgraded 5-1/x 7-1/x",
		"lib upgraded 1/amd64 2/amd64", "lib downgraded 1/i386 0/i386", "musl removed 1-r0/x", "musl added 1/x"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestOrigins(t *testing.T) {
	p := func(name, version string) Package {
		return Package{Manager: Dpkg, Name: name, Version: version, Layer: -1}
	}
	list := []Package{p("base", "1"), p("updated", "2"), p("back", "1"), p("new", "1"), p("other", "1")}
	o := newOrigins(list)
	o.layer(4, Dpkg, []Package{p("base", "1"), p("updated", "2"), p("back", "1"), p("new", "1")}, false)
	o.layer(3, RPM, nil, false)
	o.layer(2, Dpkg, []Package{p("base", "1"), p("updated", "2")}, false)
	o.layer(1, Dpkg, []Package{p("part", "1")}, true)
	o.layer(0, Dpkg, []Package{p("base", "1"), p("updated", "1"), p("back", "1")}, false)
	var got []int
	for _, p := range list {
		got = append(got, p.Layer)
	}
	if fmt.Sprint(got) != "[0 2 4 4 -1]" {
		t.Errorf("layers %v", got)
	}
}

// A stack of directories: one database over another, and files that come and go.
func TestList(t *testing.T) {
	layers := []map[string]string{
		{"var/lib/dpkg/status": status, "var/lib/dpkg/status.d/tz": "Package: tzdata\nVersion: 1\n", "var/lib/dpkg/status.d/base": "Package: base\nVersion: 1\n"},
		{"var/lib/dpkg/status": strings.Replace(status, "2~rc1-1", "2-1", 1), "etc/passwd": "root"},
		{"var/lib/dpkg/status.d/tz": "Package: tzdata\nVersion: 2\n", "lib/apk/db/installed": "not one"},
		{"lib/apk/db/installed": installed},
	}
	var stack []diff.Layer
	for _, files := range layers {
		dir := t.TempDir()
		lay(t, dir, files)
		stack = append(stack, diff.UpperLayer(dir))
	}
	list, err := List(diff.NewStack(stack...))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list {
		got = append(got, fmt.Sprintf("%s %s %d", p.Name, p.Version, p.Layer))
	}
	if s := strings.Join(got, ", "); s != "base 1 0, busybox 1.36.1-r5 3, half 2-1 1, musl 1.2.4-r2 3, tzdata 2 2, zlib1g 1:1.2.13.dfsg-1 0" {
		t.Errorf("got %s", s)
	}
	list, err = List(diff.NewStack(stack[:3]...))
	if !errors.Is(err, ErrMalformed) || len(list) != 4 {
		t.Errorf("%d packages, error %v", len(list), err)
	}
}

// The corpora begin with the least database that rpm's libraries made of one package. Whatever the bytes are, a reader ends, and what it says is within bounds.
func fuzzDatabase(f *testing.F, name string, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &collector{manager: database(name), room: 1000}
		var err error
		switch db := (file{bytes.NewReader(data), int64(len(data))}); c.manager {
		case Dpkg:
			err = readDpkg(bytes.NewReader(data), c)
		case APK:
			err = readAPK(bytes.NewReader(data), c)
		default:
			err = readRPM(filepath.Base(name), db, nil, c)
		}
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrLimit) {
			t.Errorf("error %v", err)
		}
		for _, p := range c.list {
			if p.Name == "" || len(p.Name)+len(p.Version)+len(p.Arch) > 3*maxField || p.Size < 0 {
				t.Errorf("package %+v", p)
			}
		}
	})
}

func FuzzDpkg(f *testing.F) { fuzzDatabase(f, "var/lib/dpkg/status", status) }

func FuzzAPK(f *testing.F) { fuzzDatabase(f, "lib/apk/db/installed", installed) }

func FuzzNDB(f *testing.F) { fuzzDatabase(f, "var/lib/rpm/Packages.db") }

func FuzzBDB(f *testing.F) { fuzzDatabase(f, "var/lib/rpm/Packages") }

func FuzzSQLite(f *testing.F) {
	f.Fuzz(func(t *testing.T, data, log []byte) {
		wal := filepath.Join(t.TempDir(), "wal")
		if err := os.WriteFile(wal, log, 0o600); err != nil {
			t.Fatal(err)
		}
		w, err := os.Open(wal)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		rows := 0
		err = readSQLite(file{bytes.NewReader(data), int64(len(data))}, w, "Packages", func(b []byte) error {
			rows++
			_, err := parseHeader(b)
			return err
		})
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("error %v", err)
		}
		if rows > (len(data)+len(log))/2 {
			t.Errorf("%d rows out of %d bytes", rows, len(data)+len(log))
		}
	})
}
