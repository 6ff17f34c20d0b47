package tests

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// disk is a filesystem in a file, with a store in it.
type disk struct {
	*env
	file, mount, options string
	kind                 string
}

// filesystems are what stores lie on: mkfs's arguments and mount's options. Nothing is written back by a timer in the middle of a test.
var filesystems = map[string][2]string{
	"ext4":                 {"mkfs.ext4 -q -m 0", "commit=300"},
	"ext4 without journal": {"mkfs.ext4 -q -m 0 -O ^has_journal", "defaults"},
	"xfs":                  {"mkfs.xfs -q", "nouuid"},
}

func newDisk(t testing.TB, kind, size, more string) *disk {
	t.Helper()
	e := newEnv(t)
	d := &disk{env: e, kind: kind, file: filepath.Join(e.dir, "disk"), mount: filepath.Join(e.dir, "mnt"), options: filesystems[kind][1]}
	e.root = filepath.Join(d.mount, "store")
	sh(t, e.dir, "mkdir mnt && truncate -s "+size+" disk && "+filesystems[kind][0]+" "+more+" disk")
	d.attach(t)
	t.Cleanup(func() { d.detach(t) })
	return d
}

func (d *disk) attach(t testing.TB) {
	t.Helper()
	sh(t, d.dir, fmt.Sprintf("mount -o loop,%s %s %s", d.options, d.file, d.mount))
}

func (d *disk) detach(t testing.TB) {
	t.Helper()
	sh(t, d.dir, "for i in $(seq 200); do umount "+d.mount+" 2>/dev/null && exit 0; sleep 0.05; done; umount "+d.mount)
}

// fork gives a copy of the disk as the device holds it at this moment: what was not sent there is not in it, as after a power cut.
func (d *disk) fork(t testing.TB, name string) *disk {
	t.Helper()
	c := *d
	e := *d.env
	c.env = &e
	c.file, c.mount = filepath.Join(d.dir, name), filepath.Join(d.dir, name+".mnt")
	c.root, c.runRoot = filepath.Join(c.mount, "store"), filepath.Join(d.dir, name+".run")
	sh(t, d.dir, "cp --sparse=always "+d.file+" "+c.file+" && mkdir -p "+c.mount)
	if d.kind == "ext4 without journal" {
		sh(t, d.dir, "e2fsck -fy "+c.file+" > "+c.file+".log 2>&1 || [ $? -lt 4 ]")
	}
	c.attach(t)
	return &c
}

func (d *disk) drop(t testing.TB) {
	t.Helper()
	d.detach(t)
	sh(t, d.dir, "rm -rf "+d.file+" "+d.mount+" "+d.runRoot)
}

// pulledTrees are two small images in a registry and an archive, and trees to import.
func (d *disk) sources(t testing.TB) *registry {
	t.Helper()
	reg := startRegistry(t, "")
	reg.push("two", "", "--config.cmd true", smallLayer, parentlessLayer)
	reg.push("other", "", "--config.cmd true", smallLayer+"; echo other > etc/other; head -c 1000000 /dev/urandom > etc/big", parentlessLayer, "echo 3 > three")
	reg.push("archived", "", "--config.cmd true", smallLayer+"; echo archived > etc/other; head -c 1000000 /dev/urandom > etc/big")
	sh(t, d.dir, "skopeo copy -q --src-tls-verify=false docker://"+reg.addr+`/archived docker-archive:archived.tar:archived:latest
mkdir tree && cd tree && `+smallLayer+` && cp -a ../tree ../tree2 && head -c 1000000 /dev/urandom > ../tree2/etc/big`)
	return reg
}

// What a command said is on the disk at the moment when it said so.
func TestOrder(t *testing.T) {
	for _, kind := range []string{"ext4", "ext4 without journal", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			d := newDisk(t, kind, "400M", "")
			reg := d.sources(t)
			two, other := reg.addr+"/two:latest", reg.addr+"/other:latest"
			for i, row := range []struct {
				args, images, containers string
			}{
				{"import tree busybox", "localhost/busybox:latest", ""},
				{"tag busybox second", "localhost/busybox:latest localhost/second:latest", ""},
				{"pull -q " + two, two + " localhost/busybox:latest localhost/second:latest", ""},
				{"run --name kept busybox sh -c echo>/x", two + " localhost/busybox:latest localhost/second:latest", "kept"},
				{"commit kept second", two + " localhost/busybox:latest localhost/second:latest", "kept"},
				{"run --rm busybox true", two + " localhost/busybox:latest localhost/second:latest", "kept"},
				{"import tree2 busybox", two + " localhost/busybox:latest localhost/second:latest", "kept"},
				{"tag " + two + " second", two + " localhost/busybox:latest localhost/second:latest", "kept"},
				{"rmi " + two, "localhost/busybox:latest localhost/second:latest", "kept"},
				{"pull -q " + other, other + " localhost/busybox:latest localhost/second:latest", "kept"},
				{"rmi " + other, "localhost/busybox:latest localhost/second:latest", "kept"},
				{"rm kept", "localhost/busybox:latest localhost/second:latest", ""},
				{"load -q -i archived.tar", "archived:latest localhost/busybox:latest localhost/second:latest", ""},
				{"rmi second", "archived:latest localhost/busybox:latest", ""},
				{"prune -f -a", "", ""},
			} {
				d.ok(strings.Fields(row.args)...)
				ids := d.ok("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
				cut := d.fork(t, fmt.Sprintf("cut%d", i))
				cut.env.t = t
				names := strings.Fields(cut.ok("images", "--format", "{{.Repository}}:{{.Tag}}"))
				names = slices.DeleteFunc(names, func(n string) bool { return n == "<none>:<none>" })
				slices.Sort(names)
				if got := strings.Join(names, " "); got != row.images {
					t.Errorf("%s, then a power cut: the images are %q, want %q", row.args, got, row.images)
				}
				if got := cut.ok("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"); got != ids {
					t.Errorf("%s, then a power cut: the images are\n%swant\n%s", row.args, got, ids)
				}
				if got := strings.TrimSpace(cut.ok("ps", "-a", "--format", "{{.Names}}")); got != row.containers {
					t.Errorf("%s, then a power cut: the containers are %q, want %q", row.args, got, row.containers)
				}
				if row.containers != "" {
					if got := cut.ok("diff", "kept"); got != "A /x\n" {
						t.Errorf("%s, then a power cut: the container changed %q", row.args, got)
					}
				}
				if r := cut.run("check", "--full"); r.code != 0 {
					t.Errorf("%s, then a power cut: check: %s%s", row.args, r.stdout, r.stderr)
				}
				for _, name := range names {
					cut.ok("run", "--rm", name, "true")
				}
				cut.ok("pull", "-q", other)
				cut.ok("run", "--rm", other, "cat", "/three")
				cut.drop(t)
			}
		})
	}
}
