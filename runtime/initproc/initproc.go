package initproc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Name is what init is called in its arguments and in /proc/PID/comm.
const Name = "layerctl-init"

// Memory makes the program's file: in memory, sealed, closed on exec. Its name shows in /proc/PID/exe.
func Memory() (*os.File, error) {
	fd, err := unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is of 6.3; before, every such file can be executed
		fd, err = unix.MemfdCreate(Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err == unix.EACCES || err == unix.EPERM {
		return nil, fmt.Errorf("make init: the host forbids running programs from memory (sysctl vm.memfd_noexec): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make init: %w", err)
	}
	f := os.NewFile(uintptr(fd), Name)
	_, err = f.WriteString(program)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make init: %w", err)
	}
	return f, nil
}
