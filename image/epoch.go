package image

import (
	"os"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// making is when an image is made. bound is set where SOURCE_DATE_EPOCH says it: then nothing in what is made here is later, so that the
// same steps give the same image at any time (reproducible-builds.org/specs/source-date-epoch).
type making struct{ time, bound time.Time }

func now() (making, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return making{time: time.Now().UTC()}, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	// A config's times are RFC 3339's, which have years of four digits.
	if err != nil || n < 0 || n > 253402300799 {
		return making{}, invalid("SOURCE_DATE_EPOCH=%q: want seconds since 1970", s)
	}
	t := time.Unix(n, 0).UTC()
	return making{t, t}, nil
}

// created is the time as a config says it.
func (m making) created() v1.Time { return v1.Time{Time: m.time} }
