package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const (
	gnuMagic    = "ustar  \x00"
	atGNUSparse = 386
)

// oldSparse is a file of GNU's first sparse form: a map of up to four pieces in the header, more in blocks that follow it.
func oldSparse(name string, real int64, content string, pieces ...[2]int64) []byte {
	b := make([]byte, tarBlock)
	copy(b, head(name, 'S', int64(len(content)), ""))
	copy(b[atMagic:], gnuMagic)
	copy(b[483:], fmt.Sprintf("%011o", real))
	put := func(at []byte, p [2]int64) { copy(at, fmt.Sprintf("%011o\x00%011o\x00", p[0], p[1])) }
	var more []byte
	for i, p := range pieces {
		switch {
		case i < 4:
			put(b[atGNUSparse+24*i:], p)
		case (i-4)%21 == 0:
			if more == nil {
				b[482] = 1
			} else {
				more[len(more)-tarBlock+504] = 1
			}
			more = append(more, make([]byte, tarBlock)...)
			fallthrough
		default:
			put(more[len(more)-tarBlock+24*((i-4)%21):], p)
		}
	}
	return bytes.Join([][]byte{sumUp(b), more, padded(content)}, nil)
}

// The dialects of tar: one file with the content "x" or a hole before it, said in every way.
func TestHostileDialects(t *testing.T) {
	name120, name300 := strings.Repeat("n", 120), strings.Repeat("d/", 100)+strings.Repeat("n", 100)
	in := func(dirs, rest string) string { return deepDirs(dirs) + dirs + rest }
	sparse := "f=" + strings.Repeat("\x00", 20) + "x"
	const v7 = "\x00\x00\x00\x00\x00\x00\x00\x00"
	many := make([][2]int64, 60)
	data := ""
	for i := range many {
		many[i] = [2]int64{int64(i * 1000), 1}
		data += "x"
	}
	many = append(many, [2]int64{60000, 0})
	for _, c := range []hostile{
		{name: "v7", tar: join(append(head("f", 0, 1, "", field{atMagic, v7}), padded("x")...)), want: "f=x"},
		{name: "v7 link", tar: join(head("l", '2', 0, "t", field{atMagic, v7})), want: "l->t"},
		{name: "ustar with a prefix", tar: join(append(head("n", '0', 1, "", field{atPrefix, "p/q"}), padded("x")...)), want: "p/ p/q/ p/q/n=x"},
		{name: "ustar with a prefix that leads out", tar: join(append(head("../canary", '0', 1, "", field{atPrefix, "../.."}), padded("x")...)), want: "canary=x"},
		{name: "GNU", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Mode: 0o644, Format: tar.FormatGNU}, "x")), want: "f=x"},
		{name: "GNU long name", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: name120, Mode: 0o644, Format: tar.FormatGNU}, "x")), want: name120 + "=x"},
		{name: "GNU long name that leads out", tar: join(head("././@LongLink", 'L', 15, "", field{atMagic, gnuMagic}), padded("../../../canary\x00"), file("g", "x")), want: "canary=x"},
		{name: "GNU long link", tar: join(head("././@LongLink", 'K', 121, "", field{atMagic, gnuMagic}), padded(name120+"\x00"), head("l", '2', 0, "short", field{atMagic, gnuMagic})), want: "l->" + name120},
		{name: "two long names", tar: join(head("././@LongLink", 'L', 2, "", field{atMagic, gnuMagic}), padded("a\x00"), head("././@LongLink", 'L', 2, "", field{atMagic, gnuMagic}), padded("b\x00"), file("c", "x")), want: "b=x"},
		{name: "a long name and nothing after it", tar: join(head("././@LongLink", 'L', 2, "", field{atMagic, gnuMagic}), padded("a\x00")), want: ""},
		{name: "pax long path", tar: tarOf(t, h(reg, name300, "", "x")), want: in(strings.Repeat("d/", 100), strings.Repeat("n", 100)+"=x")},
		{name: "pax path before a GNU name", tar: join(pax('x', "path=a"), head("././@LongLink", 'L', 2, "", field{atMagic, gnuMagic}), padded("b\x00"), file("c", "x")), want: "b=x"},
		{name: "pax path twice", tar: join(pax('x', "path=a", "path=../../b"), file("c", "x")), want: "b=x"},
		{name: "pax, empty path", tar: join(pax('x', "path="), file("c", "x")), want: "c=x"},
		{name: "pax of a directory over a file's header", tar: join(pax('x', "path=d/"), file("c", "x")), want: "d=x"},
		{name: "two pax headers", tar: join(pax('x', "path=a"), pax('x', "uid=7"), file("c", "x")), want: "c=x(7:0)"},
		{name: "pax header and nothing after it", tar: join(pax('x', "path=a")), want: ""},
		{name: "pax record of a false length", tar: join(head("p", 'x', 12, ""), padded("99 path=abc\n"), file("c", "x")), err: ErrMalformed},
		{name: "pax record without an end", tar: join(head("p", 'x', 10, ""), padded("10 path=ab"), file("c", "x")), err: ErrMalformed},
		{name: "pax record without a key", tar: join(pax('x', "=v"), file("c", "x")), err: ErrMalformed},
		{name: "a pax header of 2 MB", tar: join(pax('x', "comment="+strings.Repeat("x", 2<<20)), file("c", "x")), err: ErrLimit, text: "1 MiB"},
		{name: "a GNU name of 2 MB", tar: join(head("././@LongLink", 'L', 2<<20, "", field{atMagic, gnuMagic}), make([]byte, 2<<20), file("c", "x")), err: ErrLimit, text: "1 MiB"},
		{name: "global pax header", tar: join(pax('g', "comment=0123", "uid=12"), file("c", "x")), want: "c=x"},
		{name: "star", tar: join(append(head("n", '0', 1, "", field{atPrefix, "p"}, field{508, "tar\x00"}), padded("x")...)), want: "p/ p/n=x"},
		{name: "Solaris' extended header", tar: join(append(head("p", 'X', 10, ""), padded("10 path=a\n")...), file("c", "x")), err: ErrUnsupported, text: "type"},
		{name: "contiguous file", tar: join(append(head("f", '7', 1, ""), padded("x")...)), want: "f=x"},
		{name: "a GNU volume header", tar: join(head("vol", 'V', 0, "", field{atMagic, gnuMagic}), file("c", "x")), err: ErrUnsupported, text: "type"},
		{name: "a GNU dump directory", tar: join(head("d", 'D', 0, "", field{atMagic, gnuMagic}), file("c", "x")), err: ErrUnsupported, text: "type"},
		{name: "an unknown type", tar: tarOf(t, h('Z', "x", "", "")), err: ErrUnsupported, text: "type"},
		{name: "a socket, as some tools write it", tar: join(head("s", 's', 0, "")), err: ErrUnsupported, text: "type"},
		{name: "cpio's hard link with content", tar: join(file("a", "x"), head("b", '1', 1, "a"), padded("x")), err: ErrMalformed}, // as for containerd: links have none

		{name: "old GNU sparse", tar: join(oldSparse("f", 21, "x", [2]int64{20, 1})), want: sparse},
		{name: "old GNU sparse, many pieces", tar: join(oldSparse("f", 60000, data, many...)), want: "f=<60000 bytes>"},
		{name: "old GNU sparse, nothing but a hole", tar: join(oldSparse("f", 20, "", [2]int64{20, 0})), want: "f=" + strings.Repeat("\x00", 20)},
		{name: "old GNU sparse, pieces backwards", tar: join(oldSparse("f", 30, "xy", [2]int64{20, 1}, [2]int64{10, 1})), err: ErrMalformed},
		{name: "old GNU sparse, beyond its size", tar: join(oldSparse("f", 10, "x", [2]int64{20, 1})), err: ErrMalformed},
		{name: "old GNU sparse of exabytes", tar: join(oldSparse("f", 1<<33-1, "x", [2]int64{20, 1})), lim: Limits{Content: 1 << 30}, err: ErrLimit, text: "1073741824 bytes"},
		{name: "pax sparse 0.0", tar: join(pax('x', "GNU.sparse.size=21", "GNU.sparse.numblocks=1", "GNU.sparse.offset=20", "GNU.sparse.numbytes=1"), file("f", "x")), want: sparse},
		{name: "pax sparse 0.1", tar: join(pax('x', "GNU.sparse.size=21", "GNU.sparse.numblocks=1", "GNU.sparse.map=20,1", "GNU.sparse.name=f"), file("GNUSparseFile.1/f", "x")), want: sparse},
		{name: "pax sparse 1.0", tar: join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", "GNU.sparse.realsize=21"), file("GNUSparseFile.1/f", string(padded("1\n20\n1\n"))+"x")), want: sparse},
		{name: "pax sparse 1.0 whose name leads out", tar: join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=../../canary", "GNU.sparse.realsize=21"), file("g/f", string(padded("1\n20\n1\n"))+"x")), want: "canary" + sparse[1:]},
		{name: "pax sparse 1.0 of 8 exabytes", tar: join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", "GNU.sparse.realsize=9223372036854775807"), file("g/f", string(padded("1\n20\n1\n"))+"x")), err: unix.ENOSPC, text: "content of more than"},
		{name: "pax sparse 1.0 with a map of a billion", tar: join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", "GNU.sparse.realsize=21"), file("g/f", string(padded("1000000000\n20\n1\n"))+"x")), err: ErrMalformed},
		{name: "pax sparse 1.0 that overlaps", tar: join(pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=f", "GNU.sparse.realsize=21"), file("g/f", string(padded("2\n0\n10\n5\n10\n"))+strings.Repeat("x", 20))), err: ErrMalformed},
		{name: "pax sparse of an unknown version", tar: join(pax('x', "GNU.sparse.major=2", "GNU.sparse.minor=0", "GNU.sparse.name=f"), file("g", "x")), want: "g=x"},
	} {
		c.run(t)
	}
}

func deepDirs(dirs string) string {
	out := ""
	for i := 2; i <= len(dirs); i += 2 {
		out += dirs[:i] + " "
	}
	return out
}

// Sizes that are not true, and archives that do not end as they should.
func TestHostileSizes(t *testing.T) {
	one := file("f", "x")
	big := file("big", strings.Repeat("y", 600<<10)) // beyond what is read at once
	ends := make([]byte, 2*tarBlock)
	for _, c := range []hostile{
		{name: "nothing at all", tar: nil, want: ""},
		{name: "nothing but the end", tar: ends, want: ""},
		// archive/tar, and with it containerd and Docker, take an end between two entries for the end; the layer's digest knows.
		{name: "no end", tar: one, want: "f=x"},
		{name: "half of the end", tar: append(bytes.Clone(one), ends[:tarBlock]...), want: "f=x"},
		{name: "cut in a header", tar: append(bytes.Clone(one), head("g", '0', 0, "")[:100]...), err: ErrMalformed},
		{name: "cut after a header", tar: head("f", '0', 1, ""), err: ErrMalformed, text: "ends early"},
		{name: "cut in a content", tar: append(head("f", '0', 600, ""), padded("x")...), err: ErrMalformed, text: "ends early"},
		{name: "cut in a large content", tar: big[:500<<10], err: ErrMalformed, text: "ends early"},
		{name: "cut in the padding", tar: one[:tarBlock+10], want: "f=x"},
		{name: "cut in the end", tar: append(bytes.Clone(one), make([]byte, 700)...), err: ErrMalformed},
		{name: "cut in a pax header", tar: pax('x', "path="+strings.Repeat("a", 600))[:900], err: ErrMalformed},
		{name: "cut in a sparse map", tar: oldSparse("f", 60000, "xxxxxx", [2]int64{0, 1}, [2]int64{2, 1}, [2]int64{4, 1}, [2]int64{6, 1}, [2]int64{8, 1}, [2]int64{10, 1})[:600], err: ErrMalformed},
		{name: "one zero block and then more", tar: bytes.Join([][]byte{one, ends[:tarBlock], file("g", "y"), ends}, nil), err: ErrMalformed},
		// What follows the end is no part of the archive, but of the diff ID.
		{name: "another tar after the end", tar: append(join(one), join(file("g", "y"))...), want: "f=x"},
		{name: "rubbish after the end", tar: append(join(one), "rubbish"...), want: "f=x"},
		{name: "megabytes of zeroes after the end", tar: append(join(one), make([]byte, 3<<20)...), want: "f=x"},
		{name: "a size beyond the data", tar: join(head("f", '0', 1<<32, ""), padded("x")), lim: Limits{Content: 1 << 40}, err: ErrMalformed, text: "ends early"},
		{name: "a size that takes in the next header", tar: join(append(head("f", '0', 1024, ""), padded("x")...), file("g", "y")), err: ErrMalformed},
		{name: "a negative size in base 256", tar: join(head("f", '0', 0, "", field{atSize, strings.Repeat("\xff", 12)}), padded("x")), err: ErrMalformed},
		{name: "a huge size in base 256", tar: join(head("f", '0', 0, "", field{atSize, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}), padded("x")), err: unix.ENOSPC, text: "content of more than"},
		{name: "a size that is no number", tar: join(head("f", '0', 0, "", field{atSize, "8888rubbish\x00"}), padded("x")), err: ErrMalformed},
		{name: "a negative size in pax", tar: join(pax('x', "size=-1"), file("f", "x")), err: ErrMalformed},
		{name: "pax says the size", tar: join(pax('x', "size=1"), head("f", '0', 0, ""), padded("x"), file("g", "y")), want: "f=x g=y"},
		{name: "a directory with a size has no content", tar: join(head("d", '5', 512, "", field{atMode, "0000755"}), file("g", "y")), want: "d/ g=y"},
		{name: "a link with a size has no content", tar: join(head("l", '2', 512, "t"), file("g", "y")), want: "g=y l->t"},
		{name: "a whiteout with a content", tar: join(file(".wh.f", strings.Repeat("z", 300<<10)), file("g", "y")), want: "-f g=y"},
		{name: "a false checksum", tar: join(append(head("f", '0', 1, "")[:atSum], append([]byte("000001\x00 "), head("f", '0', 1, "")[atType:]...)...), padded("x")), err: ErrMalformed},
		{name: "a signed checksum", tar: join(signedSum(head("f\xff\xff", '0', 1, "")), padded("x")), want: "f\xff\xff=x"},
		{name: "not a tar", tar: []byte(strings.Repeat("not a tar ", 200)), err: ErrMalformed},
		{name: "not a tar, and short", tar: []byte("x"), err: ErrMalformed},
		{name: "too many entries", tar: join(one, one, one), lim: Limits{Entries: 2}, err: ErrLimit, text: "more than 2 entries"},
		{name: "too many global headers", tar: join(pax('g', "a=b"), pax('g', "a=b"), pax('g', "a=b")), lim: Limits{Entries: 2}, err: ErrLimit, text: "more than 2 entries"},
		{name: "too many of aufs' own", tar: join(file(".wh..wh.aufs", ""), file(".wh..wh.aufs", ""), file(".wh..wh.aufs", "")), lim: Limits{Entries: 2}, err: ErrLimit, text: "more than 2 entries"},
		{name: "too many bytes", tar: join(big), lim: Limits{Size: 300 << 10}, err: ErrLimit, text: "unpacked"},
		{name: "too many bytes after the end", tar: append(join(one), make([]byte, 3<<20)...), lim: Limits{Size: 1 << 20}, err: ErrLimit, text: "unpacked"},
		{name: "too much content, counted over files", tar: join(one, one, one), lim: Limits{Content: 2}, err: ErrLimit, text: "content of more than 2 bytes"},
	} {
		c.run(t)
	}
}

// signedSum gives a header the checksum of its bytes as signed numbers, which some old tars wrote.
func signedSum(b []byte) []byte {
	copy(b[atSum:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(int8(c))
	}
	copy(b[atSum:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Compressed streams that are bombs, cut, joined or followed by something.
func TestHostileCompression(t *testing.T) {
	plain := join(file("f", "x"))
	gz := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(data)
		w.Close()
		return b.Bytes()
	}
	zs := func(data []byte) []byte {
		var b bytes.Buffer
		w, _ := zstd.NewWriter(&b)
		w.Write(data)
		w.Close()
		return b.Bytes()
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	skippable := cat([]byte{0x53, 0x2a, 0x4d, 0x18, 5, 0, 0, 0}, []byte("hello"))
	flipped := gz(join(file("f", strings.Repeat("some text ", 1000))))
	flipped[len(flipped)-6] ^= 1
	bomb := gz(append(head("f", '0', 1<<28, ""), make([]byte, 1<<28)...))
	for _, c := range []hostile{
		{name: "gzip", tar: gz(plain), want: "f=x"},
		{name: "gzip in members", tar: cat(gz(plain[:100]), gz(plain[100:600]), gz(nil), gz(plain[600:])), want: "f=x"},
		{name: "gzip, then zeroes", tar: cat(gz(plain), make([]byte, 1000)), err: ErrMalformed},
		{name: "gzip, then rubbish", tar: cat(gz(plain), []byte("rubbish rubbish")), err: ErrMalformed},
		{name: "gzip with a false sum", tar: flipped, err: ErrMalformed},
		{name: "gzip of nothing", tar: gz(nil), want: ""},
		{name: "gzip of gzip", tar: gz(gz(plain)), err: ErrMalformed},
		{name: "gzip cut in its header", tar: gz(plain)[:5], err: ErrMalformed},
		{name: "zstd", tar: zs(plain), want: "f=x"},
		{name: "zstd in frames, some to be skipped", tar: cat(skippable, zs(plain[:100]), skippable, zs(plain[100:]), skippable), want: "f=x"},
		{name: "zstd, then rubbish", tar: cat(zs(plain), []byte("rubbish")), err: ErrMalformed},
		{name: "zstd cut", tar: zs(plain)[:30], err: ErrMalformed},
		{name: "zstd with a window of gigabytes", tar: []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0, 0, 0, 0, 0, 0, 0}, err: ErrMalformed},
		{name: "a bomb of 256 MiB", tar: bomb, lim: Limits{Size: 64 << 20, Content: 1 << 40}, err: ErrLimit, text: "unpacked"},
		{name: "a bomb, by its content", tar: bomb, lim: Limits{Content: 64 << 20}, err: ErrLimit, text: "content"},
	} {
		c.run(t)
	}
}

// A layer cut at every byte is an error or what came before; never a panic, never the canary.
func TestHostileCuts(t *testing.T) {
	whole := join(pax('x', "path=dir/file", "SCHILY.xattr.user.k=v"), file("x", "content"), head("l", '2', 0, "dir"), oldSparse("s", 21, "x", [2]int64{20, 1}), file(".wh.gone", ""))
	for n := 0; n < len(whole); n += 37 {
		dir := t.TempDir()
		_, err := Apply(context.Background(), bytes.NewReader(whole[:n]), openDir1(t, dir), Options{})
		if err == nil {
			checkIndex(t, dir)
		} else if !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

// A layer for which the disk is too small says so, and so does one that asks for more than is free.
func TestHostileFullDisk(t *testing.T) {
	dir := t.TempDir()
	sh(t, dir, "truncate -s 8M img; mkfs.ext4 -q -N 64 img; mkdir m; mount -o loop img m")
	defer sh(t, dir, "umount m")
	for name, layer := range map[string][]byte{
		"content":    join(file("f", strings.Repeat("x", 20<<20))),
		"a name":     join(file("zstd corrupt", strings.Repeat("x", 6<<20)), file("g", strings.Repeat("x", 1<<20))),
		"hole":       join(oldSparse("f", 20<<20, "x", [2]int64{20, 1})),
		"inodes":     join(bytes.Repeat(file("f", ""), 1), manyFiles(200)),
		"attributes": join(pax('x', "SCHILY.xattr.user.k="+strings.Repeat("v", 60000)), file("f", "")),
	} {
		t.Run(name, func(t *testing.T) {
			tree := filepath.Join(dir, "m", name)
			if err := os.Mkdir(tree, 0o755); err != nil {
				t.Fatal(err)
			}
			d, err := os.Open(tree)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Apply(context.Background(), bytes.NewReader(layer), d, Options{})
			d.Close()
			if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.E2BIG) || errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
			os.RemoveAll(tree)
		})
	}
}

func manyFiles(n int) []byte {
	var b []byte
	for i := range n {
		b = append(b, file(fmt.Sprintf("d/%d", i), "")...)
	}
	return b
}
