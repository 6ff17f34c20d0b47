package runtime

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFindUser(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	check := func(s string, want user, complaint string) {
		t.Helper()
		got, err := findUser(root, s)
		if complaint != "" {
			if err == nil || !strings.Contains(err.Error(), complaint) {
				t.Errorf("%q: %+v, %v; want an error that says %q", s, got, err, complaint)
			}
			return
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", s, got, err, want)
		}
	}

	// An image without the files.
	check("", user{0, 0, []uint32{0}, "/root"}, "")
	check("7:8", user{7, 8, []uint32{8}, "/"}, "")
	check("ann", user{}, "no such user")

	write("passwd", "root:x:0:0:root:/root:/bin/sh\n\nbroken\nbad:x:one:two::/:\nhuge:x:4294967295:1::/:\nann:x:1000:100:Ann:/home/ann:/bin/sh\n"+
		"1001:x:2000:2000::/home/number:\nbob:x:1001:100::/home/bob:\nnohome:x:5:6:::\n")
	write("group", "root:x:0:\nusers:x:100:\nstaff:x:50:ann,bob\nwheel:x:10:ann,\nbroken:x\n42:x:4242:\n")
	check("", user{0, 0, []uint32{0}, "/root"}, "")
	check("root", user{0, 0, []uint32{0}, "/root"}, "")
	check("ann", user{1000, 100, []uint32{100, 50, 10}, "/home/ann"}, "")
	check("1000", user{1000, 100, []uint32{100, 50, 10}, "/home/ann"}, "")
	check("ann:wheel", user{1000, 10, []uint32{10}, "/home/ann"}, "")
	check("ann:", user{1000, 100, []uint32{100, 50, 10}, "/home/ann"}, "")
	check(":", user{0, 0, []uint32{0}, "/root"}, "")
	check("ann:11", user{1000, 11, []uint32{11}, "/home/ann"}, "")
	check("ann:42", user{1000, 4242, []uint32{4242}, "/home/ann"}, "") // a name that is a number is a name
	check("nohome", user{5, 6, []uint32{6}, "/"}, "")
	check("4711", user{4711, 0, []uint32{0}, "/"}, "")
	check("carol", user{}, `"carol": no such user`)
	check("ann:nobodies", user{}, `"nobodies": no such group`)
	check("bad", user{}, "no such user")
	check("huge", user{}, "no such user")
	check("-1", user{}, "no such user")
	check("4294967296", user{}, "no such user")

	// What an image plants in the place of the file leads nowhere outside, and cannot hold us up.
	os.Remove(filepath.Join(dir, "etc/passwd"))
	if err := os.Symlink("/../../../../etc/passwd", filepath.Join(dir, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	check("daemon", user{}, "no such user")
	os.Remove(filepath.Join(dir, "etc/passwd"))
	if err := unix.Mkfifo(filepath.Join(dir, "etc/passwd"), 0o644); err != nil {
		t.Fatal(err)
	}
	check("ann", user{}, "no regular file")
}
