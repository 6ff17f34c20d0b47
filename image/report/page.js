"use strict";
(() => {
	const data = JSON.parse(document.getElementById("data").textContent);
	const root = document.documentElement;
	const $ = id => document.getElementById(id);
	const svgNS = "http://www.w3.org/2000/svg";
	const still = matchMedia("(prefers-reduced-motion: reduce)");

	// Layers that lie beside each other differ in hue; behind the tenth they go on by the golden angle.
	const hues = [258, 165, 78, 25, 325, 215, 125, 295, 52, 190];
	const hue = i => i < hues.length ? hues[i] : (i * 137.508 + 40) % 360;
	const kindHues = {overwritten: 25, rewritten: 55, deleted: 345, cached: 85, duplicate: 300};
	for (const e of document.querySelectorAll("[data-hue]")) e.style.setProperty("--h", hue(+e.dataset.hue));
	for (const e of document.querySelectorAll("[data-kind]")) e.style.setProperty("--kh", kindHues[e.dataset.kind]);

	const sizeText = n => {
		if (n < 1000) return n + " B";
		let i = -1;
		do { n /= 1000; i++; } while (n >= 999.5 && i < 4);
		return n.toFixed(n < 10 ? 2 : n < 100 ? 1 : 0) + " " + ["kB", "MB", "GB", "TB", "PB"][i];
	};
	const shareText = x => x >= 0.0995 ? Math.round(x * 100) + "%" : x >= 0.001 ? (x * 100).toFixed(1) + "%" : "under 0.1%";
	const countText = (n, what) => n.toLocaleString("en") + " " + what + (n === 1 ? "" : "s");
	const element = (tag, attributes, ...children) => {
		const e = document.createElement(tag);
		for (const [k, v] of Object.entries(attributes || {})) e.setAttribute(k, v);
		e.append(...children);
		return e;
	};
	const shape = (tag, attributes) => {
		const e = document.createElementNS(svgNS, tag);
		for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
		return e;
	};

	// A directory is [name, children, files summed, their bytes, their layer, how many bytes and files of these are hidden], a file is
	// [name, size, layer, kind, by].
	const read = (d, parent) => {
		const node = {name: d[0], parent, kids: null, size: 0, live: 0, files: 0, shown: 0, layer: 0, kind: 0, by: 0, summed: 0};
		if (!Array.isArray(d[1])) {
			node.size = d[1]; node.layer = d[2]; node.kind = d[3] || 0; node.by = d[4] || 0; node.files = 1;
			node.live = data.hides[node.kind] ? 0 : node.size; node.shown = data.hides[node.kind] ? 0 : 1;
			return node;
		}
		const layers = new Map();
		const add = kid => {
			node.kids.push(kid);
			node.size += kid.size; node.live += kid.live; node.files += kid.files; node.shown += kid.shown;
			layers.set(kid.layer, (layers.get(kid.layer) || 0) + kid.size);
		};
		node.kids = [];
		for (const k of d[1]) add(read(k, node));
		if (d[2]) add({name: countText(d[2], "smaller file"), parent: node, kids: null, size: d[3], live: d[3] - d[5], files: d[2], shown: d[2] - d[6], layer: d[4], kind: 0, by: 0, summed: d[2]});
		let most = -1;
		for (const [l, n] of layers) if (n > most) { most = n; node.layer = l; }
		return node;
	};
	const tree = read(data.tree, null);
	const pathOf = n => n.parent ? pathOf(n.parent) + (n.parent.parent ? "/" : "") + n.name : "/";
	// The directory that a path leads to, or as far as the tree goes, and the file in it.
	const find = path => {
		let at = tree;
		for (const part of path.split("/").filter(Boolean)) {
			const next = at.kids.find(k => k.kids && k.name === part);
			if (!next) return [at, at.kids.find(k => !k.kids && !k.summed && k.name === part) || null];
			at = next;
		}
		return [at, null];
	};

	const state = {at: tree, layer: -1, waste: false, hidden: true, found: null};
	const weight = n => state.hidden ? n.size : n.live;
	const number = n => countText(state.hidden ? n.files : n.shown, "file");
	const ordered = n => n.kids.filter(k => weight(k) > 0).sort((a, b) => weight(b) - weight(a) || (a.name < b.name ? -1 : 1));

	// Squarified treemaps (Bruls, Huizing, van Wijk): rows are filled along the shorter side as long as their worst ratio gets better.
	const squarify = (nodes, x, y, w, h) => {
		const out = [];
		let left = nodes.reduce((s, n) => s + weight(n), 0), i = 0;
		while (i < nodes.length && w > 0.5 && h > 0.5 && left > 0) {
			const side = Math.min(w, h), scale = w * h / left;
			let sum = 0, worst = Infinity, j = i, min = Infinity, max = 0;
			for (; j < nodes.length; j++) {
				const a = weight(nodes[j]) * scale, s = sum + a, lo = Math.min(min, a), hi = Math.max(max, a);
				const ratio = Math.max(side * side * hi / (s * s), s * s / (side * side * lo));
				if (ratio > worst) break;
				sum = s; min = lo; max = hi; worst = ratio;
			}
			const thick = sum / side;
			let at = w >= h ? y : x;
			for (; i < j; i++) {
				const n = nodes[i], len = weight(n) * scale / thick;
				out.push(w >= h ? [n, x, at, thick, len] : [n, at, y, len, thick]);
				at += len; left -= weight(n);
			}
			if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
		}
		return out;
	};

	const map = $("map"), list = $("list"), tip = element("div", {class: "tip", "aria-hidden": "true"});
	tip.hidden = true;
	document.body.append(tip);
	let boxes = [], focused = 0, nodeOf = new Map(), elementOf = new Map();

	const label = n => {
		let s = (n.parent ? n.name : "the image") + ", " + sizeText(weight(n)) + ", " + shareText(weight(n) / (weight(tree) || 1)) + " of the image";
		if (n.kids) s += ", directory of " + number(n);
		else if (!n.summed) s += ", layer " + (n.layer + 1);
		if (n.kind) s += ", " + reason(n);
		return s;
	};
	const reason = n => {
		const k = data.kinds[n.kind];
		if (k === "cached") return "a cache";
		if (k === "duplicate") return "a duplicate of a file in layer " + (n.by + 1);
		return k + " by layer " + (n.by + 1);
	};
	const fit = (s, room, each) => {
		const n = Math.floor(room / each);
		return s.length <= n ? s : n >= 4 ? s.slice(0, n - 1) + "…" : "";
	};

	// Boxes are drawn level by level, so that where there are too many it is the deep ones that are missing. A directory that has no room for
	// what is in it looks like a file of the layer that has most of it.
	let budget = 0, pending = [];
	const draw = (into, node, x, y, w, h, depth) => {
		budget--;
		const g = shape("g", {class: "cell"}), gap = Math.min(1, w / 4, h / 4);
		const bx = x + gap / 2, by = y + gap / 2, bw = Math.max(w - gap, .5), bh = Math.max(h - gap, .5);
		if (node === state.found) g.classList.add("found");
		g.style.setProperty("--h", hue(node.layer));
		if (node.kind) {
			g.classList.add("k" + node.kind);
			g.style.setProperty("--kh", kindHues[data.kinds[node.kind]]);
		}
		g.append(shape("rect", {class: "f", x: bx.toFixed(1), y: by.toFixed(1), width: bw.toFixed(1), height: bh.toFixed(1), rx: Math.min(3, bw / 6, bh / 6).toFixed(1)}));
		if (!node.kids && data.hides[node.kind]) {
			g.classList.add("h");
			g.append(shape("rect", {class: "hatch", x: bx.toFixed(1), y: by.toFixed(1), width: bw.toFixed(1), height: bh.toFixed(1)}));
		}
		nodeOf.set(g, node);
		if (!elementOf.has(node)) elementOf.set(node, g);
		into.append(g);
		if (node.kids && w * h > 110 && w > 7 && h > 7 && depth < 12) pending.push([g, node, bx, by, bw, bh, depth]);
		else leaf(g, node, bx, by, bw, bh);
		return g;
	};
	const write = (g, s, x, y, attributes) => {
		if (!s) return;
		const t = shape("text", {x: x.toFixed(1), y: y.toFixed(1), ...attributes});
		t.textContent = s;
		g.append(t);
	};
	const leaf = (g, node, x, y, w, h) => {
		if (node.kids || node.summed) g.classList.add("o");
		if (state.layer >= 0 && node.layer !== state.layer) g.classList.add("dim");
		if (w <= 34 || h <= 16) return;
		write(g, fit(node.name, w - 10, 6.3), x + 5, y + 13);
		if (h > 31 && w > 50) write(g, sizeText(weight(node)), x + 5, y + 26, {class: "s"});
	};
	const inside = (g, node, x, y, w, h, depth) => {
		const titled = w > 46 && h > 34, head = titled ? 17 : 2, pad = w > 26 && h > 26 ? 3 : 1;
		const boxes = squarify(ordered(node), x + pad, y + head, w - 2 * pad, h - head - pad).filter(b => b[3] * b[4] > 3);
		if (!boxes.length || boxes.length > budget) return leaf(g, node, x, y, w, h);
		g.classList.add("d");
		if (depth % 2 === 0) g.classList.add("even");
		if (titled) {
			const size = w > 120 ? sizeText(weight(node)) : "";
			write(g, fit(node.name, w - 10 - (size ? size.length * 6 + 8 : 0), 6.8), x + 5, y + 12.5);
			write(g, size, x + w - 5, y + 12.5, {class: "s", "text-anchor": "end"});
		}
		for (const [k, kx, ky, kw, kh] of boxes) draw(g, k, kx, ky, kw, kh, depth + 1);
	};

	const render = from => {
		const w = map.clientWidth, h = map.clientHeight;
		const had = map.contains(document.activeElement);
		boxes = []; nodeOf = new Map(); elementOf = new Map(); budget = 5000; pending = [];
		const svg = shape("svg", {viewBox: `0 0 ${w} ${h}`, role: "presentation"});
		const defs = shape("defs", {}), hatch = shape("pattern", {id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse"});
		hatch.append(shape("path", {d: "M-1 1 1-1M0 6 6 0M5 7 7 5"}));
		defs.append(hatch);
		const all = shape("g", {});
		svg.append(defs, all);
		for (const [n, x, y, bw, bh] of squarify(ordered(state.at), 0, 0, w, h)) {
			if (bw * bh < 1 || budget <= 0) break;
			const g = draw(all, n, x, y, bw, bh, 1);
			g.setAttribute("role", "button");
			g.setAttribute("aria-label", label(n));
			g.setAttribute("tabindex", boxes.length ? "-1" : "0");
			boxes.push({g, n, x, y, w: bw, h: bh});
		}
		for (let i = 0; i < pending.length; i++) inside(...pending[i]);
		focused = 0;
		map.querySelectorAll("svg, .empty").forEach(e => e.remove());
		map.append(svg);
		if (!boxes.length) map.append(element("div", {class: "empty"}, "Nothing here takes any bytes."));
		map.classList.toggle("waste", state.waste);
		if (from && !still.matches && all.animate) {
			all.animate([{transform: from, opacity: .35}, {transform: "none", opacity: 1}], {duration: 220, easing: "cubic-bezier(.2,.7,.2,1)"});
		}
		if (had && boxes.length) move(0);
	};

	const drawList = () => {
		const n = state.at, total = weight(n) || 1, ul = element("ul", {}), kids = ordered(n);
		for (const k of kids.slice(0, 300)) {
			const dir = !!k.kids, row = element(dir ? "button" : "div", {class: "row" + (dir ? " dir" : "") + (k === state.found ? " on" : "")});
			if (dir) { row.type = "button"; row.addEventListener("click", () => go(k)); }
			row.style.setProperty("--h", hue(k.layer));
			const name = element("span", {class: "n"}, k.name + (dir ? "/" : ""));
			name.title = k.name;
			const bar = element("span", {class: "w", "aria-hidden": "true"});
			bar.style.width = `calc((100% - 16px) * ${(weight(k) / total).toFixed(4)})`;
			const sw = element("span", {class: "sw", "aria-hidden": "true"});
			const says = k.kids ? "" : k.summed ? "" : ` layer ${k.layer + 1}` + (k.kind ? ", " + reason(k) : "");
			row.append(sw, name, element("span", {class: "z"}, sizeText(weight(k))), bar, element("span", {class: "sr"}, says));
			row.addEventListener("pointerenter", () => mark(k, true));
			row.addEventListener("pointerleave", () => mark(k, false));
			ul.append(element("li", {}, row));
		}
		const head = element("h3", {}, element("span", {}, number(n)), element("span", {}, sizeText(weight(n)) + " · " + shareText(weight(n) / (weight(tree) || 1))));
		list.replaceChildren(head, ul);
		list.scrollTop = 0;
		if (kids.length > 300) ul.append(element("li", {class: "row"}, countText(kids.length - 300, "more name")));
	};
	const mark = (n, on) => { const g = elementOf.get(n); if (g) g.classList.toggle("found", on || n === state.found); };

	const drawCrumbs = () => {
		const ol = $("crumbs"), chain = [];
		for (let n = state.at; n; n = n.parent) chain.unshift(n);
		ol.replaceChildren(...chain.map((n, i) => {
			const b = element("button", {type: "button"}, n.parent ? n.name : data.name);
			if (i === chain.length - 1) b.setAttribute("aria-current", "location");
			else b.addEventListener("click", () => go(n));
			return element("li", {}, b);
		}));
		$("up").disabled = !state.at.parent;
	};

	const drawLegend = () => {
		const items = [], add = (cls, text, set) => {
			const sw = element("span", {class: "sw " + cls, "aria-hidden": "true"});
			if (set) sw.style.setProperty(...set);
			items.push(element("li", {}, sw, element("span", {}, text)));
		};
		if (state.waste) {
			add("live", "used");
			data.kinds.forEach((k, i) => { if (k && data.sums[i]) add("kind", k + " " + sizeText(data.sums[i]), ["--kh", kindHues[k]]); });
		} else {
			data.layers.slice(0, 12).forEach((l, i) => add("", "layer " + (i + 1), ["--h", hue(i)]));
			if (data.layers.length > 12) items.push(element("li", {}, `and ${data.layers.length - 12} more`));
		}
		if (state.hidden && data.hiddenBytes) add("hid", "hidden by a later layer");
		$("legend").replaceChildren(...items);
	};

	const hashOf = n => "#" + pathOf(n).split("/").map(encodeURIComponent).join("/");
	const show = (n, from) => {
		state.at = n;
		render(from);
		drawList();
		drawCrumbs();
		$("status").textContent = (n.parent ? pathOf(n) : data.name) + ": " + label(n);
	};
	const go = (n, quiet) => {
		if (!n || !n.kids) return;
		const w = map.clientWidth, h = map.clientHeight;
		let from = null;
		const box = elementOf.get(n);
		if (box) {
			const r = box.querySelector("rect").getBBox();
			if (r.width && r.height) from = `translate(${r.x}px, ${r.y}px) scale(${r.width / w}, ${r.height / h})`;
		} else if (n !== state.at) from = `translate(${w * -.06}px, ${h * -.06}px) scale(1.12)`;
		if (n !== state.found && state.found && state.found.parent !== n) state.found = null;
		tip.hidden = true;
		show(n, from);
		if (!quiet) history.pushState(null, "", hashOf(n));
	};
	const fromHash = () => {
		if (!location.hash.startsWith("#/")) return [location.hash ? null : tree, null];
		try { return find(location.hash.slice(1).split("/").map(decodeURIComponent).join("/")); } catch { return [tree, null]; }
	};
	addEventListener("popstate", () => {
		const [n, file] = fromHash();
		if (!n || n === state.at && !file) return;
		state.found = file;
		go(n, true);
		map.scrollIntoView({block: "nearest"});
	});

	// The keyboard moves between the directory's own boxes, to the nearest one in the direction of the key.
	const move = i => {
		boxes[focused]?.g.setAttribute("tabindex", "-1");
		focused = i;
		boxes[i].g.setAttribute("tabindex", "0");
		boxes[i].g.focus();
	};
	const toward = (dx, dy) => {
		const a = boxes[focused], ax = a.x + a.w / 2, ay = a.y + a.h / 2;
		let best = -1, least = Infinity;
		boxes.forEach((b, i) => {
			if (i === focused) return;
			const x = b.x + b.w / 2 - ax, y = b.y + b.h / 2 - ay, along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
			const edge = dx > 0 ? b.x - a.x - a.w : dx < 0 ? a.x - b.x - b.w : dy > 0 ? b.y - a.y - a.h : a.y - b.y - b.h;
			if (along <= 0 || edge < -1) return;
			const off = Math.max(0, across - (dx ? (a.h + b.h) / 2 : (a.w + b.w) / 2) + 1), d = edge + 4 * off + across * .01;
			if (d < least) { least = d; best = i; }
		});
		if (best >= 0) move(best);
	};
	map.addEventListener("keydown", e => {
		if (e.altKey || e.ctrlKey || e.metaKey) return;
		const keys = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]};
		if (keys[e.key] && boxes.length) toward(...keys[e.key]);
		else if (e.key === "Home" && boxes.length) move(0);
		else if (e.key === "End" && boxes.length) move(boxes.length - 1);
		else if ((e.key === "Enter" || e.key === " ") && boxes.length) {
			const n = boxes[focused].n;
			if (n.kids) { go(n); if (boxes.length) move(0); }
		} else if (e.key === "Escape" || e.key === "Backspace") {
			const n = state.at;
			if (n.parent) {
				go(n.parent);
				const i = boxes.findIndex(b => b.n === n);
				if (boxes.length) move(Math.max(i, 0));
			}
		} else return;
		e.preventDefault();
	});
	const under = target => {
		const g = target.closest && target.closest(".cell");
		return g ? nodeOf.get(g) : null;
	};
	map.addEventListener("click", e => {
		const n = under(e.target);
		if (!n) return;
		const to = n.kids ? n : n.parent;
		if (to !== state.at) go(to);
		else { state.found = state.found === n ? null : n; render(); drawList(); }
	});
	const tell = (n, x, y) => {
		const rows = [element("b", {}, n.summed ? pathOf(n.parent) : pathOf(n))];
		rows.push(element("span", {}, (n.summed ? n.name + ", " : "") + sizeText(weight(n)) + " · " + shareText(weight(n) / (weight(tree) || 1)) + (n.kids ? " · " + number(n) : "")));
		if (!n.kids && !n.summed) rows.push(element("i", {}, "layer " + (n.layer + 1) + (data.layers[n.layer] ? ": " + data.layers[n.layer] : "")));
		if (n.kind) rows.push(element("i", {}, reason(n)));
		tip.replaceChildren(...rows);
		tip.hidden = false;
		const r = tip.getBoundingClientRect();
		tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - r.width - 8)) + "px";
		tip.style.top = (y + 18 + r.height > innerHeight ? Math.max(8, y - r.height - 12) : y + 18) + "px";
	};
	map.addEventListener("pointermove", e => {
		const n = e.pointerType === "touch" ? null : under(e.target);
		if (n) tell(n, e.clientX, e.clientY); else tip.hidden = true;
	});
	map.addEventListener("pointerleave", () => { tip.hidden = true; });
	map.addEventListener("focusin", e => {
		const i = boxes.findIndex(b => b.g === e.target);
		if (i >= 0) {
			focused = i;
			if (e.target.matches(":focus-visible")) { const r = e.target.getBoundingClientRect(); tell(boxes[i].n, r.left + Math.min(r.width / 2, 60), r.top + Math.min(r.height / 2, 40)); }
		}
	});
	map.addEventListener("focusout", () => { tip.hidden = true; });

	$("up").addEventListener("click", () => go(state.at.parent));
	const colour = waste => {
		state.waste = waste;
		$("by-layer").setAttribute("aria-pressed", String(!waste));
		$("by-waste").setAttribute("aria-pressed", String(waste));
		map.classList.toggle("waste", waste);
		drawLegend();
	};
	$("by-layer").addEventListener("click", () => colour(false));
	$("by-waste").addEventListener("click", () => colour(true));
	$("hidden").addEventListener("change", e => { state.hidden = e.target.checked; show(state.at); drawLegend(); });

	const pick = i => {
		state.layer = state.layer === i ? -1 : i;
		for (const b of document.querySelectorAll("[data-layer]")) b.setAttribute("aria-pressed", String(+b.dataset.layer === state.layer));
		$("strip").classList.toggle("focus", state.layer >= 0);
		$("status").textContent = state.layer < 0 ? "All layers" : "Layer " + (i + 1) + " is picked out";
		render();
	};
	$("strip").classList.toggle("many", data.layers.length > 50);
	data.layers.forEach((by, i) => {
		const li = element("li", {}), b = element("button", {type: "button", "data-layer": i, "aria-pressed": "false", "aria-label": `Layer ${i + 1}, ${sizeText(data.bytes[i])}`}, data.bytes[i] > tree.size * .02 ? String(i + 1) : "");
		li.style.flex = `${Math.max(data.bytes[i], 1)} 1 0`;
		b.style.setProperty("--h", hue(i));
		b.title = `layer ${i + 1}, ${sizeText(data.bytes[i])}: ${by}`;
		li.append(b);
		$("strip").append(li);
	});
	for (const b of document.querySelectorAll("[data-layer]")) b.addEventListener("click", () => pick(+b.dataset.layer));

	// Find: names that begin so, then names that have it, then paths that have it; the largest first.
	const field = $("find"), hits = $("hits");
	let results = [], chosen = -1;
	const search = text => {
		const want = text.trim().toLowerCase().replace(/^\/+/, ""), ranked = [];
		if (!want) return [];
		const rows = $("packages") ? [...$("packages").tBodies[0].rows] : [];
		for (const r of rows) {
			const name = r.cells[0].textContent, at = name.toLowerCase().indexOf(want);
			if (at >= 0) ranked.push({rank: name.length === want.length ? -1 : at === 0 ? 0 : 2, size: +r.cells[3].dataset.v, text: name, note: "package " + r.cells[1].textContent, row: r});
		}
		const visit = (n, path) => {
			for (const k of n.kids) {
				if (k.summed) continue;
				const full = path + "/" + k.name, name = k.name.toLowerCase(), at = name.indexOf(want);
				if (at >= 0 || full.toLowerCase().includes(want)) ranked.push({rank: at === 0 ? 1 : at > 0 ? 2 : 3, size: k.size, text: full + (k.kids ? "/" : ""), note: sizeText(k.size) + (k.kind ? ", " + data.kinds[k.kind] : ""), node: k});
				if (k.kids) visit(k, full);
			}
		};
		visit(tree, "");
		return ranked.sort((a, b) => a.rank - b.rank || b.size - a.size || (a.text < b.text ? -1 : 1)).slice(0, 60);
	};
	const choose = i => {
		chosen = i;
		[...hits.children].forEach((li, k) => li.setAttribute("aria-selected", String(k === i)));
		if (i >= 0) { hits.children[i].scrollIntoView({block: "nearest"}); field.setAttribute("aria-activedescendant", "hit" + i); } else field.removeAttribute("aria-activedescendant");
	};
	const open = on => { hits.hidden = !on; field.setAttribute("aria-expanded", String(on)); };
	const accept = i => {
		const r = results[i];
		if (!r) return;
		open(false);
		if (r.row) {
			$("pfilter").value = "";
			filterPackages();
			r.row.scrollIntoView({block: "center"});
			r.row.setAttribute("tabindex", "-1");
			r.row.focus();
			return;
		}
		state.found = r.node;
		go(r.node.kids ? r.node : r.node.parent);
		map.scrollIntoView({block: "nearest"});
		const k = boxes.findIndex(b => b.n === r.node);
		if (boxes.length) move(Math.max(k, 0));
	};
	field.addEventListener("input", () => {
		results = search(field.value);
		hits.replaceChildren(...results.map((r, i) => {
			const li = element("li", {role: "option", id: "hit" + i, "aria-selected": "false"}, element("span", {}, r.text), element("span", {}, r.note));
			li.addEventListener("pointerdown", e => { e.preventDefault(); accept(i); });
			return li;
		}));
		if (!results.length && field.value.trim()) hits.append(element("li", {class: "none"}, "Nothing is called so."));
		open(field.value.trim() !== "");
		choose(results.length ? 0 : -1);
	});
	field.addEventListener("keydown", e => {
		if (e.key === "ArrowDown" && results.length) choose((chosen + 1) % results.length);
		else if (e.key === "ArrowUp" && results.length) choose((chosen + results.length - 1) % results.length);
		else if (e.key === "Enter") accept(chosen);
		else if (e.key === "Escape") { field.value = ""; open(false); }
		else return;
		e.preventDefault();
	});
	field.addEventListener("blur", () => open(false));
	field.addEventListener("focus", () => { if (field.value.trim()) open(true); });
	addEventListener("keydown", e => {
		if (e.key === "/" && !e.ctrlKey && !e.metaKey && !e.altKey && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { e.preventDefault(); field.focus(); }
	});

	const filterPackages = () => {
		const want = $("pfilter").value.trim().toLowerCase();
		for (const r of $("packages").tBodies[0].rows) r.hidden = !(r.cells[0].textContent + " " + r.cells[1].textContent).toLowerCase().includes(want);
	};
	if ($("packages")) {
		$("pfilter").hidden = false;
		$("pfilter").addEventListener("input", filterPackages);
		const body = $("packages").tBodies[0];
		[...$("packages").tHead.rows[0].cells].forEach((th, i) => {
			const b = element("button", {type: "button"}, th.textContent);
			th.replaceChildren(b);
			th.setAttribute("aria-sort", i ? "none" : "ascending");
			b.addEventListener("click", () => {
				const number = "v" in body.rows[0].cells[i].dataset, down = th.getAttribute("aria-sort") === (number ? "none" : "ascending") || th.getAttribute("aria-sort") === "ascending";
				for (const o of th.parentNode.cells) o.setAttribute("aria-sort", "none");
				th.setAttribute("aria-sort", down ? "descending" : "ascending");
				const key = number ? r => +r.cells[i].dataset.v : r => r.cells[i].textContent;
				const rows = [...body.rows].sort((a, b) => { const x = key(a), y = key(b); return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
				body.append(...rows);
			});
		});
	}

	const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
	$("theme").hidden = false;
	$("theme").addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });

	drawLegend();
	const [begin, file] = fromHash();
	state.found = file;
	show(begin || tree);
	let width = map.clientWidth, height = map.clientHeight;
	new ResizeObserver(() => {
		if (map.clientWidth === width && map.clientHeight === height) return;
		width = map.clientWidth; height = map.clientHeight;
		render();
	}).observe(map);
})();
