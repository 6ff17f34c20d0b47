package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tries       = 5                      // how often the registry itself is asked for one thing
	firstWait   = 500 * time.Millisecond // before the second try; it doubles
	longestWait = time.Minute            // whoever asks to be left alone for longer is believed, and given up
)

// retryAfter is how long a server asks to be left alone, in seconds or until a date (RFC 9110, 10.2.3); negative if it does not say.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now).Round(time.Second), 0)
	}
	return -1
}

// passing says of an error whether the same may go well a moment later. A refused connection is one only after a connection was taken
// (the registry is being restarted): before that it is a wrong port.
func passing(err error, answered bool) bool {
	var a *answer
	if errors.As(err, &a) {
		switch a.code {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
			http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return a.after <= longestWait
		}
		return false
	}
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, syscall.ETIMEDOUT, net.ErrClosed, errStalled, errStuck} {
		if errors.Is(err, e) {
			return true
		}
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return answered
	}
	var ne net.Error
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsTemporary
	}
	// HTTP/2's errors have no exported type, nor has what becomes of a request on a connection that was hung up on meanwhile.
	text := err.Error()
	return errors.As(err, &ne) && ne.Timeout() || strings.Contains(text, "http2: ") || strings.Contains(text, "stream error: ") ||
		strings.Contains(text, "server closed idle connection")
}

// patience is how long one source is asked for one thing.
type patience struct {
	tries  int
	wait   time.Duration // before the next try
	notice func(string)
	host   string
}

// again waits before the try after number n, which failed with err; false if there is to be none.
func (p *patience) again(ctx context.Context, n int, err error, answered bool) bool {
	if n >= p.tries || ctx.Err() != nil || !passing(err, answered) {
		return false
	}
	wait := p.wait + rand.N(p.wait/4+1) // several layers are asked for at once, and must not come back at once
	p.wait *= 2
	var a *answer
	if errors.As(err, &a) && a.after >= 0 {
		wait = max(a.after, p.wait/4)
	}
	p.notice(fmt.Sprintf("waiting %s: %s", wait.Round(10*time.Millisecond), oneLine(explain(p.host, err))))
	return sleep(ctx, wait)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errStalled is a body of which nothing came for too long.
var errStalled = errors.New("nothing came for too long")

// stallTimeout is how long a body may send nothing before its connection is taken for dead. A slow one is not: each byte counts.
func stallTimeout() (time.Duration, error) {
	s := os.Getenv("LAYERCTL_STALL_TIMEOUT")
	if s == "" {
		return 30 * time.Second, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("LAYERCTL_STALL_TIMEOUT=%q is no time such as 30s: %w", s, ErrConfig)
	}
	return d, nil
}

// errStuck is a request of which nothing was taken for too long.
var errStuck = errors.New("nothing was taken for too long")

// watched ends a request whose bytes are not taken, or that is not answered when they were.
type watched struct {
	body          io.ReadCloser
	cancel        context.CancelFunc
	stall, answer time.Duration // how long a byte may take, and the answer
	mu            sync.Mutex
	timer         *time.Timer
	whole         bool // all bytes were taken
	over          bool // nobody waits any more
	late          error
}

// watch looks after a request until stop.
func (t *transport) watch(r *http.Request, cancel context.CancelFunc) *watched {
	w := &watched{cancel: cancel, stall: t.stall, answer: 2 * t.stall} // a cache may have to fetch first
	if r.Method == http.MethodPut {
		w.answer = 10 * t.stall // a registry may have to put a large blob together
	}
	w.timer = time.AfterFunc(w.answer, w.fire)
	if w.body = r.Body; w.body == nil || w.body == http.NoBody {
		w.whole = true
	} else {
		r.Body = w
	}
	return w
}

func (w *watched) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	if w.late = fmt.Errorf("%w (%s)", errStuck, w.stall); w.whole {
		w.late = fmt.Errorf("%w (%s)", errStalled, w.answer)
	}
	w.cancel()
}

func (w *watched) stop() error {
	w.timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	return w.late
}

// Read gives the connection the next bytes. The clock stands while we have none.
func (w *watched) Read(p []byte) (int, error) {
	w.timer.Stop()
	n, err := w.body.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	wait := w.stall
	if err != nil {
		w.whole, wait = true, w.answer
	}
	if !w.over {
		w.timer.Reset(wait)
	}
	return n, err
}

// Close is for the connection to say that it needs no more.
func (w *watched) Close() error { return w.body.Close() }

// guarded cuts a body off that stalls. The clock runs only while somebody waits for a byte.
type guarded struct {
	io.ReadCloser
	limit  time.Duration
	timer  *time.Timer
	fired  atomic.Bool
	cancel context.CancelFunc
}

func guard(body io.ReadCloser, limit time.Duration, cancel context.CancelFunc) *guarded {
	g := &guarded{ReadCloser: body, limit: limit, cancel: cancel}
	g.timer = time.AfterFunc(limit, cancel)
	g.timer.Stop()
	return g
}

func (g *guarded) Read(p []byte) (int, error) {
	if !g.fired.Load() {
		g.timer.Reset(g.limit)
		n, err := g.ReadCloser.Read(p)
		if g.timer.Stop() || n > 0 {
			return n, err
		}
		g.fired.Store(true)
	}
	return 0, fmt.Errorf("%w (%s)", errStalled, g.limit)
}

func (g *guarded) Close() error {
	g.timer.Stop()
	err := g.ReadCloser.Close()
	g.cancel()
	return err
}
