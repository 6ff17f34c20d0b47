package packages

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// Why a database is refused; test with errors.Is. Messages name the file.
var (
	ErrMalformed = errors.New("malformed package database")
	ErrLimit     = errors.New("package database beyond limits")
)

const (
	maxDatabase = 1 << 30 // bytes of a database
	maxPackages = 100_000 // in all databases of a root; a distribution has some 60,000
	maxField    = 256     // bytes of a name, a version or an architecture
)

// Manager is the program that a package is installed by.
type Manager string

// The managers whose databases are read.
const (
	Dpkg Manager = "dpkg"
	APK  Manager = "apk"
	RPM  Manager = "rpm"
)

// Package is one that is installed.
type Package struct {
	Manager Manager
	Name    string
	Version string // as the manager prints it: an rpm's with release, and with epoch where that is not 0
	Arch    string
	Size    int64 // bytes installed, as the package claims
	Layer   int   // that it came with in this version, 0 the lowest; -1 where no layer's own database has it so

	part bool // it is in a file of its own
}

// Where the databases lie: deb-status(5) and dpkg(1); apk-tools' doc of its database, and its move to /usr; rpm's %_dbpath, which is the
// first or second, and the third in trees that OSTree has made.
const (
	dpkgStatus = "var/lib/dpkg/status"
	dpkgParts  = "var/lib/dpkg/status.d"
)

var (
	apkInstalled = [...]string{"lib/apk/db/installed", "usr/lib/apk/db/installed"}
	rpmDirs      = [...]string{"usr/lib/sysimage/rpm", "var/lib/rpm", "usr/share/rpm"}
	rpmForms     = [...]string{"rpmdb.sqlite", "Packages.db", "Packages"} // the newest first
)

// fixed are the paths at which a database lies; any of them may be missing.
func fixed() []string {
	paths := append([]string{dpkgStatus}, apkInstalled[:]...)
	for _, dir := range rpmDirs {
		for _, form := range rpmForms {
			paths = append(paths, dir+"/"+form)
		}
	}
	return paths
}

// database says whose database a path, relative to the root, is; "" for any other file.
func database(name string) Manager {
	dir, base := path.Split(name)
	switch dir = strings.TrimSuffix(dir, "/"); {
	case name == dpkgStatus, dir == dpkgParts && base != "" && !strings.HasSuffix(base, ".md5sums"):
		return Dpkg
	case slices.Contains(apkInstalled[:], name):
		return APK
	case slices.Contains(rpmDirs[:], dir) && slices.Contains(rpmForms[:], base):
		return RPM
	}
	return ""
}

// read reads databases out of a root and returns the packages by name. Paths are relative to it. Of a database that cannot be read the error says why, and the packages of the others are returned with it; one that is missing is
// none.
func read(open func(path string) (*os.File, error), paths []string) ([]Package, error) {
	var all []Package
	var failed []error
	for _, p := range paths {
		m := database(p)
		if m == "" || m == RPM && outdated(p, paths) {
			continue
		}
		list, err := readOne(open, p, m, maxPackages-len(all))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("read the %s database %s: %w", m, p, err))
			continue
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, order)
	// Two paths may be one directory, by a link.
	all = slices.Compact(all)
	return all, errors.Join(failed...)
}

// outdated says of one of rpm's databases that a newer form of it lies beside it, which is the one that rpm reads then.
func outdated(name string, paths []string) bool {
	dir, base := path.Split(name)
	for _, newer := range rpmForms {
		if newer == base {
			break
		}
		if slices.Contains(paths, dir+newer) {
			return true
		}
	}
	return false
}

func isPart(name string) bool { return path.Dir(name) == dpkgParts }

func order(a, b Package) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Manager, b.Manager), strings.Compare(a.Arch, b.Arch), Compare(a.Manager, a.Version, b.Version),
		strings.Compare(a.Version, b.Version))
}

func readOne(open func(string) (*os.File, error), name string, m Manager, room int) ([]Package, error) {
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("no regular file: %w", ErrMalformed)
	}
	if info.Size() > maxDatabase {
		return nil, fmt.Errorf("%d bytes, more than %d are not read: %w", info.Size(), maxDatabase, ErrLimit)
	}
	c := &collector{manager: m, part: isPart(name), room: room}
	switch m {
	case Dpkg:
		err = readDpkg(f, c)
	case APK:
		err = readAPK(f, c)
	default:
		var wal *os.File
		if path.Base(name) == "rpmdb.sqlite" {
			if wal, err = open(name + "-wal"); err == nil {
				defer wal.Close()
			} else if !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
		}
		err = readRPM(path.Base(name), file{f, info.Size()}, wal, c)
	}
	return c.list, err
}

// file is what a database's bytes are read from.
type file struct {
	io.ReaderAt
	size int64
}

// at reads exactly len(b) bytes.
func (f file) at(b []byte, off int64) error {
	if off < 0 || off > f.size-int64(len(b)) {
		return fmt.Errorf("%d bytes at %d of %d: %w", len(b), off, f.size, ErrMalformed)
	}
	if _, err := f.ReadAt(b, off); err == io.EOF {
		return fmt.Errorf("it ends at %d: %w", off, ErrMalformed)
	} else if err != nil {
		return err
	}
	return nil
}

// collector takes packages until there are too many.
type collector struct {
	manager Manager
	part    bool
	room    int
	list    []Package
}

func (c *collector) add(p Package) error {
	if p.Name == "" || p.Version == "" {
		return fmt.Errorf("a package without name or version: %w", ErrMalformed)
	}
	for _, s := range [...]string{p.Name, p.Version, p.Arch} {
		if len(s) > maxField {
			return fmt.Errorf("a field of %d bytes, %.40q…: %w", len(s), s, ErrMalformed)
		}
	}
	if len(c.list) >= c.room {
		return fmt.Errorf("more than %d packages: %w", maxPackages, ErrLimit)
	}
	p.Manager, p.Layer, p.Size, p.part = c.manager, -1, max(p.Size, 0), c.part
	c.list = append(c.list, p)
	return nil
}

// lines calls fn with each line of r without its end, cut at 4 KiB: what is wanted is shorter, and descriptions may be of any length.
func lines(r io.Reader, fn func(line []byte) error) error {
	b := bufio.NewReaderSize(r, 4<<10)
	for whole := true; ; {
		line, err := b.ReadSlice('\n')
		if err != nil && err != bufio.ErrBufferFull && err != io.EOF {
			return err
		}
		if begins := whole; begins && (len(line) > 0 || err == nil) {
			if n := len(line); n > 0 && line[n-1] == '\n' {
				line = line[:n-1]
			}
			if ferr := fn(line); ferr != nil {
				return ferr
			}
		}
		whole = err == nil
		if err == io.EOF {
			return nil
		}
	}
}
