package procfs

import (
	"reflect"
	"strings"
	"testing"
)

func TestParsePS(t *testing.T) {
	const out = "USER   PID COMMAND\nroot     1 init\nann     22 sh -c a  b \nann      - thread\nbob    333 x\nbob      - other\nshort\n"
	titles, rows, err := parsePS(out, []int{22, 4})
	if err != nil || !reflect.DeepEqual(titles, []string{"USER", "PID", "COMMAND"}) {
		t.Fatalf("%q, %v", titles, err)
	}
	if want := [][]string{{"ann", "22", "sh -c a  b"}, {"ann", "-", "thread"}}; !reflect.DeepEqual(rows, want) {
		t.Errorf("%q", rows)
	}
	for _, bad := range []string{"", "USER COMMAND\nroot init\n", "COMMAND PID\nsh -c 22\n"} {
		if _, rows, err := parsePS(bad, []int{22}); err == nil {
			t.Errorf("%q: %q", bad, rows)
		}
	}
}

func FuzzParsePS(f *testing.F) {
	f.Add("  PID CMD\n    1 sh\n    - -\n")
	f.Fuzz(func(t *testing.T, out string) {
		titles, rows, err := parsePS(out, []int{1})
		for _, row := range rows {
			if err == nil && (len(row) > len(titles) || strings.Contains(strings.Join(row, ""), "\n")) {
				t.Errorf("%q of %q", row, titles)
			}
		}
	})
}
