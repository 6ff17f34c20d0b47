package network

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/snapshot"
)

// The namespace is a new one that has a loopback interface, which is up, and nothing else, and this process is not in it.
func TestBegin(t *testing.T) {
	p := Begin()
	defer p.Close()
	f, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var made, ours unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &made); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat("/proc/self/ns/net", &ours); err != nil {
		t.Fatal(err)
	}
	if made.Ino == ours.Ino {
		t.Error("it is this process's own")
	}
	err = snapshot.OnPrivateThread(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		list, err := net.Interfaces()
		if err == nil && (len(list) != 1 || list[0].Flags&(net.FlagUp|net.FlagLoopback) != net.FlagUp|net.FlagLoopback) {
			t.Errorf("it has %v", list)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
