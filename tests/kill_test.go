package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// buildWith builds the program under test with more build flags.
func buildWith(t testing.TB, name string, flags ...string) string {
	t.Helper()
	path := filepath.Join(scratch, name)
	if exists(path) {
		return path
	}
	build := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "../cmd/layerctl")...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// killCase is a command that is killed at each of its failpoints.
type killCase struct {
	name  string
	store string   // which prepared store: "full", "damaged", "hurt" or "none"
	dead  []string // a command that is killed first, at dead[0], or comes to its end where that is "": what the command finds
	args  []string
	again string // an error that the same command may have the second time, where the first had come to its end; "" for none
	last  bool   // die at the last hit of each failpoint, too, not only at the first
	until string // the last failpoint to die at: what comes later is reached only when the command is ended from outside
	lives bool   // the command itself is not killed: it is about what it finds
	moves bool   // the container old has afterwards its name or the name fresh, and no other
	keeps bool   // what the container old has written is there afterwards, and in every image that is made of it
}

// One command after the other is killed at each place between two durable steps. After that, without any repair, every image that is
// listed runs, what the command had nothing to do with is whole, the command can be given again, and taking everything away leaves a
// store as empty as if nobody had been killed.
func TestKilledAnywhere(t *testing.T) {
	program := buildWith(t, "layerctl-failpoints", "-tags", "failpoints")
	reg := startRegistry(t, "")
	reg.push("base", "", "--config.cmd true", smallLayer)
	// Its upper layer leans on what is below: it brings no etc/ of its own, and deletes a file.
	reg.pushOn("base", "two", "--config.cmd true", "mkdir -p l/etc; echo two > l/etc/two; touch l/etc/.wh.one; tar -C l -cf l.tar etc/two etc/.wh.one")
	reg.push("other", "", "--config.cmd true", smallLayer+"; echo other > etc/other", parentlessLayer, "echo 3 > three")
	e := newEnv(t)
	e.program = program
	sh(t, e.dir, `mkdir tree && cd tree && `+smallLayer+` && cp -a ../tree ../tree2 && echo 2 > ../tree2/etc/second`)
	k := &killer{env: e}
	sh(t, e.dir, "skopeo copy -q --src-tls-verify=false docker://"+reg.addr+"/other docker-archive:other.tar:other:latest; gzip -k other.tar")
	e.ok("import", "tree", "busybox")
	e.ok("tag", "busybox", "second:name")
	e.ok("tag", "busybox", reg.addr+"/pushed")
	e.ok("pull", reg.addr+"/two")
	e.ok("pull", reg.addr+"/base")
	// The layer that leans on what is below leans on another etc/ here.
	sh(t, e.dir, "mkdir next && cd next && "+smallLayer+" && chmod 750 etc && find . -newermt 2000-01-01 -exec touch -h -d 2024-01-01 {} +")
	e.ok("import", "next", "next")
	e.ok("run", "--name", "old", "busybox", "sh", "-c", "echo x > /x")
	sh(t, e.dir, "cp -a store full && mkdir none && cp -a store empty && cp -a store damaged && rm damaged/snapshots/trees/1/index")
	e.ok("run", "--rm", "busybox", "true")
	// What check --repair makes right while every other command works: copies of rows, a blob, a tree, a container's name and its snapshot's record.
	sh(t, e.dir, "cp -a full hurt && cd hurt && rm images/names/*two* snapshots/active/*/record.json containers/names/old"+
		" && truncate -s -1 $(ls -S images/blobs/sha256/* | head -n 1) && chmod 700 $(dirname $(ls -d snapshots/trees/*/fs/etc/two))")
	k.clear(t, "empty")
	k.empty = k.files(t, "empty")

	notFound := `^layerctl: .*no such (image|container)\n(hint: .*\n)?$`
	made := []string{"", "create", "--name", "new", "busybox", "true"} // the ID of old is that of every copy's, and so are its cgroups
	running := []string{"", "run", "-d", "--name", "new", "busybox", "sleep", "1000"}
	cases := []killCase{
		{name: "first", store: "none", args: []string{"import", "tree", "busybox"}},
		{name: "pull", store: "full", last: true, args: []string{"pull", "-q", reg.addr + "/other"}},
		{name: "import", store: "full", args: []string{"import", "tree2", "new"}},
		{name: "import over", store: "full", args: []string{"import", "tree2", "busybox"}},
		{name: "config", store: "full", args: []string{"config", "--change", "ENV A=1", reg.addr + "/two", "second:name"}},
		{name: "squash", store: "full", args: []string{"squash", "--from", "2", reg.addr + "/two", "second:name"}},
		{name: "rebase", store: "full", args: []string{"rebase", "--base", reg.addr + "/base", "--onto", "next", reg.addr + "/two", "second:name"}},
		{name: "tag", store: "full", args: []string{"tag", reg.addr + "/two", "two:tagged"}},
		{name: "tag over", store: "full", args: []string{"tag", reg.addr + "/two", "second:name"}},
		{name: "push", store: "full", args: []string{"push", "-q", reg.addr + "/pushed"}},
		{name: "untag", store: "full", args: []string{"rmi", "second:name"}, again: notFound},
		{name: "rmi", store: "full", last: true, args: []string{"rmi", reg.addr + "/two"}, again: notFound},
		{name: "run", store: "full", last: true, args: []string{"run", "--name", "new", "busybox", "true"}, again: `has that name`},
		{name: "run --rm", store: "full", args: []string{"run", "--rm", "busybox", "true"}},
		{name: "run -t", store: "full", args: []string{"run", "-t", "--rm", "busybox", "true"}},
		{name: "run long", store: "full", args: []string{"run", "--name", "new", "busybox", "sleep", "1000"}, until: "start/state", again: `has that name`},
		{name: "run --rm long", store: "full", args: []string{"run", "--rm", "busybox", "sleep", "1000"}, until: "start/state"},
		{name: "create", store: "full", args: []string{"create", "--name", "new", "busybox", "true"}, again: `has that name`},
		{name: "start", store: "full", dead: made, args: []string{"start", "new"}},
		{name: "stop", store: "full", dead: running, args: []string{"stop", "-t", "0", "new"}},
		{name: "pause", store: "full", dead: running, args: []string{"pause", "new"}, again: `paused already`},
		{name: "rm -f", store: "full", dead: running, args: []string{"rm", "-f", "new"}, again: notFound},
		{name: "load", store: "full", last: true, args: []string{"load", "-i", "other.tar"}},
		{name: "load a stream", store: "full", last: true, args: []string{"load", "-i", "other.tar.gz"}},
		{name: "diff of a tarball", store: "full", args: []string{"diff", "--stat", "busybox", "./other.tar.gz"}},
		{name: "remaking an index", store: "damaged", args: []string{"layers", "busybox"}},
		{name: "prune", store: "full", dead: []string{"trees/placed", "pull", "-q", reg.addr + "/other"}, args: []string{"prune", "-a", "-f"}},
		{name: "prune after rmi", store: "full", dead: []string{"rmi/rows", "rmi", reg.addr + "/two"}, args: []string{"prune", "-f"}},
		{name: "rm", store: "full", last: true, args: []string{"rm", "old"}, again: notFound},
		{name: "start --explain", store: "full", dead: made, args: []string{"start", "--explain", "new"}},
		{name: "rename", store: "full", moves: true, args: []string{"rename", "old", "fresh"}, again: notFound},
		{name: "update", store: "full", keeps: true, args: []string{"update", "--restart", "on-failure:3", "old"}},
		{name: "commit", store: "full", keeps: true, args: []string{"commit", "old", "new"}},
		{name: "commit after commit", store: "full", lives: true, keeps: true, dead: []string{"move/exchanged", "commit", "old", "new"}, args: []string{"commit", "old", "new"}},
		{name: "prune after commit", store: "full", keeps: true, lives: true, dead: []string{"move/synced", "commit", "old", "new"}, args: []string{"image", "prune", "-f"}},
		{name: "repair after commit", store: "full", keeps: true, lives: true, dead: []string{"move/exchanged", "commit", "old", "new"}, args: []string{"check", "--repair"}},
		{name: "rm after commit", store: "full", lives: true, dead: []string{"move/exchanged", "commit", "old", "new"}, args: []string{"rm", "old"}, again: notFound},
		{name: "mount", store: "full", args: []string{"mount", "busybox"}},
		{name: "mount a container", store: "full", args: []string{"mount", "old"}},
		{name: "umount", store: "full", dead: []string{"mount/attached", "mount", "busybox"}, args: []string{"umount", "busybox"}},
		{name: "check --repair", store: "hurt", args: []string{"check", "--repair"}},
		{name: "ps after run", store: "full", dead: []string{"start/state", "run", "busybox", "sleep", "1000"}, args: []string{"ps", "-a"}},
		{name: "ps after run --rm", store: "full", dead: []string{"start/state", "run", "--rm", "busybox", "sleep", "1000"}, args: []string{"ps", "-a"}},
	}
	var wg sync.WaitGroup
	turn := make(chan bool, 2)
	deaths := map[string]int{}
	var mu sync.Mutex
	for _, c := range cases {
		if c.lives {
			turn <- true
			wg.Go(func() {
				defer func() { <-turn }()
				k.kill(t, c, 1, "")
			})
			continue
		}
		hits := k.hits(t, c)
		first, last := map[string]int{}, map[string]int{}
		for n, name := range hits {
			if _, seen := first[name]; !seen {
				first[name] = n
			}
			last[name] = n
		}
		for n, name := range hits {
			if n != first[name] && (n != last[name] || !c.last) {
				continue
			}
			mu.Lock()
			deaths[name]++
			mu.Unlock()
			turn <- true
			wg.Go(func() {
				defer func() { <-turn }()
				k.kill(t, c, n+1, name)
			})
		}
		if len(hits) < 2 {
			t.Errorf("%s comes to the failpoints %q only", c.name, hits)
		}
		if t.Failed() {
			break
		}
	}
	wg.Wait()
	for _, p := range holders(e.dir + "/") {
		t.Errorf("leaked: %s", p)
	}
	total := 0
	for _, n := range deaths {
		total += n
	}
	t.Logf("%d deaths at %d places", total, len(deaths))
}

