package flock

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Tell is told what is waited for, a line, when a lock has not come within a second. It is set before the first lock is taken; nil tells
// nobody.
var Tell func(line string)

const patience = time.Second

// Try takes a lock of f, unix.LOCK_SH or unix.LOCK_EX, if nobody else has it: else it is unix.EWOULDBLOCK.
func Try(f *os.File, how int) error { return take(f, how|unix.LOCK_NB) }

func take(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// Lock is Try that waits for the others, until ctx ends. waiting is the line for Tell; "" where the caller has told it. On an error f is
// closed, or will be as soon as the lock comes after all.
func Lock(ctx context.Context, f *os.File, how int, waiting string) error {
	err := Try(f, how)
	if err == unix.EWOULDBLOCK && ctx.Err() == nil {
		err = wait(ctx, f, how, waiting)
	} else if err == unix.EWOULDBLOCK {
		err = ctx.Err()
		f.Close()
	} else if err != nil {
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

func wait(ctx context.Context, f *os.File, how int, waiting string) error {
	// flock(2) cannot be called off: a signal interrupts it only in the thread that it comes to.
	done := make(chan error, 1)
	go func() { done <- take(f, how) }()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				f.Close()
			}
			return err
		case <-late.C:
			if Tell != nil && waiting != "" {
				Tell(waiting)
			}
		case <-ctx.Done():
			go func() {
				<-done
				f.Close()
			}()
			return ctx.Err()
		}
	}
}
