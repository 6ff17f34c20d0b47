package layer

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// IDs say whose the owners in a tree are that a container in a user namespace wrote: the tree has the host's ids, a layer has those that
// the container sees (user_namespaces(7)).
type IDs struct{ UID, GID []IDRange }

// IDRange are Size ids: Layer, Layer+1, … in the layer are Tree, Tree+1, … in the tree.
type IDRange struct{ Layer, Tree, Size uint32 }

func translateID(ranges []IDRange, id uint32) (uint32, bool) {
	for _, r := range ranges {
		if id >= r.Tree && id-r.Tree < r.Size {
			return r.Layer + (id - r.Tree), true
		}
	}
	return 0, false
}

// inLayer changes what of a file's attributes names an id: owner and group, the users and groups of its ACLs, and whose root a capability
// is good for.
func (m *IDs) inLayer(st *unix.Stat_t, xattrs map[string]string) error {
	if m == nil {
		return nil
	}
	uid, ok := translateID(m.UID, st.Uid)
	gid, ok2 := translateID(m.GID, st.Gid)
	if !ok || !ok2 {
		return fmt.Errorf("its owner, %d:%d, is none of the container's: %w", st.Uid, st.Gid, ErrUnsupported)
	}
	st.Uid, st.Gid = uid, gid
	for _, name := range []string{aclAccess, aclDefault} {
		if value, ok := xattrs[name]; ok {
			acl := []byte(value)
			if err := m.acl(acl); err != nil {
				return err
			}
			xattrs[name] = string(acl)
		}
	}
	if value, ok := xattrs[capXattr]; ok {
		var err error
		if xattrs[capXattr], err = m.capability(value); err != nil {
			return err
		}
	}
	return nil
}

// acl translates an ACL in place: a header of four bytes, then entries of tag, permissions and id (linux/posix_acl_xattr.h).
func (m *IDs) acl(b []byte) error {
	const version, user, group, entry = 2, 0x02, 0x08, 8
	if len(b) < 4 || (len(b)-4)%entry != 0 || binary.LittleEndian.Uint32(b) != version {
		return fmt.Errorf("an ACL of %d bytes: %w", len(b), ErrMalformed)
	}
	for b = b[4:]; len(b) > 0; b = b[entry:] {
		ranges := m.UID
		switch binary.LittleEndian.Uint16(b) {
		case user:
		case group:
			ranges = m.GID
		default:
			continue
		}
		id, ok := translateID(ranges, binary.LittleEndian.Uint32(b[4:]))
		if !ok {
			return fmt.Errorf("an ACL names %d, which is none of the container's: %w", binary.LittleEndian.Uint32(b[4:]), ErrUnsupported)
		}
		binary.LittleEndian.PutUint32(b[4:], id)
	}
	return nil
}

const capXattr = "security.capability"

// capability translates a file's capabilities. Those of revision 3 say whose root they are for; for root in the layer that is revision 2
// (linux/capability.h, struct vfs_ns_cap_data). What has another revision was not set in the container, and stays.
func (m *IDs) capability(value string) (string, error) {
	const mask, rev2, rev3, size2, size3 = 0xff000000, 0x02000000, 0x03000000, 20, 24
	b := []byte(value)
	if len(b) != size3 || binary.LittleEndian.Uint32(b)&mask != rev3 {
		return value, nil
	}
	root, ok := translateID(m.UID, binary.LittleEndian.Uint32(b[size2:]))
	if !ok {
		return "", fmt.Errorf("its capabilities are for %d, which is none of the container's: %w", binary.LittleEndian.Uint32(b[size2:]), ErrUnsupported)
	}
	if root == 0 {
		binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)&^mask|rev2)
		return string(b[:size2]), nil
	}
	binary.LittleEndian.PutUint32(b[size2:], root)
	return string(b), nil
}
