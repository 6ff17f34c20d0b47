package runtime

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadEnvFile(t *testing.T) {
	t.Setenv("GIVEN", "by the caller")
	os.Unsetenv("NOT_GIVEN")
	path := filepath.Join(t.TempDir(), "env")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\ufeff# a comment\n\n  A=1\nB= two  # no comment \r\nGIVEN\nNOT_GIVEN\nC=\nD=a=b\n\t#x\nE='q'")
	got, err := readEnvFile(path)
	if want := []string{"A=1", "B= two  # no comment ", "GIVEN=by the caller", "C=", "D=a=b", "E='q'"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for text, says := range map[string]string{"A=1\n=2\n": "line 2 has no name", "A B=1": `line 1: the name "A B" has blanks`, "A=\xff": "line 1 is not UTF-8",
		"A=\x00": "line 1 is not", strings.Repeat("A=1\n", 1<<20+1): "larger than 4 MiB"} {
		write(text)
		if _, err := readEnvFile(path); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if _, err := readEnvFile(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := readEnvFile("/"); !errors.Is(err, unix.EISDIR) {
		t.Errorf("a directory: %v", err)
	}
}

func TestLabels(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels")
	if err := os.WriteFile(file, []byte("a=file\nb=file\nc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := CreateOptions{Image: ImageInfo{Name: "i", Settings: Settings{Cmd: []string{"x"}, Labels: map[string]string{"a": "image", "z": "image"}}}, Network: "none"}
	c, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := json.Marshal(c); strings.Count(string(b), `"z"`) != 1 {
		t.Errorf("the image's labels are written twice: %s", b)
	}
	o.LabelFiles, o.Labels = []string{file}, []string{"b=given", "d=1=2"}
	if c, err = o.config(); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "file", "b": "given", "c": "", "d": "1=2", "z": "image"}
	if !reflect.DeepEqual(c.Labels, want) || !reflect.DeepEqual(c.Settings().Labels, want) || len(o.Image.Settings.Labels) != 2 {
		t.Errorf("labels %q, of a commit %q, of the image %q", c.Labels, c.Settings().Labels, o.Image.Settings.Labels)
	}
	for _, l := range []string{"", "=x", " =x", "a=\xff"} {
		o.Labels = []string{l}
		if _, err := o.config(); !errors.Is(err, ErrInvalid) {
			t.Errorf("label %q: %v", l, err)
		}
	}
}

// What config.json says is read as it was written, and one that was written before there were labels has the image's.
func TestConfigRecord(t *testing.T) {
	three := 3
	o := CreateOptions{Image: ImageInfo{Name: "i", Settings: Settings{Cmd: []string{"x"}, Labels: map[string]string{"a": "image"}}}, Network: "none", Labels: []string{"b"},
		StopSignal: "usr1", StopTimeout: &three, LogOpts: nil, PidMode: "host", UTSMode: "container:" + strings.Repeat("a", 64), StdinOnce: true}
	c, err := o.config()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var again Config
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("%v\nwritten %+v\nread    %+v", err, c, again)
	}
	var old Config
	if err := json.Unmarshal([]byte(`{"Version":1,"Image":{"Settings":{"Labels":{"a":"image"},"StopSignal":"SIGINT"}}}`), &old); err != nil || old.Labels["a"] != "image" || old.LogDriver != "k8s-file" {
		t.Errorf("an old record: %+v, %v", old, err)
	}
	if n, s := old.EndsBy(); n != unix.SIGINT || s != 10 {
		t.Errorf("it is ended by %v after %d seconds", n, s)
	}
	if n, s := again.EndsBy(); n != unix.SIGUSR1 || s != 3 {
		t.Errorf("the other is ended by %v after %d seconds", n, s)
	}
	old.Image.Settings.StopSignal = "rubbish"
	if n, _ := old.EndsBy(); n != unix.SIGTERM {
		t.Errorf("rubbish in an image is %v", n)
	}
}

func TestParseRestart(t *testing.T) {
	for s, want := range map[string]RestartPolicy{"": {}, "no": {}, "always": {Name: "always"}, "unless-stopped": {Name: "unless-stopped"}, "on-failure": {Name: "on-failure"},
		"on-failure:3": {"on-failure", 3}, "on-failure:0": {Name: "on-failure"}} {
		got, err := ParseRestart(s)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
		if again, err := ParseRestart(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v", s, got, again)
		}
	}
	for _, s := range []string{"No", "never", "always:3", "no:1", "on-failure:", "on-failure:-1", "on-failure:x", "on-failure:1:2", "on-failure:99999999999"} {
		if got, err := ParseRestart(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is taken for %+v (%v)", s, got, err)
		}
	}
}

func TestParseLogOptions(t *testing.T) {
	for s, want := range map[string]int64{"100": 100, "100b": 100, "5k": 5000, "10m": 10_000_000, "10MB": 10_000_000, "1.5g": 1_500_000_000, "1GiB": 1 << 30, "2ki": 2048} {
		if got, err := parseLogOptions("", []string{"max-size=" + s, "max-file=3"}); err != nil || got != (LogOptions{want, 3}) {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, o := range []string{"max-size=", "max-size=0", "max-size=-1", "max-size=x", "max-size=1e3", "max-size=inf", "max-size=nan", "max-size=0x10", "max-size=9999999p", "max-file=0", "max-file", "max-file=-1", "max-file=70000", "max-file=1001", "max-file=3"} {
		if got, err := parseLogOptions("", []string{o}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s is taken for %+v (%v)", o, got, err)
		}
	}
	if _, err := parseLogOptions("", []string{"compress=true"}); !errors.Is(err, ErrUnsupported) {
		t.Errorf("an option that nobody knows: %v", err)
	}
	if _, err := parseLogOptions("none", []string{"max-file=1"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("an option of no log: %v", err)
	}
}
