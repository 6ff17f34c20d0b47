package tests

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
)

// Where the page goes, and what stands in its way; what is on it is tested in image/report.
func TestReport(t *testing.T) {
	e := newEnv(t)
	sh(t, e.dir, `mkdir -p tree/etc tree/lib/apk/db; echo content >tree/etc/passwd; printf 'P:musl\nV:1.2.4-r2\nA:x86_64\n\n' >tree/lib/apk/db/installed`)
	e.ok("import", e.dir+"/tree", "team/app:1")
	page := e.ok("report", "team/app:1")
	if !strings.HasPrefix(page, "<!doctype html>") || !strings.Contains(page, "<title>team/app:1 – layerctl report</title>") || !strings.Contains(page, "1.2.4-r2") || !strings.HasSuffix(page, "</html>\n") {
		t.Errorf("got %.300s", page)
	}
	if got := e.ok("report", "-o", "here.html", "team/app:1"); got != "here.html\n" {
		t.Errorf("printed %q", got)
	}
	if e.ok("report", "-o", "-", "team/app:1") != page {
		t.Error("another page the second time")
	}
	// On a terminal it goes to a file.
	cmd := e.command("report", "team/app:1")
	term, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(term) // ends by EIO
	term.Close()
	if err := cmd.Wait(); err != nil || strings.TrimSpace(string(said)) != "app-1.html" {
		t.Errorf("on a terminal: %q, %v", said, err)
	}
	for _, name := range []string{"here.html", "app-1.html"} {
		if b, err := os.ReadFile(filepath.Join(e.dir, name)); err != nil || string(b) != page {
			t.Errorf("%s: %v", name, err)
		}
	}
	e.fails(1, []string{"report: nothere: no such image"}, "report", "nothere")
	e.fails(1, []string{"write the report: ", "no such file or directory"}, "report", "-o", "not/there.html", "team/app:1")
	e.fails(1, []string{"write the report: ", "is a directory"}, "report", "-o", "tree", "team/app:1")
	e.fails(1, []string{"write the report: ", "no space left on device"}, "report", "-o", "/dev/full", "team/app:1")
	if names := list(e.dir); strings.Contains(strings.Join(names, " "), ".here") || strings.Contains(strings.Join(names, " "), ".there") {
		t.Errorf("left behind: %q", names)
	}
}
