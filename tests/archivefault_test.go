package tests

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// stalled makes a pipe that has half of an archive in it and then says nothing.
func stalled(t *testing.T, file string) (r, w *os.File) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go w.Write(b[:len(b)*2/3])
	return r, w
}

// While one archive comes slowly, the same image is loaded from another place, and nobody waits. Ended by a signal, a load leaves nothing.
func TestLoadStalled(t *testing.T) {
	e := newEnv(t)
	e.layout("--config.cmd true", busyboxLayer, upperLayer)
	sh(t, e.dir, "skopeo copy -q oci:img:t oci-archive:oci.tar:registry.example/app:1; skopeo copy -q oci:img:t docker-archive:docker.tar:registry.example/app:1")
	for _, file := range []string{"oci.tar", "docker.tar"} {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL} {
			r, w := stalled(t, filepath.Join(e.dir, file))
			cmd := e.command("load")
			var errs strings.Builder
			cmd.Stdin, cmd.Stderr = r, &errs
			e.start(cmd)
			r.Close()
			eventually(t, "the stream is spooled", func() bool {
				spooled, _ := filepath.Glob(filepath.Join(e.root, "images/ingest/*/0"))
				return len(spooled) > 0
			})
			begun := time.Now()
			e.ok("load", "-q", "-i", file)
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("the other load took %s", took)
			}
			e.ok("prune", "-f") // which leaves the spool to its holder
			if len(list(filepath.Join(e.root, "images/ingest"))) == 0 {
				t.Error("a prune took the spool of a load in flight")
			}
			e.ok("rmi", "registry.example/app:1")
			cmd.Process.Signal(signal)
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				cmd.Process.Kill()
				t.Fatalf("%s did not end a load whose stdin is silent", signal)
			}
			w.Close()
			if signal == syscall.SIGKILL {
				e.ok("prune", "-f")
			} else if cmd.ProcessState.ExitCode() != 1 || !errorForm.MatchString(errs.String()) {
				t.Errorf("after %s: %s: %s", signal, cmd.ProcessState, errs.String())
			}
			e.tidy()
			if got := e.ok("images", "-q"); got != "" {
				t.Errorf("an image is left: %s", got)
			}
		}
	}
}

// A save that is ended leaves no file, be it killed while it writes one or while nobody reads what it writes.
func TestSaveEnded(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, "mkdir -p big out; head -c 400M /dev/zero > big/zeros")
	e.ok("import", "big")
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := e.command("save", "-o", "out/a.tar", "big")
		e.start(cmd)
		eventually(t, "the file is being written", func() bool { return len(list(filepath.Join(e.dir, "out"))) > 0 })
		cmd.Process.Signal(signal)
		if cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("after %s: %s", signal, cmd.ProcessState)
		}
		if left := list(filepath.Join(e.dir, "out")); len(left) > 0 {
			t.Errorf("after %s: %q", signal, left)
		}
		cmd = e.command("save", "big")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		e.start(cmd)
		io.ReadFull(out, make([]byte, 100))
		cmd.Process.Signal(signal)
		if cmd.Wait(); cmd.ProcessState.Success() {
			t.Errorf("after %s, with nobody reading: %s", signal, cmd.ProcessState)
		}
	}
	if r := e.script("$L save big | head -c 1000 > head; echo ${PIPESTATUS[0]}"); strings.Contains(r.stderr, "goroutine") {
		t.Errorf("to a reader that leaves: %+v", r)
	}
}

// A disk that is full at any point of a load is an error, and what was written is freed again.
func TestLoadFull(t *testing.T) {
	e := newEnv(t)
	e.layout("--config.cmd true", busyboxLayer+"; head -c 3M /dev/urandom > noise", "head -c 2M /dev/urandom > more")
	sh(t, e.dir, "skopeo copy -q oci:img:t oci-archive:oci.tar:registry.example/app:1; skopeo copy -q oci:img:t docker-archive:docker.tar:registry.example/app:1; mkdir disk")
	e.root = filepath.Join(e.dir, "disk/store")
	full, fit := 0, 0
	for _, kb := range []int{600, 2000, 4000, 6500, 9000, 12000, 15000, 18000, 30000} {
		sh(t, e.dir, fmt.Sprintf("mount -t tmpfs -o size=%dk none disk", kb))
		for _, cmd := range []string{"$L load -i oci.tar", "$L load -i docker.tar", "cat oci.tar | $L load", "cat docker.tar | $L load"} {
			r := e.script(cmd)
			switch {
			case r.code == 0:
				fit++
				e.ok("check")
				e.ok("rmi", "registry.example/app:1")
			case r.code != 1 || !errorForm.MatchString(r.stderr) || !strings.Contains(r.stderr, "no space left"):
				t.Errorf("%s into %d kB: %+v", cmd, kb, r)
			default:
				full++
				if got := e.ok("images", "-q"); got != "" {
					t.Errorf("%s into %d kB: an image is left: %s", cmd, kb, got)
				}
			}
			e.ok("prune", "-f")
			e.tidy()
			for _, dir := range []string{"images/blobs/sha256", "snapshots/trees"} {
				if left := list(filepath.Join(e.root, dir)); len(left) > 0 {
					t.Errorf("%s into %d kB: %s holds %q after a prune", cmd, kb, dir, left)
				}
			}
		}
		sh(t, e.dir, "umount disk")
	}
	if full < 8 || fit < 4 {
		t.Errorf("%d loads met a full disk, %d did not", full, fit)
	}
}

// A layer that was here when its image was pulled was not downloaded again. Where its blob is needed after all, it is fetched.
func TestSaveFetches(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("gzip", "", "--config.cmd true", busyboxLayer, upperLayer)
	e := newEnv(t)
	sh(t, e.dir, "skopeo copy -q --src-tls-verify=false docker://"+reg.addr+"/gzip docker-archive:d.tar:x:1")
	plain := e.other("store.plain")
	plain.ok("load", "-q", "-i", "d.tar")
	plain.ok("save", "--format", "oci-archive", "-o", "plain.tar", "docker.io/library/x:1")
	sh(t, e.dir, "skopeo copy -q --preserve-digests --dest-tls-verify=false oci-archive:plain.tar docker://"+reg.addr+"/plain")
	e.ok("pull", "-q", reg.addr+"/gzip")
	e.ok("pull", "-q", reg.addr+"/plain")
	digest := e.digest(reg.addr + "/plain")
	reg.requests()
	for _, format := range []string{"docker-archive", "oci-archive"} {
		e.ok("save", "--format", format, "-o", format, reg.addr+"/plain")
	}
	if got := e.skopeoDigest("oci-archive:oci-archive"); got != digest {
		t.Errorf("the manifest has the digest %s, had %s", got, digest)
	}
	fetched := 0
	for _, r := range reg.requests() {
		if strings.Contains(r, "/plain/blobs/") {
			fetched++
		}
	}
	if fetched != 2 {
		t.Errorf("%d blobs were fetched, want 2 once", fetched)
	}
	other := e.other("store.other")
	for _, format := range []string{"docker-archive", "oci-archive"} {
		other.ok("load", "-q", "-i", format)
		if got, want := other.id(reg.addr+"/plain"), e.id(reg.addr+"/plain"); got != want {
			t.Errorf("image ID %s, want %s", got, want)
		}
	}
	other.ok("check")
}
