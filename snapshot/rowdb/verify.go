package rowdb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Contents are the rows of a database file as Verify read them: by bucket and key.
type Contents map[string]map[string][]byte

// Verified is a database file as Verify read it.
type Verified struct {
	Rows     Contents
	Problems []string // what is wrong with the file, as the end of a sentence that begins with its name
	sum      [32]byte // of the file
}

// Verify reads the whole file without the help of bbolt, which panics, or worse, on a damaged one, and says what is wrong with it. It is
// stricter than bbolt's own check: both of the first pages must be whole (with the newer one damaged, bbolt goes back to the state
// before the last transaction and says nothing), every page below the high-water mark must be used once or free, and elements must lie
// as bbolt packs them, so that none can be missing. What could be read is in the contents all the same. A file that is not there has no
// rows and no problems.
func (d *DB) Verify() (*Verified, error) {
	unlock, err := d.lock(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(d.path)
	unlock()
	if errors.Is(err, fs.ErrNotExist) {
		return &Verified{Rows: Contents{}, sum: sha256.Sum256(nil)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read database: %w", err)
	}
	v := verifier{data: data, rows: Contents{}, used: map[uint64]bool{}}
	v.run()
	return &Verified{v.rows, v.problems, sha256.Sum256(data)}, nil
}

// The form of the file (bbolt's internal/common: page.go, meta.go, bucket.go), in the byte order of the machine.
const (
	pageHeader  = 16 // id uint64, flags uint16, count uint16, overflow uint32
	elementSize = 16 // branch: pos, ksize uint32, page uint64; leaf: flags, pos, ksize, vsize uint32
	bucketSize  = 16 // root page, sequence uint64; with root page 0, a page follows in place
	metaSize    = 64 // magic, version, page size, flags uint32; root bucket; freelist, high water, transaction, checksum uint64
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	pageBranch  = 1
	pageLeaf    = 2
	pageMeta    = 4
	pageFree    = 16
	noFreelist  = ^uint64(0)
)

var order = binary.NativeEndian

type verifier struct {
	data     []byte
	size     uint64 // of a page
	end      uint64 // the high-water mark: pages from here on have never been used
	used     map[uint64]bool
	free     map[uint64]bool
	rows     Contents
	problems []string
}

func (v *verifier) problem(format string, a ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, a...))
}

// meta returns the meta record at a position, or nil where it is none.
func (v *verifier) meta(at uint64) []byte {
	if at+pageHeader+metaSize > uint64(len(v.data)) {
		return nil
	}
	m := v.data[at+pageHeader:][:metaSize]
	sum := fnv.New64a()
	sum.Write(m[:metaSize-8])
	if order.Uint32(m) != metaMagic || order.Uint32(m[4:]) != metaVersion || order.Uint64(m[56:]) != sum.Sum64() {
		return nil
	}
	return m
}

func (v *verifier) run() {
	var newest []byte
	if m := v.meta(0); m != nil {
		v.size = uint64(order.Uint32(m[8:]))
	} else {
		for size := uint64(1024); size <= 16<<20; size *= 2 {
			if m := v.meta(size); m != nil && uint64(order.Uint32(m[8:])) == size {
				v.size = size
				break
			}
		}
	}
	if v.size == 0 {
		v.problem("neither of its first two pages is whole")
		return
	}
	for i := range uint64(2) {
		m := v.meta(i * v.size)
		if m == nil {
			v.problem("page %d, which says where everything is, is damaged", i)
			continue
		}
		if h := v.data[i*v.size:]; order.Uint64(h) != i || order.Uint16(h[8:]) != pageMeta {
			v.problem("the header of page %d is damaged", i)
		}
		if newest == nil || order.Uint64(m[48:]) > order.Uint64(newest[48:]) {
			newest = m
		}
	}
	v.end = order.Uint64(newest[40:])
	if have := uint64(len(v.data)) / v.size; v.end > have {
		v.problem("it was cut to %d of %d pages", have, v.end)
	}
	v.freelist(order.Uint64(newest[32:]))
	v.bucket("", order.Uint64(newest[16:]), nil)
	for id := uint64(2); id < min(v.end, uint64(len(v.data))/v.size); id++ {
		if !v.used[id] && !v.free[id] {
			v.problem("page %d is neither used nor free", id)
		}
	}
}

// page returns the page id with what overflows from it, and notes that it is used.
func (v *verifier) page(id uint64, kinds ...uint16) []byte {
	if id < 2 || id >= v.end || (id+1)*v.size > uint64(len(v.data)) {
		v.problem("page %d is referred to, which does not exist", id)
		return nil
	}
	p := v.data[id*v.size:]
	more := uint64(order.Uint32(p[12:]))
	if order.Uint64(p) != id || id+more >= v.end || (id+more+1)*v.size > uint64(len(v.data)) {
		v.problem("the header of page %d is damaged", id)
		return nil
	}
	for i := id; i <= id+more; i++ {
		if v.used[i] || v.free[i] {
			v.problem("page %d is used twice", i)
			return nil
		}
		v.used[i] = true
	}
	for _, kind := range kinds {
		if order.Uint16(p[8:]) == kind {
			return p[:(more+1)*v.size]
		}
	}
	v.problem("page %d is of the wrong kind", id)
	return nil
}

