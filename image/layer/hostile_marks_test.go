package layer

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"
)

func attr(kind byte, name string, records ...string) func(*tar.Writer) error {
	hdr := tar.Header{Typeflag: kind, Name: name, Mode: 0o644, PAXRecords: map[string]string{}}
	if kind == dirT {
		hdr.Mode = 0o755
	}
	if kind == lnk {
		hdr.Linkname = "x"
	}
	for _, r := range records {
		key, value, _ := strings.Cut(r, "=")
		hdr.PAXRecords[key] = value
	}
	return with(hdr, "")
}

// Whiteouts (layer.md, "Whiteouts"), and what would forge them.
func TestHostileMarks(t *testing.T) {
	for _, c := range []hostile{
		{name: "whiteout", tar: tarOf(t, h(reg, "d/.wh.gone", "", "")), want: "d/ -d/gone"},
		{name: "whiteout with content and attributes", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: ".wh.x", Mode: 0o4777, Uid: 5, PAXRecords: map[string]string{paxXattr + "user.a": "b"}}, "content"), h(reg, "f", "", "1")), want: "f=1 -x"},
		{name: "whiteout as a directory, a link, a device: only its name counts", tar: tarOf(t, h(dirT, ".wh.a", "", ""), h(lnk, ".wh.b", "/etc", ""), h(fifo, ".wh.c", "", "")), want: "-a -b -c"},
		{name: "whiteout through a link", tar: tarOf(t, h(lnk, "l", "/d", ""), h(reg, "l/.wh.gone", "", "")), want: "d/ -d/gone l->/d"},
		{name: "whiteout through a link out", tar: tarOf(t, h(lnk, "out", "../..", ""), h(reg, "out/.wh.canary", "", "")), want: "-canary out->../.."},
		{name: "whiteout of a link, not of its target", tar: tarOf(t, h(reg, "t", "", "1"), h(lnk, "l", "t", ""), h(reg, ".wh.l", "", "")), want: "l->t t=1"},
		{name: "whiteout above the root", tar: tarOf(t, h(reg, "../../.wh.canary", "", "")), want: "-canary"},
		// "Whiteout files MUST only apply to resources in lower/parent layers": what the layer itself brings stays, in either order.
		{name: "whiteout of what the layer has", tar: tarOf(t, h(reg, "f", "", "1"), h(reg, ".wh.f", "", "")), want: "f=1"},
		{name: "file after its whiteout", tar: tarOf(t, h(reg, ".wh.f", "", ""), h(reg, "f", "", "1")), want: "f=1"},
		{name: "directory after its whiteout", tar: tarOf(t, h(reg, ".wh.d", "", ""), h(dirT, "d", "", ""), h(reg, "d/f", "", "1")), want: "d/! d/f=1"},
		{name: "directory before its whiteout", tar: tarOf(t, h(dirT, "d", "", ""), h(reg, "d/f", "", "1"), h(reg, ".wh.d", "", "")), want: "d/! d/f=1"},
		{name: "in a directory after its whiteout", tar: tarOf(t, h(reg, ".wh.d", "", ""), h(reg, "d/f", "", "1")), want: "d/! d/f=1"},
		{name: "in a directory before its whiteout", tar: tarOf(t, h(reg, "d/f", "", "1"), h(reg, ".wh.d", "", "")), want: "d/! d/f=1"},
		{name: "whiteout, file, directory", tar: tarOf(t, h(reg, ".wh.d", "", ""), h(reg, "d", "", "1"), h(dirT, "d", "", "")), want: "d/!"},
		{name: "whiteout twice", tar: tarOf(t, h(reg, ".wh.f", "", ""), h(reg, ".wh.f", "", "")), want: "-f"},
		{name: "whiteout below what goes", tar: tarOf(t, h(reg, "d/.wh.f", "", ""), h(reg, "d", "", "1")), want: "d=1"},
		{name: "whiteout of the name .wh.x", tar: tarOf(t, h(reg, ".wh..wh.x", "", "")), want: ""}, // aufs' own: means nothing
		{name: "opaque", tar: tarOf(t, h(dirT, "d", "", ""), h(reg, "d/.wh..wh..opq", "", ""), h(reg, "d/f", "", "1")), want: "d/! d/f=1"},
		// "…indicating that all siblings are hidden in the lower layer": whatever comes before or after it in this one stays.
		{name: "opaque after", tar: tarOf(t, h(reg, "d/f", "", "1"), h(reg, "d/.wh..wh..opq", "", "")), want: "d/! d/f=1"},
		{name: "opaque twice", tar: tarOf(t, h(reg, "d/.wh..wh..opq", "", ""), h(reg, "d/.wh..wh..opq", "", "")), want: "d/!"},
		{name: "opaque, then the directory", tar: tarOf(t, h(reg, "d/.wh..wh..opq", "", ""), with(tar.Header{Typeflag: dirT, Name: "d", Mode: 0o700}, "")), want: "d/!(700)"},
		{name: "opaque through a link", tar: tarOf(t, h(lnk, "l", "d", ""), h(reg, "l/.wh..wh..opq", "", "")), want: "d/! l->d"},
		{name: "opaque, and then the directory is a file", tar: tarOf(t, h(reg, "d/.wh..wh..opq", "", ""), h(reg, "d", "", "1")), want: "d=1"},
		{name: "opaque root", tar: tarOf(t, h(reg, ".wh..wh..opq", "", ""), h(reg, "f", "", "1")), want: "./! f=1"},
		{name: "opaque in a file", tar: tarOf(t, h(reg, "f", "", "1"), h(reg, "f/.wh..wh..opq", "", "")), err: ErrMalformed, text: "no directory"},
		// containerd refuses these; Docker would delete the directory, or what is above it.
		{name: "whiteout of nothing", tar: tarOf(t, h(reg, ".wh.", "", "")), err: ErrMalformed, text: "whiteout"},
		{name: "whiteout of the directory itself", tar: tarOf(t, h(reg, "d/.wh..", "", "")), err: ErrMalformed, text: "whiteout"},
		{name: "whiteout of the parent", tar: tarOf(t, h(reg, "d/.wh...", "", "")), err: ErrMalformed, text: "whiteout"},
		// "it is not possible to create a filesystem which contains a file or directory with a name beginning with .wh."
		{name: "a file in a whiteout", tar: tarOf(t, h(reg, "d/.wh.x/f", "", "1")), err: ErrMalformed, text: "deletion"},
		{name: "aufs' own", tar: tarOf(t, h(dirT, ".wh..wh.plnk", "", ""), h(reg, ".wh..wh.plnk/12.34", "", "x"), h(reg, ".wh..wh.aufs", "", ""), h(reg, "d/.wh..wh.orph/f", "", ""), h(reg, "f", "", "1")), want: "f=1"},
		// Docker 1.9 and older kept files of several names there; nothing has written such layers since 2016.
		{name: "a hard link into aufs' own", tar: tarOf(t, h(reg, ".wh..wh.plnk/12.34", "", "x"), h(hard, "f", ".wh..wh.plnk/12.34", "")), want: "needs f==.wh..wh.plnk/12.34"},
		{name: "names that are not UTF-8 are needed as they are", tar: join(file("\xff/f", "1"), file("\xff/.wh.\xfe", "")), want: "\xff/ \xff/f=1 -\xff/\xfe"},

		// What overlayfs would take for its own marks.
		{name: "a planted whiteout device", tar: tarOf(t, h(chr, "x", "", "")), err: ErrUnsupported, text: "0/0"},
		{name: "a block device 0/0 marks nothing", tar: tarOf(t, h(blk, "x", "", "")), want: "xb0:0"},
		{name: "overlayfs' attributes", tar: tarOf(t, attr(dirT, "a", "SCHILY.xattr.trusted.overlay.opaque=y"), attr(dirT, "b", "SCHILY.xattr.user.overlay.opaque=y"),
			attr(reg, "c", "SCHILY.xattr.trusted.overlay.metacopy="), attr(reg, "d", "SCHILY.xattr.trusted.overlay.redirect=/etc/shadow", "SCHILY.xattr.user.k=v")), want: `a/ b/ c= d=(user.k="v")`, warn: "overlayfs' own"},
		{name: "overlayfs' attributes of a nested one", tar: tarOf(t, attr(reg, "c", "SCHILY.xattr.trusted.overlay.overlay.whiteout=y", "SCHILY.xattr.user.overlay.whiteout=")), want: "c=", warn: "overlayfs' own"},
		{name: "overlayfs' attributes on the root", tar: tarOf(t, attr(dirT, "./", "SCHILY.xattr.trusted.overlay.opaque=y", "SCHILY.xattr.trusted.overlay.origin=x")), want: "", warn: "overlayfs' own"},
		{name: "libarchive's form of an attribute", tar: tarOf(t, attr(dirT, "a", "LIBARCHIVE.xattr.trusted.overlay.opaque=eQ==", "LIBARCHIVE.xattr.user.k=dg==")), want: "a/"}, // as containerd: not read at all
		{name: "attributes in a global header", tar: join(pax('g', "SCHILY.xattr.trusted.overlay.opaque=y", "path=../../canary"), head("d", '5', 0, "", field{atMode, "0000755"})), want: "d/"},
		{name: "many warnings", tar: tarOf(t, manyMarks(100)...), want: "a/", warn: "and 90 more"},
	} {
		c.run(t)
	}
}

