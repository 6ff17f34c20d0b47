package tests

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The package holds what `make install` puts in place. lintian has its say in hack/deb.sh, where it is installed.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	sh(t, "..", "make -s deb VERSION=v1.2.3 OUT="+dir)
	got := sh(t, dir, "dpkg-deb -f layerctl_1.2.3_*.deb Package Version; dpkg-deb -x layerctl_1.2.3_*.deb deb; gunzip deb/usr/share/man/man1/*; deb/usr/bin/layerctl --version")
	if want := "Package: layerctl\nVersion: 1.2.3\nlayerctl v1.2.3\n"; got != want {
		t.Errorf("the package says %s", got)
	}
	root := filepath.Join(dir, "deb/usr")
	help, err := exec.Command(filepath.Join(root, "bin/layerctl"), "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, commands, _ := strings.Cut(string(help), "Available Commands:\n")
	commands, _, _ = strings.Cut(commands, "\n\n")
	n := 0
	for _, line := range strings.Split(commands, "\n") {
		name := strings.Fields(line)[0]
		if page := filepath.Join(root, "share/man/man1/layerctl-"+name+".1"); !exists(page) && name != "help" {
			t.Errorf("there is no %s", page)
		}
		n++
	}
	if n < 20 {
		t.Errorf("it has %d commands: %s", n, help)
	}
	for _, file := range []string{"share/man/man1/layerctl.1", "share/doc/layerctl/copyright", "share/bash-completion/completions/layerctl", "share/zsh/vendor-completions/_layerctl",
		"share/fish/vendor_completions.d/layerctl.fish"} {
		if !exists(filepath.Join(root, file)) {
			t.Errorf("there is no %s", file)
		}
	}
	sh(t, dir, "bash -n "+root+"/share/bash-completion/completions/layerctl; grep -q rm "+root+"/share/man/man1/layerctl-run.1")
	// The program that is installed has no generator of man pages in it.
	if out := sh(t, dir, "go version -m "+root+"/bin/layerctl"); strings.Contains(out, "md2man") {
		t.Errorf("it links %s", out)
	}
}
