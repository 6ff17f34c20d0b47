package monitor

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Bind makes a listening socket at a path, for Hub.Listen, which only the owner of it may connect with. What was at the path is removed:
// whoever makes a container's socket is the container's only monitor.
func Bind(path string) (fd int, err error) {
	err = at(path, func(short string) error {
		if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
			return err
		}
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		// The mode of the socket's file is made of that of the socket (unix(7)), so that nobody can connect before it is restricted.
		err := unix.Fchmod(fd, 0o600)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: short})
		}
		if err == nil {
			err = unix.Listen(fd, 64)
		}
		if err != nil {
			unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make socket %s: %w", path, err)
	}
	return fd, nil
}

// Dial connects with the monitor that listens at a path. The error is fs.ErrNotExist or ECONNREFUSED where there is none.
func Dial(path string) (*Conn, error) {
	var fd int
	err := at(path, func(short string) (err error) {
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		for {
			if err = unix.Connect(fd, &unix.SockaddrUnix{Name: short}); err != unix.EINTR {
				break
			}
		}
		if err != nil {
			unix.Close(fd)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect with %s: %w", path, err)
	}
	return NewConn(fd)
}

// at calls do with a name for the path that is short enough for a socket's address (108 bytes, unix(7)).
func at(path string, do func(short string) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(dir)
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}
