package start

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/layerctl/layerctl/image/record"
	"github.com/layerctl/layerctl/runtime"
	"github.com/layerctl/layerctl/runtime/executor"
	"github.com/layerctl/layerctl/snapshot"
)

// WithHint adds what a person can do about an error of the store or of a container, where there is something and nobody nearer to
// the mistake has said it.
func WithHint(err error) error {
	var said interface{ Hint() string }
	if errors.As(err, &said) {
		return err
	}
	for _, h := range []struct {
		is   error
		hint string
	}{
		{executor.ErrNotFound, "it is looked for in the container's PATH; a script also needs its interpreter to be there"},
		{executor.ErrNotExecutable, "it must be a file with execute permission, of this machine's architecture"},
		{snapshot.ErrDamaged, "`layerctl check` says what is damaged, and `layerctl check --repair` makes it right or says what is lost"},
		{executor.ErrNamespaces, "the sysctls user.max_*_namespaces say how many there may be (namespaces(7))"},
		{snapshot.ErrFormat, "this store was made by another version: upgrade layerctl, or name another store with --root"},
		{snapshot.ErrNotStore, "name an empty or absent directory, or a layerctl store, with --root"},
		{snapshot.ErrUnavailable, "overlayfs is needed (modprobe overlay), and a store on a filesystem that can be its upper: ext4, xfs, btrfs, tmpfs"},
		{record.ErrNotFound, "`layerctl images` lists what is here; `layerctl pull NAME` fetches an image"},
		{runtime.ErrNotFound, "`layerctl ps -a` lists the containers"},
		{runtime.ErrNotRunning, "`layerctl ps -a` says how each container is"},
		{runtime.ErrPaused, "`layerctl unpause` lets it go on"},
		{runtime.ErrNoCommand, "put one behind the image, as in `layerctl run -it IMAGE /bin/sh`, or into it: `layerctl config --change 'CMD [\"/bin/sh\"]'`"},
		{runtime.ErrExists, "choose another --name, or remove the other container with `layerctl rm`"},
		{runtime.ErrInUse, "end it first, or use -f"},
		{snapshot.ErrMounted, "`layerctl mount` lists the mounts, and `layerctl umount` takes one down; `layerctl rm -f` does, too"},
		{unix.ENOSPC, "`layerctl prune` frees what nothing needs, `layerctl df` says what takes the space; on a full disk, too"},
		{unix.EDQUOT, "`layerctl prune` frees what nothing needs, `layerctl df` says what takes the space"},
		{unix.EROFS, "what only looks works on a store that cannot be written; a disk with errors is made read-only by the kernel, whose log (dmesg) says so"},
		{unix.EIO, "the disk does not do what it should: the kernel's log (dmesg) says more"},
		{os.ErrPermission, "layerctl needs root and may need more than this environment lets root do (mounting, making namespaces)"},
	} {
		if errors.Is(err, h.is) {
			return Hinted(err, h.hint)
		}
	}
	return err
}
