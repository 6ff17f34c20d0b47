package direct

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// BufferSize is the size of a Buffer: with less, the disk waits for us more often than need be.
	BufferSize = 1 << 20
	// Align is what offsets and lengths are multiples of, but at a file's end. It is a multiple of every common disk's block.
	Align = 4096
)

// File writes to an open file.
type File struct {
	fd     int
	direct bool
}

// New returns a File of a descriptor that was opened to write. The descriptor stays the caller's.
func New(fd int) *File {
	f := &File{fd: fd}
	f.direct = f.set(true) == nil
	return f
}

func (f *File) set(on bool) error {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
	return err
}

// WriteAt writes all of p, which lies at the beginning of a Buffer or a multiple of Align behind it, at an offset that is such a
// multiple. Of a length that is none, the rest is written through the page cache, and so is everything after it.
func (f *File) WriteAt(p []byte, at int64) error {
	for len(p) > 0 {
		part := p
		if f.direct {
			if part = p[:len(p)/Align*Align]; len(part) == 0 {
				if err := f.set(false); err != nil {
					return err
				}
				f.direct = false
				continue
			}
		}
		n, err := unix.Pwrite(f.fd, part, at)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EINVAL && f.direct: // it wants other multiples, or only said that it can
			if err := f.set(false); err != nil {
				return err
			}
			f.direct = false
			continue
		case err != nil:
			return err
		}
		p, at = p[n:], at+int64(n)
		if f.direct && n%Align != 0 { // what is left does not lie right any more
			if err := f.set(false); err != nil {
				return err
			}
			f.direct = false
		}
	}
	return nil
}

var buffers = sync.Pool{New: func() any {
	b := make([]byte, BufferSize+Align)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (Align - 1)
	b = b[skip : skip+BufferSize : skip+BufferSize]
	return &b
}}

// Buffer returns BufferSize bytes that lie right for WriteAt. Their content is whatever was there.
func Buffer() []byte { return *buffers.Get().(*[]byte) }

// Release gives back a buffer, or the beginning of one, that is not used any more.
func Release(b []byte) {
	b = b[:cap(b)]
	buffers.Put(&b)
}
