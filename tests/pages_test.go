package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The pages of docs/ that show what commands print show what they print: hack/page.sh runs them, and says how a page is written. A page
// finds the address of an empty registry in $REGISTRY. The tutorial, which takes long, is run by `make tutorial`.
func TestPages(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "\n```output\n") || filepath.Base(page) == "tutorial.md" {
			continue
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			e := newEnv(t)
			cmd := exec.Command("../hack/page.sh", strings.TrimPrefix(page, "../"))
			cmd.Env = append(os.Environ(), "BIN="+filepath.Dir(binary), "LAYERCTL_ROOT="+e.root, "LAYERCTL_RUN_ROOT="+e.runRoot, "TMPDIR="+e.dir,
				"REGISTRY="+startRegistry(t, "").addr)
			if r := e.finish(cmd); r.code != 0 {
				t.Errorf("status %d\n%s%s", r.code, r.stdout, r.stderr)
			} else {
				t.Log(r.stdout[strings.LastIndex(strings.TrimSpace(r.stdout), "\n")+1:])
			}
		})
	}
}
