package tests

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// What commands print as JSON is what docs/schema.json says.
func TestSchema(t *testing.T) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	schemas := map[string]*jsonschema.Schema{}
	schema := func(name string) *jsonschema.Schema {
		if schemas[name] == nil {
			s, err := c.Compile("../docs/schema.json#/$defs/" + strings.ReplaceAll(name, " ", "%20"))
			if err != nil {
				t.Fatal(err)
			}
			schemas[name] = s
		}
		return schemas[name]
	}
	reg := startRegistry(t, "")
	reg.push("app", "", "--config.cmd /bin/sh", smallLayer, "mkdir -p etc srv; echo 2 > etc/one; chmod 4755 etc/one; seq 500 > srv/seq; mknod srv/null c 1 3; ln -s x srv/link; setfattr -n user.a -v b srv/seq; touch etc/.wh.passwd; printf x > \"$(printf 'srv/\\377')\"")
	e := withBusybox(t)
	app := reg.addr + "/app"
	e.ok("pull", app)
	e.ok("run", "--name", "cc", app, "sh", "-c", "echo 3 > /etc/one; : > /new")
	e.ok("run", "--name", "rr", "--rootfs", e.busybox("plain"), "touch", "/made")
	chain := strings.Fields(e.ok("layers", "--no-trunc", "--format", "{{.ChainID}}", app))[1]
	seen := 0
	check := func(name string, args ...string) {
		t.Helper()
		out := e.ok(args...)
		var records []any
		if strings.HasPrefix(name, "inspect") {
			fromJSON(t, out, &records)
		} else {
			for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
				var v any
				if err := dec.Decode(&v); err != nil {
					t.Fatal(err)
				}
				records = append(records, v)
			}
		}
		if len(records) == 0 {
			t.Errorf("%q prints nothing", args)
		}
		for _, v := range records {
			seen++
			if err := schema(name).Validate(v); err != nil {
				b, _ := json.Marshal(v)
				t.Errorf("%q: %v\n%s", args, err, b)
			}
			// The schema can fail: a field too many, and one too few.
			if m, ok := v.(map[string]any); ok {
				m["Unheard"] = 1
				if schema(name).Validate(v) == nil {
					t.Errorf("%s allows any field", name)
				}
				clear(m)
				if schema(name).Validate(v) == nil {
					t.Errorf("%s asks for no field", name)
				}
			}
		}
	}
	check("images", "images", "--format", "json")
	check("events", "events", "--since", "1h", "--until", "0s", "--format", "json")
	check("history", "history", "--format", "json", app)
	check("ps", "ps", "-a", "--format", "json")
	check("layers", "layers", "--format", "json", app)
	check("layers", "layers", "--no-trunc", "--format", "json", "busybox")
	for _, of := range [][]string{{app}, {"-M", "busybox", app}, {"--no-mtime", app, "busybox"}, {"cc"}, {"rr"}, {"cc", "rr"}, {app + "#2"}} {
		check("diff", append([]string{"diff", "--format", "json"}, of...)...)
		check("diff --stat", append([]string{"diff", "--stat", "--format", "json"}, of...)...)
	}
	for _, path := range []string{"etc/one", "/srv/null", "srv/link", "/etc/passwd", "/"} {
		check("blame", "blame", "--format", "json", app, path)
	}
	e.ok("import", e.dpkg("1"), "deb1")
	e.ok("import", e.dpkg("2"), "deb2")
	for _, of := range [][]string{{"deb1", "deb2"}, {"busybox", "deb1"}, {"deb2", "busybox"}} {
		check("diff --packages", append([]string{"diff", "--packages", "--format", "json"}, of...)...)
	}
	check("waste", "waste", "--format", "json", app)
	check("waste", "waste", "--format", "json", "deb1")
	check("inspect image", "inspect", app, "busybox")
	check("inspect container", "inspect", "cc", "rr")
	check("inspect layer", "inspect", "--type", "layer", app+"#1", app+"#2", "busybox#1")
	check("inspect snapshot", "inspect", "--type", "snapshot", chain)
	e.begun("run", "--rm", "--name", "now", "busybox", "sh", "-c", "echo up; exec sleep 1000")
	check("ns", "ns", "--format", "json")
	check("stats", "stats", "--no-stream", "-a", "--format", "json")
	e.ok("rm", "-f", "now")
	t.Logf("%d records", seen)
	e.ok("rm", "cc", "rr")
}
