package explore

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// safe is a name, a link's target or a command as it may be shown: whatever could move the cursor, turn the direction of the text or be
// wider than it is counted is escaped. That is everything that is not printable (control characters, bidirectional marks, joiners, bytes
// that are not UTF-8, unassigned and private code points), marks that are not on a letter, and symbols that only a font makes one of
// several. A backslash is escaped, too, so that no name looks like another one that is escaped.
func safe(s string) string {
	plain := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		return s
	}
	var b strings.Builder
	marks, letter := 0, false // marks on the letter that came last
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		mark := unicode.In(r, unicode.Mn, unicode.Mc)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\':
			b.WriteString(`\\`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case mark && letter && marks < 2 && ansi.StringWidthWc(string(r)) == 0:
			b.WriteRune(r)
			marks++
			i += n
			continue
		case !unicode.IsPrint(r) || mark || unicode.Is(unicode.Me, r) || fused(r) || ansi.StringWidthWc(string(r)) == 0:
			if r > 0xffff {
				fmt.Fprintf(&b, `\U%08x`, r)
			} else {
				fmt.Fprintf(&b, `\u%04x`, r)
			}
		default:
			b.WriteRune(r)
			marks, letter = 0, unicode.IsLetter(r)
			i += n
			continue
		}
		marks, letter = 0, false
		i += n
	}
	return b.String()
}

// fused are what a terminal may draw as one with its neighbour: the letters of flags, the tones of skin, and the vowels and last consonants
// of Korean syllables in parts.
func fused(r rune) bool {
	return r >= 0x1f1e6 && r <= 0x1f1ff || r >= 0x1f3fb && r <= 0x1f3ff || r >= 0x1160 && r <= 0x11ff || r >= 0xd7b0 && r <= 0xd7ff
}

// asciiOnly escapes what is left beyond ASCII, for a terminal that is said to show nothing else.
func asciiOnly(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			var b strings.Builder
			for _, r := range s {
				switch {
				case r < 0x80:
					b.WriteRune(r)
				case r > 0xffff:
					fmt.Fprintf(&b, `\U%08x`, r)
				default:
					fmt.Fprintf(&b, `\u%04x`, r)
				}
			}
			return b.String()
		}
	}
	return s
}

// fit cuts a text that is safe to a width, and fills it up with blanks.
func fit(s string, width int, tail string) string {
	if width <= 0 {
		return ""
	}
	if s = ansi.TruncateWc(s, width, tail); tail != "" || ansi.StringWidthWc(s) <= width {
		return s + strings.Repeat(" ", max(0, width-ansi.StringWidthWc(s)))
	}
	return s
}

// right is fit at the other side: the end of the text stays.
func right(s string, width int) string {
	if n := ansi.StringWidthWc(s); n < width {
		return strings.Repeat(" ", width-n) + s
	}
	return fit(s, width, "")
}

// size is bytes in powers of 1000 and at most 6 characters, as other commands print them.
func size(n int64) string {
	if n < 0 {
		return "-" + size(-n)
	}
	units := [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for f >= 999.5 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	switch {
	case i == 0:
		return fmt.Sprintf("%dB", n)
	case f < 9.95:
		return fmt.Sprintf("%.1f%s", f, units[i])
	}
	return fmt.Sprintf("%.0f%s", f, units[i])
}

// exact is a number with its thousands apart.
func exact(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// parseSize reads a size as people type it: 4096, 10k, 1.5M, 2GB, in powers of 1000.
func parseSize(s string) (int64, bool) {
	s = strings.TrimSuffix(strings.ToLower(s), "b")
	scale := 1.0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("kmgt", s[n-1]); i >= 0 {
			for range i + 1 {
				scale *= 1000
			}
			s = s[:n-1]
		}
	}
	var f float64
	var rest string
	if n, _ := fmt.Sscanf(s+" ", "%f%s", &f, &rest); n != 1 || f < 0 || f*scale > 1e18 {
		return 0, false
	}
	return int64(f * scale), true
}
