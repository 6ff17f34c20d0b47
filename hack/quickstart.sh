#!/usr/bin/env bash
# Shows the main job: pull, import, run, diff. Everything it makes is below one temporary directory, and goes with it.
#
# QUICKSTART_IMAGE=ubuntu takes an image from its public registry; without it a registry is started here, with an image made here.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "quickstart: run it as root: sudo make quickstart" >&2; exit 1; }
[ -x bin/layerctl ] || { echo "quickstart: there is no bin/layerctl: run it by make quickstart" >&2; exit 1; }
PATH=$PWD/bin:$PATH
hack=$PWD/hack
bold='' plain=''
[ ! -t 1 ] || { bold=$(tput bold 2>/dev/null || true) plain=$(tput sgr0 2>/dev/null || true); }
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
# show prints a command as one would type it, then runs it.
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; eval "$*"; }

"$hack/deps.sh" quickstart
work=$(mktemp -d "${TMPDIR:-/var/tmp}/layerctl-quickstart.XXXXXX")
registry=
cleanup() {
	status=$?
	[ -z "$registry" ] || { kill "$registry" 2>/dev/null && wait "$registry" 2>/dev/null; } || true
	cd / && rm -rf "$work"
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM
export LAYERCTL_ROOT=$work/store LAYERCTL_RUN_ROOT=$work/run

say "a small Debian tree, as debootstrap makes it"
"$hack/tree.sh" "$work/debian"
cd "$work"
du -sh debian

if [ -n "${QUICKSTART_IMAGE:-}" ]; then
	image=$QUICKSTART_IMAGE
else
	say "a registry, with an image of two layers in it"
	port=
	for try in $(seq 1 50); do
		port=$((20000 + (RANDOM + try) % 20000))
		(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null || break
	done
	mkdir registry
	cat >registry.yml <<-YML
		version: 0.1
		log: {level: error}
		storage: {filesystem: {rootdirectory: $work/registry}}
		http: {addr: 127.0.0.1:$port}
	YML
	docker-registry serve registry.yml >registry.log 2>&1 &
	registry=$!
	for _ in $(seq 1 100); do
		(exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null && break
		kill -0 $registry 2>/dev/null || { cat registry.log >&2; exit 1; }
		sleep 0.1
	done
	umoci init --layout layout
	umoci new --image layout:two
	tar -C debian -cf lower.tar .
	umoci raw add-layer --image layout:two lower.tar
	mkdir -p upper/srv/www
	echo 'a file of the second layer' >upper/srv/www/index.html
	tar -C upper -cf upper.tar .
	umoci raw add-layer --image layout:two upper.tar
	umoci config --image layout:two --config.cmd /bin/bash
	skopeo copy -q --dest-tls-verify=false oci:layout:two "docker://127.0.0.1:$port/two-layers"
	rm -rf layout lower.tar upper upper.tar
	image=127.0.0.1:$port/two-layers
fi

say "an image from a registry"
show layerctl pull "$image"
say "a directory as an image"
show layerctl import ./debian
show layerctl images
say "a command in a container of it"
show layerctl run --rm debian cat /etc/os-release
say "a container that writes, and exactly what it wrote"
show "layerctl run --name work debian sh -c 'echo hello > /etc/motd; rm /etc/issue; mkdir /srv/new; echo 1 > /srv/new/file'"
show layerctl diff work
want='C /etc
D /etc/issue
C /etc/motd
C /srv
A /srv/new
A /srv/new/file'
if [ "$(layerctl diff work)" != "$(if [ -e debian/etc/motd ]; then echo "$want"; else echo "$want" | sed 's,^C /etc/motd,A /etc/motd,'; fi)" ]; then
	echo "quickstart: that is not what the container wrote" >&2
	exit 1
fi
show layerctl rm work
[ -z "$(layerctl ps -aq)" ]

say "shown: an image pulled from ${image%%/*}, a Debian tree imported, a command run in it, and the 6 changes of a container, without a daemon"
