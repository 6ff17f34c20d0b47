package inflate

import "io"

// preOrder is the order in which the lengths of the code of lengths come. RFC 1951, 3.2.7.
var preOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// header reads the beginning of a block, and makes its tables.
func (d *decoder) header() error {
	if err := d.need(headerSize); err != nil {
		return err
	}
	h, ok := d.take(3)
	if !ok {
		return io.ErrUnexpectedEOF
	}
	d.final = h&1 != 0
	switch h >> 1 {
	case 0:
		// The length, and its complement, begin with a byte.
		d.word, d.have = 0, 0
		n, ok := d.take(32)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		if n&0xffff != ^n>>16&0xffff {
			return errStored
		}
		d.stored, d.state = int(n&0xffff), inStored
		return nil
	case 1:
		d.fixedTables()
		d.state = inCodes
		return nil
	case 2:
		if err := d.readTables(); err != nil {
			return err
		}
		d.state = inCodes
		d.giveBack()
		return nil
	}
	return errBlock
}

// fixedTables makes the tables of the fixed codes. RFC 1951, 3.2.6.
func (d *decoder) fixedTables() {
	if d.fixed {
		return
	}
	var lengths [288]uint8
	for s := range lengths {
		switch {
		case s < 144:
			lengths[s] = 8
		case s < 256:
			lengths[s] = 9
		case s < 280:
			lengths[s] = 7
		default:
			lengths[s] = 8
		}
	}
	build(d.lit[:], litBits, lengths[:], litMeaning[:])
	for s := range 32 {
		lengths[s] = 5
	}
	build(d.dist[:], distBits, lengths[:32], distMeaning[:])
	d.fixed = true
}

// readTables reads the codes of a block that brings its own, and makes its tables.
func (d *decoder) readTables() error {
	d.fixed = false
	h, ok := d.take(14)
	if !ok {
		return io.ErrUnexpectedEOF
	}
	lits, dists, pres := int(h&31)+257, int(h>>5&31)+1, int(h>>10)+4
	if lits > maxLits || dists > maxDists {
		return errCounts
	}
	var lengths [maxLits + maxDists]uint8
	for _, s := range preOrder[:pres] {
		n, ok := d.take(3)
		if !ok {
			return io.ErrUnexpectedEOF
		}
		lengths[s] = uint8(n)
	}
	// The lengths' own code goes into the place of the distances', which is free until then.
	if !build(d.dist[:], preBits, lengths[:19], preMeaning[:]) {
		return errCode
	}
	clear(lengths[:19])
	for i := 0; i < lits+dists; {
		d.refill()
		e := d.dist[d.word&(1<<preBits-1)]
		if e&odd != 0 {
			return errSymbol
		}
		n := uint(e & 63)
		if n > d.have {
			return io.ErrUnexpectedEOF
		}
		symbol := e >> 16
		repeat := int(d.word & (1<<n - 1) >> (e >> 8 & 15))
		d.skip(n)
		var length uint8
		switch symbol {
		case 16:
			if i == 0 {
				return errCode
			}
			length, repeat = lengths[i-1], repeat+3
		case 17:
			repeat += 3
		case 18:
			repeat += 11
		default:
			length, repeat = uint8(symbol), 1
		}
		if i+repeat > lits+dists {
			return errCode
		}
		for range repeat {
			lengths[i] = length
			i++
		}
	}
	if !build(d.lit[:], litBits, lengths[:lits], litMeaning[:]) || !build(d.dist[:], distBits, lengths[lits:lits+dists], distMeaning[:]) {
		return errCode
	}
	return nil
}

// copyStored hands on bytes of a stored block.
func (d *decoder) copyStored(buf []byte, op int) (int, error) {
	if d.stored > 0 {
		if err := d.need(1); err != nil {
			return op, err
		}
		if d.pos == d.filled {
			return op, io.ErrUnexpectedEOF
		}
		n := copy(buf[op:], d.in[d.pos:min(d.filled, d.pos+d.stored)])
		d.pos += n
		d.stored -= n
		op += n
	}
	if d.stored == 0 {
		d.state = atHeader
	}
	return op, nil
}

// refill takes what input there is into the word.
func (d *decoder) refill() {
	for d.have <= 56 && d.pos < d.filled {
		d.word |= uint64(d.in[d.pos]) << d.have
		d.pos++
		d.have += 8
	}
}

// giveBack returns the whole bytes that the word holds to the input.
func (d *decoder) giveBack() {
	d.pos -= int(d.have >> 3)
	d.have &= 7
	d.word &= 1<<d.have - 1
}

// skip drops bits that the word is known to hold.
func (d *decoder) skip(n uint) {
	d.word >>= n
	d.have -= n
}

// take gives the next n bits of a header, at most 32; it is false where the input ends before. Whole bytes behind them stay in the input.
func (d *decoder) take(n uint) (uint32, bool) {
	d.refill()
	if d.have < n {
		return 0, false
	}
	v := uint32(d.word & (1<<n - 1))
	d.skip(n)
	d.giveBack()
	return v, true
}

// lookup finds the entry of the next code in a table; a code of the second table counts as one with all its bits.
func (d *decoder) lookup(table []entry, width uint) entry {
	e := table[d.word&(1<<width-1)]
	if e&link != 0 {
		second := d.word >> width & (1<<(e>>8&15) - 1)
		e = table[uint64(e>>16)+second] + entry(width) + entry(width)<<8
	}
	return e
}

// broken says what is wrong with a code of n bits that cannot be used.
func (d *decoder) broken(n uint) error {
	if d.have < n {
		return io.ErrUnexpectedEOF
	}
	return errSymbol
}