func (v *verifier) freelist(id uint64) {
	v.free = map[uint64]bool{}
	if id == noFreelist {
		return
	}
	p := v.page(id, pageFree)
	if p == nil {
		return
	}
	n, at := uint64(order.Uint16(p[10:])), uint64(pageHeader)
	if n == 0xffff {
		n, at = order.Uint64(p[at:]), at+8
	}
	if n > (uint64(len(p))-at)/8 {
		v.problem("the list of free pages is damaged")
		return
	}
	before := uint64(1)
	for ; n > 0; n, at = n-1, at+8 {
		free := order.Uint64(p[at:])
		if free <= before || free >= v.end || v.used[free] {
			v.problem("the list of free pages is damaged")
			return
		}
		v.free[free] = true
		before = free
	}
}

// bucket reads the bucket of a name ("" for the one that holds the others), whose root is a page or lies in place.
func (v *verifier) bucket(name string, root uint64, inline []byte) {
	if name != "" && v.rows[name] == nil {
		v.rows[name] = map[string][]byte{}
	}
	if root == 0 {
		if len(inline) < pageHeader || order.Uint64(inline) != 0 || order.Uint16(inline[8:]) != pageLeaf || order.Uint32(inline[12:]) != 0 {
			v.problem("bucket %q is damaged", name)
			return
		}
		if end := v.leaf(name, inline, nil, nil); end != len(inline) && end >= 0 {
			v.problem("bucket %q is damaged", name)
		}
		return
	}
	v.descend(name, root, nil, nil, true, 0)
}

// descend reads the pages below one. Keys are at least low and below high, where those are not nil.
func (v *verifier) descend(name string, id uint64, low, high []byte, top bool, depth int) {
	if depth > 64 {
		v.problem("page %d lies too deep", id)
		return
	}
	p := v.page(id, pageLeaf, pageBranch)
	if p == nil {
		return
	}
	if order.Uint16(p[8:]) == pageLeaf {
		if !top && order.Uint16(p[10:]) == 0 {
			v.problem("page %d is empty", id)
		}
		v.leaf(name, p, low, high)
		return
	}
	n := int(order.Uint16(p[10:]))
	at := pageHeader + n*elementSize
	var keys [][]byte
	var pages []uint64
	for i := range n {
		e := pageHeader + i*elementSize
		if e+elementSize > len(p) {
			v.problem("page %d is damaged", id)
			return
		}
		pos, size := int(order.Uint32(p[e:])), int(order.Uint32(p[e+4:]))
		if e+pos != at || size > len(p)-at {
			v.problem("page %d is damaged: its elements do not lie one after the other", id)
			return
		}
		keys, pages = append(keys, p[at:at+size]), append(pages, order.Uint64(p[e+8:]))
		at += size
	}
	if n == 0 {
		v.problem("page %d is empty", id)
	}
	for i := range n {
		next := high
		if i+1 < n {
			next = keys[i+1]
		}
		v.inOrder(id, keys[i], low, next)
		v.descend(name, pages[i], keys[i], next, false, depth+1)
		low = keys[i]
	}
}

func (v *verifier) inOrder(id uint64, key, low, high []byte) {
	if low != nil && bytes.Compare(key, low) < 0 || high != nil && bytes.Compare(key, high) >= 0 {
		v.problem("page %d is damaged: its keys are out of order", id)
	}
}

// leaf reads the rows of a leaf and returns where they end, -1 for a page that cannot be read.
func (v *verifier) leaf(name string, p []byte, low, high []byte) int {
	id, n := order.Uint64(p), int(order.Uint16(p[10:]))
	at := pageHeader + n*elementSize
	if at > len(p) {
		v.problem("page %d is damaged", id)
		return -1
	}
	for i := range n {
		e := pageHeader + i*elementSize
		flags, pos := order.Uint32(p[e:]), int(order.Uint32(p[e+4:]))
		ksize, vsize := int(order.Uint32(p[e+8:])), int(order.Uint32(p[e+12:]))
		if e+pos != at || ksize > len(p)-at || vsize > len(p)-at-ksize {
			v.problem("page %d is damaged: its elements do not lie one after the other", id)
			return -1
		}
		key, value := p[at:at+ksize], p[at+ksize:at+ksize+vsize]
		at += ksize + vsize
		v.inOrder(id, key, low, high)
		low = append(bytes.Clone(key), 0) // the next one is greater
		switch {
		case flags == 1 && name == "" && vsize >= bucketSize:
			root := order.Uint64(value)
			if root != 0 && vsize != bucketSize || root == 0 && vsize < bucketSize+pageHeader {
				v.problem("bucket %q is damaged", key)
				continue
			}
			v.bucket(string(key), root, value[bucketSize:])
		case flags == 0 && name != "":
			v.rows[name][string(key)] = bytes.Clone(value)
		default:
			v.problem("page %d is damaged: an element of the wrong kind", id)
		}
	}
	return at
}
