package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/layerctl/layerctl/image/reference"
)

func TestBusyRegistries(t *testing.T) {
	lonely(t)
	failing := func(times int, code int, after string) (*server, *atomic.Int32) {
		var n atomic.Int32
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			if int(n.Add(1)) <= times {
				if after != "" {
					w.Header().Set("Retry-After", after)
				}
				w.WriteHeader(code)
				return
			}
			w.Write(someBlob)
		}), &n
	}
	for _, code := range []int{429, 500, 502, 503, 504, 408} {
		reg, _ := failing(tries-1, code, "")
		r, said := reg.open()
		if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
			t.Errorf("%d: %d bytes, %v", code, len(b), err)
		}
		if !strings.Contains(said.String(), "waiting ") || !strings.Contains(said.String(), strconv.Itoa(code)) || !strings.Contains(said.String(), reg.host()) {
			t.Errorf("%d: it says only %q", code, said)
		}
		reg, n := failing(tries, code, "")
		r, _ = reg.open()
		_, err := read(r, 0)
		says(t, err, ErrUnavailable, strconv.Itoa(code), reg.host())
		if n.Load() != tries {
			t.Errorf("%d: it was asked %d times", code, n.Load())
		}
	}
	// It is left alone for as long as it asks, but not for an hour.
	reg, _ := failing(1, 429, "1")
	r, said := reg.open()
	begun := time.Now()
	if _, err := read(r, 0); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took < time.Second || took > 5*time.Second {
		t.Errorf("Retry-After: 1 took %s", took)
	}
	if !strings.Contains(said.String(), "waiting 1s") {
		t.Errorf("it says %q", said)
	}
	reg, n := failing(9, 429, "3600")
	r, _ = reg.open()
	_, err := read(r, 0)
	says(t, err, ErrUnavailable, "429", "1h0m0s")
	if n.Load() != 1 {
		t.Errorf("it was asked %d times", n.Load())
	}
	// What will not pass is not tried again.
	for _, code := range []int{400, 403, 404, 410, 501} {
		reg, n := failing(9, code, "")
		r, _ := reg.open()
		if _, err := read(r, 0); err == nil || n.Load() != 1 {
			t.Errorf("%d: %v after %d requests", code, err, n.Load())
		}
	}
	// Whoever is told to stop while waiting stops.
	reg, _ = failing(9, 503, "30")
	r, _ = reg.open()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.Manifest(ctx, "latest"); err == nil || time.Since(begun) > 20*time.Second {
		t.Errorf("a wait that was cut short: %v", err)
	}
}

// cutting serves someBlob and ends each connection after so many bytes of it.
func cutting(after int, ranges bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		first := 0
		if v := r.Header.Get("Range"); v != "" && ranges {
			first, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-"))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(someBlob)-1, len(someBlob)))
		}
		rest := someBlob[first:]
		w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
		if first > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		if after < len(rest) {
			w.Write(rest[:after])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		w.Write(rest)
	}
}

