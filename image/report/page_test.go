package report

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/layerctl/layerctl/image/packages"
)

func written(t *testing.T, r *Report) (url string) {
	path := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(path, []byte(pageOf(t, r)), 0o644); err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

// contrast computes with the browser's own colours what WCAG 2 calls the contrast ratio of text on what it is on, for everything that the
// page puts on something, and returns those below 4.5.
const contrast = `(() => {
	const c = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
	const light = color => {
		c.clearRect(0, 0, 1, 1); c.fillStyle = "#000"; c.fillStyle = color; c.fillRect(0, 0, 1, 1);
		const [r, g, b] = [...c.getImageData(0, 0, 1, 1).data].map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const css = getComputedStyle(document.documentElement), v = name => css.getPropertyValue(name);
	const pairs = [["--ink", "--card"], ["--ink", "--bg"], ["--ink", "--sunk"], ["--muted", "--card"], ["--muted", "--bg"], ["--muted", "--sunk"], ["--accent", "--card"], ["--accent-ink", "--accent"], ["--frame-ink", "--frame"], ["--frame-ink", "--frame2"], ["--card", "--ink"]].map(p => [p + "", v(p[0]), v(p[1])]);
	for (const t of document.querySelectorAll(".map .cell > text")) pairs.push([t.textContent, getComputedStyle(t).fill, getComputedStyle(t.parentNode.querySelector("rect.f")).fill]);
	for (const r of document.querySelectorAll(".chip, .strip button")) pairs.push([r.textContent, getComputedStyle(r).color, getComputedStyle(r).backgroundColor]);
	return pairs.map(([name, a, b]) => [name, (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05)]).filter(p => !(p[1] >= 4.5)).map(p => p[0] + " " + p[1].toFixed(2)).join("; ");
})()`

// The page does what it says: in two sizes, light and dark, by the keyboard; it asks for nothing and complains of nothing.
func TestPageInBrowser(t *testing.T) {
	b := startBrowser(t)
	url := written(t, example(t))
	b.view(1280, 800, false)
	b.open(url)
	is := func(what, expression, want string) {
		t.Helper()
		if got := b.eval(expression); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	where := `decodeURIComponent(location.hash) + " " + [...document.querySelectorAll("#crumbs button")].map(b => b.textContent).join(">")`
	focused := `(document.activeElement.getAttribute("aria-label") || document.activeElement.tagName).split(",")[0]`
	is("where it begins", where, " app:1")
	is("contrast in light", contrast, "")
	is("names of buttons", `[...document.querySelectorAll("button, input, [role=button], a")].filter(e => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).map(e => e.outerHTML).join()`, "")
	is("ids that are meant", `[...document.querySelectorAll("[aria-controls],[aria-labelledby],label[for],nav a")].map(e => e.getAttribute("aria-controls") || e.getAttribute("aria-labelledby") || e.getAttribute("for") || e.hash.slice(1)).filter(i => !document.getElementById(i)).join()`, "")
	shots := map[string]bool{b.shot("light", false): true}

	// By the keyboard alone: the map is the Tab stop behind the search field.
	b.eval(`document.getElementById("find").focus()`)
	b.press("Tab")
	is("the map takes the focus", focused, "usr")
	b.press("Enter")
	is("Enter goes in", where, "#/usr app:1>usr")
	is("and keeps the focus in the map", focused, "bin")
	b.press("ArrowRight")
	is("an arrow goes on", focused, "lib")
	b.press("ArrowLeft")
	is("and back", focused, "bin")
	b.press("Enter")
	is("and in again", where, "#/usr/bin app:1>usr>bin")
	is("at the largest", focused, "python3")
	b.press("Enter")
	is("a file has nothing in it", where, "#/usr/bin app:1>usr>bin")
	b.press("Escape")
	is("Escape goes up", where, "#/usr app:1>usr")
	is("to where it came from", focused, "bin")
	b.press("Backspace")
	is("so does Backspace", where, "#/ app:1")
	b.press("Escape")
	is("but not over the root", where, "#/ app:1")
	b.press("/", "m", "o", "d", "e", "l")
	is("it finds both layers' file", `[...document.querySelectorAll("#hits li")].map(l => l.textContent).join()`, "/srv/app/model.bin400 kB, rewritten,/srv/app/model.bin400 kB")
	b.press("Enter")
	is("and goes there", where, "#/srv/app app:1>srv>app")
	is("to the hidden one", `document.activeElement.getAttribute("aria-label")`, "model.bin, 400 kB, 7.3% of the image, layer 3, rewritten by layer 4")
	is("which is marked", `document.querySelectorAll(".cell.found").length`, "1")
	b.eval(`history.back()`)
	b.until(where, "#/ app:1")

	is("a name in the list goes in", `[...document.querySelectorAll("#list button")].find(b => b.textContent.startsWith("srv")).click(), location.hash`, "#/srv")
	is("up", `document.getElementById("up").click(), location.hash`, "#/")
	is("without what is hidden", `document.getElementById("hidden").click(), document.querySelector("#list h3").textContent`, "9 files4.39 MB · 100%")
	is("a layer is picked out", `document.querySelector(".layer-btn[data-layer='2']").click(), [document.querySelectorAll(".cell.dim").length > 3, document.querySelectorAll("[data-layer='2'][aria-pressed=true]").length].join()`, "true,2")
	is("and put back", `document.querySelector("#strip [data-layer='2']").click(), document.querySelectorAll(".cell.dim").length`, "0")
	is("coloured by waste", `document.getElementById("hidden").click(), document.getElementById("by-waste").click(), document.getElementById("legend").innerText.replace(/\s+/g, " ")`, "used overwritten 1.00 kB rewritten 420 kB deleted 640 kB cached 5.00 kB duplicate 30.0 kB hidden by a later layer")
	is("contrast of waste", contrast, "")
	b.shot("waste", false)
	is("packages by a word", `(e => { e.value = "zlib"; e.dispatchEvent(new Event("input")); })(document.getElementById("pfilter")), [...document.querySelectorAll("#packages tbody tr:not([hidden])")].length`, "1")
	is("packages by size", `document.querySelectorAll("#packages th button")[3].click(), document.querySelector("#packages tbody tr").cells[0].textContent`, "bash")

	b.eval(`[...document.querySelectorAll("#waste a")].find(a => a.textContent === "/srv/app/app.py").click()`)
	b.until(where+` + " " + [...document.querySelectorAll(".cell.found")].map(g => g.getAttribute("aria-label")).join()`, "#/srv/app/app.py app:1>srv>app app.py, 20.0 kB, 0.4% of the image, layer 3, rewritten by layer 4")
	b.eval(`document.getElementById("by-layer").click(), scrollTo(0, 0)`)
	background := `getComputedStyle(document.body).backgroundColor`
	day := b.eval(background)
	b.view(1280, 800, true)
	night := b.eval(background)
	if day == night {
		t.Error("dark is as light")
	}
	is("contrast in dark", contrast, "")
	is("contrast of waste in dark", `document.getElementById("by-waste").click(), `+contrast, "")
	b.eval(`document.getElementById("by-layer").click()`)
	shots[b.shot("dark", false)] = true
	is("the button turns it", `document.getElementById("theme").click(), `+background, day)
	is("and back", `document.getElementById("theme").click(), `+background, night)
	b.call("Emulation.setEmulatedMedia", map[string]any{"media": "print"}, nil)
	is("on paper", background, "rgb(255, 255, 255)")
	b.view(390, 844, false)
	b.eval(`delete document.documentElement.dataset.theme`)
	for _, width := range []int{320, 640, 768, 1020, 1920, 390} {
		b.view(width, 844, false)
		is("nothing stands out at the side", `document.scrollingElement.scrollWidth`, fmt.Sprint(width))
	}
	shots[b.shot("narrow-light", false)] = true
	b.view(390, 844, true)
	shots[b.shot("narrow-dark", false)] = true
	if len(shots) != 4 {
		t.Errorf("%d of 4 pictures differ", len(shots))
	}
	for _, c := range b.complaints(url) {
		t.Error(c)
	}
}

// Whatever an image's names are, none of them becomes a part of the page.
func TestHostilePage(t *testing.T) {
	evil := []string{"</script><script>owned=1</script>", "<img src=x onerror=owned=1>", "\" onfocus=owned=1 autofocus x=\"", "' onload='owned=1", "<!--<script>", "]]>", "__proto__", "constructor", "toString",
		"\u2028owned=1\u2029", "{{.Name}}", "javascript:owned=1", "\x1b[31m", "\u202egnp.exe", "\xff\xfe", "a#b?c%2fd", "&lt;b&gt;", "</style><style>*{display:none}</style>", "<base href=//evil.example>", "<meta http-equiv=refresh content=0>"}
	files, over := map[string]int64{}, map[string]int64{}
	for i, e := range evil {
		name := strings.ReplaceAll(e, "/", "\u2215")
		files[name+"/"+name+"/"+name] = int64(1000 + i)
		files["slash/"+e] = int64(2000 + i)
		over[name+"/"+name+"/"+name] = int64(1500 + i)
	}
	r := reportOf(t, []string{strings.Join(evil, " "), "RUN </script><script>owned=1</script>\n<svg/onload=owned=1>"}, layerOf(files), layerOf(over))
	r.Name = evil[0] + evil[1]
	r.Platform = evil[1]
	for i, e := range evil {
		r.Packages = append(r.Packages, packages.Package{Manager: packages.Dpkg, Name: e, Version: evil[(i+1)%len(evil)], Arch: evil[(i+2)%len(evil)], Layer: i - 1})
	}
	r.Packages[3].Layer = 1
	b := startBrowser(t)
	url := written(t, r)
	b.view(1280, 800, false)
	b.open(url)
	links := `[...document.querySelectorAll("#waste a")].map(a => { const parts = decodeURIComponent(a.hash.slice(1)); return a.protocol === "file:" && parts === a.textContent.replace(/\/$/, "") ? "" : a.href; }).join("")`
	if got := b.eval(links); got != "" {
		t.Errorf("links: %s", got)
	}
	walk := `(() => {
		const open = () => [...document.querySelectorAll("#list button")], seen = [];
		for (let i = 0; i < open().length; i++) {
			const name = open()[i].querySelector(".n").textContent;
			open()[i].click();
			open()[0].click();
			seen.push(name, document.querySelector("#list .n").textContent);
			document.getElementById("up").click(); document.getElementById("up").click();
		}
		for (const q of ["owned", "script", "proto", "<", "%"]) {
			const f = document.getElementById("find");
			f.value = q; f.dispatchEvent(new Event("input"));
			seen.push(document.getElementById("hits").children.length);
		}
		for (const g of document.querySelectorAll(".cell")) g.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 5, clientY: 5}));
		return seen.join("\n");
	})()`
	if seen := b.eval(walk); strings.Count(seen, "script") < 4 || !strings.Contains(seen, "__proto__/") {
		t.Errorf("the names are not all there:\n%s", seen)
	}
	state := `[typeof owned, document.scripts.length, document.images.length, document.querySelectorAll("base, iframe, object, embed, form, svg[onload]").length, document.querySelectorAll("style, meta").length, document.styleSheets.length, document.title.includes("<img")].join()`
	if got := b.eval(state); got != "undefined,2,0,0,7,1,true" {
		t.Errorf("the page is not its own: %s", got)
	}
	b.shot("hostile", false)
	for _, c := range b.complaints(url) {
		t.Error(c)
	}
}
