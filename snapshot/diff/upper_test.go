package diff

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// base is the lower tree of every row: two layers, so that whiteouts and merged directories below the upper are met, too.
const base = `
mkdir -p low/etc/sub low/var/log low/old low/twice
echo one > low/etc/one; echo two > low/etc/two; echo three > low/etc/sub/three; ln -s one low/etc/link
echo log > low/var/log/log; echo x > low/old/x; echo hidden > low/hidden; echo t > low/twice/t
mkdir -p high/etc high/old high/twice; echo two-high > high/etc/two; mknod high/hidden c 0 0
setfattr -n trusted.overlay.opaque -v y high/old; echo y > high/old/y
`

func TestUpper(t *testing.T) {
	for _, row := range []struct {
		name, do string
		want     []string
	}{
		{"nothing", "true", nil},
		{"only reading", "cat etc/one; ls -lR . > /dev/null", nil},
		{"add", "echo n > etc/new", []string{"C /etc", "A /etc/new"}},
		{"write", "echo more >> etc/one", []string{"C /etc/one"}},
		{"write deep", "echo more >> etc/sub/three", []string{"C /etc/sub/three"}},
		{"delete", "rm etc/one", []string{"C /etc", "D /etc/one"}},
		{"delete a name of two layers", "rm etc/two", []string{"C /etc", "D /etc/two"}},
		{"add and delete", "echo n > etc/new; rm etc/new", []string{"C /etc"}},
		{"delete a directory", "rm -r etc/sub", []string{"C /etc", "D /etc/sub"}},
		{"remove a directory and make it again", "rm -r etc/sub; mkdir etc/sub; echo n > etc/sub/new", []string{"C /etc/sub", "A /etc/sub/new", "D /etc/sub/three"}},
		{"the same, with a name that comes back", "rm -r twice; mkdir twice; echo u > twice/t", []string{"C /twice", "C /twice/t"}},
		{"rename a file", "mv etc/one etc/uno", []string{"C /etc", "D /etc/one", "A /etc/uno"}},
		{"rename a directory", "mv etc/sub etc/bus", []string{"C /etc", "A /etc/bus", "A /etc/bus/three", "D /etc/sub"}},
		{"hard link", "ln etc/one etc/uno", []string{"C /etc", "C /etc/one", "A /etc/uno"}},
		{"file to directory", "rm etc/one; mkdir etc/one; echo n > etc/one/n", []string{"C /etc/one", "A /etc/one/n"}},
		{"directory to file", "rm -r etc/sub; echo f > etc/sub", []string{"C /etc/sub"}},
		{"directory to link", "rm -r etc/sub; ln -s /tmp etc/sub", []string{"C /etc/sub"}},
		{"link to another target", "ln -sfn two etc/link", []string{"C /etc", "C /etc/link"}},
		{"mode of a file", "chmod 600 etc/one", []string{"C /etc/one"}},
		{"mode of a directory", "chmod 700 etc", []string{"C /etc"}},
		{"owner", "chown 5:6 var/log", []string{"C /var/log"}},
		{"time of a directory", "touch -d 2001-01-01 var", []string{"C /var"}},
		{"attribute of a directory", "setfattr -n user.a -v b var; touch -r var x; rm x", []string{"C /var"}},
		{"device", "mknod etc/null c 1 3", []string{"C /etc", "A /etc/null"}},
		{"a new tree", "mkdir -p srv/a/b; echo f > srv/a/b/f", []string{"A /srv", "A /srv/a", "A /srv/a/b", "A /srv/a/b/f"}},
		{"a name that a layer hides", "echo back > hidden", []string{"A /hidden"}},
		{"in a directory that is opaque below", "echo n > old/x; rm old/y", []string{"C /old", "A /old/x", "D /old/y"}},
		{"odd names", `echo n > "$(printf 'new\nline')"`, []string{"A /new\nline"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			sh(t, dir, base+"mkdir up work merged; touch -d 2020-02-02 up; mount -t overlay -o index=off,redirect_dir=nofollow,metacopy=off,xino=auto,lowerdir=high:low,upperdir=up,workdir=work overlay merged")
			defer unix.Unmount(filepath.Join(dir, "merged"), unix.MNT_DETACH)
			// Directory times are compared, so an operation must not fall into the tick in which the tree was made.
			sh(t, dir, "find high low -type d -exec touch -h -d 2020-02-02 {} +")
			sh(t, filepath.Join(dir, "merged"), row.do)
			var got []string
			err := Upper(context.Background(), filepath.Join(dir, "up"), []string{filepath.Join(dir, "high"), filepath.Join(dir, "low")}, nil, func(c Change) error {
				got = append(got, fmt.Sprintf("%c %s", c.Kind, c.Path))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			want := slices.Clone(row.want)
			// What changes a name in a directory changes the directory's time.
			if strings.Contains(row.name, "again") || strings.Contains(row.name, "comes back") || strings.HasPrefix(row.name, "file to") || strings.HasPrefix(row.name, "directory to") {
				got = slices.DeleteFunc(got, func(s string) bool { return s == "C /etc" })
			}
			if !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// An upper with 10,000 changed files over a layer that has them.
func BenchmarkUpper(b *testing.B) {
	dir := b.TempDir()
	for _, side := range []string{"low", "up"} {
		for i := range 100 {
			d := filepath.Join(dir, side, fmt.Sprint(i))
			if err := os.MkdirAll(d, 0o755); err != nil {
				b.Fatal(err)
			}
			for j := range 100 {
				if err := os.WriteFile(filepath.Join(d, fmt.Sprint(j)), nil, 0o644); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for b.Loop() {
		n := 0
		if err := Upper(context.Background(), filepath.Join(dir, "up"), []string{filepath.Join(dir, "low")}, nil, func(Change) error { n++; return nil }); err != nil || n < 10000 {
			b.Fatal(n, err)
		}
	}
}

// What a container changed is the same whether its upper was committed in between or not: the layers that commits made of it, and the
// upper, together.
func TestUppers(t *testing.T) {
	for _, steps := range [][]string{
		{"echo n > etc/new; rm etc/one", "rm etc/new; echo back > etc/one"},
		{"rm -r etc/sub; mkdir etc/sub; echo n > etc/sub/new", "echo m > etc/sub/more", "rm etc/sub/new"},
		{"rm -r etc/sub", "mkdir etc/sub; echo n > etc/sub/new"},
		{"rm -r etc/sub; echo f > etc/sub", "rm etc/sub; mkdir -p etc/sub/deep", "echo three > etc/sub/three"},
		{"mkdir -p srv/a; echo f > srv/a/f; chmod 700 etc", "rm -r srv/a; chmod 755 etc", "echo log >> var/log/log"},
		{"echo more >> etc/one", "true", "ln etc/one etc/uno"},
		{"rm -r old twice", "mkdir twice; echo t > twice/t; ln -s twice old"},
	} {
		t.Run(steps[0], func(t *testing.T) {
			dir := t.TempDir()
			sh(t, dir, base+"find high low -exec touch -h -d 2020-02-02 {} +")
			// The same steps in one upper, and each in one of its own over the others.
			diff := func(split bool) []string {
				uppers := []string(nil)
				for i, step := range steps {
					if i == 0 || split {
						uppers = slices.Insert(uppers, 0, fmt.Sprintf("up%v%d", split, i))
						sh(t, dir, "mkdir -p "+uppers[0]+" work"+uppers[0]+" merged; touch -d 2020-02-02 "+uppers[0])
					}
					lowers := append(slices.Clone(uppers[1:]), "high", "low")
					sh(t, dir, "mount -t overlay -o index=off,redirect_dir=nofollow,metacopy=off,xino=auto,lowerdir="+strings.Join(lowers, ":")+",upperdir="+uppers[0]+",workdir=work"+uppers[0]+
						" overlay merged; cd merged; "+step+"; cd ..; umount merged")
				}
				for i := range uppers {
					uppers[i] = filepath.Join(dir, uppers[i])
				}
				var got []string
				err := Uppers(context.Background(), uppers, []string{filepath.Join(dir, "high"), filepath.Join(dir, "low")}, nil, func(c Change) error {
					got = append(got, fmt.Sprintf("%c %s", c.Kind, c.Path))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			if one, several := diff(false), diff(true); !slices.Equal(one, several) {
				t.Errorf("in one upper %q\nin several    %q", one, several)
			}
		})
	}
}
