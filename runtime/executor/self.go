package executor

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var name = [16]byte{'l', 'a', 'y', 'e', 'r', 'c', 't', 'l'} // TASK_COMM_LEN

const self = "/proc/self/exe"

// UnwritableSelf is a path by which this process, and a child that it has just made, runs this program from a read-only mount of its file
// that is attached nowhere, until done is called. Who runs it from there cannot be written to through his /proc/PID/exe: a root in whose
// sight he was, or whose command or interpreter led back to it, would otherwise write the host's program (CVE-2019-5736).
func UnwritableSelf() (path string, done func(), err error) {
	if is, err := Unwritable(); is || err != nil {
		return self, func() {}, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("mount this program: %w", err)
	}
	// Above the descriptors that a child is given, which take the places of others in it.
	up, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
	unix.Close(fd)
	if err != nil {
		return "", nil, fmt.Errorf("mount this program: %w", err)
	}
	if err := unix.MountSetattr(up, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		unix.Close(up)
		return "", nil, fmt.Errorf("mount this program read-only: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", up), func() { unix.Close(up) }, nil
}

// Unwritable says whether this program runs from a mount through which it cannot be written.
func Unwritable() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(self, &st); err != nil {
		return false, fmt.Errorf("look where this program is mounted: %w", err)
	}
	return st.Flags&unix.ST_RDONLY != 0, nil
}

// BecomeUnwritable runs this program from the beginning, as the same process with the same arguments, from where UnwritableSelf has it. It
// returns at once where that has been done. It is for whoever makes a process that others in its pid namespace see while it is still this
// program, and comes before anything else is done.
func BecomeUnwritable() error {
	path, done, err := UnwritableSelf()
	if err != nil {
		return err
	}
	defer done()
	if path == self {
		// It would be called by its descriptor.
		return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	}
	err = syscall.Exec(path, os.Args, os.Environ()) // with RLIMIT_NOFILE as it was
	return fmt.Errorf("run this program from a read-only mount: %w", err)
}