// monitored says whether a command has a monitor, of which it does not tell whether that was killed.
func monitored(args []string) bool {
	return args[0] == "start" || args[0] == "run" && (slices.Contains(args, "-t") || !slices.Contains(args, "--rm"))
}

// killer runs commands in copies of prepared stores.
type killer struct {
	*env
	empty []string // the files of a store from which everything was taken away
	mu    sync.Mutex
	next  int
}

// in is a command in the store of that name.
func (k *killer) in(store string, args ...string) *exec.Cmd {
	cmd := k.command(args...)
	cmd.Env = append(cmd.Env, "LAYERCTL_ROOT="+filepath.Join(k.dir, store), "LAYERCTL_RUN_ROOT="+filepath.Join(k.dir, store+".run"))
	return cmd
}

func (k *killer) copy(t testing.TB, of string) string {
	k.mu.Lock()
	k.next++
	name := fmt.Sprintf("%s.%d", of, k.next)
	k.mu.Unlock()
	sh(t, k.dir, "cp -a "+of+" "+name)
	return name
}

func (k *killer) prepare(t testing.TB, c killCase) string {
	store := k.copy(t, c.store)
	if c.dead != nil {
		cmd := k.in(store, c.dead[1:]...)
		cmd.Env = append(cmd.Env, "LAYERCTL_FAILPOINT="+c.dead[0])
		if r := k.finish(cmd); c.dead[0] != "" && !killed(cmd) && !monitored(c.dead[1:]) || c.dead[0] == "" && r.code != 0 {
			t.Fatalf("%q was not killed at %q: %+v", c.dead[1:], c.dead[0], r)
		}
	}
	return store
}

