package network

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// Pending is a network namespace that is being made.
type Pending struct {
	done chan struct{}
	file *os.File
	err  error
}

// Begin has a thread make a network namespace, with its loopback interface up and nothing else in it. The kernel takes about as long for that
// as for all other namespaces and mounts of a container together, and there is enough to do meanwhile.
func Begin() *Pending {
	p := &Pending{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = snapshot.OnPrivateThread(p.make)
	}()
	return p
}

// Wait returns the namespace, which stays p's.
func (p *Pending) Wait() (*os.File, error) {
	<-p.done
	return p.file, p.err
}

// Close lets the namespace go. It lives as long as there are processes in it.
func (p *Pending) Close() {
	if f, err := p.Wait(); err == nil {
		f.Close()
	}
}

func (p *Pending) make() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up the loopback interface: %w", err)
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err == nil {
		request.SetUint16(unix.IFF_UP)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(request)))
		if errno != 0 {
			err = errno
		}
	}
	if err != nil {
		return fmt.Errorf("bring up the loopback interface: %w", err)
	}
	if p.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	return nil
}
