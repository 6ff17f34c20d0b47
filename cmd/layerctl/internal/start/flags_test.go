package start

import (
	"reflect"
	"testing"

	"github.com/layerctl/layerctl/runtime/monitor"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args []string
		rest []string
		ok   bool
		want Run
	}{
		{args: []string{"--rm", "-it", "--name=x", "-eA=1", "-e", "B=2", "img", "-i"}, rest: []string{"img", "-i"}, ok: true,
			want: Run{Remove: true, Interactive: true, TTY: true, Name: "x", Env: []string{"A=1", "B=2"}}},
		{args: []string{"--rm=false", "-w=/srv", "-u", "0:0", "--", "--odd"}, rest: []string{"--odd"}, ok: true, want: Run{WorkDir: "/srv", User: "0:0"}},
		{args: []string{"-ti=false", "img"}, rest: []string{"img"}, ok: true, want: Run{TTY: true}},
		{args: []string{"-"}, rest: []string{"-"}, ok: true},
		{args: []string{"--entrypoint", "", "img"}, rest: []string{"img"}, ok: true, want: Run{entrypointGiven: true}},
		{args: []string{"--unknown", "img"}},
		{args: []string{"-x", "img"}},
		{args: []string{"--name"}},
		{args: []string{"-e"}},
		{args: []string{"--rm=perhaps", "img"}},
	} {
		var r Run
		rest, ok := Parse(r.Flags(), c.args)
		if ok != c.ok {
			t.Errorf("%q: ok %v, want %v", c.args, ok, c.ok)
			continue
		}
		if !ok {
			continue
		}
		c.want.Network, c.want.Pull, c.want.DetachKeys = "none", "missing", monitor.DefaultDetachKeys
		if !reflect.DeepEqual(rest, c.rest) || !reflect.DeepEqual(r, c.want) {
			t.Errorf("%q:\n got %q %+v\nwant %q %+v", c.args, rest, r, c.rest, c.want)
		}
	}
}
