package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/continuity/fs/fstest"
	"golang.org/x/sys/unix"
)

// mountAt does what a client of ours, as containerd is one, does with what Mounts gives.
func mountAt(mounts []Mount, target string) (undo func(), err error) {
	if len(mounts) != 1 {
		return nil, fmt.Errorf("%d mounts: %v", len(mounts), mounts)
	}
	m := mounts[0]
	flags, data := uintptr(0), ""
	for _, o := range m.Options {
		switch o {
		case "ro":
			flags |= unix.MS_RDONLY
		case "rw":
		case "bind":
			flags |= unix.MS_BIND
		case "rbind":
			flags |= unix.MS_BIND | unix.MS_REC
		default:
			data += "," + o
		}
	}
	if slices.Contains(m.Options, "ro") && flags&unix.MS_BIND != 0 {
		defer func() {
			if err == nil {
				err = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
			}
		}()
	}
	if len(data) > 0 {
		data = data[1:]
	}
	if err := unix.Mount(m.Source, target, m.Type, flags, data); err != nil {
		return nil, fmt.Errorf("mount %v: %w", m, err)
	}
	return func() { unix.Unmount(target, 0) }, nil
}

// Each change is a snapshot over the one before, mounted as containerd mounts it; the view of the last one is the sum. Hard links
// across layers are not here: overlayfs without its index breaks them when it copies one up (kernel, overlayfs.rst), as Docker's does.
func TestChangesAsSnapshots(t *testing.T) {
	s, dir, top := newStore(t), t.TempDir(), ""
	changes := []fstest.Applier{
		fstest.Apply(fstest.CreateDir("/etc", 0o755), fstest.CreateFile("/etc/hosts", []byte("127.0.0.1 localhost"), 0o644),
			fstest.CreateDir("/usr/lib", 0o755), fstest.CreateRandomFile("/usr/lib/lib.so", 1, 100000, 0o755), fstest.Symlink("lib.so", "/usr/lib/lib.so.2"),
			fstest.CreateDir("/home/derek", 0o700), fstest.CreateDeviceFile("/null", unix.S_IFCHR|0o666, 1, 3)),
		fstest.Apply(fstest.CreateFile("/etc/hosts", []byte("127.0.0.1 me"), 0o600), fstest.CreateFile("/home/derek/.profile", nil, 0o640),
			fstest.Chown("/usr/lib", 10, 20), fstest.SetXAttr("/etc", "trusted.note", "x")),
		fstest.Apply(fstest.Remove("/etc/hosts"), fstest.Rename("/home/derek/.profile", "/home/derek/.bashrc"), fstest.Chmod("/usr/lib/lib.so", 0o4711)),
		fstest.Apply(fstest.RemoveAll("/usr"), fstest.CreateDir("/usr/lib", 0o711), fstest.CreateFile("/usr/lib/new", []byte("n"), 0o644)),
		fstest.Apply(fstest.RemoveAll("/home"), fstest.CreateFile("/home", []byte("a file now"), 0o644), fstest.Remove("/null")),
		fstest.Apply(fstest.Remove("/home"), fstest.CreateDir("/home/derek", 0o755), fstest.Link("/usr/lib/new", "/usr/lib/newer")),
	}
	for i, change := range changes {
		key, name, target := fmt.Sprintf("key%d", i), fmt.Sprintf("name%d", i), filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		mounts, err := s.Prepare(ctx, key, top)
		if err != nil {
			t.Fatal(err)
		}
		undo, err := mountAt(mounts, target)
		if err != nil {
			t.Fatal(err)
		}
		err = change.Apply(target)
		undo()
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		if err := s.Commit(ctx, name, key); err != nil {
			t.Fatal(err)
		}
		top = name
		if mounts, err = s.View(ctx, key, name); err != nil {
			t.Fatal(err)
		}
		if undo, err = mountAt(mounts, target); err != nil {
			t.Fatal(err)
		}
		err = fstest.CheckDirectoryEqualWithApplier(target, fstest.Apply(changes[:i+1]...))
		if f, err := os.Create(filepath.Join(target, "written")); err == nil {
			f.Close()
			t.Errorf("the view of %s can be written", name)
		}
		undo()
		if err != nil {
			t.Errorf("after change %d: %v", i, err)
		}
	}
}
