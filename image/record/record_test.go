package record

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "names"), 0o700); err != nil {
		t.Fatal(err)
	}
	long := "registry.example/" + strings.Repeat("long/", 43) + "name:tag"
	for _, r := range []*Record{
		{Name: "docker.io/library/ubuntu:latest", ID: "sha256:1", Chain: "sha256:2", Settings: Settings{Env: []string{"A=b"}, Cmd: []string{"sh"}}},
		{Name: "localhost/debian:latest", ID: "sha256:3", Chain: "sha256:4"},
		{Name: "registry.example:5000/a/b:1", ID: "sha256:5", Chain: "sha256:6", Settings: Settings{Labels: map[string]string{"k": "v"}}},
		{Name: long, ID: "sha256:7", Chain: "sha256:8"},
	} {
		if err := Write(dir, r); err != nil {
			t.Fatal(err)
		}
		if got, err := Find(dir, r.Name); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: %+v, %v", r.Name, got, err)
		}
	}
	for ref, want := range map[string]string{"ubuntu": "sha256:1", "library/ubuntu": "sha256:1", "debian": "sha256:3", "debian:latest": "sha256:3"} {
		if got, err := Find(dir, ref); err != nil || got.ID != want {
			t.Errorf("%s: %+v, %v; want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{"debian:other", "no/such", "registry.example:5000/a/b", "../../etc/passwd", "", "Upper Case"} {
		if got, err := Find(dir, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v; want ErrNotFound", ref, got, err)
		}
	}
	// A damaged file, and one that says another name, are not believed.
	for _, content := range []string{"{", "", `{"Name":"localhost/other:latest","Chain":"sha256:4"}`, `{"Name":"localhost/debian:latest"}`} {
		if err := os.WriteFile(Path(dir, "localhost/debian:latest"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Write(dir, &Record{Name: "docker.io/library/debian:latest", ID: "sha256:9", Chain: "sha256:9"}); err != nil {
			t.Fatal(err) // what the name would mean if the damaged one were not there
		}
		if got, err := Find(dir, "debian"); !errors.Is(err, ErrNotFound) {
			t.Errorf("record %q: %+v, %v; want ErrNotFound", content, got, err)
		}
	}
	for _, first := range []bool{true, false} {
		if removed, err := Remove(dir, "localhost/debian:latest"); err != nil || removed != first {
			t.Error(removed, err)
		}
	}
}