// hits are the failpoints that a command comes to, in order.
func (k *killer) hits(t testing.TB, c killCase) []string {
	t.Helper()
	store := k.prepare(t, c)
	log := filepath.Join(k.dir, store+".log")
	cmd := k.in(store, c.args...)
	cmd.Env = append(cmd.Env, "LAYERCTL_FAILPOINT_LOG="+log)
	if c.until != "" {
		cmd.Env = append(cmd.Env, "LAYERCTL_FAILPOINT="+c.until)
	}
	r := k.finish(cmd)
	if r.code != 0 && !(c.until != "" && (killed(cmd) || monitored(c.args))) {
		t.Fatalf("%s: status %d: %s", c.name, r.code, r.stderr)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	k.clear(t, store)
	k.drop(t, store)
	return strings.Fields(string(b))
}

func killed(cmd *exec.Cmd) bool {
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// kill runs a command to its n-th failpoint, and looks at what is left.
func (k *killer) kill(t testing.TB, c killCase, n int, name string) {
	what := fmt.Sprintf("%s, killed at %s (@%d)", c.name, name, n)
	store := k.prepare(t, c)
	cmd := k.in(store, c.args...)
	if c.lives {
		what = c.name
	} else {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LAYERCTL_FAILPOINT=@%d", n))
	}
	if k.finish(cmd); !killed(cmd) && !c.lives && !monitored(c.args) {
		t.Errorf("%s: it was not", what)
	}
	ids := list(filepath.Join(k.dir, store, "containers"))
	ok := func(args ...string) string {
		r := k.finish(k.in(store, args...))
		if r.code != 0 {
			t.Errorf("%s: then layerctl %q: status %d\n%s%s", what, args, r.code, r.stdout, r.stderr)
		}
		return r.stdout
	}
	look := func() {
		ok("ps", "-a")
		for _, image := range strings.Fields(ok("images", "-q", "--no-trunc")) {
			ok("run", "--rm", image, "true")
		}
		if c.moves {
			name := strings.TrimSpace(ok("ps", "-a", "--format", "{{.Names}}"))
			if name != "old" && name != "fresh" || !slices.Equal(list(filepath.Join(k.dir, store, "containers/names")), []string{name}) {
				t.Errorf("%s: the container is called %q, and there are the names %q", what, name, list(filepath.Join(k.dir, store, "containers/names")))
			}
			if got := ok("diff", name); got != "A /x\n" {
				t.Errorf("%s: the container has changed %q", what, got)
			}
		}
		if c.keeps {
			if got := ok("diff", "old"); got != "A /x\n" {
				t.Errorf("%s: the container has changed %q", what, got)
			}
			if strings.Contains(ok("images"), "localhost/new") {
				if got := ok("run", "--rm", "new", "cat", "/x"); got != "x\n" {
					t.Errorf("%s: the image that was made of it has the content %q", what, got)
				}
			}
		}
		if c.store == "full" && c.args[0] != "prune" {
			if got := ok("run", "--rm", "busybox", "cat", "/etc/one"); got != "one\n" {
				t.Errorf("%s: the image that it has nothing to do with has another content: %q", what, got)
			}
		}
	}
	again := func() {
		if c.until != "" {
			return // it would not end
		}
		r := k.finish(k.in(store, c.args...))
		if r.code != 0 && (c.again == "" || !regexp.MustCompile(c.again).MatchString(r.stderr)) {
			t.Errorf("%s: given again: status %d\n%s", what, r.code, r.stderr)
		}
	}
	// Either comes first at half of the places.
	if n%2 == 0 {
		again()
		look()
	} else {
		look()
		again()
	}
	ok("run", "--rm", "--rootfs", "tree", "true") // makes what all containers share, if nobody has
	ok("check", "--full")
	k.clear(t, store)
	if left := k.files(t, store); !slices.Equal(left, k.empty) {
		t.Errorf("%s: when everything was taken away, there was more than in an empty store: %q; or less: %q", what, missing(left, k.empty), missing(k.empty, left))
	}
	for _, dir := range cgroups() {
		if slices.Contains(ids, filepath.Base(dir)) {
			t.Errorf("%s: leaked: cgroup %s", what, dir)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(k.dir, store+".run", "containers/*/"+strings.Repeat("[0-9a-f]", 64))); len(left) > 0 {
		t.Errorf("%s: the run root holds %q", what, left)
	}
	k.drop(t, store)
}

// missing is what a list has and another does not.
func missing(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

// clear takes everything out of a store.
func (k *killer) clear(t testing.TB, store string) {
	t.Helper()
	if r := k.finish(k.in(store, "umount", "--all")); r.code != 0 {
		t.Errorf("umount --all: status %d\n%s", r.code, r.stderr)
	}
	if ids := strings.Fields(k.finish(k.in(store, "ps", "-aq")).stdout); len(ids) > 0 {
		k.finish(k.in(store, append([]string{"rm", "-f"}, ids...)...))
	}
	if r := k.finish(k.in(store, "prune", "-a", "-f")); r.code != 0 {
		t.Errorf("prune -a -f: status %d\n%s", r.code, r.stderr)
	}
}

// files lists what is in a store.
func (k *killer) files(t testing.TB, store string) []string {
	t.Helper()
	return strings.Fields(sh(t, k.dir, "cd "+store+" && find . ! -name index.json | sort")) // which is made again when there is something to say
}

func (k *killer) drop(t testing.TB, store string) {
	t.Helper()
	sh(t, k.dir, "rm -rf "+store+" "+store+".run "+store+".log")
}

// smallLayer is a layer script that makes a root of hardly more than busybox. parentlessLayer's leans on what is below: it brings no etc/ of
// its own, and deletes a file.
const (
	smallLayer      = `mkdir -p bin etc; cp /bin/busybox bin/; for a in sh true cat sleep; do ln -s busybox bin/$a; done; echo one > etc/one; printf 'root:x:0:0::/root:/bin/sh\n' > etc/passwd`
	parentlessLayer = `mkdir l && cd l && mkdir etc && echo two > etc/two && touch etc/.wh.one && tar -cf ../x.tar etc/two etc/.wh.one && cd .. && tar -xf x.tar && rm -r l x.tar`
)
