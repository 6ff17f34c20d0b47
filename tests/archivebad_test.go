package tests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entry is a member of an archive that a test makes. Without a kind it is a file.
type entry struct {
	name, body string
	kind       byte
	link       string
}

func tarOf(entries ...entry) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o644}
		if e.kind == 0 {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.body))
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		io.WriteString(w, e.body)
	}
	w.Close()
	return b.String()
}

func digestOf(s string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))) }

func hexOf(s string) string { return strings.TrimPrefix(digestOf(s), "sha256:") }

// goodImage is a small image in both forms, from which the hostile ones are made.
type goodImage struct{ layer, config, manifest string }

func newGoodImage() goodImage {
	layer := tarOf(entry{name: "etc/", kind: tar.TypeDir}, entry{name: "etc/f", body: "hello"})
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, digestOf(layer))
	return goodImage{layer, config, ociManifest(config, digestOf(layer), len(layer))}
}

func ociManifest(config, layer string, size int) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, digestOf(config), len(config), layer, size)
}

func blobEntry(body string) entry { return entry{name: "blobs/sha256/" + hexOf(body), body: body} }

func indexOf(manifest string) entry {
	return entry{name: "index.json", body: fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,`+
		`"annotations":{"io.containerd.image.name":"registry.example/evil:1"}}]}`, digestOf(manifest), len(manifest))}
}

// oci is the image as an oci-archive.
func (g goodImage) oci() []entry {
	return []entry{indexOf(g.manifest), blobEntry(g.manifest), blobEntry(g.config), blobEntry(g.layer)}
}

func (g goodImage) docker(tags ...string) []entry {
	return []entry{dockerManifest(hexOf(g.config)+".json", tags, "l.tar"), {name: hexOf(g.config) + ".json", body: g.config}, {name: "l.tar", body: g.layer}}
}

func dockerManifest(config string, tags []string, layers ...string) entry {
	b, _ := json.Marshal([]map[string]any{{"Config": config, "RepoTags": tags, "Layers": layers}})
	return entry{name: "manifest.json", body: string(b)}
}

func without(entries []entry, name string) []entry {
	var left []entry
	for _, e := range entries {
		if !strings.HasPrefix(e.name, name) {
			left = append(left, e)
		}
	}
	return left
}

func with(entries []entry, more ...entry) []entry {
	return append(append([]entry(nil), entries...), more...)
}

func gzipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, s)
	z.Close()
	return b.String()
}

// bomb is a tar whose one member is 4 GiB of zeros, in 4 MB of gzip.
func bomb() string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "l.tar", Typeflag: tar.TypeReg, Size: 4 << 30, Mode: 0o644})
	return gzipped(b.String()) + strings.Repeat(gzipped(strings.Repeat("\x00", 64<<20)), 64)
}

// A damaged or hostile archive is one line of error, whether it is a file or a stream, and nothing is left of it.
func TestLoadBad(t *testing.T) {
	e := newEnv(t)
	g := newGoodImage()
	name := "registry.example/evil:1"
	other := strings.Replace(g.layer, "hello", "HELLO", 1)
	twoLayers := strings.Replace(g.config, `"]`, `","`+digestOf(other)+`"]`, 1)
	longLink := []entry{{name: "l.tar", kind: tar.TypeSymlink, link: "1"}}
	for i := 1; i < 20; i++ {
		longLink = append(longLink, entry{name: fmt.Sprint(i), kind: tar.TypeSymlink, link: fmt.Sprint(i + 1)})
	}
	var many []entry
	for i := range 100_001 {
		many = append(many, entry{name: fmt.Sprint(i), kind: tar.TypeSymlink, link: "x"})
	}
	ociTar, dockerTar := tarOf(g.oci()...), tarOf(g.docker(name)...)
	badJSON := func(what string) entry { return entry{name: what, body: "{\"x\": [" + strings.Repeat("[", 100)} }
	huge := func(what string) entry { return entry{name: what, body: strings.Repeat(" ", 9<<20)} }
	old := func(parent, id string) []entry {
		return []entry{{name: "repositories", body: `{"evil":{"1":"` + id + `"}}`}, {name: "aa/json", body: `{"id":"aa","parent":"` + parent + `"}`}, {name: "aa/layer.tar", body: g.layer}}
	}
	for what, row := range map[string]struct {
		archive string
		text    string
	}{
		"nothing":              {"", "empty"},
		"text":                 {"this is no archive\n", "no tar"},
		"noise":                {strings.Repeat("\x93\x12noise", 3000), "no tar"},
		"an empty tar":         {tarOf(), "empty"},
		"a root file system":   {g.layer, "no manifest.json, index.json or repositories"},
		"a directory":          {tarOf(entry{name: "manifest.json/", kind: tar.TypeDir}), "no manifest.json"},
		"cut in a header":      {ociTar[:700], "cut short"},
		"cut in a body":        {dockerTar[:len(dockerTar)-len(g.layer)-1100], "cut short"},
		"cut between members":  {tarOf(g.oci()[:2]...), "not in the archive"},
		"noise behind members": {dockerTar[:1024] + strings.Repeat("noise!!!", 100), "no tar header"},
		"cut gzip":             {gzipped(ociTar)[:400], "cut short"},
		"cut off its checksum": {gzipped(ociTar)[:len(gzipped(ociTar))-6], "cut short"},
		"damaged gzip":         {gzipped(ociTar)[:300] + strings.Repeat("z", 600), "malformed archive"},
		"a wrong checksum":     {gzipped(ociTar)[:len(gzipped(ociTar))-8] + "checksum", "gzip"},
		"a gzip of nothing":    {gzipped(""), "empty"},
		"a bomb":               {bomb(), "more than 200 times"},

		"a name upwards":          {tarOf(with(g.docker(name), entry{name: "../x", body: "x"})...), "leads out of the archive"},
		"an absolute name":        {tarOf(with(g.docker(name), entry{name: "/etc/x", body: "x"})...), "leads out of the archive"},
		"a name through and up":   {tarOf(with(g.docker(name), entry{name: "a/../../x", body: "x"})...), "leads out of the archive"},
		"a link upwards":          {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", kind: tar.TypeSymlink, link: "../../etc/passwd"})...), "leads out of the archive"},
		"an absolute link":        {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", kind: tar.TypeSymlink, link: "/etc/passwd"})...), "leads out of the archive"},
		"a hard link upwards":     {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", kind: tar.TypeLink, link: "../x"})...), "leads out of the archive"},
		"a link to itself":        {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", kind: tar.TypeSymlink, link: "l.tar"})...), "more than 8 links"},
		"many links":              {tarOf(append(without(g.docker(name), "l.tar"), longLink...)...), "more than 8 links"},
		"a link to nothing":       {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", kind: tar.TypeSymlink, link: "none"})...), "not in the archive"},
		"a device":                {tarOf(with(g.docker(name), entry{name: "dev", kind: tar.TypeChar})...), "neither a file"},
		"a FIFO for a layer":      {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", kind: tar.TypeFifo})...), "neither a file"},
		"a member twice":          {tarOf(with(g.docker(name), entry{name: "l.tar", body: other})...), "there twice"},
		"a member twice, dotted":  {tarOf(with(g.docker(name), entry{name: "./l.tar", body: other})...), "there twice"},
		"a manifest.json twice":   {tarOf(with(g.docker(name), g.docker("evil")[0])...), "there twice"},
		"a hundred thousand":      {tarOf(many...), "more than 100000 members"},
		"a directory for a layer": {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar/", kind: tar.TypeDir})...), "not in the archive"},

		"a manifest.json of noise":  {tarOf(with(without(g.docker(name), "manifest.json"), badJSON("manifest.json"))...), "does not parse"},
		"an index of noise":         {tarOf(with(without(g.oci(), "index.json"), badJSON("index.json"))...), "does not parse"},
		"repositories of noise":     {tarOf(badJSON("repositories")), "does not parse"},
		"a huge manifest.json":      {tarOf(with(without(g.docker(name), "manifest.json"), huge("manifest.json"))...), "beyond limits"},
		"a huge index":              {tarOf(huge("index.json")), "beyond limits"},
		"huge repositories":         {tarOf(huge("repositories")), "beyond limits"},
		"no images":                 {tarOf(entry{name: "manifest.json", body: "[]"}), "names no image"},
		"null":                      {tarOf(entry{name: "manifest.json", body: "null"}), "names no image"},
		"no manifests":              {tarOf(entry{name: "index.json", body: "{}"}), "names no image"},
		"an image of nothing":       {tarOf(entry{name: "manifest.json", body: "[{}]"}), "leads out"},
		"too many images":           {tarOf(entry{name: "manifest.json", body: "[" + strings.Repeat("{},", 1001) + "{}]"}), "beyond limits"},
		"too many layers":           {tarOf(with(without(g.docker(name), "manifest.json"), dockerManifest(hexOf(g.config)+".json", nil, strings.Split(strings.Repeat("l.tar,", 2000), ",")...))...), "names 1 layers"},
		"no config":                 {tarOf(without(g.docker(name), hexOf(g.config))...), "not in the archive"},
		"no layer":                  {tarOf(without(g.docker(name), "l.tar")...), "not in the archive"},
		"a config that lies":        {tarOf(with(without(g.docker(name), hexOf(g.config)), entry{name: hexOf(g.config) + ".json", body: g.config + " "})...), "has the digest"},
		"a config outside":          {tarOf(dockerManifest("../x", nil, "l.tar")), "leads out"},
		"a layer outside":           {tarOf(with(without(g.docker(name), "manifest.json"), dockerManifest(hexOf(g.config)+".json", nil, "../l.tar"))...), "leads out"},
		"a config of noise":         {tarOf(dockerManifest("c", nil, "l.tar"), badJSON("c"), entry{name: "l.tar", body: g.layer}), "does not parse"},
		"a config that is no image": {tarOf(dockerManifest("c", nil), entry{name: "c", body: "{}"}), "no layers"},
		"more layers than named":    {tarOf(dockerManifest("c", nil, "l.tar"), entry{name: "c", body: twoLayers}, entry{name: "l.tar", body: g.layer}), "names 2 layers"},
		"another layer":             {tarOf(dockerManifest("c", []string{name}, "l.tar"), entry{name: "c", body: g.config}, entry{name: "l.tar", body: other}), "has the digest"},
		"a layer of text":           {tarOf(dockerManifest("c", []string{name}, "l.tar"), entry{name: "c", body: strings.Replace(g.config, digestOf(g.layer), digestOf("text"), 1)}, entry{name: "l.tar", body: "text"}), "malformed"},
		"a diff ID of noise":        {tarOf(dockerManifest("c", nil, "l.tar"), entry{name: "c", body: strings.Replace(g.config, digestOf(g.layer), "sha256:12", 1)}, entry{name: "l.tar", body: g.layer}), "does not parse"},
		"a bzip2 layer":             {tarOf(with(without(g.docker(name), "l.tar"), entry{name: "l.tar", body: "BZh91AY&SY"})...), "bzip2"},

		"no manifest":           {tarOf(without(g.oci(), "blobs/sha256/"+hexOf(g.manifest))...), "not in the archive"},
		"no OCI config":         {tarOf(without(g.oci(), "blobs/sha256/"+hexOf(g.config))...), "not in the archive"},
		"no OCI layer":          {tarOf(without(g.oci(), "blobs/sha256/"+hexOf(g.layer))...), "not in the archive"},
		"a manifest that lies":  {tarOf(with(without(g.oci(), "blobs/sha256/"+hexOf(g.manifest)), entry{name: "blobs/sha256/" + hexOf(g.manifest), body: g.manifest + "\n"})...), "has the digest"},
		"an OCI config lies":    {tarOf(with(without(g.oci(), "blobs/sha256/"+hexOf(g.config)), entry{name: "blobs/sha256/" + hexOf(g.config), body: strings.ToUpper(g.config)})...), "fetch its config: what came is not sha256:"},
		"a layer that lies":     {tarOf(with(without(g.oci(), "blobs/sha256/"+hexOf(g.layer)), entry{name: "blobs/sha256/" + hexOf(g.layer), body: other})...), "has the digest"},
		"a size that lies":      {tarOf(with(without(without(g.oci(), "index"), "blobs/sha256/"+hexOf(g.manifest)), indexOf(ociManifest(g.config, digestOf(g.layer), 512)), blobEntry(ociManifest(g.config, digestOf(g.layer), 512)))...), "bytes"},
		"a foreign digest":      {tarOf(entry{name: "index.json", body: `{"manifests":[{"digest":"sha512:00","size":1}]}`}), "does not parse"},
		"a path for a digest":   {tarOf(entry{name: "index.json", body: `{"manifests":[{"digest":"sha256:../../x","size":1}]}`}), "does not parse"},
		"an index of itself":    {tarOf(entry{name: "index.json", body: fmt.Sprintf(`{"manifests":[{"digest":%q,"size":2}]}`, digestOf("{}"))}, blobEntry("{}")), "config"},
		"a doubled name":        {tarOf(with(without(g.oci(), "index.json"), entry{name: "index.json", body: fmt.Sprintf(`{"manifests":[{"digest":%q,"size":1,"annotations":{"io.containerd.image.name":"a/b:1"}},{"digest":%q,"size":1,"annotations":{"io.containerd.image.name":"a/b:1"}}]}`, digestOf(g.manifest), digestOf("x"))})...), "2 manifests the name"},
		"another's digest name": {tarOf(with(without(g.oci(), "index.json"), entry{name: "index.json", body: fmt.Sprintf(`{"manifests":[{"digest":%q,"size":1,"annotations":{"io.containerd.image.name":"a/b@%s"}}]}`, digestOf(g.manifest), digestOf("x"))})...), "is the name of manifest"},

		"a bad name":            {tarOf(g.docker("a/UPPER:1")...), "lower case"},
		"a name of a path":      {tarOf(g.docker("../../x:1")...), "invalid reference"},
		"an empty name":         {tarOf(g.docker("")...), "no name"},
		"a name with a digest":  {tarOf(g.docker("a@" + digestOf("x"))...), "has no digest"},
		"a name with a newline": {tarOf(g.docker("a\nb")...), "invalid reference"},
		"a bad annotation":      {tarOf(with(without(g.oci(), "index.json"), entry{name: "index.json", body: strings.Replace(indexOf(g.manifest).body, "registry.example/evil:1", "Bad Name/x", 1)})...), "invalid reference"},

		"an old layer's loop":      {tarOf(old("aa", "aa")...), "or itself"},
		"an old layer outside":     {tarOf(old("../../etc", "aa")...), "has the ID"},
		"an old layer of nothing":  {tarOf(old("bb", "aa")...), "not in the archive"},
		"old repositories outside": {tarOf(old("", "../aa")...), "has the ID"},
	} {
		t.Run(what, func(t *testing.T) {
			// A store of its own: what one leaves behind must not make another one whole.
			e := e.other("store." + digestOf(what))
			e.t = t
			defer os.RemoveAll(e.root)
			if err := os.WriteFile(filepath.Join(e.dir, "a.tar"), []byte(row.archive), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, cmd := range []string{"$L load -i a.tar", "cat a.tar | $L load", "gzip -1c a.tar | $L load"} {
				r := e.script(cmd)
				if r.code != 1 || !errorForm.MatchString(r.stderr) || !strings.Contains(r.stderr, "layerctl: load ") || len(r.stderr) > 2000 || r.stdout != "" {
					t.Errorf("%s: %+v", cmd, r)
				}
				if !strings.Contains(r.stderr, row.text) && !strings.Contains(cmd, "gzip") {
					t.Errorf("%s: the error does not say %q: %s", cmd, row.text, r.stderr)
				}
			}
			e.tidy()
			if names := list(filepath.Join(e.root, "images/names")); len(names) > 0 {
				t.Errorf("named: %q", names)
			}
			left := func() (all []string) {
				for _, dir := range []string{"images/blobs/sha256", "snapshots/trees", "snapshots/trash"} {
					all = append(all, list(filepath.Join(e.root, dir))...)
				}
				return all
			}
			if len(left()) > 0 {
				if got := e.ok("images", "-q"); got != "" {
					t.Errorf("an image is left: %s", got)
				}
				e.ok("check")
				e.ok("prune", "-f")
				if all := left(); len(all) > 0 {
					t.Errorf("%q is left after a prune", all)
				}
			}
		})
	}
}

// The good image that the bad ones are made from is good.
func TestLoadGood(t *testing.T) {
	g := newGoodImage()
	e := newEnv(t)
	for i, entries := range [][]entry{g.oci(), g.docker("registry.example/evil:1"), with(g.docker("registry.example/evil:1"), entry{name: "dir/", kind: tar.TypeDir}, entry{name: "dir/", kind: tar.TypeDir}),
		with(without(g.docker("registry.example/evil:1"), "l.tar"), entry{name: "a/b/layer.tar", body: g.layer}, entry{name: "l.tar", kind: tar.TypeSymlink, link: "a/b/../c/layer.tar"}, entry{name: "a/c/layer.tar", kind: tar.TypeSymlink, link: "../b/layer.tar"}),
		with(without(g.docker("registry.example/evil:1"), "l.tar"), entry{name: "x", body: g.layer}, entry{name: "l.tar", kind: tar.TypeLink, link: "./x"})} {
		if err := os.WriteFile(filepath.Join(e.dir, "a.tar"), []byte(tarOf(entries...)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := e.ok("load", "-q", "-i", "a.tar"); got != "Loaded image: registry.example/evil:1\n" {
			t.Errorf("archive %d: %q", i, got)
		}
		if got := e.id("registry.example/evil:1"); got != digestOf(g.config) {
			t.Errorf("archive %d: image ID %s", i, got)
		}
		e.ok("rmi", "registry.example/evil:1")
	}
	// A layer that would leave its root is as harmless as one from a registry.
	g.layer = tarOf(entry{name: "../../../canary", body: "x"}, entry{name: "l", kind: tar.TypeSymlink, link: "/"}, entry{name: "l" + e.dir + "/canary", body: "x"})
	g.config = fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, digestOf(g.layer))
	if err := os.WriteFile(filepath.Join(e.dir, "a.tar"), []byte(tarOf(g.docker("evil")...)), 0o600); err != nil {
		t.Fatal(err)
	}
	e.run("load", "-i", "a.tar")
	if exists("/canary") || exists(filepath.Join(e.dir, "canary")) || exists(filepath.Join(e.root, "canary")) || exists(filepath.Join(e.root, "snapshots/canary")) {
		t.Error("a layer left its root")
	}
}
