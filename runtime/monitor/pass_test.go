package monitor

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What is printed comes in the pipe as long as there is one client that takes it, and is told of in a frame; the log has it, too.
func TestPassed(t *testing.T) {
	for _, log := range []*kept{nil, {}} {
		o := HubOptions{}
		if log != nil {
			o.Log = log
		}
		h := NewHub(o)
		u := join(t, h, Hello{Output: true, Pipe: true})
		u.takesFiles = true
		if kind, _, err := u.receive(); kind != framePipe || err != nil {
			t.Fatalf("%c, %v", kind, err)
		}
		m := mover{from: u.takeFile()}
		defer m.from.Close()
		s, _, out, errs := pipes(t)
		begin(t, h, s)
		for i, f := range []*os.File{out, errs, out} {
			text := fmt.Sprintf("%d and\x00", i)
			f.WriteString(text)
			stream := map[*os.File]byte{out: Stdout, errs: Stderr}[f]
			kind, data, err := u.receive()
			if want := string([]byte{stream, 0, 0, 0, byte(len(text))}); kind != frameMoved || string(data) != want || err != nil {
				t.Errorf("%c %q, %v; want %q", kind, data, err, want)
			}
			b := make([]byte, len(text))
			if _, err := io.ReadFull(m.from, b); string(b) != text {
				t.Errorf("%q, %v", b, err)
			}
			if log == nil {
				continue
			}
			log.Next(int64(i), 1, func(of byte, b []byte) {
				if of != stream || string(b) != text {
					t.Errorf("the log has %q of %c", b, of)
				}
			})
			if log.Mark() != int64(i+1) {
				t.Errorf("the log has %d pieces", log.Mark())
			}
		}
		other := join(t, h, Hello{Output: true, Pipe: true})
		out.WriteString("both")
		if kind, data, err := u.receive(); kind != frameOutput || string(data) != "both" {
			t.Errorf("%c %q, %v", kind, data, err)
		}
		out.Close()
		errs.Close()
		h.Drain()
		other.Close()
		h.End(0)
	}
}

// Whatever stdout and stderr are, and however slowly they are read, all of it comes, in order.
func TestPassedToAttached(t *testing.T) {
	var want strings.Builder
	for i := range 800_000 {
		fmt.Fprintln(&want, i)
	}
	for _, how := range []string{"quick", "slow", "does not block", "file", "another comes"} {
		for _, log := range []Log{nil, &kept{}} {
			h := NewHub(HubOptions{Log: log})
			ours, theirs := connected(t)
			ours.Greet(Hello{Output: true, Pipe: true})
			h.Join(theirs)
			s, _, out, errs := pipes(t)
			begin(t, h, s)
			var prints sync.WaitGroup
			prints.Go(func() {
				fmt.Fprint(errs, want.String()[:1_000_000])
				errs.Close()
			})
			prints.Go(func() {
				io.WriteString(out, want.String())
				out.Close()
			})
			go func() {
				prints.Wait()
				h.Drain()
				h.End(3)
			}()
			var ends [2]int
			if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			unix.SetNonblock(ends[1], how == "does not block")
			r, w := os.NewFile(uintptr(ends[0]), "r"), os.NewFile(uintptr(ends[1]), "w")
			path := t.TempDir() + "/out"
			var other sync.WaitGroup
			switch how {
			case "file":
				w.Close()
				var err error
				if w, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
					t.Fatal(err)
				}
			case "another comes":
				other.Go(func() {
					time.Sleep(5 * time.Millisecond)
					join(t, h, Hello{Output: true}).all()
				})
			}
			errors, err := os.Create(t.TempDir() + "/errors")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan int)
			go func() {
				code, _ := Attach(ours, AttachOptions{Stdin: os.Stdin, Stdout: w, Stderr: errors})
				w.Close()
				ours.Close()
				ended <- code
			}()
			if how == "slow" {
				time.Sleep(100 * time.Millisecond)
			}
			got, _ := io.ReadAll(r)
			if code := <-ended; code != 3 {
				t.Errorf("%s: %d", how, code)
			}
			r.Close()
			if how == "file" {
				got, _ = os.ReadFile(path)
			}
			if string(got) != want.String() {
				t.Errorf("%s, %T: %d bytes of %d", how, log, len(got), want.Len())
			}
			if b, _ := os.ReadFile(errors.Name()); string(b) != want.String()[:1_000_000] {
				t.Errorf("%s, %T: %d bytes on stderr", how, log, len(b))
			}
			errors.Close()
			other.Wait()
		}
	}
}

// One that takes nothing from its pipe is not waited for long where there is a log, and misses nothing.
func TestPassedToLaggard(t *testing.T) {
	h := NewHub(HubOptions{Log: &kept{}})
	ours, theirs := connected(t)
	ours.Greet(Hello{Output: true, Pipe: true})
	h.Join(theirs)
	s, _, out, errs := pipes(t)
	begin(t, h, s)
	want := strings.Repeat("0123456789abcdef", 1<<19)
	began := time.Now()
	io.WriteString(out, want) // nobody is attached yet
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the container waited %v", took)
	}
	out.Close()
	errs.Close()
	h.Drain()
	go h.End(0)
	a := attach(t, ours, AttachOptions{})
	if got := a.out(); got != want {
		t.Errorf("%d bytes of %d", len(got), len(want))
	}
	a.wait()
}
