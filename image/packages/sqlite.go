package packages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// The package needs one table of one kind of database, in rowid order, and no SQL: the file format is documented and frozen
// (https://www.sqlite.org/fileformat2.html), and a library that knows all of SQLite is larger than all of layerctl's commands.

const maxLog = 128 << 20 // bytes of a write-ahead log; SQLite keeps it at 4 MB

// sqlite reads pages. One that the write-ahead log has is read from there.
type sqlite struct {
	db      file
	wal     file
	walAt   map[uint32]int64 // page number → where its newest committed version lies in the log
	page    int64            // bytes
	usable  int64            // of them
	pages   int64            // that there are
	visits  int64            // that are left: a page is in one tree, once
	payload []byte
}

var errSQLite = fmt.Errorf("it is no SQLite database: %w", ErrMalformed)

// readSQLite calls fn with the last column, a blob, of each row of a table whose first is its key.
func readSQLite(db file, wal *os.File, table string, fn func([]byte) error) error {
	var h [100]byte
	if err := db.at(h[:], 0); err != nil {
		return err
	}
	if string(h[:16]) != "SQLite format 3\x00" {
		return errSQLite
	}
	s := &sqlite{db: db, page: int64(binary.BigEndian.Uint16(h[16:]))}
	if s.page == 1 {
		s.page = 64 << 10
	}
	s.usable = s.page - int64(h[20])
	if s.page < 512 || s.page&(s.page-1) != 0 || s.usable < 480 {
		return errSQLite
	}
	s.pages = db.size / s.page
	if wal != nil {
		if err := s.openLog(wal); err != nil {
			return fmt.Errorf("read its write-ahead log: %w", err)
		}
	}
	s.visits = min(s.pages, (db.size+s.wal.size)/s.page)
	root := uint32(0)
	err := s.walk(1, 0, func(record []byte) error {
		// sqlite_schema: type, name, tbl_name, rootpage, sql
		columns, err := columns(record, 4)
		if err != nil {
			return err
		}
		if columns[0].text() == "table" && strings.EqualFold(columns[1].text(), table) {
			root = uint32(columns[3].integer())
		}
		return nil
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return fmt.Errorf("it has no table %s: %w", table, ErrMalformed)
	}
	return s.walk(root, 0, func(record []byte) error {
		columns, err := columns(record, 2)
		if err != nil {
			return err
		}
		return fn(columns[1].data)
	})
}

// read reads one page; numbers begin at 1.
func (s *sqlite) read(b []byte, number uint32) error {
	if s.visits--; s.visits < 0 {
		return fmt.Errorf("its pages lead in a circle: %w", ErrMalformed)
	}
	if number == 0 || int64(number) > s.pages {
		return fmt.Errorf("page %d of %d: %w", number, s.pages, ErrMalformed)
	}
	if at, ok := s.walAt[number]; ok {
		return s.wal.at(b, at)
	}
	return s.db.at(b, (int64(number)-1)*s.page)
}

// walk goes over a table's b-tree in order ("B-tree Pages").
func (s *sqlite) walk(number uint32, depth int, fn func(record []byte) error) error {
	const leaf, interior = 13, 5
	if depth > 20 {
		return fmt.Errorf("its tree has more than 20 levels: %w", ErrMalformed)
	}
	b := make([]byte, s.page)
	if err := s.read(b, number); err != nil {
		return err
	}
	head := 0
	if number == 1 {
		head = 100 // the file's header
	}
	kind, cells := b[head], int(binary.BigEndian.Uint16(b[head+3:]))
	pointers := head + 8
	if kind == interior {
		pointers += 4
	} else if kind != leaf {
		return fmt.Errorf("page %d is of type %d, no table's: %w", number, kind, ErrMalformed)
	}
	if int64(pointers+2*cells) > s.usable {
		return fmt.Errorf("page %d claims %d cells: %w", number, cells, ErrMalformed)
	}
	for i := range cells {
		at := int64(binary.BigEndian.Uint16(b[pointers+2*i:]))
		if at >= s.usable {
			return fmt.Errorf("page %d has a cell at %d: %w", number, at, ErrMalformed)
		}
		cell := b[at:s.usable]
		if kind == interior {
			if len(cell) < 4 {
				return fmt.Errorf("page %d has a cell at its end: %w", number, ErrMalformed)
			}
			if err := s.walk(binary.BigEndian.Uint32(cell), depth+1, fn); err != nil {
				return err
			}
			continue
		}
		record, err := s.record(cell)
		if err != nil {
			return err
		}
		if err := fn(record); err != nil {
			return err
		}
	}
	if kind == interior {
		return s.walk(binary.BigEndian.Uint32(b[head+8:]), depth+1, fn)
	}
	return nil
}

// record puts together what a leaf's cell holds: its beginning, and the pages it overflows to ("Cell Payload Overflow Pages"). It is
// good until the next one.
func (s *sqlite) record(cell []byte) ([]byte, error) {
	size, cell := sqliteVarint(cell)
	_, cell = sqliteVarint(cell) // the row's key
	if size < 0 || size > maxHeader+1024 || size > (s.pages+1)*s.page {
		return nil, fmt.Errorf("a row of %d bytes: %w", size, ErrMalformed)
	}
	local := size
	if most := s.usable - 35; size > most {
		least := (s.usable-12)*32/255 - 23
		if local = least + (size-least)%(s.usable-4); local > most {
			local = least
		}
	}
	if local < size && local+4 > int64(len(cell)) || local > int64(len(cell)) {
		return nil, fmt.Errorf("a row that goes over its page: %w", ErrMalformed)
	}
	if local == size {
		return cell[:local], nil
	}
	s.payload = append(s.payload[:0], cell[:local]...)
	next := binary.BigEndian.Uint32(cell[local:])
	b := make([]byte, s.page)
	for int64(len(s.payload)) < size {
		if err := s.read(b, next); err != nil {
			return nil, err
		}
		next = binary.BigEndian.Uint32(b)
		s.payload = append(s.payload, b[4:min(s.usable, 4+size-int64(len(s.payload)))]...)
	}
	return s.payload, nil
}

// sqliteVarint reads a number of one to nine bytes, the highest first; -1 where there is none.
func sqliteVarint(b []byte) (int64, []byte) {
	v := uint64(0)
	for i, c := range b {
		if i == 8 {
			return int64(v<<8 | uint64(c)), b[9:]
		}
		v = v<<7 | uint64(c&0x7f)
		if c < 0x80 {
			return int64(v), b[i+1:]
		}
	}
	return -1, nil
}

// column is one value of a record.
type column struct {
	kind int64
	data []byte
}

func (c column) text() string {
	if c.kind >= 13 && c.kind%2 == 1 {
		return string(c.data)
	}
	return ""
}

func (c column) integer() int64 {
	switch {
	case c.kind == 9:
		return 1
	case c.kind < 1 || c.kind > 6:
		return 0
	}
	v := int64(0)
	for _, b := range c.data {
		v = v<<8 | int64(b)
	}
	return v
}

// columns reads the first n columns of a record ("Record Format").
func columns(record []byte, n int) ([]column, error) {
	bad := fmt.Errorf("a row that does not parse: %w", ErrMalformed)
	size, types := sqliteVarint(record)
	if size < 1 || size > int64(len(record)) {
		return nil, bad
	}
	types = types[:max(0, int(size)-(len(record)-len(types)))]
	data := record[size:]
	list := make([]column, 0, n)
	for len(list) < n {
		var kind int64
		if kind, types = sqliteVarint(types); kind < 0 {
			return nil, bad
		}
		length := int64(0)
		switch {
		case kind >= 12:
			length = (kind - 12) / 2
		case kind <= 4:
			length = kind
		case kind == 5:
			length = 6
		case kind <= 7:
			length = 8
		}
		if length > int64(len(data)) {
			return nil, bad
		}
		list = append(list, column{kind, data[:length]})
		data = data[length:]
	}
	return list, nil
}

// openLog finds the newest committed version of each page that a write-ahead log has ("WAL File Format"). The log ends where a
// frame's salt or checksum is not what it must be: what lies behind is older.
func (s *sqlite) openLog(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > maxLog {
		return fmt.Errorf("%d bytes: %w", info.Size(), ErrLimit)
	}
	s.wal = file{f, info.Size()}
	const head, frameHead = 32, 24
	var h [head]byte
	if err := s.wal.at(h[:], 0); errors.Is(err, ErrMalformed) {
		return nil // empty: everything is in the database
	} else if err != nil {
		return err
	}
	magic := binary.BigEndian.Uint32(h[:])
	if magic&^1 != 0x377f0682 || int64(binary.BigEndian.Uint32(h[8:])) != s.page {
		return nil // as SQLite does
	}
	var order binary.ByteOrder = binary.LittleEndian
	if magic&1 == 1 {
		order = binary.BigEndian
	}
	var s0, s1 uint32
	sum := func(b []byte) {
		for ; len(b) >= 8; b = b[8:] {
			s0 += order.Uint32(b) + s1
			s1 += order.Uint32(b[4:]) + s0
		}
	}
	sum(h[:24])
	if s0 != binary.BigEndian.Uint32(h[24:]) || s1 != binary.BigEndian.Uint32(h[28:]) {
		return nil
	}
	pending := map[uint32]int64{}
	frame := make([]byte, frameHead+s.page)
	for at := int64(head); at+int64(len(frame)) <= s.wal.size; at += int64(len(frame)) {
		if err := s.wal.at(frame, at); err != nil {
			return err
		}
		if string(frame[8:16]) != string(h[16:24]) {
			break
		}
		sum(frame[:8])
		sum(frame[frameHead:])
		if s0 != binary.BigEndian.Uint32(frame[16:]) || s1 != binary.BigEndian.Uint32(frame[20:]) {
			break
		}
		pending[binary.BigEndian.Uint32(frame)] = at + frameHead
		if size := binary.BigEndian.Uint32(frame[4:]); size > 0 { // a commit, and the database's length after it
			if s.walAt == nil {
				s.walAt = map[uint32]int64{}
			}
			for number, where := range pending {
				s.walAt[number] = where
			}
			clear(pending)
			s.pages = int64(size)
		}
	}
	return nil
}
