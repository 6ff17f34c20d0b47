package report

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a headless Chromium with one page, told what to do by the DevTools protocol over a pair of pipes.
type browser struct {
	t       *testing.T
	to      *os.File
	session string
	last    int

	mu      sync.Mutex
	answers map[int]chan message
	events  []message
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
	Session string `json:"sessionId,omitempty"`
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	theirsIn, oursOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	oursIn, theirsOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Not the test's own directory: what Chromium has started may write there for a moment after it has ended.
	dir, err := os.MkdirTemp("", "report")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if err := os.RemoveAll(dir); err == nil {
				return
			} else if time.Now().After(end) {
				t.Error(err)
				return
			}
		}
	})
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe", "--user-data-dir="+dir, "about:blank")
	cmd.ExtraFiles = []*os.File{theirsIn, theirsOut} // 3 and 4
	cmd.Env = append(os.Environ(), "HOME="+dir)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("start Chromium (hack/deps.sh test installs it): %v", err)
	}
	theirsIn.Close()
	theirsOut.Close()
	b := &browser{t: t, to: oursOut, answers: map[int]chan message{}}
	read := make(chan struct{})
	go b.read(bufio.NewReaderSize(oursIn, 1<<20), read)
	t.Cleanup(func() {
		b.session = ""
		b.call("Browser.close", nil, nil)
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-done
			t.Error("Chromium did not end")
		}
		oursOut.Close()
		<-read
		oursIn.Close()
		log.Close()
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// read sorts what comes: answers to those who wait, events into the list.
func (b *browser) read(from *bufio.Reader, done chan struct{}) {
	defer close(done)
	for {
		raw, err := from.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			for _, c := range b.answers {
				close(c)
			}
			b.answers = nil
			b.mu.Unlock()
			return
		}
		var m message
		if err := json.Unmarshal(raw[:len(raw)-1], &m); err != nil {
			continue
		}
		b.mu.Lock()
		if c := b.answers[m.ID]; m.ID != 0 && c != nil {
			c <- m
			delete(b.answers, m.ID)
		} else {
			b.events = append(b.events, m)
		}
		b.mu.Unlock()
	}
}

func (b *browser) call(method string, params, result any) {
	b.t.Helper()
	b.last++
	raw, err := json.Marshal(map[string]any{"id": b.last, "method": method, "params": orEmpty(params), "sessionId": b.session})
	if b.session == "" {
		raw, err = json.Marshal(map[string]any{"id": b.last, "method": method, "params": orEmpty(params)})
	}
	if err != nil {
		b.t.Fatal(err)
	}
	answer := make(chan message, 1)
	b.mu.Lock()
	if b.answers == nil {
		b.mu.Unlock()
		b.t.Fatalf("%s: Chromium has ended", method)
	}
	b.answers[b.last] = answer
	b.mu.Unlock()
	if _, err := b.to.Write(append(raw, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case m, ok := <-answer:
		if !ok && method == "Browser.close" {
			return
		}
		if !ok {
			b.t.Fatalf("%s: Chromium has ended", method)
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-time.After(time.Minute):
		b.t.Fatalf("%s: no answer", method)
	}
}

func orEmpty(v any) any {
	if v == nil {
		return struct{}{}
	}
	return v
}

// eval evaluates an expression in the page and returns its value as JSON; a string comes as it is.
func (b *browser) eval(expression string) string {
	b.t.Helper()
	var r struct {
		Result struct {
			Value json.RawMessage
		}
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	var s string
	if json.Unmarshal(r.Result.Value, &s) == nil {
		return s
	}
	return string(r.Result.Value)
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": url}, nil)
	b.until("document.readyState + location.href", "complete"+url)
}

// until waits for an expression to have a value.
func (b *browser) until(expression, want string) {
	b.t.Helper()
	got := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if got = b.eval(expression); got == want {
			return
		}
	}
	b.t.Fatalf("%s: %s, want %s", expression, got, want)
}

// view sets the window's size and whether the system is dark.
func (b *browser) view(width, height int, dark bool) {
	b.t.Helper()
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}, nil)
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}, map[string]string{"name": "prefers-reduced-motion", "value": "reduce"}}}, nil)
	b.eval("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(1))))")
}

// press types keys by their names; one character stands for itself.
func (b *browser) press(keys ...string) {
	b.t.Helper()
	codes := map[string]int{"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "Backspace": 8}
	for _, k := range keys {
		down := map[string]any{"type": "keyDown", "key": k, "windowsVirtualKeyCode": codes[k]}
		if len(k) == 1 {
			down["text"] = k
		} else if k == "Enter" {
			down["text"] = "\r"
		}
		b.call("Input.dispatchKeyEvent", down, nil)
		b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": k, "windowsVirtualKeyCode": codes[k]}, nil)
	}
}

// shot writes a screenshot to the directory that LAYERCTL_TEST_SHOTS names, and returns its bytes.
func (b *browser) shot(name string, whole bool) string {
	b.t.Helper()
	var r struct{ Data string }
	b.call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": whole}, &r)
	png, err := base64.StdEncoding.DecodeString(r.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	if dir := os.Getenv("LAYERCTL_TEST_SHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	return string(png)
}

// complaints are what the page has said or asked for that it must not: errors, dialogs, and requests for anything but itself.
func (b *browser) complaints(self string) (list []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		switch e.Method {
		case "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening", "Runtime.consoleAPICalled", "Page.windowOpen":
			list = append(list, e.Method+": "+string(e.Params))
		case "Network.requestWillBeSent", "Network.webSocketCreated":
			var p struct{ Request struct{ URL string } }
			json.Unmarshal(e.Params, &p)
			if u := p.Request.URL; !strings.HasPrefix(u, self) && !strings.HasPrefix(u, "data:") && u != "about:blank" {
				list = append(list, fmt.Sprintf("%s: %s", e.Method, u))
			}
		}
	}
	return list
}
