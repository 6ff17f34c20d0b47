package packages

import (
	"cmp"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		m    Manager
		list string // in order, equal ones joined by =
	}{
		{Dpkg, "~~ ~~a ~ = 0=0-0=0:0 1~rc1 1=1-0=01 1-1~bpo1 1-1 1-1+b1 1-1.1 1.0 1.0a 1.0+dfsg 1.2 1.10 2 a b + 1:0 1:0.1 2:0"},
		{RPM, "0:0.9 1.a 1.0~~ 1.0~rc1 1.0=1_0=1..0=0:1.0 1.0^ 1.0^git1 1.0a=1.0.a 1.0aa 1.0.0 1.0.1 1.1 1.2 1.010=1.10 20240101 1:0"},
		{RPM, "a aa b 1 2 10"},
		{RPM, "1.0-1~x 1.0-1 1.0-1.fc38 1.0-2 1.0-10"},
		{APK, "0.1.0_alpha 0.1.0_alpha1 0.1.0_beta 0.1.0_pre1 0.1.0_pre2 0.1.0_rc 0.1.0=0.1.0~abc123 0.1.0-r1 0.1.0-r10 0.1.0_cvs 0.1.0_git20200101 0.1.0_p1 0.1.0_p10 0.1.0a 0.1.0b 0.1.0.0 0.1.1 0.2 1.0 1.01 1.1 1.2 1.10 2 20200101"},
	} {
		rank := 0
		type at struct {
			v    string
			rank int
		}
		var all []at
		for group := range strings.FieldsSeq(c.list) {
			rank++
			for v := range strings.SplitSeq(group, "=") {
				if v != "" {
					all = append(all, at{v, rank})
				}
			}
		}
		for _, x := range all {
			for _, y := range all {
				if got, want := Compare(c.m, x.v, y.v), cmp.Compare(x.rank, y.rank); got != want {
					t.Errorf("%s: %s and %s: %d, want %d", c.m, x.v, y.v, got, want)
				}
			}
		}
	}
}

// dpkg itself says what is newer.
func TestCompareLikeDpkg(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	version := func() string {
		const upstream = "0019.+~abzAZ-"
		var b strings.Builder
		if r.IntN(4) == 0 {
			b.WriteString(strconv.Itoa(r.IntN(3)) + ":")
		}
		b.WriteString(strconv.Itoa(r.IntN(3)))
		for range r.IntN(6) {
			b.WriteByte(upstream[r.IntN(len(upstream))])
		}
		b.WriteByte('x') // a revision is not empty
		if r.IntN(2) == 0 {
			b.WriteString("-" + strconv.Itoa(r.IntN(3)))
		}
		return b.String()
	}
	for range 150 {
		a, b := version(), version()
		for _, op := range []struct {
			name string
			want func(int) bool
		}{{"lt", func(c int) bool { return c < 0 }}, {"eq", func(c int) bool { return c == 0 }}} {
			says := exec.Command("dpkg", "--compare-versions", a, op.name, b).Run() == nil
			if c := Compare(Dpkg, a, b); says != op.want(c) {
				t.Errorf("dpkg says that %s %s %s is %v; Compare %d", a, op.name, b, says, c)
			}
		}
	}
}
