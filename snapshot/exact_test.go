package snapshot

import (
	"encoding/json"
	"slices"
	"testing"
)

func TestExact(t *testing.T) {
	for in, want := range map[string]string{
		"":                   `""`,
		"a\"b\\u\n":          `"a\"b\\u\n"`,
		"z\xff":              `"z\udcff"`,
		"\x80é\xc3":          `"\udc80é\udcc3"`,
		"😀\xed\xb3\xbf":      `"😀\udced\udcb3\udcbf"`, // a surrogate in UTF-8's clothes
		"\\udcff":            `"\\udcff"`,
		"\\\xfe":             `"\\\udcfe"`,
		"line\u2028 <&>\x01": `"line\u2028 \u003c\u0026\u003e\u0001"`,
	} {
		b, err := json.Marshal(Exact(in))
		if err != nil || string(b) != want {
			t.Errorf("%q: %s, %v; want %s", in, b, err, want)
		}
		var back Exact
		if err := json.Unmarshal(b, &back); err != nil || string(back) != in {
			t.Errorf("%q came back as %q, %v", in, back, err)
		}
	}
	var e Exact
	if err := json.Unmarshal([]byte(`"\ud83d\ude00"`), &e); err != nil || e != "😀" {
		t.Errorf("a pair of surrogates: %q, %v", e, err)
	}
	if json.Unmarshal([]byte(`7`), &e) == nil {
		t.Error("a number is no string")
	}
}

func FuzzExact(f *testing.F) {
	f.Add("a\xff", `"\ud83d\udcff"`)
	f.Fuzz(func(t *testing.T, s, text string) {
		in := ExactList{s, s + "\xfe"}
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out ExactList
		if err := json.Unmarshal(b, &out); err != nil || !slices.Equal(in, out) {
			t.Fatalf("%q: %q, %v", in, out, err)
		}
		var e Exact
		json.Unmarshal([]byte(text), &e) // of anything: an error at most
	})
}

func TestExactList(t *testing.T) {
	for text, want := range map[string]ExactList{`null`: nil, `[]`: nil, `["a"]`: {"a"}, `["",""]`: {"", ""}, `["a,b","é","c"]`: {"a,b", "é", "c"}, `[ "a", "b" ]`: {"a", "b"},
		`["a" ,"b"]`: {"a", "b"}, `["\",\"","x"]`: {`","`, "x"}, `["[\"a\"]"]`: {`["a"]`}} {
		got := ExactList{"old"}
		if err := json.Unmarshal([]byte(text), &got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{`["a",1]`, `["a",1,"b"]`, `["a",["b"]]`, `"a"`, `{"a":"b"}`} {
		var got ExactList
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s is taken for %q", text, got)
		}
	}
}
