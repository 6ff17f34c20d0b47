package packages

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
)

// maxHeader is how long a package's header may be. One lists the package's files: the largest of a distribution takes some 5 MB.
const maxHeader = 64 << 20

// readRPM reads the headers out of one of rpm's three forms, which its file's name tells.
func readRPM(name string, db file, wal *os.File, c *collector) error {
	header := func(blob []byte) error {
		p, err := parseHeader(blob)
		if err != nil {
			return err
		}
		return c.add(p)
	}
	switch name {
	case "rpmdb.sqlite":
		return readSQLite(db, wal, "Packages", header)
	case "Packages.db":
		return readNDB(db, header)
	}
	return readBDB(db, header)
}

// The tags that are read (rpm's rpmtag.h), and the types of their values.
const (
	tagName      = 1000
	tagVersion   = 1001
	tagRelease   = 1002
	tagEpoch     = 1003
	tagSize      = 1009
	tagArch      = 1022
	tagLongSize  = 5009
	typeInt32    = 4
	typeInt64    = 5
	typeString   = 6
	typeI18N     = 9
	headerEntry  = 16
	headerPrefix = 8
)

// parseHeader reads a header as the database keeps it, without its magic: the number of entries, the length of the data, the entries
// (tag, type, offset, count), the data; all big-endian (rpm's docs/manual/format_header.md).
func parseHeader(b []byte) (p Package, err error) {
	if len(b) < headerPrefix {
		return p, fmt.Errorf("a header of %d bytes: %w", len(b), ErrMalformed)
	}
	n, size := uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
	if headerPrefix+n*headerEntry+size > uint64(len(b)) {
		return p, fmt.Errorf("a header of %d entries and %d bytes in %d: %w", n, size, len(b), ErrMalformed)
	}
	data := b[headerPrefix+n*headerEntry:][:size]
	var version, release string
	var epoch, long uint64
	for e := b[headerPrefix:][:n*headerEntry]; len(e) > 0; e = e[headerEntry:] {
		tag, kind := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:])
		switch tag {
		case tagName, tagVersion, tagRelease, tagEpoch, tagSize, tagArch, tagLongSize:
		default:
			continue
		}
		at := binary.BigEndian.Uint32(e[8:])
		if uint64(at) >= size {
			return p, fmt.Errorf("tag %d lies at %d of %d: %w", tag, at, size, ErrMalformed)
		}
		text, number := "", uint64(0)
		switch value := data[at:]; {
		case kind == typeString || kind == typeI18N:
			end := bytes.IndexByte(value, 0)
			if end < 0 || end > maxField {
				return p, fmt.Errorf("the string of tag %d does not end: %w", tag, ErrMalformed)
			}
			text = string(value[:end])
		case kind == typeInt32 && len(value) >= 4:
			number = uint64(binary.BigEndian.Uint32(value))
		case kind == typeInt64 && len(value) >= 8:
			number = binary.BigEndian.Uint64(value)
		default:
			return p, fmt.Errorf("tag %d is of type %d: %w", tag, kind, ErrMalformed)
		}
		switch tag {
		case tagName:
			p.Name = text
		case tagVersion:
			version = text
		case tagRelease:
			release = text
		case tagArch:
			p.Arch = text
		case tagEpoch:
			epoch = number
		case tagSize:
			p.Size = int64(min(number, math.MaxInt64))
		case tagLongSize:
			long = number
		}
	}
	if long > 0 {
		p.Size = int64(min(long, math.MaxInt64))
	}
	p.Version = version
	if release != "" {
		p.Version += "-" + release
	}
	if epoch > 0 {
		p.Version = fmt.Sprintf("%d:%s", epoch, p.Version)
	}
	return p, nil
}

// readNDB reads rpm's own database (lib/backend/ndb/rpmpkg.c): pages of 4 KiB with slots, two of which are the file's header, and blobs
// behind them; all little-endian.
func readNDB(f file, fn func([]byte) error) error {
	const page, slot, block, head = 4096, 16, 16, 16
	le := binary.LittleEndian
	var h [32]byte
	if err := f.at(h[:], 0); err != nil {
		return err
	}
	if string(h[:4]) != "RpmP" {
		return fmt.Errorf("it does not begin as an ndb: %w", ErrMalformed)
	}
	if v := le.Uint32(h[4:]); v != 0 {
		return fmt.Errorf("it is an ndb of version %d: %w", v, ErrMalformed)
	}
	pages := int64(le.Uint32(h[12:]))
	if pages > f.size/page {
		return fmt.Errorf("it claims %d pages of slots: %w", pages, ErrMalformed)
	}
	room := f.size // a blob lies at one place, so all of them have no more bytes than the file
	var slots [page]byte
	var blob []byte
	for i := range pages {
		if err := f.at(slots[:], i*page); err != nil {
			return err
		}
		for at := 0; at < page; at += slot {
			s := slots[at:]
			if i == 0 && at < len(h) {
				continue
			}
			if string(s[:4]) != "Slot" {
				return fmt.Errorf("a slot without its mark: %w", ErrMalformed)
			}
			index, where := le.Uint32(s[4:]), int64(le.Uint32(s[8:]))*block
			if where == 0 {
				continue
			}
			var b [head]byte
			if err := f.at(b[:], where); err != nil {
				return err
			}
			n := int64(le.Uint32(b[12:]))
			if string(b[:4]) != "BlbS" || le.Uint32(b[4:]) != index || n > maxHeader || n > room {
				return fmt.Errorf("the blob at %d is not that of its slot: %w", where, ErrMalformed)
			}
			room -= n
			blob = grow(blob, n)
			if err := f.at(blob, where+head); err != nil {
				return err
			}
			if err := fn(blob); err != nil {
				return err
			}
		}
	}
	return nil
}

