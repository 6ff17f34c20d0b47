package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// initDifference is one way in which the init lower is not as initLower makes it.
type initDifference struct {
	stub    stub
	problem string
	known   bool // it is one of the stubs
}

// initDifferences looks at the init lower, if there is one.
func (s *Store) initDifferences() []initDifference {
	root := s.path("trees", "init", "fs")
	if _, err := os.Lstat(s.path("trees", "init")); err != nil {
		return nil
	}
	var found []initDifference
	known := map[string]bool{}
	for _, st := range initStubs {
		known[st.path] = true
		path := filepath.Join(root, st.path)
		info, err := os.Lstat(path)
		problem := ""
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problem = "is missing"
		case err != nil:
			problem = unwrap(err)
		case info.IsDir() != st.dir || !st.dir && !info.Mode().IsRegular():
			problem = "is of the wrong type"
		case info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != st.mode():
			problem = fmt.Sprintf("mode %04o, was %04o", info.Mode().Perm(), st.mode())
		case info.Sys().(*syscall.Stat_t).Uid != 0 || info.Sys().(*syscall.Stat_t).Gid != 0:
			problem = "has another owner"
		case !st.dir && info.Size() != 0:
			problem = "is not empty"
		case len(overlayXattrs(path)) > 0:
			problem = "has an attribute of overlayfs"
		}
		if problem != "" {
			found = append(found, initDifference{st, problem, true})
		}
	}
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // told above
		}
		if rel, _ := filepath.Rel(root, path); rel != "." && !known[rel] {
			found = append(found, initDifference{stub{rel, d.IsDir()}, "should not be there", false})
			if d.IsDir() {
				return filepath.SkipDir
			}
		}
		return nil
	})
	return found
}

// overlayXattrs lists overlayfs' own attributes of path, which say how layers are stacked.
func overlayXattrs(path string) []string {
	n, err := unix.Llistxattr(path, nil)
	if err != nil || n == 0 {
		return nil
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(path, list); err != nil {
		return nil
	}
	var found []string
	for _, attr := range strings.Split(string(list[:n]), "\x00") {
		if overlayXattr(attr) {
			found = append(found, attr)
		}
	}
	return found
}

// repairInit makes the init lower right where it lies: containers that run have it below them.
func (s *Store) repairInit() ([]string, error) {
	var done []string
	root := s.path("trees", "init", "fs")
	for _, d := range s.initDifferences() {
		path := filepath.Join(root, d.stub.path)
		var err error
		info, serr := os.Lstat(path)
		if !d.known || serr == nil && (info.IsDir() != d.stub.dir || !d.stub.dir) {
			err = os.RemoveAll(path)
		}
		if d.known && err == nil {
			if _, serr := os.Lstat(path); errors.Is(serr, fs.ErrNotExist) {
				err = d.stub.make(root)
			} else {
				err = errors.Join(os.Lchown(path, 0, 0), os.Chmod(path, d.stub.mode()))
				for _, attr := range overlayXattrs(path) {
					err = errors.Join(err, unix.Lremovexattr(path, attr))
				}
			}
		}
		if err != nil {
			return done, fmt.Errorf("repair trees/init/fs/%s: %w", d.stub.path, err)
		}
		done = append(done, "trees/init/fs/"+d.stub.path)
	}
	return done, nil
}
