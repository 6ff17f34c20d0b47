package packages

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// readDpkg reads stanzas of deb822(5). A status file says of each package how far it is installed; the files of status.d need not.
func readDpkg(r io.Reader, c *collector) error {
	var p Package
	var status string
	any := false
	end := func() error {
		defer func() { p, status, any = Package{}, "", false }()
		if !any {
			return nil
		}
		// Status is want, flag and state (dpkg-query(1)); of these two states only settings are left, or nothing.
		state := status[strings.LastIndexByte(status, ' ')+1:]
		if state == "not-installed" || state == "config-files" || status == "" && !c.part {
			return nil
		}
		return c.add(p)
	}
	err := lines(r, func(line []byte) error {
		if len(bytes.TrimSpace(line)) == 0 {
			return end()
		}
		if line[0] == ' ' || line[0] == '\t' || line[0] == '#' {
			return nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return fmt.Errorf("a line %.40q, which is no field: %w", line, ErrMalformed)
		}
		any = true
		value = bytes.TrimSpace(value)
		switch strings.ToLower(string(name)) {
		case "package":
			p.Name = string(value)
		case "version":
			p.Version = string(value)
		case "architecture":
			p.Arch = string(value)
		case "status":
			status = string(value)
		case "installed-size": // KiB
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil && n < math.MaxInt64>>10 {
				p.Size = n << 10
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return end()
}

// readAPK reads apk's list: a letter, a colon and a value a line, and an empty line after each package. The files of a package follow
// under F and R.
func readAPK(r io.Reader, c *collector) error {
	var p Package
	any := false
	end := func() error {
		defer func() { p, any = Package{}, false }()
		if !any {
			return nil
		}
		return c.add(p)
	}
	err := lines(r, func(line []byte) error {
		if len(line) == 0 {
			return end()
		}
		if len(line) < 2 || line[1] != ':' {
			return fmt.Errorf("a line %.40q, which is no field: %w", line, ErrMalformed)
		}
		any = true
		value := line[2:]
		switch line[0] {
		case 'P':
			p.Name = string(value)
		case 'V':
			p.Version = string(value)
		case 'A':
			p.Arch = string(value)
		case 'I':
			if n, err := strconv.ParseInt(string(value), 10, 64); err == nil {
				p.Size = n
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return end()
}
