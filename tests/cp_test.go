package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const copyTree = `mkdir -p dir/sub empty full/dir; echo file > file; echo 1 > dir/one; echo 2 > dir/sub/two; ln -s one dir/link; echo old > full/file
echo kept > full/dir/kept; ln -s file to-file; ln -s dir to-dir; ln -s empty to-empty; chmod 640 file; chmod 700 dir/sub; find . -exec touch -h -d 2024-01-02 {} +`

// Files come out of a container and an image and go into a container, whether it runs or not, and stdin and stdout are tars.
func TestCopy(t *testing.T) {
	e := newEnv(t)
	e.busybox("busybox")
	sh(t, e.dir, "mkdir -p busybox/srv/c busybox/usr host && cd busybox/srv/c && "+copyTree+" && cd ../../usr && ln -s ../srv local && cd ../../host && "+copyTree)
	e.ok("import", "./busybox", "files:1.0")
	e.ok("run", "--name", "stopped", "files:1.0", "sh", "-c", "echo new > /srv/c/new; rm /srv/c/full/file; chown 1000:1000 /srv/c/file; echo s > /root/s; chmod 4755 /root/s; mkdir /srv/in")
	running := e.command("run", "--name", "running", "files:1.0", "sh", "-c",
		"echo new > /srv/c/new; rm /srv/c/full/file; chown 1000:1000 /srv/c/file; echo s > /root/s; chmod 4755 /root/s; mkdir /srv/in; echo shm > /dev/shm/x; touch /ready; while [ ! -e /srv/in/stop ]; do sleep 0.1; done; cat /srv/in/stop")
	out, err := running.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.start(running)
	eventually(t, "it is ready", func() bool { return strings.Contains(e.run("diff", "running").stdout, "/ready") })
	list := func(dir string) string {
		return sh(t, e.dir, "cd "+dir+" && find . ! -path . -printf '%P %y %#m %u:%g %l %TY\n' | sort")
	}
	for _, c := range []string{"stopped", "running"} {
		sh(t, e.dir, "rm -rf o && mkdir o && umask 077")
		e.ok("cp", c+":/srv/c", "o")
		e.ok("cp", c+":usr/local/c/new", "o/new")
		e.ok("cp", "-a", c+":/srv/c/file", "o/owned")
		e.ok("cp", c+":/root/s", "o/suid")
		e.ok("cp", "-L", c+":/srv/c/to-dir", "o/followed")
		want := `c d 0755 root:root  2026
c/dir d 0755 root:root  2024
c/dir/link l 0777 root:root one 2024
c/dir/one f 0644 root:root  2024
c/dir/sub d 0700 root:root  2024
c/dir/sub/two f 0644 root:root  2024
c/empty d 0755 root:root  2024
c/file f 0640 root:root  2024
c/full d 0755 root:root  2026
c/full/dir d 0755 root:root  2024
c/full/dir/kept f 0644 root:root  2024
c/new f 0644 root:root  2026
c/to-dir l 0777 root:root dir 2024
c/to-empty l 0777 root:root empty 2024
c/to-file l 0777 root:root file 2024
followed d 0755 root:root  2024
followed/link l 0777 root:root one 2024
followed/one f 0644 root:root  2024
followed/sub d 0700 root:root  2024
followed/sub/two f 0644 root:root  2024
new f 0644 root:root  2026
owned f 0640 ` + strings.TrimSpace(sh(t, e.dir, "touch u; chown 1000:1000 u; stat -c %U:%G u; rm u")) + `  2024
suid f 0755 root:root  2026
`
		want = strings.ReplaceAll(want, "2026", time.Now().Format("2006"))
		if got := list("o"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", c, got, want)
		}
		if got := sh(t, e.dir, "cat o/c/new o/owned o/suid"); got != "new\nfile\ns\n" {
			t.Errorf("%s: %q", c, got)
		}
		// The other way, and a tar both ways.
		e.ok("cp", "host/dir", c+":/srv/in")
		e.ok("cp", "host/.", c+":srv/in/all")
		e.ok("cp", "host/file", c+":/usr/local/in/f")
		if got := sh(t, e.dir, binary+" --root store --run-root run cp "+c+":/srv/c/dir - | tar -t; tar -C host -c --owner=5 --group=5 file | gzip | "+binary+" --root store --run-root run cp - "+c+":/srv/in && "+
			binary+" --root store --run-root run cp "+c+":/srv/in - | tar -tv --numeric-owner | awk '{print $1, $2, $6, $7, $8}'"); got != `dir/
dir/link
dir/one
dir/sub/
dir/sub/two
drwxr-xr-x 0/0 in/  
drwxr-xr-x 0/0 in/all/  
drwxr-xr-x 0/0 in/all/dir/  
lrwxrwxrwx 0/0 in/all/dir/link -> one
-rw-r--r-- 0/0 in/all/dir/one  
drwx------ 0/0 in/all/dir/sub/  
-rw-r--r-- 0/0 in/all/dir/sub/two  
drwxr-xr-x 0/0 in/all/empty/  
-rw-r----- 0/0 in/all/file  
drwxr-xr-x 0/0 in/all/full/  
drwxr-xr-x 0/0 in/all/full/dir/  
-rw-r--r-- 0/0 in/all/full/dir/kept  
-rw-r--r-- 0/0 in/all/full/file  
lrwxrwxrwx 0/0 in/all/to-dir -> dir
lrwxrwxrwx 0/0 in/all/to-empty -> empty
lrwxrwxrwx 0/0 in/all/to-file -> file
drwxr-xr-x 0/0 in/dir/  
lrwxrwxrwx 0/0 in/dir/link -> one
-rw-r--r-- 0/0 in/dir/one  
drwx------ 0/0 in/dir/sub/  
-rw-r--r-- 0/0 in/dir/sub/two  
-rw-r----- 0/0 in/f  
-rw-r----- 5/5 in/file  
` {
			t.Errorf("%s: %s", c, got)
		}
		// What changed is what diff shows, and nothing else.
		if got := e.ok("diff", c); !strings.Contains(got, "A /srv/in/all/dir/sub/two\n") || strings.Contains(got, ".layerctl") {
			t.Errorf("%s: diff %s", c, got)
		}
		e.fails(1, []string{"/nothing: no such file or directory"}, "cp", c+":/nothing", "o")
		e.fails(1, []string{"the directory above it does not exist"}, "cp", c+":/srv/c", "missing/x")
		e.fails(1, []string{"the directory above it does not exist"}, "cp", "host/file", c+":/missing/x")
		e.fails(1, []string{"a directory cannot be copied to it"}, "cp", "host/dir", c+":/srv/c/file")
		e.fails(1, []string{"not a directory"}, "cp", "-", c+":/srv/c/file")
		e.fails(1, []string{"neither a file nor a directory"}, "cp", c+":/srv/c/file", "/dev/null")
	}
	// A disk that is full: what was there stays, and nothing half is left.
	sh(t, e.dir, "mkdir small && mount -t tmpfs -o size=1M small small && echo old > small/busybox")
	t.Cleanup(func() { exec.Command("umount", filepath.Join(e.dir, "small")).Run() })
	e.fails(1, []string{"no space left on device", "hint: "}, "cp", "files:1.0:/bin/busybox", "small")
	e.fails(1, []string{"no space left on device"}, "cp", "files:1.0:/bin/busybox", "small/new")
	if got := sh(t, e.dir, "ls -A small; cat small/busybox"); got != "busybox\nold\n" {
		t.Errorf("a full disk: %q", got)
	}
	// Of a running container: what is mounted in it, too, and its hosts file is written to, being a mount. The kernel's own files are not.
	e.ok("cp", "running:/dev/shm/x", "o/shm")
	sh(t, e.dir, "echo 127.0.0.9 nine > nine")
	e.ok("cp", "nine", "running:/etc/hosts")
	e.ok("cp", "running:/etc/hosts", "o/hosts")
	if got := sh(t, e.dir, "cat o/shm o/hosts"); got != "shm\n127.0.0.9 nine\n" {
		t.Errorf("mounts of a running container: %q", got)
	}
	e.fails(1, []string{"a file of the kernel's own"}, "cp", "running:/proc/version", "o")
	e.ok("cp", "running:/.", "o/whole")
	if exists(filepath.Join(e.dir, "o/whole/proc/version")) || !exists(filepath.Join(e.dir, "o/whole/etc/hosts")) {
		t.Error("the whole of a running container is not what is wanted")
	}
	sh(t, e.dir, "echo bye > stop")
	e.ok("cp", "stop", "running:/srv/in/")
	b := make([]byte, 100)
	n, _ := out.Read(b)
	running.Wait()
	if string(b[:n]) != "bye\n" {
		t.Errorf("what was copied in was read as %q", b[:n])
	}
	// An image, by a name with a tag, and by its ID.
	id := strings.TrimSpace(e.ok("images", "-q"))
	e.ok("cp", "files:1.0:/srv/c/dir/one", "o/one")
	e.ok("cp", id+":srv/c/dir/one", "o/two")
	if got := sh(t, e.dir, "cat o/one o/two"); got != "1\n1\n" {
		t.Errorf("of an image: %q", got)
	}
	e.fails(1, []string{"is an image, which is never written", "hint: "}, "cp", "host/file", "files:1.0:/x")
	e.fails(1, []string{"no such container or image", "hint: "}, "cp", "nothing:/x", "o")
	e.fails(2, []string{"copying between containers is not supported", "hint: `layerctl cp stopped:/srv - |"}, "cp", "stopped:/srv", "running:/x")
	e.fails(2, []string{"neither"}, "cp", "host", "o")
	e.fails(2, []string{"neither"}, "cp", "./host:x", "o")
	// A copy of a container that is removed in the middle is an error.
	sh(t, e.dir, "mkfifo slow")
	e.ok("run", "--name", "goes", "files:1.0", "sh", "-c", "head -c 30000000 /dev/zero > /big")
	forever := e.command("run", "--rm", "--name", "leaves", "files:1.0", "sh", "-c", "head -c 30000000 /dev/zero > /big; touch /ready; sleep 1000")
	e.start(forever)
	eventually(t, "it is ready", func() bool { return strings.Contains(e.run("diff", "leaves").stdout, "/ready") })
	for _, c := range []string{"leaves", "goes"} {
		cp := e.command("cp", c+":/big", "-")
		pipe, err := cp.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs strings.Builder
		cp.Stderr = &errs
		e.start(cp)
		if _, err := pipe.Read(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if c == "goes" { // it does not run: who reads it keeps it
			e.fails(1, []string{"in use"}, "rm", c)
		} else {
			e.ok("rm", "-f", c)
		}
		n, rerr := copyAll(pipe)
		werr := cp.Wait()
		if c == "leaves" && (werr == nil || !strings.Contains(errs.String(), "was removed meanwhile")) {
			t.Errorf("removed in the middle: %v, %v, %s", rerr, werr, errs.String())
		}
		if c == "goes" && (werr != nil || n < 30_000_000) {
			t.Errorf("kept while it was read: %d bytes, %v, %v, %s", n, rerr, werr, errs.String())
		}
	}
	forever.Wait()
}

func copyAll(r interface{ Read([]byte) (int, error) }) (n int, err error) {
	b := make([]byte, 64<<10)
	for {
		k, err := r.Read(b)
		n += k
		if err != nil {
			return n, err
		}
	}
}

// Where podman does what docker documents, we do what podman does.
func TestCopyAsPodman(t *testing.T) {
	e := newEnv(t)
	podman := podmanEnv(t, e)
	e.busybox("busybox")
	sh(t, e.dir, "mkdir busybox/w && cd busybox/w && "+copyTree)
	sh(t, e.dir, "tar -C busybox -c . | "+podman+" import -q - files; "+podman+" create -q --name cc files true")
	e.ok("import", "./busybox", "files")
	e.ok("run", "--name", "cc", "files", "true")
	ours := binary + " --root " + e.root + " --run-root " + e.runRoot
	for _, args := range []string{
		"cc:/w/file w/new", "cc:/w/file w/new/", "cc:/w/dir/one w/file", "cc:/w/file w/empty", "cc:/w/dir w/new", "cc:/w/dir w/file",
		"cc:/w/dir w/empty", "cc:/w/dir/. w/full", "w/file cc:/w/n1", "w/dir/one cc:/w/to-file", "w/dir cc:/w/n2", "w/dir/. cc:/w/empty", "w/dir cc:/w/file",
	} {
		look := func(string) string { return "cd w && grep -r . . | sort; find . | sort" }
		if !strings.HasPrefix(args, "cc:") {
			look = func(tool string) string { return tool + " cp cc:/w - | tar -t | sed s,/$,, | sort" }
		}
		var got [2]string
		for i, tool := range []string{ours, podman} {
			got[i] = sh(t, e.dir, `rm -rf w && mkdir w && (cd w && `+copyTree+`)
`+tool+` cp `+args+` 2> /dev/null && echo ok || echo failed
`+look(tool))
		}
		if got[0] != got[1] {
			t.Errorf("cp %s:\n%s\npodman:\n%s", args, got[0], got[1])
		}
	}
	os.RemoveAll(filepath.Join(e.dir, "w"))
}
