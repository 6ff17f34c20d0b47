package layer

import (
	"fmt"
	"sync"
)

// maxWarnings is how much one layer may make us say: it can have millions of what is left out.
const maxWarnings = 10

// fewWarnings hands on the first warnings and counts the others.
type fewWarnings struct {
	warn func(string) // may be nil
	mu   sync.Mutex
	n    int
}

func (f *fewWarnings) say(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n <= maxWarnings && f.warn != nil {
		f.warn(text)
	}
}

// end tells how many were not handed on.
func (f *fewWarnings) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if more := f.n - maxWarnings; more > 0 && f.warn != nil {
		f.warn(fmt.Sprintf("and %d more of this kind", more))
	}
}