// grow gives room for n bytes, once the file is known to have them.
func grow(b []byte, n int64) []byte {
	if int64(cap(b)) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// readBDB reads a hash of Berkeley DB (src/dbinc/db_page.h): every pair on every page of a hash, whichever bucket it is in. Numbers are
// in the order of the machine that made it, which the magic tells.
func readBDB(f file, fn func([]byte) error) error {
	const (
		hashMagic, pageHead                = 0x061561, 26
		unsortedPage, sortedPage, overflow = 2, 13, 7
		keyData, offPage                   = 1, 3
	)
	var meta [72]byte
	if err := f.at(meta[:], 0); err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if binary.BigEndian.Uint32(meta[12:]) == hashMagic {
		order = binary.BigEndian
	}
	if order.Uint32(meta[12:]) != hashMagic {
		return fmt.Errorf("it is no hash of Berkeley DB: %w", ErrMalformed)
	}
	if meta[24] != 0 {
		return fmt.Errorf("it is encrypted: %w", ErrMalformed)
	}
	size := int64(order.Uint32(meta[20:]))
	if size < 512 || size > 64<<10 || size&(size-1) != 0 {
		return fmt.Errorf("its pages have %d bytes: %w", size, ErrMalformed)
	}
	page, more := make([]byte, size), make([]byte, size)
	left := f.size / size // pages of overflow: one belongs to one value
	var blob []byte
	for at := size; at+size <= f.size; at += size {
		if err := f.at(page, at); err != nil {
			return err
		}
		if page[25] != unsortedPage && page[25] != sortedPage {
			continue
		}
		n := int64(order.Uint16(page[20:]))
		if pageHead+2*n > size {
			return fmt.Errorf("the page at %d claims %d items: %w", at, n, ErrMalformed)
		}
		item := func(i int64) int64 { return int64(order.Uint16(page[pageHead+2*i:])) }
		for i := int64(0); i+1 < n; i += 2 {
			// Items are laid down from the page's end; one ends where the one before it begins.
			key, data, end := item(i), item(i+1), size
			if i > 0 {
				end = item(i - 1)
			}
			if data < pageHead || data >= key || key >= end || end > size {
				return fmt.Errorf("the page at %d has items out of order: %w", at, ErrMalformed)
			}
			// The key is a number of four bytes; number 0 holds the next one to give away.
			if k := page[key:end]; k[0] == keyData && len(k) == 5 && order.Uint32(k[1:]) == 0 {
				continue
			}
			switch v := page[data:key]; {
			case v[0] == keyData:
				blob = append(blob[:0], v[1:]...)
			case v[0] == offPage && len(v) >= 12:
				next, want := int64(order.Uint32(v[4:])), int64(order.Uint32(v[8:]))
				if want > maxHeader || want > f.size {
					return fmt.Errorf("a value of %d bytes: %w", want, ErrMalformed)
				}
				blob = blob[:0]
				for int64(len(blob)) < want {
					if left--; left < 0 || next == 0 {
						return fmt.Errorf("a value goes on after the pages that it can have: %w", ErrMalformed)
					}
					if err := f.at(more, next*size); err != nil {
						return err
					}
					part := int64(order.Uint16(more[22:]))
					if more[25] != overflow || part == 0 || part > size-pageHead {
						return fmt.Errorf("page %d is not the rest of a value: %w", next, ErrMalformed)
					}
					blob = append(blob, more[pageHead:pageHead+part]...)
					next = int64(order.Uint32(more[16:]))
				}
				blob = blob[:want]
			default:
				return fmt.Errorf("a value of type %d: %w", v[0], ErrMalformed)
			}
			if err := fn(blob); err != nil {
				return err
			}
		}
	}
	return nil
}
