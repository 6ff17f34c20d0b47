package image

import (
	"encoding/json"
	"errors"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A config that is made of another one keeps what that says and we do not know, as it is written there.
func TestEncodeKeepsTheUnknown(t *testing.T) {
	from := `{"architecture":"amd64","os":"linux","x.y":{"n":12345678901234567890},"created":"2020-01-02T03:04:05.600000000+01:00","rootfs":{"type":"layers","diff_ids":[],"z":1},
"config":{"cmd":["old"],"Env":["A=1"],"Labels":null,"Healthcheck":{"Test":["NONE"],"StartInterval":5},"Own":true},"history":[{"created_by":"a","own":1}]}`
	c := &composed{from: []byte(from)}
	if err := json.Unmarshal(c.from, &c.config); err != nil {
		t.Fatal(err)
	}
	c.history = []json.RawMessage{json.RawMessage(`{"created_by":"a","own":1}`)}
	c.config.Config.Cmd = []string{"new"}
	if err := c.step("b", "", true); err != nil {
		t.Fatal(err)
	}
	got, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"architecture":"amd64","config":{"Cmd":["new"],"Env":["A=1"],"Healthcheck":{"StartInterval":5,"Test":["NONE"]},"Labels":null,"Own":true},` +
		`"created":"2020-01-02T03:04:05.600000000+01:00","history":[{"created_by":"a","own":1},{"created":"2020-01-02T03:04:05.6+01:00","created_by":"b","empty_layer":true}],` +
		`"os":"linux","rootfs":{"diff_ids":[],"type":"layers","z":1},"x.y":{"n":12345678901234567890}}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// As in a Dockerfile, an ENTRYPOINT takes the CMD away that was there, and not the one that is given with it.
func TestChangesOfACommand(t *testing.T) {
	for _, row := range []struct {
		list []string
		want string
	}{
		{[]string{`ENTRYPOINT ["e"]`}, `[["e"],null]`},
		{[]string{`entrypoint ["e"]`, `CMD ["c"]`}, `[["e"],["c"]]`},
		{[]string{`cmd ["c"]`, `ENTRYPOINT ["e"]`}, `[["e"],["c"]]`},
		{[]string{`ENV A=1`}, `[["old"],["was"]]`},
	} {
		c := v1.Config{Entrypoint: []string{"old"}, Cmd: []string{"was"}}
		if err := changes(&c, row.list); err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal([][]string{c.Entrypoint, c.Cmd}); string(got) != row.want {
			t.Errorf("%q: %s, want %s", row.list, got, row.want)
		}
	}
	if err := changes(&v1.Config{}, []string{"RUN x"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("RUN: %v", err)
	}
}
