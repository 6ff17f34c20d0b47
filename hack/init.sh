#!/usr/bin/env bash
# Compiles runtime/initproc/init.c, the first process of containers with --init, for each machine: init.sh [DIRECTORY]. What it makes is
# committed, so that building layerctl needs no C compiler; a test makes it again with Debian 12's gcc and compares.
set -euo pipefail
cd "$(dirname "$0")/../runtime/initproc"
out=${1:-.}
for machine in amd64:x86_64 arm64:aarch64; do
	tools=${machine#*:}-linux-gnu
	# No library, nothing that depends on the time or the place, and one segment that is read and executed and never written.
	"$tools-gcc" -std=c11 -Wall -Wextra -Werror -Os -ffreestanding -nostdlib -static -no-pie -fno-pie -mgeneral-regs-only -fno-stack-protector \
		-fno-asynchronous-unwind-tables -fno-unwind-tables -fno-ident -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,max-page-size=65536 -Wl,-z,norelro \
		-Wl,-z,noexecstack -Wl,-s -o "$out/init_${machine%:*}" init.c
	chmod 644 "$out/init_${machine%:*}"
done
