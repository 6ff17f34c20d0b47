package image

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/layerctl/layerctl/image/content"
	"github.com/layerctl/layerctl/image/reference"
	"github.com/layerctl/layerctl/image/registry"
)

// lying is a source that says whatever it is told: the same document for every digest.
type lying struct {
	raw   []byte
	media string
}

func (l lying) Manifest(_ context.Context, tagOrDigest string) (registry.Manifest, error) {
	return registry.Manifest{Raw: l.raw, MediaType: l.media, Digest: content.Digest(l.raw)}, nil
}

func (l lying) Blob(context.Context, string, int64) (io.ReadCloser, error) { return nil, io.EOF }

// A manifest or index of any bytes is refused, or names only blobs whose digests and sizes are such.
func FuzzManifest(f *testing.F) {
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	const ociManifest, ociIndex = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	config := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":2}`
	layer := `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + digest + `","size":-1}`
	f.Add([]byte(`{"schemaVersion":2,"config":`+config+`,"layers":[`+layer+`]}`), ociManifest)
	f.Add([]byte(`{"schemaVersion":2,"config":`+config+`,"layers":[{"digest":"sha256:../../x","size":1}]}`), "application/vnd.docker.distribution.manifest.v2+json")
	f.Add([]byte(`{"manifests":[{"mediaType":"`+ociIndex+`","digest":"`+digest+`","size":5,"platform":{"os":"linux","architecture":"amd64"}}]}`), ociIndex)
	f.Add([]byte(`{"manifests":null}`), ociIndex)
	f.Add([]byte(`[]`), "application/vnd.docker.distribution.manifest.v1+prettyjws")
	f.Fuzz(func(t *testing.T, raw []byte, media string) {
		m, err := fetchManifest(t.Context(), lying{raw, media}, "latest", platform{os: "linux", arch: "amd64"})
		if err != nil {
			return
		}
		if !reference.ValidDigest(m.configDigest) {
			t.Errorf("the config has the digest %q", m.configDigest)
		}
		for _, l := range m.parsed.Layers {
			if !reference.ValidDigest(l.Digest.String()) || l.Size < 0 {
				t.Errorf("a layer has the digest %q and %d bytes", l.Digest, l.Size)
			}
		}
	})
}

// A config of any bytes is refused, or comes out as a row that can be written and read again.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","architecture":"amd64","created":"2024-01-02T03:04:05Z","rootfs":{"type":"layers","diff_ids":["sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]},"config":{"Cmd":["sh"],"Env":["A=b","=","C"],"ExposedPorts":{"80":{}},"Volumes":{"/v":{}},"Labels":{"a":"b"},"User":"a:b","WorkingDir":"../.."},"history":[{"created_by":"x","empty_layer":true}]}`))
	f.Add([]byte(`{"rootfs":{"diff_ids":["sha256:../../x",null,1]},"config":null,"history":[null]}`))
	f.Add([]byte(`{"created":"yesterday"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		parseConfig(Image{Config: raw})
		var cfg v1.ConfigFile
		if json.Unmarshal(raw, &cfg) != nil {
			return
		}
		row := rowOf(&cfg, nil, nil)
		b, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		var again imageRow
		if err := json.Unmarshal(b, &again); err != nil {
			t.Errorf("the row does not come back: %v", err)
		}
	})
}

// A platform that a user types is one or refused.
func FuzzPlatform(f *testing.F) {
	f.Add("linux/arm64/v8")
	f.Add("a//b")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePlatform(s)
		if err == nil && s != "" && (p.os == "" || p.arch == "") {
			t.Errorf("%q gives %+v", s, p)
		}
		if err != nil && errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}
