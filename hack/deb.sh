#!/usr/bin/env bash
# Makes a Debian package of what `make install` installs: deb.sh VERSION OUTDIR. `make deb` calls it. lintian looks at it where it is
# installed, and what it finds is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1 out=$(realpath -m "$2")
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH=$epoch LC_ALL=C
arch=$(dpkg --print-architecture)
maintainer=${MAINTAINER:-$(git log -1 --format='%an <%ae>')}
# A version of Debian's begins with a digit, and a commit without a tag comes before every release.
version=${version#v}
case $version in
[0-9]*-*-g*) version=${version/-/+} version=${version//-/.} ;;
[0-9]*.*) version=${version//-/.} ;;
*) version=0~git$(date -u -d "@$epoch" +%Y%m%d).${version//-/.} ;;
esac
umask 022
stage=$(mktemp -d "${TMPDIR:-/var/tmp}/layerctl-deb.XXXXXX")
trap 'rm -rf "$stage"' EXIT
root=$stage/root
make --no-print-directory install DESTDIR="$root" PREFIX=/usr VERSION="$1" >/dev/null
mv "$root/usr/share/zsh/site-functions" "$root/usr/share/zsh/vendor-completions"
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} +

doc=$root/usr/share/doc/layerctl
mkdir -p "$doc" "$root/usr/share/lintian/overrides" "$root/DEBIAN"
cp README.md CHANGELOG.md docs/*.md "$doc"
{
	printf 'layerctl was built from its source repository. The modules of others that are linked into it:\n'
	go version -m "$root/usr/bin/layerctl" | awk '$1 == "dep" { print $2, $3 }' | while read -r module at; do
		dir=$(go list -m -f '{{.Dir}}' "$module")
		license=$(find "$dir" -maxdepth 1 -type f \( -iname '*licen[sc]e*' -o -iname 'copying*' \) | sort | head -n 1)
		printf '\n== %s %s\n\n' "$module" "$at"
		if grep -q 'Apache License' "$license"; then
			printf 'Copyright: its authors. Licensed under the Apache License, version 2.0, which on Debian systems\nis in /usr/share/common-licenses/Apache-2.0.\n'
		else
			cat "$license"
		fi
	done
} >"$doc/copyright"
cat >"$root/usr/share/lintian/overrides/layerctl" <<'END'
# One binary for every system, and for containers without a libc.
layerctl: statically-linked-binary [usr/bin/layerctl]
END
cat >"$stage/changelog" <<END
layerctl ($version) unstable; urgency=medium

  * See /usr/share/doc/layerctl/CHANGELOG.md.

 -- $maintainer  $(date -u -R -d "@$epoch")
END
gzip -9nc "$stage/changelog" >"$doc/changelog.gz"
cat >"$root/DEBIAN/control" <<END
Package: layerctl
Version: $version
Architecture: $arch
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Recommends: ca-certificates, uidmap
Section: admin
Priority: optional
Description: container images as layers, run and looked into without a daemon
 layerctl pulls images from any OCI or Docker registry, or imports a
 debootstrap tree or a tarball, as layers; stacks them by overlayfs under a
 private upper; runs commands in the merged root; and shows what is inside the
 layers. It is one static binary.
END
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
mkdir -p "$out"
deb=$out/layerctl_${version}_$arch.deb
find "$root" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
if command -v lintian >/dev/null; then
	lintian --fail-on error,warning --tag-display-limit 0 --allow-root "$deb"
fi
echo "$deb"
