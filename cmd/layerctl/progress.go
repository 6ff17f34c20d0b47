package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/layerctl/layerctl/cmd/layerctl/internal/start"
	"github.com/layerctl/layerctl/image"
)

// progress shows how a pull goes on: bars on a terminal, one plain line an event elsewhere, nothing where nothing is wanted.
type progress interface {
	image.Progress
	Close()
}

// newProgress shows how layers are pulled, loaded, …: doing and done say which.
func (a *app) newProgress(doing, done string) progress {
	mode := a.progress
	f, isFile := a.stderr.(*os.File)
	if mode == "auto" {
		mode = "plain"
		if isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
			mode = "tty"
		}
	}
	switch mode {
	case "tty":
		return &bars{done: done, pool: mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(64)), layers: map[string]*mpb.Bar{}}
	case "plain":
		return &lines{out: a.stderr, doing: doing}
	}
	return silent{}
}

type silent struct{}

func (silent) Status(string)                {}
func (silent) Started(string, int64)        {}
func (silent) Advanced(string, int64)       {}
func (silent) Done(string, image.LayerDone) {}
func (silent) Close()                       {}

// lines prints an event a line: what a log keeps.
type lines struct {
	mu    sync.Mutex
	out   io.Writer
	doing string
}

func (l *lines) print(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, format+"\n", a...)
}

// Status is told what registries answer, too.
func (l *lines) Status(s string) { l.print("%s", start.OneLine(s)) }
func (l *lines) Started(digest string, size int64) {
	l.print("%s: %s %s", shortID(digest, false), l.doing, humanSize(size))
}
func (l *lines) Advanced(string, int64) {}
func (l *lines) Done(digest string, how image.LayerDone) {
	l.print("%s: %s", shortID(digest, false), how)
}
func (l *lines) Close() {}

// bars shows a bar a layer.
type bars struct {
	mu     sync.Mutex
	done   string
	pool   *mpb.Progress
	layers map[string]*mpb.Bar
}

func (b *bars) Status(s string) { fmt.Fprintln(b.pool, start.OneLine(s)) }

func (b *bars) Started(digest string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.layers[digest] != nil {
		return
	}
	b.layers[digest] = b.pool.AddBar(size,
		mpb.PrependDecorators(decor.Name(shortID(digest, false)+" ")),
		mpb.AppendDecorators(decor.OnComplete(decor.CountersKiloByte("% .1f / % .1f"), b.done+" "+strings.TrimSpace(humanSize(size)))))
}

func (b *bars) Advanced(digest string, n int64) {
	b.mu.Lock()
	bar := b.layers[digest]
	b.mu.Unlock()
	if bar != nil {
		bar.IncrInt64(n)
	}
}

func (b *bars) Done(digest string, how image.LayerDone) {
	b.mu.Lock()
	bar := b.layers[digest]
	b.mu.Unlock()
	if bar == nil {
		fmt.Fprintf(b.pool, "%s %s\n", shortID(digest, false), how)
		return
	}
	bar.SetTotal(-1, true)
}

// Close leaves finished bars on the screen and takes the others away, so that nothing moves under an error's line.
func (b *bars) Close() {
	b.mu.Lock()
	for _, bar := range b.layers {
		bar.Abort(false)
	}
	b.mu.Unlock()
	b.pool.Wait()
}