func manyMarks(n int) []func(*tar.Writer) error {
	var all []func(*tar.Writer) error
	for range n {
		all = append(all, attr(dirT, "a", "SCHILY.xattr.trusted.overlay.opaque=y"))
	}
	return all
}

// Owners, modes, times and attributes as a header can say them.
func TestHostileAttributes(t *testing.T) {
	acl := func(mask byte) string { // u::rw, u:99:rwx, g::r, m::mask, o::-
		entry := func(tag, perm byte, id string) string { return string([]byte{tag, 0, perm, 0}) + id }
		const none = "\xff\xff\xff\xff"
		return "\x02\x00\x00\x00" + entry(1, 6, none) + entry(2, 7, "\x63\x00\x00\x00") + entry(4, 4, none) + entry(16, mask, none) + entry(32, 0, none)
	}
	const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, c := range []hostile{
		{name: "setuid, setgid, sticky", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "s", Mode: 0o6755, Uid: 1, Gid: 2}, "x"), with(tar.Header{Typeflag: dirT, Name: "t", Mode: 0o1777}, "")), want: "s=x(6755,1:2) t/(1777)"},
		{name: "mode bits beyond 07777", tar: join(head("f", '0', 0, "", field{atMode, "0100644"}), head("g", '0', 0, "", field{atMode, "7777777"})), want: "f= g=(7777)"},
		{name: "no mode", tar: join(head("f", '0', 0, "", field{atMode, "\x00\x00\x00\x00\x00\x00\x00\x00"})), want: "f=(0)"},
		// The layer says of each entry whose it is: a setgid directory hands its group to none of them, nor a default ACL.
		{name: "in a setgid directory", tar: tarOf(t, with(tar.Header{Typeflag: dirT, Name: "d", Mode: 0o2775, Gid: 50}, ""), h(reg, "d/f", "", "1"), h(dirT, "d/e", "", ""), h(lnk, "d/l", "x", ""), h(reg, "d/i/f", "", "")),
			want: "d/(2775,0:50) d/e/ d/f=1 d/i/ d/i/f= d/l->x"},
		{name: "in a directory with a default ACL", tar: tarOf(t, attr(dirT, "d", "SCHILY.xattr.system.posix_acl_default="+acl(7)), h(reg, "d/f", "", "1"), h(dirT, "d/e", "", "")),
			want: fmt.Sprintf("d/(system.posix_acl_default=%q) d/e/ d/f=1", acl(7))},
		{name: "a default ACL, and the directory again", tar: tarOf(t, attr(dirT, "d", "SCHILY.xattr.system.posix_acl_default="+acl(7)), h(dirT, "d", "", ""), h(reg, "d/f", "", "1")),
			want: fmt.Sprintf("d/(system.posix_acl_default=%q) d/f=1", acl(7))},
		{name: "an ACL as the mode says", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Mode: 0o660, PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": acl(6)}}, "")), want: fmt.Sprintf("f=(660,system.posix_acl_access=%q)", acl(6))},
		{name: "an ACL against the mode: the mode wins, as in containerd", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Mode: 0o600, PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": acl(7)}}, "")), want: fmt.Sprintf("f=(600,system.posix_acl_access=%q)", acl(0))},
		{name: "an ACL that is none", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.system.posix_acl_access=xyz")), err: ErrMalformed, text: "posix_acl_access"},
		{name: "a default ACL on a file", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.system.posix_acl_default="+acl(7))), err: ErrMalformed, text: "posix_acl_default"},
		{name: "a capability", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Mode: 0o755, Uid: 7, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": capNetRaw}}, "x")), want: fmt.Sprintf("f=x(755,7:0,security.capability=%q)", capNetRaw)},
		{name: "a capability that is none", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.security.capability=xyz")), err: ErrMalformed, text: "security.capability"},
		{name: "an attribute without a name", tar: join(pax('x', "SCHILY.xattr.=v"), file("f", "")), err: ErrMalformed, text: "attribute named"},
		{name: "an attribute of a long name", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.user."+strings.Repeat("n", 251)+"=v")), err: ErrMalformed, text: "attribute named"},
		{name: "an attribute too large for Linux", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.user.k="+strings.Repeat("v", 65<<10))), err: ErrLimit, text: "at most 65536"},
		{name: "an attribute of no known namespace", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.com.apple.quarantine=v", "SCHILY.xattr.user.k=v")), want: `f=(user.k="v")`, warn: "com.apple.quarantine"},
		{name: "a user attribute on a link and a device", tar: tarOf(t, attr(lnk, "l", "SCHILY.xattr.user.k=v"), attr(fifo, "p", "SCHILY.xattr.user.k=v")), want: "l->x p|", warn: "only files and directories"},
		{name: "a trusted attribute on a link", tar: tarOf(t, attr(lnk, "l", "SCHILY.xattr.trusted.k=v")), want: `l->x(trusted.k="v")`},
		{name: "an attribute of bytes", tar: tarOf(t, attr(reg, "f", "SCHILY.xattr.user.k=\x00\xff\n")), want: `f=(user.k="\x00\xff\n")`},
		{name: "attributes on a whiteout", tar: tarOf(t, attr(reg, ".wh.f", "SCHILY.xattr.user.k=v")), want: "-f"},

		{name: "huge owners", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Mode: 0o644, Uid: 4294967294, Gid: 4294967294}, "")), want: "f=(4294967294:4294967294)"},
		{name: "the owner that means no change", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Uid: 4294967295}, "")), err: ErrMalformed, text: "owner"},
		{name: "an owner beyond 32 bits", tar: join(pax('x', "uid=4294967296"), file("f", "")), err: ErrMalformed, text: "owner"},
		{name: "a negative owner", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Uid: -5, Format: tar.FormatGNU}, "")), err: ErrMalformed, text: "owner"},
		{name: "an owner that is no number", tar: join(pax('x', "uid=root"), file("f", "")), err: ErrMalformed},
		// Times are kept as far as the filesystem can (checkIndex compares; containerd turns those before 1970 into 1970).
		{name: "before 1970", tar: tarOf(t, with(tar.Header{Typeflag: reg, Name: "f", Mode: 0o644, PAXRecords: nil}, ""), attr(reg, "g", "mtime=-86400.5")), want: "f= g="},
		{name: "far future", tar: join(pax('x', "mtime=99999999999999.999999999"), file("f", ""), pax('x', "mtime=-99999999999999.5"), file("g", ""), pax('x', "mtime=9223372036854775807"), file("h", "")), want: "f= g= h="},
		{name: "a time in base 256", tar: join(head("f", '0', 0, "", field{atTime, "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}), head("g", '0', 0, "", field{atTime, "\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00"})), want: "f= g="},
		{name: "a part of a second", tar: tarOf(t, attr(reg, "f", "mtime=1.123456789123")), want: "f="},
		{name: "a time that is no number", tar: join(pax('x', "mtime=now"), file("f", "")), err: ErrMalformed},
		{name: "large device numbers", tar: tarOf(t, with(tar.Header{Typeflag: blk, Name: "b", Mode: 0o600, Devmajor: 4095, Devminor: 1048575, Format: tar.FormatGNU}, "")), want: "bb4095:1048575(600)"},
		{name: "a device number beyond the kernel's", tar: tarOf(t, with(tar.Header{Typeflag: chr, Name: "c", Devmajor: 1 << 12, Devminor: 0, Format: tar.FormatGNU}, "")), err: ErrMalformed, text: "device"},
		{name: "a device 0/0 by overflow", tar: tarOf(t, with(tar.Header{Typeflag: chr, Name: "c", Devmajor: 1 << 20, Devminor: 0, Format: tar.FormatGNU}, "")), err: ErrMalformed, text: "device"},
		{name: "a negative device", tar: tarOf(t, with(tar.Header{Typeflag: chr, Name: "c", Devmajor: -1, Devminor: 3, Format: tar.FormatGNU}, "")), err: ErrMalformed, text: "device"},
	} {
		c.run(t)
	}
}
