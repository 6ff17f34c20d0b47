package start

import "testing"

func TestOneLine(t *testing.T) {
	for s, want := range map[string]string{
		" a\n b\tc\r\n":       "a  b c",
		"\x1b[2J\x7f\u009b":   `\x1b[2J\x7f\x9b`,
		"txt.\u202eexe\u200b": `txt.\u202eexe\u200b`,
		"a\u2028\U000e0001":   `a\u2028\U000e0001`,
		"Größe 大 \u3000é 🙂":   "Größe 大 \u3000é 🙂",
	} {
		if got := OneLine(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
}
