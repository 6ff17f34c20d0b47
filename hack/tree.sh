#!/usr/bin/env bash
# Makes a small Debian tree and keeps it packed under .cache, so that the next caller has it at once: tree.sh DIR
set -euo pipefail
target=$(realpath -m "$1")
cd "$(dirname "$0")/.."
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
cache=.cache/debian-$suite.tar
if ! [ -e "$cache" ]; then
	mkdir -p .cache
	# One at a time: two test packages may want it at once.
	exec 9>.cache/lock
	flock 9
	if ! [ -e "$cache" ]; then
		mmdebstrap --quiet --variant=minbase "$suite" "$cache.new.tar"
		mv "$cache.new.tar" "$cache"
	fi
fi
mkdir -p "$target"
tar -C "$target" --xattrs --xattrs-include='*' --numeric-owner -xpf "$cache"
