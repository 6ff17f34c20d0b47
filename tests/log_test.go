package tests

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

func TestLog(t *testing.T) {
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", busyboxLayer)
	e := newEnv(t)
	request := regexp.MustCompile(`(?m)^layerctl: debug: request method=GET url=http://` + regexp.QuoteMeta(reg.addr) + `/v2/app/blobs/sha256:[0-9a-f]{64} status=200 took=`)
	if r := e.run("pull", reg.addr+"/app", "--log-level", "debug"); r.code != 0 || !request.MatchString(r.stderr) {
		t.Errorf("status %d, no requests in:\n%s", r.code, r.stderr)
	}
	if r := e.run("pull", reg.addr+"/app"); strings.Contains(r.stderr, "request") {
		t.Errorf("requests nobody asked for:\n%s", r.stderr)
	}
	// Every line that is not progress is an object; an error's hint is a field of its own.
	r := e.run("--log-format", "json", "run", "--pull", "never", "nothing", "true")
	var line struct{ Level, Msg, Hint string }
	if err := json.Unmarshal([]byte(r.stderr), &line); err != nil || r.code != 125 {
		t.Fatalf("status %d: %v\n%s", r.code, err, r.stderr)
	}
	if line.Level != "ERROR" || !strings.Contains(line.Msg, "nothing") || line.Hint == "" {
		t.Errorf("the error is %+v", line)
	}
	r = e.run("--log-format=json", "--log-level=debug", "pull", "-q", reg.addr+"/app")
	for _, l := range strings.Split(strings.TrimSpace(r.stderr), "\n") {
		var object map[string]any
		if err := json.Unmarshal([]byte(l), &object); err != nil || object["msg"] != "request" || object["status"] != 200.0 {
			t.Errorf("a line is not a request's object: %v: %s", err, l)
		}
	}
	e.fails(2, []string{"--log-level loud", "debug, info, warn or error"}, "images", "--log-level", "loud")
	e.fails(2, []string{"--log-format xml", "text or json"}, "images", "--log-format", "xml")
	e.ok("run", "--rm", "--log-level", "error", reg.addr+"/app", "true") // such a flag after the verb takes the long way
}
