package monitor

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Rest lets go of this program's own pages, for a process that from now on mostly sleeps: what a start has read of the file would stay mapped,
// some ten megabytes that nobody else may have. What is needed again is mapped again, from the page cache.
func Rest() error {
	var exe unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &exe); err != nil {
		return fmt.Errorf("look at this program: %w", err)
	}
	inode := strconv.FormatUint(exe.Ino, 10)
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("look at this program's memory: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() { // proc_pid_maps(5)
		fields := strings.Fields(lines.Text())
		// What can be written to is not as it is in the file.
		if len(fields) < 6 || fields[4] != inode || strings.Contains(fields[1], "w") {
			continue
		}
		begin, end, _ := strings.Cut(fields[0], "-")
		from, err := strconv.ParseUint(begin, 16, 64)
		to, terr := strconv.ParseUint(end, 16, 64)
		if err = errors.Join(err, terr); err != nil {
			return fmt.Errorf("look at this program's memory: %w", err)
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("let go of memory: %w", errno)
		}
	}
	return lines.Err()
}
