package report

import (
	"bufio"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/layerctl/layerctl/image/packages"
	"github.com/layerctl/layerctl/image/waste"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed dark.css
var darkCSS string

//go:embed page.js
var pageJS string

const (
	maxItems   = 40
	maxRows    = 2000 // packages
	maxCommand = 2000 // bytes of one
	maxShort   = 150
)

// Report is what a page says of an image.
type Report struct {
	Name          string
	ID            string // the config's digest
	Digest        string // the manifest's; "" for an image that was made here
	Platform      string
	Created       time.Time // that the image claims; zero where it claims none
	Layers        []Layer   // lowest first
	Analysis      *waste.Analysis
	Tree          *Tree
	Packages      []packages.Package
	PackagesError error // why some of them could not be read
}

// Layer is one of them.
type Layer struct {
	DiffID    string
	CreatedBy string
	Created   time.Time
}

// page is what the template is given.
type page struct {
	*Report
	Name          string
	CSP           string
	CSS           template.CSS
	JS, Data      template.JS
	Facts         []string
	Grade         string
	Arc           string
	Layers        []pageLayer
	Kinds         []pageKind
	Items         []pageItem
	MoreItems     int
	MoreBytes     int64
	Rows          []packages.Package
	MorePackages  int
	Managers      string
	PackagesError string
	Summed        int
	SummedBytes   int64
}

type pageLayer struct {
	waste.Layer
	DiffID, CreatedBy, Short, Created, Meter string
}

type pageKind struct {
	Kind  waste.Kind
	Bytes int64
	Text  string
}

type pageItem struct {
	waste.Item
	Path, Link, How string
}

// pageData is what the script is given.
type pageData struct {
	Name   string       `json:"name"`
	Layers []string     `json:"layers"` // what made them
	Bytes  []int64      `json:"bytes"`
	Kinds  []waste.Kind `json:"kinds"` // the first is none
	Hides  []bool       `json:"hides"` // which of them are not in the end's view
	Sums   []int64      `json:"sums"`
	Hidden int64        `json:"hiddenBytes"`
	Tree   []any        `json:"tree"`
}

// Write writes the page. It may be called once.
func (r *Report) Write(w io.Writer) error {
	tmpl, err := template.New("page").Funcs(template.FuncMap{"size": size, "count": count, "percent": percent, "short": short, "next": func(i int) int { return i + 1 }}).Parse(pageHTML)
	if err != nil {
		return err
	}
	p := &page{Report: r, Name: Visible(r.Name)}
	dark := "@media screen and (prefers-color-scheme: dark) {\n:root:not([data-theme=light]) {\n" + darkCSS + "}\n}\n@media screen {\n:root[data-theme=dark] {\n" + darkCSS + "}\n}"
	css := strings.Replace(pageCSS, "/* DARK */", dark, 1)
	p.CSS, p.JS = template.CSS(css), template.JS(pageJS)
	p.CSP = "default-src 'none'; img-src data:; style-src '" + integrity(css) + "'; script-src '" + integrity(pageJS) + "'; base-uri 'none'; form-action 'none'"
	if err := p.data(); err != nil {
		return err
	}
	p.tables()
	b := bufio.NewWriterSize(w, 64<<10)
	if err := tmpl.Execute(b, p); err != nil {
		return err
	}
	return b.Flush()
}

func integrity(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func (p *page) data() error {
	a := p.Analysis
	d := pageData{Name: p.Name, Kinds: []waste.Kind{""}, Hides: []bool{false}, Sums: []int64{0}}
	numbers := map[waste.Kind]int{}
	for i, k := range waste.Kinds() {
		numbers[k] = i + 1
		d.Kinds = append(d.Kinds, k)
		f := waste.File{Kind: k}
		d.Hides = append(d.Hides, f.Hidden())
		d.Sums = append(d.Sums, a.Kinds[k])
	}
	for i, l := range p.Report.Layers {
		d.Layers = append(d.Layers, cut(oneLine(l.CreatedBy), maxShort))
		d.Bytes = append(d.Bytes, a.Layers[i].Bytes)
	}
	p.Tree.mark(a.Items)
	p.Summed, p.SummedBytes = p.Tree.prune(maxNodes, maxNames)
	d.Hidden = p.Tree.root.hidden
	d.Tree = p.Tree.root.json(numbers)
	// The encoder escapes <, > and & and the two separators that end a line of a script, so nothing in it can end the element.
	b, err := json.Marshal(d)
	p.Data = template.JS(b)
	return err
}

func (p *page) tables() {
	r, a := p.Report, p.Analysis
	if r.Platform != "" {
		p.Facts = append(p.Facts, Visible(r.Platform))
	}
	p.Facts = append(p.Facts, "ID "+short(r.ID))
	if r.Digest != "" {
		p.Facts = append(p.Facts, "manifest "+short(r.Digest))
	}
	if !r.Created.IsZero() && r.Created.Unix() != 0 {
		p.Facts = append(p.Facts, "created "+r.Created.UTC().Format("2 January 2006"))
	}
	switch e := a.Efficiency(); {
	case e >= 95:
		p.Grade = "good"
	case e >= 85:
		p.Grade = "fair"
	default:
		p.Grade = "poor"
	}
	p.Arc = strconv.FormatFloat(a.Efficiency(), 'f', 2, 64)
	largest := int64(1)
	for _, l := range a.Layers {
		largest = max(largest, l.Bytes)
	}
	for i, l := range r.Layers {
		pl := pageLayer{Layer: a.Layers[i], DiffID: Visible(l.DiffID), CreatedBy: cut(visibleText(l.CreatedBy), maxCommand)}
		if len(pl.CreatedBy) > maxShort || strings.Contains(pl.CreatedBy, "\n") {
			pl.Short = cut(oneLine(pl.CreatedBy), maxShort)
		}
		if !l.Created.IsZero() && l.Created.Unix() != 0 {
			pl.Created = l.Created.UTC().Format(time.DateOnly)
		}
		pl.Meter = strconv.FormatFloat(92*float64(a.Layers[i].Bytes)/float64(largest), 'f', 1, 64)
		p.Layers = append(p.Layers, pl)
	}
	texts := map[waste.Kind]string{waste.Overwritten: "overwritten by a later layer", waste.Rewritten: "rewritten, with the same content", waste.Deleted: "deleted by a later layer",
		waste.Cached: "caches and temporary files", waste.Duplicate: "duplicates in other layers"}
	for _, k := range waste.Kinds() {
		if n := a.Kinds[k]; n > 0 {
			p.Kinds = append(p.Kinds, pageKind{k, n, texts[k]})
		}
	}
	for i, item := range a.Items {
		if i >= maxItems {
			p.MoreItems++
			p.MoreBytes += item.Bytes
			continue
		}
		pi := pageItem{Item: item, Path: "/" + Visible(item.Path), How: Visible(item.How())}
		if item.Dir {
			pi.Path += "/"
		}
		pi.Link = "#/" + link(item.Path)
		p.Items = append(p.Items, pi)
	}
	p.Rows = slices.Clone(r.Packages[:min(len(r.Packages), maxRows)])
	for i, pkg := range p.Rows {
		p.Rows[i].Name, p.Rows[i].Version, p.Rows[i].Arch = Visible(pkg.Name), Visible(pkg.Version), Visible(pkg.Arch)
	}
	p.MorePackages = len(r.Packages) - len(p.Rows)
	managers := map[string]bool{}
	for _, pkg := range r.Packages {
		managers[string(pkg.Manager)] = true
	}
	p.Managers = strings.Join(slices.Sorted(maps.Keys(managers)), " and ")
	if r.PackagesError != nil {
		p.PackagesError = Visible(r.PackagesError.Error())
	}
}

// link is a path as the page's address has it: what the script calls each name, escaped.
func link(p string) string {
	var parts []string
	for part := range strings.SplitSeq(p, "/") {
		parts = append(parts, url.PathEscape(Visible(part)))
	}
	return strings.Join(parts, "/")
}

// Visible shows what does not print, or would change how the text around it reads, by its number.
func Visible(s string) string { return escape(s, "") }

// visibleText leaves lines as they are.
func visibleText(s string) string { return escape(s, "\n\t") }

func escape(s, keep string) string {
	plain := true
	for _, r := range s {
		plain = plain && r != utf8.RuneError && unicode.IsPrint(r)
	}
	if plain {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r), strings.ContainsRune(keep, r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

func oneLine(s string) string { return Visible(strings.Join(strings.Fields(s), " ")) }

// cut shortens a text to n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// size is bytes in powers of 1000.
func size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f := float64(n)
	units := []string{"kB", "MB", "GB", "TB", "PB"}
	i := -1
	for f >= 999.5 && i < len(units)-1 {
		f /= 1000
		i++
	}
	digits := 0
	switch {
	case f < 10:
		digits = 2
	case f < 100:
		digits = 1
	}
	return strconv.FormatFloat(f, 'f', digits, 64) + " " + units[i]
}

// count groups a number's digits.
func count(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func percent(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) + "%" }
