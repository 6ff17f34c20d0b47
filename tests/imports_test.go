package tests

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/layerctl/layerctl/"

type goPackage struct {
	ImportPath                 string
	Imports, TestImports, Deps []string
}

// packages are the packages of this module, as the go command sees them.
func packages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,Deps", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]goPackage{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p goPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, module)] = p
	}
	return all
}

// Imports run down only: cmd → image, runtime → snapshot; image and runtime do not know each other.
func TestImportsRunDown(t *testing.T) {
	may := map[string][]string{
		"cmd":      {"cmd", "image", "runtime", "snapshot"},
		"image":    {"image", "snapshot"},
		"runtime":  {"runtime", "snapshot"},
		"snapshot": {"snapshot"},
		"tests":    nil, // they drive the binary
		"hack":     nil, // what scripts build for themselves
	}
	all := packages(t)
	if len(all) < 10 {
		t.Fatalf("go list names %d packages", len(all))
	}
	for name, p := range all {
		house, _, _ := strings.Cut(name, "/")
		allowed, known := may[house]
		if !known {
			t.Errorf("%s is in no house that the design knows", name)
		}
		for _, imported := range slices.Concat(p.Imports, p.TestImports) {
			inner, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			if to, _, _ := strings.Cut(inner, "/"); !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: upward", name, inner)
			}
		}
	}
	// A layer is a directory and a stream, and knows only how bytes are inflated and written, and what a view of files is (it is one); a
	// tree knows no tar, no registry and no process.
	for name, forbidden := range map[string][]string{
		"image/layer":   {module},
		"snapshot":      {"archive/tar", "net/http", "os/exec", "github.com/google/"},
		"snapshot/diff": {"archive/tar", "net/http", "os/exec", "github.com/google/"},
	} {
		for _, imported := range all[name].Imports {
			for _, f := range forbidden {
				known := []string{module + "image/direct", module + "image/layer/inflate", module + "snapshot/diff"}
				if strings.HasPrefix(imported, f) && !slices.Contains(known, imported) {
					t.Errorf("%s imports %s", name, imported)
				}
			}
		}
	}
}

// What a start goes through before its container must not bring in what is slow to initialise: Go initialises every linked package
// that comes before, used or not.
func TestTheShortPathIsLight(t *testing.T) {
	heavy := []string{
		"net", "net/http", "crypto/tls", "regexp", "text/template", "os/exec", "os/user", "log/slog", "compress/flate", "archive/tar",
		"github.com/spf13/", "github.com/google/", "github.com/klauspost/", "github.com/vbauerster/", "github.com/opencontainers/go-digest",
		"github.com/ulikunitz/",
	}
	early := packages(t)["cmd/layerctl/internal/early"]
	if !slices.Contains(early.Deps, module+"runtime") {
		t.Fatalf("cmd/layerctl/internal/early does not lead to a container any more: %q", early.Deps)
	}
	for _, dep := range early.Deps {
		for _, h := range heavy {
			if dep == h || strings.HasSuffix(h, "/") && strings.HasPrefix(dep, h) {
				t.Errorf("the short path of run links %s", dep)
			}
		}
	}
}
