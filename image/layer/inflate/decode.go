package inflate

import (
	"encoding/binary"
	"io"
)

// decoder inflates one deflate stream (RFC 1951).
type decoder struct {
	src      io.Reader
	in       []byte // input that was read: in[pos:filled] is left
	pos      int
	filled   int
	srcErr   error  // what src said at last
	word     uint64 // the next bits of the stream, lowest first, that are no longer in in
	have     uint   // how many; under 8 between calls of its methods
	state    state
	final    bool  // this block is the last
	fixed    bool  // the tables are those of fixed codes
	stored   int   // bytes left of a stored block
	produced int64 // bytes since the stream's beginning
	lit      [litSize]entry
	dist     [distSize]entry
}

type state int

const (
	atHeader state = iota
	inStored
	inCodes
)

const (
	inSize = 64 << 10

	// The longest header of a block has 14 bits of counts, 19 lengths of 3 bits and 316 of at most 14: under 570 bytes.
	headerSize = 600

	// One round of the fast loop takes at most 16 bytes of input, and looks at the 8 behind them; it makes at most 3 literals and a
	// match of 258 bytes, written in words of 8 of which the last may reach over its end, by up to 16.
	inSlack  = 32
	outSlack = 320
)

// reset makes the decoder begin a new stream where it is in its input.
func (d *decoder) reset() {
	d.word, d.have = 0, 0
	d.state, d.final, d.produced = atHeader, false, 0
}

// need reads until there are n bytes of input, or the source has ended.
func (d *decoder) need(n int) error {
	for empty := 0; d.filled-d.pos < n && d.srcErr == nil; {
		if d.pos > 0 {
			d.filled = copy(d.in, d.in[d.pos:d.filled])
			d.pos = 0
		}
		var m int
		m, d.srcErr = d.src.Read(d.in[d.filled:])
		d.filled += m
		if empty++; m > 0 {
			empty = 0
		} else if empty > 100 && d.srcErr == nil {
			d.srcErr = io.ErrNoProgress
		}
	}
	if d.filled-d.pos < n && d.srcErr != io.EOF {
		return d.srcErr
	}
	return nil
}

// decode inflates into buf from at on, until less than outSlack bytes are free or the stream ends, which is io.EOF. Before at lie
// the last bytes that it gave, History of them or all of this stream.
func (d *decoder) decode(buf []byte, at int) (n int, err error) {
	op := at
	floor := at - int(min(d.produced, History)) // no match reaches below
	for err == nil && len(buf)-op >= outSlack {
		switch d.state {
		case atHeader:
			if d.final {
				return op - at, io.EOF
			}
			err = d.header()
		case inStored:
			op, err = d.copyStored(buf, op)
		case inCodes:
			if err = d.need(inSlack); err != nil {
				break
			}
			if d.filled-d.pos >= inSlack {
				op, err = d.fast(buf, op, floor)
			} else {
				op, err = d.careful(buf, op, floor)
			}
		}
	}
	d.produced += int64(op - at)
	return op - at, err
}

func load(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }

func store(b []byte, i int, v uint64) { binary.LittleEndian.PutUint64(b[i:], v) }

