package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What an image chooses, its working directory or its command, leads nowhere outside, with and without a terminal.
func TestNoWayOut(t *testing.T) {
	e := withBusybox(t)
	for _, tty := range []bool{false, true} {
		flags := []string{"run", "--rm"}
		if tty {
			flags = append(flags, "-t")
		}
		for n := range 24 {
			fd := "/proc/self/fd/" + string("0123456789abcdefghijklmn"[n])
			if n > 9 {
				fd = "/proc/self/fd/1" + string("0123456789abcd"[n-10])
			}
			if n < 3 {
				continue
			}
			if r := e.run(append(flags, "-w", fd, "busybox", "ls", "-a")...); r.code != 126 {
				t.Errorf("tty=%v: -w %s: %+v", tty, fd, r)
			}
			if r := e.run(append(flags, "busybox", fd+"/../../../../../../../../bin/busybox", "ls")...); r.code != 127 && r.code != 126 {
				t.Errorf("tty=%v: a command below %s: %+v", tty, fd, r)
			}
		}
		// Our own program is not to be had, either.
		if r := e.run(append(flags, "busybox", "/proc/self/exe", "version")...); r.code != 126 || !strings.Contains(r.stdout+r.stderr, "refused") {
			t.Errorf("tty=%v: /proc/self/exe: %+v", tty, r)
		}
	}
}

// What the caller's shell happens to be set to does not show in a container.
func TestUmask(t *testing.T) {
	e := newEnv(t)
	e.busybox("tree")
	in := func(command string) string {
		t.Helper()
		cmd := exec.Command("sh", "-c", "umask 077; exec \"$@\"", "sh", binary)
		cmd.Args = append(cmd.Args, "run", "--rm", "-u", "1000", "--rootfs", filepath.Join(e.dir, "tree"), "-w", "/made/here", "sh", "-c", command)
		cmd.Env = e.command().Env
		r := e.finish(cmd)
		if r.code != 0 {
			t.Fatalf("%s: %+v", command, r)
		}
		return r.stdout
	}
	if got := in("stat -c %a / /made /made/here /etc/hosts /dev/null; umask"); got != "755\n755\n755\n644\n666\n0022\n" {
		t.Errorf("under umask 077:\n%s", got)
	}
}

func TestStartDetails(t *testing.T) {
	e := withBusybox(t)
	e.busybox("plain")
	sh(t, e.dir, `mkdir -p etc-tree && cp -a plain/. etc-tree/ && cd etc-tree && rm -f etc/resolv.conf etc/hosts &&
		ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf && ln -s /var/lib/../lib/hosts etc/hosts &&
		printf 'root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n' > etc/passwd && printf 'sudo:x:27:bob\n' > etc/group`)
	e.ok("import", "-c", "ENV FOO=image", "-c", "ENV HOSTNAME=its", "./etc-tree", "linked")
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"linked", "sh", "-c", "grep -c localhost /etc/hosts; wc -l < /etc/resolv.conf; ls -l /etc/hosts | grep -c var"}, "2\n1\n1\n"},
		{[]string{"-u", "bob", "linked", "id"}, "uid=1000(bob) gid=1000 groups=27(sudo),1000\n"},
		{[]string{"-u", "1000:", "linked", "id", "-g"}, "1000\n"},
		{[]string{"linked", "sh", "-c", "echo $FOO $HOSTNAME"}, "image its\n"},
		{[]string{"-e", "FOO", "linked", "sh", "-c", "echo ${FOO-unset}"}, "unset\n"},
		{[]string{"-w", "/new/", "busybox", "sh", "-c", "pwd; ls /new | wc -l"}, "/new\n0\n"},
		{[]string{"-w", "/nope/../tmp", "busybox", "pwd"}, "/tmp\n"},
		{[]string{"-w", "/dev/shm/foo", "busybox", "pwd"}, "/dev/shm/foo\n"},
		{[]string{"-u", "1000", "busybox", "sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"}, "out\n"},
		{[]string{"-t", "-u", "1000", "busybox", "sh", "-c", "echo out > /dev/stdout; echo con > /dev/console"}, "out\r\ncon\r\n"},
	} {
		cmd := e.command(append([]string{"run", "--rm"}, row.args...)...)
		for i, kv := range cmd.Env {
			if strings.HasPrefix(kv, "FOO=") {
				cmd.Env[i] = "NOT=IT"
			}
		}
		if r := e.finish(cmd); r.code != 0 || r.stdout != row.want {
			t.Errorf("%q: %+v, want %q", row.args, r, row.want)
		}
	}
	for _, row := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"busybox", ""}, 127, "no such file"},
		{[]string{"--hostname", "a\nb", "busybox", "true"}, 125, "host name"},
		{[]string{"--rootfs", "/", "true"}, 125, "lies in it"},
		{[]string{"--rootfs", e.dir, "true"}, 125, "lies in it"},
	} {
		if r := e.run(append([]string{"run", "--rm"}, row.args...)...); r.code != row.code || !strings.Contains(r.stderr, row.says) {
			t.Errorf("%q: %+v, want %d and %q", row.args, r, row.code, row.says)
		}
	}
}

// A store's path may have any characters.
func TestOddRoot(t *testing.T) {
	e := newEnv(t)
	e.busybox("tree")
	odd := filepath.Join(e.dir, `od\d:ro,ot "x"`)
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := e.ok("--root", odd, "run", "--rm", "--rootfs", "tree", "echo", "fine"); got != "fine\n" {
		t.Errorf("%q", got)
	}
}
