#!/usr/bin/env bash
# Installs the Debian packages that a set of scripts needs, where they are missing: deps.sh quickstart|lint|test|bench|vm
set -euo pipefail

quickstart=(mmdebstrap docker-registry umoci skopeo ca-certificates)
lint=(shellcheck)
test=("${quickstart[@]}" "${lint[@]}" debootstrap podman runc uidmap busybox-static attr acl libcap2-bin xz-utils zstd bzip2 util-linux iproute2 tmux strace openssl e2fsprogs xfsprogs jq systemd chromium fonts-dejavu-core git patch gcc libc6-dev gcc-aarch64-linux-gnu qemu-user vim-tiny less htop)
bench=("${test[@]}" bubblewrap containerd curl time hyperfine)

vm=(qemu-system-x86 mmdebstrap busybox-static e2fsprogs cpio kmod)

case "${1:-}" in
vm) want=("${vm[@]}") ;;
quickstart) want=("${quickstart[@]}") ;;
lint) want=("${lint[@]}") ;;
test) want=("${test[@]}") ;;
bench) want=("${bench[@]}") ;;
*)
	echo "usage: $0 quickstart|lint|test|bench|vm" >&2
	exit 2
	;;
esac

missing=()
for p in "${want[@]}"; do
	dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "these Debian packages are missing, and only root can install them: ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
