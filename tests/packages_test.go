package tests

import (
	"strings"
	"testing"
)

// What became of packages between two of whatever diff compares. How their databases and versions are read is tested in image/packages.
func TestDiffPackages(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, `package() { printf 'Package: %s\nStatus: install ok installed\nVersion: %s\nArchitecture: %s\nInstalled-Size: 10\n\n' "$@"; }
mkdir -p old/var/lib/dpkg new/var/lib/dpkg rpm/var/lib/rpm bad/lib/apk/db none/etc
(package openssl 3.0.2-0ubuntu1.9 amd64; package tzdata 2024a-1 all; package libc6 2.36-9+deb12u3 amd64; package perl 1:5 amd64; package doc 1 amd64) >old/var/lib/dpkg/status
(package openssl 3.0.2-0ubuntu1.10 amd64; package tzdata 2024a-1~bpo1 all; package libc6 2.36-9+deb12u3 amd64; package zlib1g 1:1.2 amd64; package doc 1 all) >new/var/lib/dpkg/status
echo broken >bad/lib/apk/db/installed
tar -C new -cf new.tar .`)
	sh(t, "..", `gunzip -c image/packages/testdata/rpmdb.sqlite.gz >`+e.dir+`/rpm/var/lib/rpm/rpmdb.sqlite`)
	for _, name := range []string{"old", "new", "rpm", "bad", "none"} {
		e.ok("import", e.dir+"/"+name, name)
	}
	want := `CHANGE       PACKAGE   OLD                NEW
changed      doc       1 amd64            1 all
upgraded     openssl   3.0.2-0ubuntu1.9   3.0.2-0ubuntu1.10
removed      perl      1:5                
downgraded   tzdata    2024a-1            2024a-1~bpo1
added        zlib1g                       1:1.2

1 upgraded, 1 downgraded, 1 changed, 1 added, 1 removed, of 5 before and 5 after
`
	for _, to := range []string{"new", "./new", "./new.tar"} {
		if got := e.ok("diff", "--packages", "old", to); got != want {
			t.Errorf("to %s:\n%s", to, got)
		}
	}
	if got := e.ok("diff", "--packages", "new", "./new"); got != "" {
		t.Errorf("with itself: %s", got)
	}
	if got := e.ok("diff", "--packages", "--format", "{{.Change}} {{.Package}} {{.New}} {{.NewArch}} {{.NewSize}}", "none", "rpm"); got != "added alpha 1.0-1 noarch 40\nadded beta 3:2.3~rc1-4.fc40 noarch 2592\nadded gamma 10-2 noarch 8\n" {
		t.Errorf("of rpm: %s", got)
	}
	if r := e.run("diff", "--packages", "none", "./none"); r.code != 0 || r.stdout != "" || !strings.Contains(r.stderr, "no database of dpkg, apk or rpm") {
		t.Errorf("without any: status %d, %q, %s", r.code, r.stdout, r.stderr)
	}
	e.fails(1, []string{"diff old bad: ", "lib/apk/db/installed", "malformed package database"}, "diff", "--packages", "old", "bad")
	e.fails(2, []string{"--packages takes none of them"}, "diff", "--packages", "--path", "/etc", "old", "new")
	e.fails(2, []string{"different answers"}, "diff", "--packages", "--stat", "old", "new")
}

// dpkg makes a tree in which dpkg has installed one package.
func (e *env) dpkg(version string) string {
	dir := e.dir + "/dpkg" + version
	sh(e.t, e.dir, "mkdir -p "+dir+"/var/lib/dpkg "+dir+"/tmp; echo left >"+dir+"/tmp/left; printf 'Package: p\\nStatus: install ok installed\\nVersion: "+version+"\\nArchitecture: all\\n' >"+dir+"/var/lib/dpkg/status")
	return dir
}