// fast decodes symbols while there is plenty of input and room.
func (d *decoder) fast(buf []byte, op, floor int) (int, error) {
	const litMask, distMask = 1<<litBits - 1, 1<<distBits - 1
	in, ip := d.in[:d.filled], d.pos
	lit, dist := &d.lit, &d.dist
	word, have := d.word, d.have
	inLimit, outLimit := len(in)-inSlack, len(buf)-outSlack
	var err error
	for ip <= inLimit && op <= outLimit {
		word |= load(in, ip) << (have & 63)
		ip += int((63 - have) >> 3)
		have |= 56
		// 56 bits: two literals of the first table and a length with its extra bits, 42, or three literals, 33, and a length that is
		// looked at again.
		e := lit[word&litMask]
		if e&literal != 0 {
			word >>= e & 63
			have -= uint(e & 63)
			buf[op] = byte(e >> 16)
			op++
			e = lit[word&litMask]
			if e&literal != 0 {
				word >>= e & 63
				have -= uint(e & 63)
				buf[op] = byte(e >> 16)
				op++
				e = lit[word&litMask]
				if e&literal != 0 {
					word >>= e & 63
					have -= uint(e & 63)
					buf[op] = byte(e >> 16)
					op++
					continue
				}
			}
		}
		if e&odd != 0 {
			if e&link != 0 {
				word >>= e & 63
				have -= uint(e & 63)
				e = lit[(e>>16+entry(word)&(1<<(e>>8&15)-1))&(litSize-1)]
				if e&literal != 0 {
					word >>= e & 63
					have -= uint(e & 63)
					buf[op] = byte(e >> 16)
					op++
					continue
				}
			}
			if e&odd != 0 {
				if e&end == 0 {
					err = errSymbol
				} else {
					word >>= e & 63
					have -= uint(e & 63)
					d.state = atHeader
				}
				break
			}
		}
		length := int(e>>16) + int(word&(1<<(e&63)-1)>>(e>>8&15))
		word >>= e & 63
		have -= uint(e & 63)

		word |= load(in, ip) << (have & 63)
		ip += int((63 - have) >> 3)
		have |= 56
		e = dist[word&distMask]
		if e&odd != 0 {
			if e&link != 0 {
				word >>= e & 63
				have -= uint(e & 63)
				e = dist[(e>>16+entry(word)&(1<<(e>>8&15)-1))&(distSize-1)]
			}
			if e&odd != 0 {
				err = errSymbol
				break
			}
		}
		offset := int(e>>16) + int(word&(1<<(e&63)-1)>>(e>>8&15))
		word >>= e & 63
		have -= uint(e & 63)

		from := op - offset
		if from < floor {
			err = errDistance
			break
		}
		to := op
		op += length
		if offset >= 8 {
			store(buf, to, load(buf, from))
			store(buf, to+8, load(buf, from+8))
			for to += 16; to < op; to += 16 {
				from += 16
				store(buf, to, load(buf, from))
				store(buf, to+8, load(buf, from+8))
			}
		} else if offset == 1 {
			v := uint64(buf[from]) * 0x0101010101010101
			for ; to < op; to += 8 {
				store(buf, to, v)
			}
		} else {
			for ; to < op; to++ {
				buf[to] = buf[from]
				from++
			}
		}
	}
	// Whole bytes go back to the input.
	d.pos = ip - int(have>>3)
	d.have = have & 7
	d.word = word & (1<<d.have - 1)
	return op, err
}

// careful decodes the last symbols of the input, one at a time.
func (d *decoder) careful(buf []byte, op, floor int) (int, error) {
	for len(buf)-op >= outSlack {
		d.refill()
		e := d.lookup(d.lit[:], litBits)
		size := uint(e & 63)
		if d.have < size || e&odd != 0 && e&end == 0 {
			return op, d.broken(size)
		}
		if e&end != 0 {
			d.skip(size)
			d.state = atHeader
			break
		}
		if e&literal != 0 {
			d.skip(size)
			buf[op] = byte(e >> 16)
			op++
			continue
		}
		length := int(e>>16) + int(d.word&(1<<size-1)>>(e>>8&15))
		d.skip(size)
		e = d.lookup(d.dist[:], distBits)
		size = uint(e & 63)
		if d.have < size || e&odd != 0 {
			return op, d.broken(size)
		}
		from := op - int(e>>16) - int(d.word&(1<<size-1)>>(e>>8&15))
		d.skip(size)
		if from < floor {
			return op, errDistance
		}
		for range length {
			buf[op] = buf[from]
			op++
			from++
		}
	}
	d.giveBack()
	return op, nil
}
