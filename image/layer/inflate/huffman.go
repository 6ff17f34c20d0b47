package inflate

import "math/bits"

// An entry of a table says what the code that was looked up means:
//
//	bits 0–5    how many bits it takes, with the extra bits of a length or distance
//	bits 8–11   how many of them the code itself takes; of a link, how many bits index the second table
//	bit  13     (link) the code is longer than the index; bits 16–31 are where its second table begins
//	bit  14     (end) the end of the block
//	bit  15     (odd) a link, the end, or, with neither, a code that does not exist
//	bits 16–30  the literal, or the smallest length or distance of the code
//	bit  31     (literal)
//
// The loops shift by whole entries: only their low six bits count there.
type entry = uint32

const (
	link    entry = 1 << 13
	end     entry = 1 << 14
	odd     entry = 1 << 15
	literal entry = 1 << 31
)

const (
	litBits  = 11
	distBits = 9
	preBits  = 7
	maxCode  = 15

	maxLits  = 286 // symbols that may have a code of their own; two more have one in the fixed table and mean nothing
	maxDists = 30
	endSym   = 256

	// A second table of 2^n entries holds at least n+1 symbols, as the code is complete, and n is at most maxCode less the index. So 288
	// symbols fill at most 57 tables of 16 entries behind the 2048, 32 symbols at most 4 of 64, and one of 8, behind the 512. The sizes are
	// the powers of two above, so that a masked index needs no check.
	litSize  = 4096
	distSize = 1024
)

// What each symbol means, without the lengths of codes. RFC 1951, 3.2.5.
var (
	litMeaning  = litMeanings()
	distMeaning = distMeanings()
	preMeaning  = [19]entry{0, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 8 << 16, 9 << 16, 10 << 16, 11 << 16,
		12 << 16, 13 << 16, 14 << 16, 15 << 16, 16<<16 | 2, 17<<16 | 3, 18<<16 | 7}
)

func litMeanings() (m [288]entry) {
	for s := range endSym {
		m[s] = literal | entry(s)<<16
	}
	m[endSym] = odd | end
	base, extra := 3, 0
	for s := endSym + 1; s < maxLits; s++ {
		if s >= 265 && s < 285 {
			extra = (s - 261) / 4
		}
		if s == 285 {
			base, extra = 258, 0
		}
		m[s] = entry(base)<<16 | entry(extra)
		base += 1 << extra
	}
	m[286], m[287] = odd, odd
	return m
}

func distMeanings() (m [32]entry) {
	base, extra := 1, 0
	for s := range maxDists {
		if s >= 4 {
			extra = (s - 2) / 2
		}
		m[s] = entry(base)<<16 | entry(extra)
		base += 1 << extra
	}
	m[30], m[31] = odd, odd
	return m
}

// build fills a table for the codes whose lengths are given, 0 for a symbol that has none. An index of width bits finds any code at once,
// or a link to a second table. It is false for lengths that are no code: too many, or too few unless it is a single code of one bit or
// none at all (compress/flate takes the same).
func build(table []entry, width int, lengths []uint8, meaning []entry) bool {
	var count [maxCode + 1]int
	for _, n := range lengths {
		count[n&maxCode]++
	}
	longest := maxCode
	for longest > 0 && count[longest] == 0 {
		longest--
	}
	var next [maxCode + 2]int // first the place among the sorted symbols
	space := 0
	for n := 1; n <= maxCode; n++ {
		next[n+1] = next[n] + count[n]
		space += count[n] << (maxCode - n)
	}
	if space != 1<<maxCode {
		if space > 1<<maxCode || longest > 1 {
			return false
		}
		// No code, or one of a single bit: everything else does not exist.
		for i := range table[:1<<width] {
			table[i] = odd
		}
	}
	var sorted [288]uint16
	for s, n := range lengths {
		if n != 0 {
			sorted[next[n]] = uint16(s)
			next[n]++
		}
	}
	symbols := sorted[:next[longest]]
	if longest == 0 {
		symbols = nil
	}

	// Codes of one length count up; the first bit of a code is its highest, and the stream's first is the lowest of the word, so the table
	// is indexed by codes that are turned around.
	code, length := 0, 1
	free := 1 << width // where the next second table begins
	second, prefix, wide := 0, -1, 0
	for _, s := range symbols {
		for count[length] == 0 {
			length++
			code <<= 1
		}
		turned := int(bits.Reverse16(uint16(code)) >> (16 - length))
		e := meaning[s] + entry(length) | entry(length)<<8
		if length <= width {
			for i := turned; i < 1<<width; i += 1 << length {
				table[i] = e
			}
		} else {
			if p := turned & (1<<width - 1); p != prefix {
				// The codes with this beginning are the next ones; they fill a table of so many bits exactly.
				prefix, second = p, free
				wide = length - width
				for used := count[length]; used < 1<<wide && width+wide < longest; {
					wide++
					used = used<<1 + count[width+wide]
				}
				free += 1 << wide
				table[p] = odd | link | entry(second)<<16 | entry(wide)<<8 | entry(width)
			}
			// The index is off the word already when the second table is looked at.
			e -= entry(width)
			e -= entry(width) << 8
			for i := turned >> width; i < 1<<wide; i += 1 << (length - width) {
				table[second+i] = e
			}
		}
		count[length]--
		code++
	}
	return true
}
