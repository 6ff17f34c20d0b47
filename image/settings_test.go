package image

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestCarry(t *testing.T) {
	for _, row := range []struct{ name, old, mine, next, want string }{
		{"what is as it was is the new base's", `{"User":"a","Cmd":["x"]}`, `{"User":"a","Cmd":["x"]}`, `{"User":"b"}`, `{"User":"b"}`},
		{"what is changed stays", `{"User":"a"}`, `{"User":"c","Cmd":["y"]}`, `{"User":"b","Cmd":["z"]}`, `{"User":"c","Cmd":["y"]}`},
		{"what is taken away stays away", `{"Cmd":["x"],"Entrypoint":["e"]}`, `{"Entrypoint":["mine"]}`, `{"Cmd":["new"],"Entrypoint":["e"]}`, `{"Entrypoint":["mine"]}`},
		{"labels one by one", `{"Labels":{"a":"1","b":"1","c":"1"}}`, `{"Labels":{"a":"1","b":"2","d":"1"}}`, `{"Labels":{"a":"3","b":"3","c":"3","e":"3"}}`, `{"Labels":{"a":"3","b":"2","d":"1","e":"3"}}`},
		{"none of its own, and new ones", `{}`, `{}`, `{"Labels":{"x":"1"}}`, `{"Labels":{"x":"1"}}`},
		{"all labels taken away", `{"Labels":{"a":"1"}}`, `{}`, `{"Labels":{"a":"1","b":"2"}}`, `{"Labels":{"b":"2"}}`},
		{"null is nothing", `{"Cmd":null}`, `{}`, `{"Cmd":["new"]}`, `{"Cmd":["new"]}`},
		{"variables one by one, in the new base's order", `{"Env":["PATH=/bin","V=1","GONE=1"]}`, `{"Env":["PATH=/bin","MINE=1","V=2"]}`, `{"Env":["V=3","GONE=2","NEW=1","PATH=/sbin"]}`, `{"Env":["V=2","NEW=1","PATH=/sbin","MINE=1"]}`},
		{"sets", `{"ExposedPorts":{"80/tcp":{}}}`, `{"ExposedPorts":{"80/tcp":{},"81/tcp":{}}}`, `{"ExposedPorts":{"90/tcp":{}}}`, `{"ExposedPorts":{"81/tcp":{},"90/tcp":{}}}`},
		{"what nobody knows", `{"X":{"n":1}}`, `{"X":{"n":2}}`, `{"X":{"n":1,"m":1.50}}`, `{"X":{"n":2,"m":1.50}}`},
	} {
		wrap := func(s string) []byte { return []byte(`{"config":` + s + `}`) }
		got, err := carry(wrap(row.old), wrap(row.mine), wrap(row.next))
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := json.Unmarshal(got, &a); err != nil {
			t.Fatal(err)
		}
		json.Unmarshal(wrap(row.want), &b)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}
