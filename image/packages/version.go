package packages

import (
	"cmp"
	"strings"
)

// Compare orders two versions as their manager does: -1 where a is older, 0 where they are equal, 1 where a is newer.
func Compare(m Manager, a, b string) int {
	switch m {
	case Dpkg:
		return compareDpkg(a, b)
	case APK:
		return compareAPK(a, b)
	case RPM:
		return compareRPM(a, b)
	}
	return strings.Compare(a, b)
}

// compareDpkg follows deb-version(7): epoch, upstream version and revision, each in turn by what is no digit and then by number.
func compareDpkg(a, b string) int {
	ea, a := epoch(a)
	eb, b := epoch(b)
	ua, ra := cutLast(a, '-')
	ub, rb := cutLast(b, '-')
	return cmp.Or(compareNumbers(ea, eb), compareDebian(ua, ub), compareDebian(ra, rb))
}

func epoch(v string) (epoch, rest string) {
	if e, r, ok := strings.Cut(v, ":"); ok {
		return e, r
	}
	return "0", v
}

func cutLast(v string, sep byte) (before, after string) {
	if i := strings.LastIndexByte(v, sep); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

func compareDebian(a, b string) int {
	for a != "" || b != "" {
		for a != "" && !digit(a[0]) || b != "" && !digit(b[0]) {
			if c := cmp.Compare(weight(a), weight(b)); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		var na, nb string
		na, a = span(a, digit)
		nb, b = span(b, digit)
		if c := compareNumbers(na, nb); c != 0 {
			return c
		}
	}
	return 0
}

// weight is where a character that is no digit sorts: a tilde before everything, even the end; then the end (where a number begins, too),
// letters, and all others.
func weight(s string) int {
	switch {
	case s == "" || digit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case letter(s[0]):
		return int(s[0])
	}
	return int(s[0]) + 256
}

func digit(c byte) bool  { return c >= '0' && c <= '9' }
func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func lower(c byte) bool  { return c >= 'a' && c <= 'z' }

func span(s string, in func(byte) bool) (head, rest string) {
	i := 0
	for i < len(s) && in(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

// compareNumbers compares decimal numbers of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// compareRPM compares [EPOCH:]VERSION[-RELEASE], where a missing epoch is 0 and a missing release is like any (rpm-version(7)).
func compareRPM(a, b string) int {
	ea, a := epoch(a)
	eb, b := epoch(b)
	va, ra := cutLast(a, '-')
	vb, rb := cutLast(b, '-')
	c := cmp.Or(compareNumbers(ea, eb), compareSegments(va, vb))
	if c == 0 && ra != "" && rb != "" {
		c = compareSegments(ra, rb)
	}
	return c
}

// compareSegments is rpm's order of one part: runs of digits and runs of letters in turn, whatever separates them; a number is newer than
// letters, more is newer than less, but a tilde is older than the end, and a caret newer than the end and older than anything else.
func compareSegments(a, b string) int {
	if a == b {
		return 0
	}
	separator := func(c byte) bool { return !digit(c) && !letter(c) && c != '~' && c != '^' }
	for {
		_, a = span(a, separator)
		_, b = span(b, separator)
		ta, tb := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~")
		ca, cb := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^")
		switch {
		case ta && tb, ca && cb:
			a, b = a[1:], b[1:]
			continue
		case ta:
			return -1
		case tb:
			return 1
		case ca:
			if b == "" {
				return 1
			}
			return -1
		case cb:
			if a == "" {
				return -1
			}
			return 1
		case a == "" || b == "":
			return cmp.Compare(len(a), len(b))
		}
		kind := letter
		if digit(a[0]) {
			kind = digit
		}
		var sa, sb string
		sa, a = span(a, kind)
		sb, b = span(b, kind)
		if sb == "" { // of another kind
			if digit(sa[0]) {
				return 1
			}
			return -1
		}
		c := strings.Compare(sa, sb)
		if digit(sa[0]) {
			c = compareNumbers(sa, sb)
		}
		if c != 0 {
			return c
		}
	}
}

// The parts of an apk version, in the order in which one that goes on with the part is newer than one that goes on with a later part.
type apkPart int

const (
	apkBad apkPart = iota
	apkDigitOrZero
	apkDigit
	apkLetter
	apkSuffix
	apkSuffixNumber
	apkRevision
	apkEnd
)

// compareAPK follows apk-package(5) and Gentoo's rules, which it has from: DIGITS{.DIGITS}[LETTER]{_SUFFIX[DIGITS]}[~HASH][-rREVISION]. A component
// behind a point with zeros before it is a decimal fraction; the suffixes alpha, beta, pre and rc come before the bare version, cvs,
// svn, git, hg and p after it. A hash names the commit and does not order.
func compareAPK(a, b string) int {
	x, y := apkVersion{rest: a, next: apkDigit}, apkVersion{rest: b, next: apkDigit}
	for x.next == y.next && x.next != apkEnd && x.next != apkBad {
		p, q := x.take(), y.take()
		if c := cmp.Or(cmp.Compare(p.rank, q.rank), compareNumbers(p.number, q.number)); c != 0 {
			return c
		}
	}
	if x.next == y.next {
		return strings.Compare(x.bad(), y.bad())
	}
	// One goes on where the other does not: that makes it newer, unless it is a pre-release.
	longer := cmp.Compare(y.next, x.next)
	if x.next == apkSuffix && x.take().rank < 0 {
		return -1
	}
	if y.next == apkSuffix && y.take().rank < 0 {
		return 1
	}
	return longer
}

type apkVersion struct {
	rest string
	next apkPart
}

// bad is what does not parse.
func (v *apkVersion) bad() string {
	if v.next == apkBad {
		return v.rest
	}
	return ""
}

// apkValue is what one part weighs: rank first, and then a number.
type apkValue struct {
	rank   int
	number string
}

// apkSuffixes is in order; the first four are pre-releases.
var apkSuffixes = [...]string{"alpha", "beta", "pre", "rc", "cvs", "svn", "git", "hg", "p"}

// take reads the part that comes next, and finds out what follows.
func (v *apkVersion) take() (value apkValue) {
	was := v.next
	switch was {
	case apkDigitOrZero:
		if strings.HasPrefix(v.rest, "0") {
			// The more zeros, the smaller; the digits after them are a part of their own.
			zeros, rest := span(v.rest, func(c byte) bool { return c == '0' })
			v.rest, v.next = rest, apkDigit
			if rest == "" || !digit(rest[0]) {
				v.follow(apkDigit)
			}
			return apkValue{rank: -len(zeros)}
		}
		fallthrough
	case apkDigit, apkSuffixNumber, apkRevision:
		value.number, v.rest = span(v.rest, digit)
		if value.number == "" {
			v.next = apkBad
			return value
		}
	case apkLetter:
		value.rank, v.rest = int(v.rest[0]), v.rest[1:]
	case apkSuffix:
		name, rest := span(v.rest, lower)
		i := 0
		for i < len(apkSuffixes) && apkSuffixes[i] != name {
			i++
		}
		if i == len(apkSuffixes) {
			v.next = apkBad
			return value
		}
		value.rank, v.rest = i-4, rest
	}
	v.follow(was)
	return value
}

// follow decides what part comes after one of a kind.
func (v *apkVersion) follow(was apkPart) {
	number := was == apkDigit || was == apkDigitOrZero
	if strings.HasPrefix(v.rest, "~") {
		_, v.rest = span(v.rest[1:], func(c byte) bool { return digit(c) || c >= 'a' && c <= 'f' })
	}
	next := apkBad
	switch c := v.rest; {
	case c == "":
		next = apkEnd
	case number && lower(c[0]):
		next = apkLetter
	case was == apkSuffix && digit(c[0]):
		next = apkSuffixNumber
	case c[0] == '.' && number:
		next, v.rest = apkDigitOrZero, c[1:]
	case c[0] == '_' && was != apkRevision:
		next, v.rest = apkSuffix, c[1:]
	case strings.HasPrefix(c, "-r") && was != apkRevision:
		next, v.rest = apkRevision, c[2:]
	}
	v.next = next
}
