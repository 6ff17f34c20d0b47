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

// OpenSelf opens this program's file in a read-only mount of its own that is attached nowhere. Who runs it from there, by its path
// /proc/self/fd/N, cannot be written to through his /proc/PID/exe: a root in whose sight he was, or whose command or interpreter led back to
// it, would otherwise write the host's program (CVE-2019-5736). Below that the file itself is as writable as ever.
func OpenSelf() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount this program: %w", err)
	}
	f := os.NewFile(uintptr(fd), self)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		f.Close()
		return nil, fmt.Errorf("mount this program read-only: %w", err)
	}
	return f, nil
}

// Unwritable says whether this program runs from a mount through which it cannot be written.
func Unwritable() (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(self, &st); err != nil {
		return false, fmt.Errorf("look where this program is mounted: %w", err)
	}
	return st.Flags&unix.ST_RDONLY != 0, nil
}

// BecomeUnwritable runs this program from the beginning, as the same process with the same arguments, from where OpenSelf has it. It returns
// at once where that has been done. It is for whoever makes a process that others in its pid namespace see while it is still this program,
// and comes before anything else is done.
func BecomeUnwritable() error {
	if done, err := Unwritable(); done || err != nil {
		if err == nil { // it would be called by its descriptor
			err = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
		}
		return err
	}
	f, err := OpenSelf()
	if err != nil {
		return err
	}
	err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.Args, os.Environ()) // with RLIMIT_NOFILE as it was
	return fmt.Errorf("run this program from a read-only mount: %w", err)
}
