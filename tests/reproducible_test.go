package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// everyStep makes images in every way that there is, of two trees in the directory where it runs, and prints what they are called by
// their contents.
const everyStep = `
layerctl import --change 'CMD ["true"]' -m base base base:1
layerctl import ./base2/ base:2
layerctl run --name work base:1 sh -c 'mkdir -p /srv/d /tmp/x; echo one > /srv/d/1; ln /srv/d/1 /srv/d/2; rm /etc/two; rm -r /etc/sub; mkdir /etc/sub; echo new > /etc/sub/new; chown 1000:50 /srv/d; chmod 2750 /srv/d; ln -s /etc/one /srv/link'
layerctl commit -a 'Ann <ann@example.org>' -m work -c 'ENV A=1' work work:1
layerctl rm work
layerctl run --name work work:1 sh -c 'echo more > /srv/more; rm /srv/d/2'
layerctl commit work work:2
layerctl rm work
layerctl config -c 'USER ann' -c 'LABEL a=b' work:2 work:3
layerctl squash --from 2 work:3 work:4
layerctl squash work:3 work:5
layerctl rebase --onto base:2 --base base:1 work:3 work:6
for name in base:1 base:2 work:1 work:2 work:3 work:4 work:5 work:6; do
	layerctl save --format oci-dir -o saved $name
	echo $name $(layerctl images -q --no-trunc $name) $(jq -r '.manifests[].digest' saved/index.json) $(find saved/blobs -type f -printf '%f\n' | LC_ALL=C sort | sha256sum | cut -c1-64)
	rm -r saved
done
layerctl tag work:6 $REGISTRY/work
layerctl push -q $REGISTRY/work | sed 's/.*@//'
layerctl push -q --compression zstd $REGISTRY/work | sed 's/.*@//'`

// The same steps on the same trees give the same images: somewhere else, later, in another language, for another user's settings, with
// names made in another order.
func TestReproducible(t *testing.T) {
	e := newEnv(t)
	e.busybox("made")
	sh(t, e.dir, `touch -d 2030-01-01 made/etc/one; cp -a made made2; echo 2 > made2/srv/base2; mkdir other && mount -t tmpfs -o size=200m,mode=755 none other`)
	defer sh(t, e.dir, "for i in $(seq 200); do umount other 2>/dev/null && exit; sleep .05; done; umount other") // the reaper is there yet
	build := func(dir, order string, env ...string) string {
		t.Helper()
		// The trees are copied name by name, in the order that is wanted.
		script := "umask " + map[bool]string{true: "022", false: "077"}[order == ""] + `
for from in made made2; do
	to=` + dir + `/base${from#made}; mkdir -m 755 $to
	(cd $from && find . -mindepth 1 | LC_ALL=C sort ` + order + ` | tar --no-recursion -cf - -T -) | tar -C $to --delay-directory-restore -xpf -
	touch -d 2031-01-01 $to $to/etc
done
cd ` + dir + everyStep
		cmd := exec.Command("unshare", "--uts", "bash", "-euo", "pipefail", "-c", "hostname "+filepath.Base(dir)+"; "+script)
		cmd.Dir = e.dir
		cmd.Env = append(os.Environ(), append(env, "SOURCE_DATE_EPOCH=1750000000", "LAYERCTL_ROOT="+filepath.Join(e.dir, dir, "store"), "LAYERCTL_RUN_ROOT="+filepath.Join(e.dir, dir, "run"),
			"PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"))...)
		r := e.finish(cmd)
		if r.code != 0 {
			t.Fatalf("status %d: %s%s", r.code, r.stdout, r.stderr)
		}
		return r.stdout
	}
	sh(t, e.dir, "mkdir one")
	one, another := startRegistry(t, ""), startRegistry(t, "")
	first := build("one", "", "LC_ALL=C", "TZ=UTC", "REGISTRY="+one.addr)
	time.Sleep(1100 * time.Millisecond) // no clock shows the same second
	second := build("other", "-r", "LC_ALL=tr_TR.UTF-8", "LANG=tr_TR.UTF-8", "TZ=Asia/Kathmandu", "HOME=/nonexistent", "USER=nobody", "LOGNAME=nobody", "GOMAXPROCS=1", "REGISTRY="+another.addr)
	if first != second || strings.Count(first, "sha256:") != 26 {
		t.Errorf("one build gives\n%sand another\n%s", first, second)
	}
}
