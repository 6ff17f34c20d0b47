package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The example makes an image that somebody else can pull and run.
func TestPythonApp(t *testing.T) {
	reg := startRegistry(t, "")
	e := newEnv(t)
	sh(t, e.dir, `mkdir app; echo 'import os, sys; print("hello", *sys.argv[1:], os.getuid(), os.getcwd())' > app/main.py`)
	cmd := exec.Command("sh", "-c", `. /etc/os-release; SUITE=${VERSION_CODENAME:-stable} ../examples/python-app.sh `+filepath.Join(e.dir, "app")+" "+reg.addr+"/app")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1750000000", "LAYERCTL_ROOT="+e.root, "LAYERCTL_RUN_ROOT="+e.runRoot, "TMPDIR="+e.dir,
		"PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))
	if r := e.finish(cmd); r.code != 0 {
		t.Fatalf("status %d: %s%s", r.code, r.stdout, r.stderr)
	}
	other := newEnv(t)
	other.ok("pull", "-q", reg.addr+"/app")
	if got := other.ok("run", "--rm", reg.addr+"/app", "you"); got != "hello you 1000 /srv/app\n" {
		t.Errorf("it prints %q", got)
	}
}