func TestCutConnections(t *testing.T) {
	lonely(t)
	for _, after := range []int{1, 511, 4096, 20000, len(someBlob) - 1} {
		if after < 1000 { // many connections to the end of the blob, so only its end
			reg := serve(t, cutting(after, true))
			r, _ := reg.open()
			from := len(someBlob) - 3*after
			if b, err := read(r, int64(from)); err != nil || !bytes.Equal(b, someBlob[from:]) {
				t.Errorf("cut after %d: %d bytes, %v", after, len(b), err)
			}
			continue
		}
		reg := serve(t, cutting(after, true))
		r, said := reg.open()
		if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
			t.Errorf("cut after %d: %d bytes, %v", after, len(b), err)
		}
		seen := reg.requests()
		if want := (len(someBlob) + after - 1) / after; len(seen) != want {
			t.Errorf("cut after %d: %d connections, want %d", after, len(seen), want)
		}
		if text := fmt.Sprintf("after %d of %d bytes of %s", after, len(someBlob), digestOf(someBlob)); !strings.Contains(said.String(), text) {
			t.Errorf("it does not say %q: %s", text, said)
		}
	}
	// Without ranges it comes from the start, and what is here is skipped; cut at the same place each time, it ends in an error.
	reg := serve(t, cutting(20000, false))
	r, _ := reg.open()
	_, err := read(r, 0)
	says(t, err, ErrUnavailable, reg.host(), fmt.Sprintf("after 20000 of %d bytes", len(someBlob)))
	var n atomic.Int32
	reg = serve(t, func(w http.ResponseWriter, r *http.Request) { cutting(int(n.Add(1))*30000, false)(w, r) })
	r, _ = reg.open()
	if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
		t.Errorf("without ranges: %d bytes, %v", len(b), err)
	}
	// A body that says nothing of its length, and ends early.
	n.Store(0)
	reg = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Write(someBlob[:100])
			http.NewResponseController(w).Flush()
			return
		}
		w.Write(someBlob)
	})
	r, _ = reg.open()
	if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
		t.Errorf("chunked and short: %d bytes, %v", len(b), err)
	}
	// A manifest is asked for again as a whole.
	n.Store(0)
	const doc = `{"layers": []}`
	reg = serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(doc)))
		if n.Add(1) == 1 {
			io.WriteString(w, doc[:5])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, doc)
	})
	r, _ = reg.open()
	if m, err := r.Manifest(context.Background(), "latest"); err != nil || string(m.Raw) != doc {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestRangesThatLie(t *testing.T) {
	lonely(t)
	size := len(someBlob)
	for name, c := range map[string]struct {
		status int
		header string
	}{
		"another place":  {206, fmt.Sprintf("bytes 90-%d/%d", size-1, size)},
		"the start":      {206, fmt.Sprintf("bytes 0-%d/%d", size-1, size)},
		"another size":   {206, fmt.Sprintf("bytes 100-%d/%d", size-1, size+1)},
		"no header":      {206, ""},
		"nonsense":       {206, "bytes x"},
		"no such range":  {416, fmt.Sprintf("bytes */%d", size)},
		"another length": {200, ""},
	} {
		reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if c.header != "" {
				w.Header().Set("Content-Range", c.header)
			}
			body := someBlob[100:]
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.WriteHeader(c.status)
			w.Write(body)
		})
		r, _ := reg.open()
		if _, err := read(r, 100); err == nil || !strings.Contains(err.Error(), reg.host()) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(reg.requests()); n != 1 {
			t.Errorf("%s: asked %d times", name, n)
		}
	}
}

// A body that stalls is cut off and taken up again; a slow one is read to its end.
func TestStalls(t *testing.T) {
	lonely(t)
	t.Setenv("LAYERCTL_STALL_TIMEOUT", "300ms")
	var n atomic.Int32
	reg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(someBlob)))
			w.Write(someBlob[:1000])
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		cutting(len(someBlob), true)(w, r)
	})
	r, said := reg.open()
	if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if !strings.Contains(said.String(), "nothing came for too long (300ms)") {
		t.Errorf("it says %q", said)
	}
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for i := range 8 {
			w.Write(someBlob[i*len(someBlob)/8 : (i+1)*len(someBlob)/8])
			http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	})
	r, said = slow.open()
	if b, err := read(r, 0); err != nil || !bytes.Equal(b, someBlob) || said.String() != "" {
		t.Errorf("a slow link: %d bytes, %v, %s", len(b), err, said)
	}
	// A reader who takes his time is no stall.
	quick := serve(t, cutting(len(someBlob), true))
	r, said = quick.open()
	b, err := r.Blob(context.Background(), digestOf(someBlob), int64(len(someBlob)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.ReadFull(b, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	if rest, err := io.ReadAll(b); err != nil || len(rest) != len(someBlob)-10 || said.String() != "" {
		t.Errorf("a slow reader: %d bytes, %v, %s", len(rest), err, said)
	}
	// Nothing at all, forever, ends.
	dead := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	r, _ = dead.open()
	_, err = r.Manifest(context.Background(), "latest")
	says(t, err, ErrUnavailable, dead.host(), "nothing came for too long")
	t.Setenv("LAYERCTL_STALL_TIMEOUT", "fast")
	if _, err := Open(reference.Ref{Registry: "h", Repository: "a", Tag: "latest"}, Options{}); !errors.Is(err, ErrConfig) {
		t.Errorf("a stall timeout of nonsense: %v", err)
	}
}
