// The drawn part of report.html. Text of the data only ever becomes text nodes and attributes.
"use strict";
(() => {
  // ---- Data -------------------------------------------------------------------------------
  const data = JSON.parse(document.getElementById("document").textContent);
  const features = data.features || [];
  const checks = data.checks || [];
  const slices = (data.slices || []).map((each) => each.name);
  const chunks = data.chunks || [];
  const probabilities = data.probabilities || [];
  const blocks = [...new Set(features.map((each) => each.block || ""))];
  const RANK = { fail: 3, warn: 2, ok: 1 };
  const DRAWN = 260; // strips of a chart; of more features, one stands for several
  const PAGE = 200; // rows that the table adds at a time

  features.forEach((each, index) => {
    each.index = index;
    each.name = String(each.name ?? "");
    each.status = Object.hasOwn(RANK, each.status) ? each.status : "ok";
    each.worst = -1; // position of the check with the highest level
    (each.checks || []).forEach((check, at) => {
      const level = check ? check[1] : null;
      if (level !== null && (each.worst < 0 || level > each.checks[each.worst][1])) each.worst = at;
    });
  });

  const quantile = (values, p) => {
    const at = probabilities.indexOf(p);
    return values && at >= 0 ? values[at] ?? null : null;
  };
  const sizes = (each, view) => (view === "natural" ? each : each[view] || {}).abs_quantiles;
  const known = (values) => values.filter((value) => typeof value === "number");
  const farthest = (values) =>
    known(values).reduce((far, v) => (far === null || Math.abs(v) > Math.abs(far) ? v : far), null);
  const stat = (each, name) => (each.stats || {})[name] ?? null;
  const IN_SLICE = ["scale", "log2", "median", "zeros"];
  const sliceOf = (each, at, key) => ((each.slices || [])[at] || [])[IN_SLICE.indexOf(key)] ?? null;
  // Charts keep the features of a block together; where one strip stands for several, alike ones.
  const order = blocks.flatMap((block) => features.filter((each) => (each.block || "") === block));
  if (features.length > DRAWN) {
    const middle = (each) => quantile(each.abs_quantiles, 0.5) ?? 0;
    order.sort((a, b) => blocks.indexOf(a.block || "") - blocks.indexOf(b.block || "") || middle(a) - middle(b));
  }
  order.forEach((each, position) => { each.position = position; });
  const title = (each) => each.name || "(no name)";
  const short = (text, length) => {
    const letters = Array.from(text); // not half of a surrogate pair
    return letters.length > length ? `${letters.slice(0, length - 1).join("")}…` : text;
  };
  const column = (each) =>
    each.block && each.name.startsWith(`${each.block}.`)
      ? each.name.slice(each.block.length + 1) : title(each);

  // ---- Elements and numbers ---------------------------------------------------------------
  const $ = (id) => document.getElementById(id);

  function filled(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) {
        node.setAttribute(key, value === true ? "" : value);
      }
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return node;
  }
  const el = (tag, attributes, ...children) =>
    filled(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const icon = (name) =>
    svg("svg", { class: `icon ${name}`, "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
  const button = (text, onclick, attributes) =>
    el("button", { type: "button", onclick, ...attributes }, text);

  const formats = [1, 2, 3, 4, 5, 6].map((digits) =>
    new Intl.NumberFormat("en-US", { maximumSignificantDigits: digits }));
  function number(value, digits = 4) {
    if (typeof value !== "number" || !Number.isFinite(value)) return "—";
    const size = Math.abs(value);
    let text = Number.isInteger(value) && size < 1e7
      ? value.toLocaleString("en-US") : formats[digits - 1].format(value);
    if (size >= 1e7 || (size > 0 && size < (digits < 4 ? 1e-3 : 1e-4))) {
      text = value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
    }
    return text.replace(/-/g, "−");
  }
  const percent = (value) =>
    typeof value !== "number" ? "—"
      : value > 0 && value < 0.001 ? "<0.1%" : `${Number((100 * value).toPrecision(3))}%`;
  const signed = (value) => (value > 0 ? "+" : "") + number(value, 2);
  const day = (text) => String(text || "").slice(0, 10);
  function decade(power) {
    if (power >= -2 && power <= 3) return (10 ** power).toLocaleString("en-US");
    return `10${String(power).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]))}`;
  }

  // ---- State, kept in the address ---------------------------------------------------------
  const TABS = ["map", "checks", "slices", "time", "table"];
  const DEFAULTS = {
    tab: "map", q: "", block: null, status: "", sort: "", select: "", feature: null,
    view: "natural", ghost: data.reference ? "reference" : "other", share: "", theme: "",
  };
  const state = { ...DEFAULTS };
  let cursor = null; // the feature that the keys are at

  function save() {
    const words = new URLSearchParams();
    for (const [key, value] of Object.entries(state)) {
      if (value !== DEFAULTS[key]) words.set(key, key === "feature" ? features[value].name : value);
    }
    try {
      history.replaceState(null, "", `#${words}`);
    } catch {
      location.replace(`#${words}`);
    }
  }
  function load() {
    Object.assign(state, DEFAULTS);
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
      if (!Object.hasOwn(DEFAULTS, key)) continue;
      if (key === "feature") {
        const at = features.findIndex((each) => each.name === value);
        state.feature = at < 0 ? null : at;
      } else state[key] = value;
    }
    const words = { tab: TABS, view: ["natural", "scaled"], status: ["", "repaired", ...Object.keys(RANK)] };
    for (const [key, valid] of Object.entries(words)) {
      if (!valid.includes(state[key])) state[key] = DEFAULTS[key];
    }
    if (!columns.some((each) => each.key === state.sort.replace(/^-/, ""))) state.sort = "";
    if (!blocks.includes(state.block)) state.block = null;
    if (!/^\d+-\d+$/.test(state.select)) state.select = "";
  }

  // ---- Which features are shown -----------------------------------------------------------
  const hasStatus = (each) =>
    state.status === "repaired" ? each.repaired : !state.status || each.status === state.status;

  function matching() {
    const text = state.q.trim().toLowerCase();
    return order.filter((each) =>
      (state.block === null || (each.block || "") === state.block) && hasStatus(each) &&
      (!text || each.name.toLowerCase().includes(text)));
  }
  function selected(list) {
    if (!state.select) return list;
    const [first, last] = state.select.split("-").map(Number);
    return list.filter((each) => each.position >= first && each.position <= last);
  }
  function rows() {
    const list = selected(matching());
    const by = columns.find((each) => each.key === state.sort.replace(/^-/, ""));
    if (!by) return list;
    const sign = state.sort.startsWith("-") ? -1 : 1;
    const unknown = (value) => value === null || value === undefined || value === "";
    return list.map((each) => [by.value(each), each]).sort(([a, x], [b, y]) => {
      if (unknown(a) || unknown(b)) return unknown(a) - unknown(b) || x.position - y.position;
      const compared = typeof a === "string" ? a.localeCompare(b) : a - b;
      return sign * compared || x.position - y.position;
    }).map(([, each]) => each);
  }
  // Features side by side, in groups of as many as needed: {items, block}.
  function strips() {
    let list = matching();
    if (list.length > DRAWN) list = selected(list);
    const size = Math.ceil(list.length / DRAWN);
    return blocks.flatMap((block) => {
      const inside = list.filter((each) => (each.block || "") === block);
      const made = [];
      for (let at = 0; at < inside.length; at += size) {
        made.push({ block, items: inside.slice(at, at + size) });
      }
      return made;
    });
  }
  const together = () => Math.max(1, ...strips().map((strip) => strip.items.length));
  const worstOf = (items) =>
    items.reduce((worst, each) => (RANK[each.status] > RANK[worst] ? each.status : worst), "ok");

  // ---- Tooltip, toast, clipboard ----------------------------------------------------------
  function showTip(x, y, head, lines) {
    const tip = $("tip");
    tip.replaceChildren(
      el("b", { class: "clamp" }, head),
      el("dl", {}, lines.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)])));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
    const top = Math.min(y + 16, innerHeight - box.height - 8);
    tip.style.transform = `translate(${Math.max(left, 4)}px, ${Math.max(top, 4)}px)`;
  }
  const hideTip = () => { $("tip").hidden = true; };

  let fading = 0;
  function toast(text) {
    $("toast").textContent = text;
    $("toast").classList.add("seen");
    clearTimeout(fading);
    fading = setTimeout(() => $("toast").classList.remove("seen"), 1800);
  }
  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      toast("Copied");
    } catch {
      // No permission, or no secure context: the old way still works.
      const area = el("textarea", { class: "hidden" });
      area.value = text;
      document.body.append(area);
      area.select();
      toast(document.execCommand("copy") ? "Copied" : "The browser does not allow copying");
      area.remove();
    }
  }

  // ---- Charts: features along x, one frame for the map and the heat maps --------------------
  let redraw = () => {}; // moves the cursor of the chart in view

  // spec: label, rows (names, or null), draw(frame), tip(strip, row) -> [[name, value]].
  function chart(panel, spec) {
    const box = el("div", { class: "chart" });
    panel.append(box);
    const groups = strips();
    if (!groups.length) {
      box.append(el("p", { class: "empty" }, "No feature matches the filters."));
      redraw = () => {};
      return;
    }
    const width = Math.max(box.clientWidth, 320);
    const left = width < 900 ? 104 : 136, right = 8, top = 28, gap = 10;
    const gaps = gap * (new Set(groups.map((each) => each.block)).size - 1);
    const pitch = Math.min(88, (width - left - right - gaps) / groups.length);
    const named = pitch >= 8.5 && groups.every((each) => each.items.length === 1);
    const letter = Math.min(11, pitch + 0.4);
    const names = named ? groups.map((each) => short(column(each.items[0]), 22)) : [];
    const bottom = named ? 12 + 0.56 * letter * Math.max(...names.map((n) => n.length)) : 8;
    const most = Math.max(280, innerHeight - 138 - top - bottom);
    const wished = spec.rows ? (spec.rows.length < 8 ? 64 : 38) * spec.rows.length : 800;
    const height = Math.min(most, wished);
    let x = left, before = groups[0].block;
    for (const each of groups) {
      if (each.block !== before) x += gap;
      Object.assign(each, { x, status: worstOf(each.items) });
      before = each.block;
      x += pitch;
    }
    const row = spec.rows ? height / spec.rows.length : 0;
    const root = svg("svg", {
      height: top + height + bottom, tabindex: "0", role: "application",
      "aria-roledescription": "chart",
      "aria-label": `${spec.label} Arrow keys move, Enter opens; the Table tab has the same in text.`,
    });
    const frame = { root, groups, left, top, width, height, pitch, row, right: x };

    const heads = new Map();
    for (const each of groups) {
      const head = heads.get(each.block) || { from: each.x, to: 0, count: 0 };
      heads.set(each.block, { ...head, to: each.x + pitch, count: head.count + each.items.length });
    }
    for (const [block, head] of heads) {
      const wide = head.to - head.from, letters = Math.floor(wide / 7);
      const text = letters > block.length + 5 ? `${block || "-"}  ${head.count}` : block;
      root.append(
        svg("rect", { class: "ground", x: head.from - 2, y: top - 2, width: wide + 4, height: height + 4, rx: 4 }),
        svg("text", { class: "heading", x: head.from, y: 15 }, letters < 4 ? "" : short(text, letters)));
    }
    if (spec.rows) {
      spec.rows.forEach((name, at) => root.append(
        svg("text", { x: left - 10, y: top + (at + 0.5) * row + 4, "text-anchor": "end" }, short(name, 22))));
    }
    spec.draw(frame);
    names.forEach((name, at) => {
      const middle = groups[at].x + pitch / 2 + letter * 0.36, foot = top + height + 8;
      const text = svg("text", {
        class: `label ${groups[at].status}`, "text-anchor": "end",
        transform: `translate(${middle} ${foot}) rotate(-90)`,
      }, name);
      text.style.fontSize = `${letter}px`;
      root.append(text);
    });
    const range = svg("rect", { class: "selected", y: top - 2, height: height + 4 });
    const line = svg("rect", { class: "cursor", y: top - 2, width: pitch, height: height + 4 });
    const cell = svg("rect", { class: "cell", width: pitch, height: row });
    root.append(range, line, cell);
    box.append(root);

    const place = (node, shown, values) => {
      node.setAttribute("visibility", shown ? "visible" : "hidden");
      for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    };
    const stripOf = (each) => groups.find((group) => group.items.includes(each));
    let rowAt = 0;
    redraw = () => {
      const at = cursor && stripOf(cursor);
      place(line, at, { x: at ? at.x : 0 });
      place(cell, false, {});
      const [first, last] = state.select.split("-").map(Number);
      const inside = groups.filter((group) => group.items[0].position <= last &&
        group.items[group.items.length - 1].position >= first);
      const whole = !state.select || !inside.length || inside.length === groups.length;
      place(range, !whole, whole ? {} : {
        x: inside[0].x, width: inside[inside.length - 1].x + pitch - inside[0].x,
      });
    };
    redraw();

    const nearest = (event) => {
      const bounds = root.getBoundingClientRect();
      const px = event.clientX - bounds.left, py = event.clientY - bounds.top;
      const at = groups.findIndex((group) => px < group.x + pitch);
      return {
        strip: groups[at < 0 ? groups.length - 1 : at],
        at: spec.rows ? Math.min(Math.max(Math.floor((py - top) / row), 0), spec.rows.length - 1) : 0,
        inside: px >= left - 4 && px <= x + 4,
      };
    };
    const describe = (strip, at, px, py) => {
      const { items } = strip;
      const head = items.length === 1 ? title(items[0])
        : `${items.length} features, ${short(title(items[0]), 40)} and on`;
      place(line, true, { x: strip.x });
      place(cell, spec.rows, { x: strip.x, y: top + at * row });
      showTip(px, py, head, spec.tip(strip, at));
    };
    const select = (from, to) => {
      const ends = [from, to].flatMap((strip) => strip.items.map((each) => each.position));
      set({ select: `${Math.min(...ends)}-${Math.max(...ends)}` });
    };
    const choose = (strip) => (strip.items.length > 1 ? select(strip, strip) : open(strip.items[0]));

    let from = null;
    root.addEventListener("pointermove", (event) => {
      const { strip, at, inside } = nearest(event);
      if (!inside && !from) {
        hideTip();
        return redraw();
      }
      describe(strip, at, event.clientX, event.clientY);
      if (from && from !== strip) {
        const [a, b] = from.x < strip.x ? [from, strip] : [strip, from];
        place(range, true, { x: a.x, width: b.x + pitch - a.x });
      }
    });
    root.addEventListener("pointerleave", () => { from = null; hideTip(); redraw(); });
    root.addEventListener("pointerdown", (event) => {
      const { strip, inside } = nearest(event);
      from = event.button === 0 && inside ? strip : null;
    });
    root.addEventListener("pointerup", (event) => {
      if (!from) return;
      const begun = from, { strip } = nearest(event);
      from = null;
      hideTip();
      if (strip !== begun) select(begun, strip);
      else if (event.shiftKey && cursor && stripOf(cursor)) select(stripOf(cursor), strip);
      else choose(strip);
    });
    root.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] || 0;
      const down = { ArrowUp: -1, ArrowDown: 1 }[event.key] || 0;
      const here = cursor ? groups.indexOf(stripOf(cursor)) : -1;
      if (event.key === "Enter" && here >= 0) {
        event.stopPropagation();
        choose(groups[here]);
      }
      if (!step && !(down && spec.rows)) return;
      event.preventDefault();
      const strip = groups[Math.min(Math.max(here + step, 0), groups.length - 1)];
      cursor = strip.items[0];
      if (spec.rows) rowAt = Math.min(Math.max(rowAt + down, 0), spec.rows.length - 1);
      const bounds = root.getBoundingClientRect();
      describe(strip, rowAt, bounds.left + strip.x, bounds.top + top + (rowAt + 1) * row);
    });
    root.addEventListener("blur", hideTip);
  }

  // Rectangles of one class as one path: thousands of cells stay quick.
  class Ink {
    constructor(root) { this.root = root; this.paths = new Map(); }
    add(name, path) { this.paths.set(name, (this.paths.get(name) || "") + path); }
    rect(name, x, y, w, h) {
      this.add(name, `M${x.toFixed(1)} ${y.toFixed(1)}h${w.toFixed(1)}v${h.toFixed(1)}h${(-w).toFixed(1)}z`);
    }
    dot(name, x, y, r) {
      const half = (way) => `a${r} ${r} 0 1 0 ${way * r} 0`;
      this.add(name, `M${(x - r).toFixed(1)} ${y.toFixed(1)}${half(2)}${half(-2)}z`);
    }
    done(...last) {
      for (const name of last.filter((each) => this.paths.has(each))) {
        const d = this.paths.get(name);
        this.paths.delete(name);
        this.paths.set(name, d);
      }
      for (const [name, d] of this.paths) this.root.append(svg("path", { class: name, d }));
    }
  }
  const toggle = (label, options, key, now = state[key]) =>
    el("div", { class: "views", role: "group", "aria-label": label }, options.map(([value, text]) =>
      button(text, () => set({ [key]: value }), { "aria-pressed": String(now === value) })));
  const swatch = (name, path = "M0 0h14v12H0z") =>
    svg("svg", { "aria-hidden": "true" }, svg("path", { class: name, d: path }));

  // ---- Map --------------------------------------------------------------------------------
  const scaled = features.some((each) => each.scaled);
  // Decades of all views, so that a change of the view moves the strips and not the axis.
  const domain = (() => {
    const end = (p, pick) => known(features.flatMap((each) => ["natural", "scaled"].map((view) =>
      quantile(sizes(each, view), p)))).filter((value) => value > 0).map(Math.log10).reduce(pick, null);
    const least = (a, b) => (a === null || b < a ? b : a), most = (a, b) => (a === null || b > a ? b : a);
    const top = end(0.999, most) ?? end(0.99, most);
    if (top === null) return [-1, 1];
    // Every box is on the axis; a whisker that goes on towards 0 may leave it.
    const low = Math.max(Math.floor(end(0.01, least)), Math.floor(end(0.25, least)) - 1);
    return [Math.max(Math.min(low, Math.ceil(top) - 1), Math.ceil(top) - 30), Math.ceil(top)];
  })();
  const height = (value) => (Math.log10(Math.max(value, 1e-300)) - domain[0]) / (domain[1] - domain[0]);

  // Quantiles of |x| of one feature; of several, the middle one's box and the outermost whiskers.
  function spread(items, view) {
    const of = (p, part = 0.5) => {
      const values = known(items.map((each) => quantile(sizes(each, view), p))).sort((a, b) => a - b);
      return values.length ? values[Math.round(part * (values.length - 1))] : null;
    };
    const box = [of(0.25), of(0.5), of(0.75)];
    return box[1] === null ? null
      : { box, ends: [of(0.01, 0), of(0.99, 1)], far: [of(0.001, 0), of(0.999, 1)] };
  }
  const zeroShare = (items) => farthest(items.map((each) => stat(each, "zeros"))) || 0;

  // What the strips can be outlined with; a reference has no values after scaling.
  const outlines = () => [
    ...(data.reference && state.view === "natural" ? [["reference", "reference"]] : []),
    ...(scaled ? [["other", state.view === "scaled" ? "natural units" : "after scaling"]] : []),
    ["none", "none"]];
  const outline = () => (outlines().find(([key]) => key === state.ghost) || outlines()[0])[0];

  function drawMap(panel) {
    const ghosts = outlines();
    panel.append(el("div", { class: "toolbar" },
      el("div", {},
        scaled ? toggle("Values", [["natural", "natural units"], ["scaled", "after scaling"]], "view") : null,
        ghosts.length > 1 ? ["outline", toggle("Outline", ghosts, "ghost", outline())] : null),
      el("div", { class: "legend" },
        el("span", {}, swatch("ok box"), "ok"), el("span", {}, swatch("warn box"), "warn"),
        el("span", {}, swatch("fail box"), "fail"),
        el("span", {}, together() > 1
          ? `each strip stands for ${together()} features: the middle one's box, the outermost ends of |x|`
          : "box q25 to q75, line q1 to q99, dots q0.1 and q99.9 of |x|, without zeros"))));
    const words = `Map of |x| of ${features.length} features, ` +
      `${state.view === "scaled" ? "after scaling" : "in natural units"}, ` +
      `on one log axis from ${decade(domain[0])} to ${decade(domain[1])}.`;
    chart(panel, { label: words, rows: null, draw: drawStrips, tip: mapTip });
  }
  function drawStrips({ root, groups, left, top, height: whole, pitch, right }) {
    const lane = 36, tall = whole - lane - 8;
    const y = (value) => top + tall * (1 - Math.min(Math.max(height(value), -0.012), 1.012));
    const every = Math.ceil((domain[1] - domain[0]) / Math.max(tall / 24, 1));
    for (let power = domain[0]; power <= domain[1]; power += every) {
      const at = y(10 ** power);
      root.append(
        svg("path", { class: power === 0 ? "grid one" : "grid", d: `M${left - 2} ${at}H${right}` }),
        svg("text", { x: left - 10, y: at + 4, "text-anchor": "end" }, decade(power)));
    }
    root.append(
      svg("path", { class: "grid", d: `M${left - 2} ${top + whole - lane}H${right}` }),
      svg("text", { x: left - 10, y: top + whole - lane / 2 + 4, "text-anchor": "end" }, "share of zeros"));
    const ink = new Ink(root), other = state.view === "scaled" ? "natural" : "scaled";
    const shade = { none: null, other, reference: "reference" }[outline()];
    const inset = pitch > 4 ? pitch * 0.18 : 0.3, wide = Math.min(pitch - 2 * inset, 22);
    for (const { x, items, status } of groups) {
      const middle = x + pitch / 2, from = middle - wide / 2;
      const zeros = zeroShare(items);
      if (zeros) ink.rect("zeros", from, top + whole - zeros * lane, wide, zeros * lane);
      const drawn = spread(items, state.view);
      if (drawn) {
        const [q25, q50, q75] = drawn.box;
        const line = (a, b) => `M${middle.toFixed(1)} ${y(a).toFixed(1)}V${y(b).toFixed(1)}`;
        if (drawn.ends[0] !== null) ink.add(`${status} whisker`, line(...drawn.ends));
        ink.rect(`${status} box`, from, y(q75), wide, Math.max(y(q25) - y(q75), 1.5));
        if (y(q25) - y(q75) > 4) ink.add("median", `M${from.toFixed(1)} ${y(q50).toFixed(1)}h${wide.toFixed(1)}`);
        for (const far of known(drawn.far)) {
          ink.dot(`${status} dot`, middle, y(far), 1.3);
        }
      }
      const ghost = shade && spread(items, shade);
      if (ghost) {
        const [q25, , q75] = ghost.box;
        ink.rect("ghost", from - 1.5, y(q75) - 1, wide + 3, Math.max(y(q25) - y(q75), 0) + 2);
      }
    }
    ink.done("ok box", "warn box", "fail box", "median", "ghost");
  }
  function mapTip({ items, status, block }) {
    const drawn = spread(items, state.view);
    const each = items[0];
    const lines = [["status", statusText(items.length > 1 ? { status } : each)]];
    if (block) lines.push(["block", short(block, 40)]);
    if (drawn) {
      lines.push(["median |x|", number(drawn.box[1])],
        ["q1 to q99 of |x|", `${number(drawn.ends[0])} to ${number(drawn.ends[1])}`]);
    }
    lines.push(["zeros", percent(zeroShare(items))]);
    if (items.length === 1) {
      lines.push(["scale", number(stat(each, "scale"))]);
      if (each.worst >= 0 && each.checks[each.worst][1] >= 1) {
        lines.push([checks[each.worst].metric, number(each.checks[each.worst][0])]);
      }
    }
    return lines;
  }
  const statusText = (each) => each.status + (each.repaired ? ", repaired" : "");

  // ---- Heat maps --------------------------------------------------------------------------
  function levelClass(level) {
    const steps = [0.25, 0.5, 0.75, 1, 1.34, 1.67, 2, 3, 4];
    const at = steps.findIndex((step) => level < step);
    return `l${at < 0 ? 9 : at}`;
  }
  function ratioClass(log2, steps) {
    const at = steps.filter((step) => Math.abs(log2) >= step).length;
    return `d${log2 < 0 ? 4 - at : 4 + at}`;
  }
  const bands = (prefix, count, before, after) => el("span", { class: "scale" }, el("span", {}, before),
    Array.from({ length: count }, (_, at) =>
      svg("svg", { "aria-hidden": "true" }, svg("rect", { class: prefix + at, width: 22, height: 12 }))),
    el("span", {}, after));

  // cell(items, row) -> {name: class, glyph: "" | "cross" | "bar"} or null.
  function heat(panel, spec) {
    chart(panel, {
      ...spec,
      draw({ root, groups, top, row, pitch }) {
        const ink = new Ink(root), edge = pitch > 4 ? 0.5 : 0, arm = Math.min(pitch, row) * 0.2;
        for (const { x, items } of groups) {
          spec.rows.forEach((_, at) => {
            const cell = spec.cell(items, at);
            if (!cell) return;
            const y = top + at * row;
            if (cell.name) ink.rect(cell.name, x + edge, y + edge, pitch - 2 * edge, row - 2 * edge);
            const from = `M${(x + pitch / 2 - arm).toFixed(1)} `, middle = y + row / 2, a = (2 * arm).toFixed(1);
            const cross = `${from}${(middle - arm).toFixed(1)}l${a} ${a}m0 -${a}l-${a} ${a}`;
            if (cell.glyph === "cross") ink.add("glyph", cross);
            if (cell.glyph === "bar") ink.add("glyph dead", `${from}${middle.toFixed(1)}h${a}`);
          });
        }
        ink.done("glyph", "glyph dead");
      },
    });
  }
  function drawChecks(panel) {
    panel.append(el("div", { class: "toolbar" },
      el("div", {}, "How near each value is to its limit, or how far beyond"),
      el("div", { class: "legend" }, bands("l", 10, "far from warn", "far beyond fail"),
        el("span", {}, crossed(), "fails the audit"))));
    const beyond = features.flatMap((each) => (each.checks || []).map((check, at) =>
      check && check[2] === "fail" ? `${short(title(each), 60)} ${checks[at].metric}` : null)).filter(Boolean);
    heat(panel, {
      label: `Checks of ${features.length} features. Failing: ${beyond.slice(0, 20).join("; ") || "none"}.`,
      rows: checks.map((each) => each.metric),
      cell(items, at) {
        const found = items.map((each) => (each.checks || [])[at]).filter(Boolean);
        const level = farthest(found.map((check) => check[1]));
        if (level === null) return null;
        return { name: levelClass(level), glyph: found.some((check) => check[2] === "fail") ? "cross" : "" };
      },
      tip({ items }, at) {
        const each = items.reduce((worst, other) =>
          (((other.checks || [])[at] || [])[1] ?? -1) > (((worst.checks || [])[at] || [])[1] ?? -1) ? other : worst);
        const check = (each.checks || [])[at];
        const lines = [[checks[at].metric, check ? number(check[0]) : "—"], ["limits", limits(each, at)]];
        if (check) lines.push(["found", verdictOf(check)]);
        if (items.length > 1) lines.unshift(["worst", short(title(each), 30)]);
        return lines;
      },
    });
  }
  const crossed = () => svg("svg", { "aria-hidden": "true" }, svg("rect", { class: "l8", width: 14, height: 12 }),
    svg("path", { class: "glyph", d: "M4.5 3.5l5 5m0 -5l-5 5" }));
  // The limits that a feature was judged with: its own, where they are not the usual ones.
  function bounds(each, at) {
    const { warn, fail } = checks[at] || {}, own = ((each.checks || [])[at] || []).slice(3);
    return own.length ? { warn: own[0], fail: own[1] } : { warn, fail };
  }
  function limits(each, at) {
    const sign = checks[at].low ? "<" : ">";
    return Object.entries(bounds(each, at)).filter(([, value]) => typeof value === "number")
      .map(([key, value]) => `${key} ${sign} ${number(value)}`).join(", ") || "none";
  }
  // Beyond a limit without a severity: the scaling repairs it, or it is waived.
  const verdictOf = (check) =>
    check[2] || (check[1] >= 1 ? "beyond a limit, but no finding" : check[1] === null ? "—" : "within");

  function ratios(panel, spec) {
    panel.append(el("div", { class: "toolbar" }, el("div", {}, spec.head),
      el("div", { class: "legend" },
        bands("d", 9, `${2 ** spec.steps[3]}x smaller`, `${2 ** spec.steps[3]}x larger`),
        el("span", {}, swatch("glyph dead", "M3 6h8"), "no scale"))));
    if (!spec.rows.length) {
      panel.append(el("p", { class: "empty" }, spec.none));
      redraw = () => {};
      return;
    }
    heat(panel, {
      ...spec,
      cell(items, at) {
        const value = farthest(items.map((each) => spec.value(each, at)));
        return value === null ? { name: "", glyph: "bar" } : { name: ratioClass(value, spec.steps), glyph: "" };
      },
    });
  }
  const times = (log2) => (log2 === null ? "—" : `${number(2 ** log2, 3)}x  (log2 ${signed(log2)})`);

  const drawSlices = (panel) => ratios(panel, {
    head: "Scale of each feature in a slice, over its scale in all rows",
    label: "Scale in each slice over the scale in all rows.", rows: slices, steps: [0.25, 0.5, 1, 3],
    none: "There are no slices: slices: {active: '\"position.side\" != 0'} makes one.",
    value: (each, at) => sliceOf(each, at, "log2"),
    tip({ items }, at) {
      const log2 = farthest(items.map((each) => sliceOf(each, at, "log2")));
      const lines = [["slice", slices[at]], ["scale", times(log2)]];
      if (items.length === 1) {
        lines.push(["scale in it", number(sliceOf(items[0], at, "scale"))],
          ["median", number(sliceOf(items[0], at, "median"))], ["zeros", percent(sliceOf(items[0], at, "zeros"))]);
      }
      return lines;
    },
  });
  const drawTime = (panel) => ratios(panel, {
    head: "Scale of each feature in a stretch of time, over its scale in all of it",
    label: "Scale in each stretch of time over the scale in all of it.",
    rows: chunks.map((each) => day(each.first)), steps: [0.1, 0.25, 0.5, 1],
    none: "There are no times, or too few rows to look at one after the other.",
    value: (each, at) => (each.time || [])[at] ?? null,
    tip: ({ items }, at) => [
      ["from", day(chunks[at].first)], ["to", day(chunks[at].last)], ["rows", number(chunks[at].rows)],
      ["scale", times(farthest(items.map((each) => (each.time || [])[at] ?? null)))],
    ],
  });

  // ---- Table ------------------------------------------------------------------------------
  const numeric = (key, label, value, text = (v) => number(v, 3)) => ({ key, label, value, text, number: true });
  const columns = [
    { key: "name", label: "Feature", value: (each) => each.name.toLowerCase() },
    { key: "block", label: "Block", value: (each) => each.block || "", text: (value) => value || "—" },
    { key: "status", label: "Status", value: (each) => RANK[each.status] + (each.repaired ? 0.5 : 0) },
    { key: "size", label: "|x|", value: (each) => quantile(each.abs_quantiles, 0.5) },
    numeric("scale", "Scale", (each) => stat(each, "scale")),
    numeric("median", "Median", (each) => stat(each, "median")),
    ...(data.redacted ? [] : [numeric("std", "Std", (each) => stat(each, "std"))]),
    numeric("q1", "q1", (each) => quantile(each.quantiles, 0.01)),
    numeric("q99", "q99", (each) => quantile(each.quantiles, 0.99)),
    numeric("zeros", "Zeros", (each) => stat(each, "zeros"), percent),
    numeric("slices", "Slices", (each) => farthest(slices.map((_, at) => sliceOf(each, at, "log2"))), signed),
    numeric("time", "Time", (each) => farthest(each.time || []), signed),
    ...(data.reference ? [numeric("reference", "Ref.", (each) => (each.reference || {}).log2 ?? null, signed)] : []),
    numeric("level", "Level", (each) => (each.worst < 0 ? null : each.checks[each.worst][1]), (v) => number(v, 2)),
    { key: "worst", label: "Worst check", value: (each) => (each.worst < 0 ? "" : checks[each.worst].metric) },
  ];
  const HINTS = {
    size: "q1 to q99 and q25 to q75 of |x| without zeros, on the axis of the map; sorts by the median",
    scale: "robust scale: IQR / 1.349", slices: "largest log2 of the scale in a slice over that of all rows",
    time: "largest log2 of the scale in a stretch of time over that of all",
    reference: "log2 of the scale over the reference's",
    level: "below 1 within the limits, from 1 beyond warn, from 2 beyond fail",
  };
  function miniStrip(each) {
    const root = svg("svg", { class: "strip", "aria-hidden": "true" }, svg("path", { class: "axis", d: "M0 7H80" }));
    const drawn = spread([each], "natural");
    if (drawn) {
      const x = (value) => 80 * Math.min(Math.max(height(value), 0), 1);
      const [q25, q50, q75] = drawn.box.map(x), wide = Math.max(q75 - q25, 2);
      const [from, to] = [drawn.ends[0] ?? drawn.box[0], drawn.ends[1] ?? drawn.box[2]].map(x);
      root.append(
        svg("path", { class: `${each.status} whisker`, d: `M${from} 7H${to}` }),
        svg("rect", { class: `${each.status} box`, x: q25, y: 2.5, width: wide, height: 9, rx: 1 }),
        svg("path", { class: "median", d: `M${q50} 2.5v9` }));
    }
    return root;
  }
  function cellOf(each, { key, value, text, number: right }) {
    const found = value(each);
    if (key === "name") {
      const hint = short(each.name, 300);
      return el("th", { scope: "row", class: "name", title: hint }, el("bdi", {}, short(title(each), 80)));
    }
    if (key === "status") {
      const more = each.repaired ? el("span", { class: "calm" }, " repaired") : null;
      return el("td", {}, icon(each.status), each.status, more);
    }
    if (key === "size") return el("td", {}, miniStrip(each));
    const severity = key === "level" && each.worst >= 0 ? each.checks[each.worst][2] : "";
    return el("td", { class: `${right ? "number" : "text dim"}${severity ? ` mark-${severity}` : ""}` },
      text ? text(found) : short(String(found || "—"), 60));
  }
  let shownRows = []; // the table's rows in order; those after the first page are made on demand

  function drawTable(panel) {
    shownRows = rows();
    const body = el("tbody", {});
    const head = el("tr", {}, columns.map((each) => {
      const descending = state.sort === `-${each.key}`, here = descending || state.sort === each.key;
      return el("th", {
        scope: "col", class: each.number ? "number" : null, "data-key": each.key, title: HINTS[each.key],
        "aria-sort": here ? (descending ? "descending" : "ascending") : null,
      }, button(each.label, () => {
        // Names first from A, numbers first from the largest; the third click is the order of the data.
        const [one, two] = each.key === "name" || each.key === "block" || each.key === "worst"
          ? [each.key, `-${each.key}`] : [`-${each.key}`, each.key];
        set({ sort: state.sort === one ? two : state.sort === two ? "" : one });
        const made = $("panel-table").querySelector(`[data-key="${each.key}"] button`);
        if (made) made.focus();
      }));
    }));
    const scroller = el("div",
      { class: "scroller", tabindex: "0", role: "region", "aria-label": "Table of features" },
      el("table", {}, el("thead", {}, head), body));
    scroller.addEventListener("scroll", () => {
      if (scroller.scrollTop + scroller.clientHeight > scroller.scrollHeight - 600) moreRows(body, PAGE);
    });
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) open(features[row.dataset.index]);
    });
    panel.append(
      el("div", { class: "toolbar" },
        el("div", {}, `${number(shownRows.length)} row${shownRows.length === 1 ? "" : "s"}`),
        el("div", {}, "Copy as", button("CSV", () => copy(asCsv()), { id: "copy-csv" }),
          button("JSON", () => copy(asJson()), { id: "copy-json" }),
          button("Markdown", () => copy(asMarkdown()), { id: "copy-markdown" }))),
      shownRows.length ? scroller : el("p", { class: "empty" }, "No feature matches the filters."));
    moreRows(body, PAGE);
    redraw = () => markRow(body);
    redraw();
  }
  function moreRows(body, count) {
    const from = body.childElementCount;
    body.append(...shownRows.slice(from, from + count).map((each) =>
      el("tr", { "data-index": each.index }, columns.map((col) => cellOf(each, col)))));
  }
  function markRow(body) {
    for (const row of body.querySelectorAll("[aria-selected]")) row.removeAttribute("aria-selected");
    const at = cursor ? shownRows.indexOf(cursor) : -1;
    if (at < 0) return;
    if (at >= body.childElementCount) moreRows(body, at + PAGE - body.childElementCount);
    const row = body.children[at], scroller = body.closest(".scroller");
    row.setAttribute("aria-selected", "true");
    // Not scrollIntoView: the header of the table covers what stands just below the edge.
    const top = row.offsetTop - 40, bottom = row.offsetTop + row.offsetHeight - scroller.clientHeight;
    if (scroller.scrollTop > top) scroller.scrollTop = top;
    else if (scroller.scrollTop < bottom) scroller.scrollTop = bottom;
  }
  const plain = (each) => columns.map(({ key, value }) =>
    key === "name" ? each.name : key === "status" ? statusText(each) : value(each));
  function asCsv() {
    const quoted = (value) => {
      if (typeof value === "number") return String(value);
      // A spreadsheet would run text that begins like a formula.
      const text = /^[=+\-@\t\r]/.test(value || "") ? `'${value}` : value || "";
      return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
    };
    return [columns.map((each) => each.label), ...rows().map(plain)]
      .map((line) => line.map(quoted).join(",")).join("\n");
  }
  const asJson = () => JSON.stringify(rows().map((each) =>
    Object.fromEntries(plain(each).map((value, at) => [columns[at].key, value ?? null]))), null, 1);
  function asMarkdown() {
    const cell = (value) => (typeof value === "number" ? number(value)
      : String(value || "—").replace(/[\\`*_{}[\]<>|]/g, "\\$&").replace(/\s+/g, " "));
    const line = (cells) => `| ${cells.join(" | ")} |`;
    return [line(columns.map((each) => cell(each.label))),
      line(columns.map((each) => (each.number ? "---:" : "---"))),
      ...rows().map((each) => line(plain(each).map(cell)))].join("\n");
  }

  // ---- Drawer -----------------------------------------------------------------------------
  let returnTo = null;

  function open(each) {
    if ($("drawer").hidden) returnTo = document.activeElement;
    cursor = each;
    state.feature = each.index;
    save();
    drawDrawer(each);
    $("drawer").hidden = false;
    $("drawer").scrollTop = 0;
    $("drawer").focus({ preventScroll: true });
    hideTip();
    redraw();
  }
  function close() {
    $("drawer").hidden = true;
    state.feature = null;
    save();
    if (returnTo && returnTo.isConnected) returnTo.focus({ preventScroll: true });
  }
  const section = (head, ...children) => el("section", {}, el("h3", {}, head), children);
  const table = (head, body) => el("table", {},
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, body.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first),
      rest.map((cell) => (cell instanceof Element && cell.localName === "td" ? cell : el("td", {}, cell)))))));

  function drawDrawer(each) {
    const found = [...document.querySelectorAll(`#findings [data-feature="${each.index}"]`)].map((node) => {
      const twin = node.cloneNode(true);
      twin.querySelector(".do").replaceChildren(); // copies of buttons do nothing
      fillButtons(twin, false);
      return twin;
    });
    const tags = [["block", each.block], ["unit", each.unit], ["lookback", each.lookback], ["memory", each.memory]]
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([key, value]) => el("span", {}, `${key} ${value}`));
    $("drawer").replaceChildren(
      el("header", {},
        el("div", {},
          el("h2", { id: "drawer-name" }, el("bdi", { class: "name" }, title(each))),
          el("div", { class: "tags" }, el("span", {}, icon(each.status), ` ${statusText(each)}`), tags)),
        el("div", { class: "do" },
          button("↑", () => step(-1), { "aria-label": "Previous feature" }),
          button("↓", () => step(1), { "aria-label": "Next feature" }),
          button("Close", close, { id: "close" }))),
      each.doc ? el("p", { class: "doc" }, each.doc) : "",
      ...[
        found.length ? section("Findings", el("ol", { class: "findings" }, found)) : null,
        section("Distribution", histogram(each)),
        section("Quantiles", quantileTable(each)),
        each.scaled ? section("What the scaling does", scaling(each)) : null,
        each.reference ? section(`Against ${referenceName()}`, el("p", {},
          `scale ${number(each.reference.scale)} there, ${number(stat(each, "scale"))} here: `,
          `${times(each.reference.log2 ?? null)}; PSI ${number(each.reference.psi)}`)) : null,
        slices.length ? section("Slices", sliceTable(each)) : null,
        known(each.time || []).length ? section("Scale over time", timeline(each)) : null,
        each.contract ? section("Contract", contract(each.contract)) : null,
        checks.length ? section("Checks", checkList(each)) : null,
        section("Statistics", table(["statistic", "value"],
          Object.entries(each.stats || {}).map(([key, value]) => [key, number(value, 6)]))),
      ].filter(Boolean));
  }

  const referenceName = () => short((data.reference || {}).name || "the reference", 60);

  function histogram(each) {
    const own = each.histogram, reference = (each.reference || {}).histogram;
    if (!own || !own.counts || !own.counts.length) return el("p", { class: "calm" }, "No histogram.");
    // Linear within one scale of 0, logarithmic beyond: signs and decades on one axis.
    const unit = stat(each, "scale") || quantile(each.abs_quantiles, 0.5) || 1;
    const bend = (value) => Math.sign(value) * Math.log10(1 + Math.abs(value) / unit);
    const unbend = (value) => Math.sign(value) * unit * (10 ** Math.abs(value) - 1);
    const shown = [own, ...(reference && reference.counts.length ? [reference] : [])];
    const ends = shown.flatMap((bins) => [bins.edges[0], bins.edges[bins.edges.length - 1]]).map(bend);
    let low = Math.min(...ends), high = Math.max(...ends);
    if (!(high > low)) [low, high] = [low - 1, high + 1];
    const width = 584, tall = 170, least = (high - low) / 400;
    const x = (value) => (width * (bend(value) - low)) / (high - low);
    const bars = shown.map(({ edges, counts }) => {
      const all = counts.reduce((a, b) => a + b, 0) || 1;
      return counts.map((count, at) => ({
        from: edges[at], to: edges[at + 1], share: count / all,
        density: count / all / Math.max(bend(edges[at + 1]) - bend(edges[at]), least),
      }));
    });
    const dense = bars.flat().map((bar) => bar.density).sort((a, b) => b - a);
    // A spike, as of zeros, is cut off and labelled: it would flatten all the rest.
    const second = dense[shown.length] || 0;
    const cap = second && dense[0] > 3 * second ? 1.5 * second : dense[0] || 1;
    const y = (density) => tall - (tall - 16) * Math.min(density / cap, 1);
    const [q1, q25, q75, q99] = [0.01, 0.25, 0.75, 0.99].map((p) => number(quantile(each.quantiles, p)));
    const words = `Histogram of ${number(stat(each, "count"))} values: half of them from ${q25} to ${q75}, ` +
      `98% from ${q1} to ${q99}, ${percent(stat(each, "zeros"))} zeros. The quantiles below say the same.`;
    const root = svg("svg", { viewBox: `0 0 ${width} ${tall + 22}`, role: "img", "aria-label": words },
      svg("path", { class: "grid", d: `M0 ${tall}H${width}` }));
    const ink = new Ink(root);
    for (const bar of bars[0]) {
      const wide = Math.max(x(bar.to) - x(bar.from) - 0.6, 1.6), from = Math.min(x(bar.from), width - wide);
      ink.rect("bin", from, y(bar.density), wide, tall - y(bar.density));
      if (bar.density > cap) {
        const at = Math.min(Math.max(from, 16), width - 20);
        root.append(svg("text", { x: at, y: 10, "text-anchor": "middle" }, percent(bar.share)));
      }
    }
    if (bars[1]) {
      const steps = bars[1].map((bar) =>
        `L${x(bar.from).toFixed(1)} ${y(bar.density).toFixed(1)}H${x(bar.to).toFixed(1)}`);
      ink.add("outline", `M${x(bars[1][0].from).toFixed(1)} ${tall}${steps.join("")}V${tall}`);
    }
    ink.done();
    for (const value of ticks(low, high, unbend)) {
      const at = x(value), anchor = at < 20 ? "start" : at > width - 20 ? "end" : "middle";
      root.append(svg("text", { x: at, y: tall + 16, "text-anchor": anchor }, number(value, 3)));
    }
    return [root, el("p", { class: "legend" }, el("span", {}, swatch("bin"), "share of the rows"),
      bars[1] ? el("span", {}, swatch("outline", "M0 11V4h5V1h5v6h4"), referenceName()) : null,
      el("span", {}, `linear to ±${number(unit, 2)}, logarithmic beyond`),
      data.redacted ? el("span", {}, "from q1 to q99: the rest is left out") : null)];
  }
  // Some round values along a bent axis, with as few digits as tell them apart.
  function ticks(low, high, unbend) {
    const even = Array.from({ length: 7 }, (_, at) => unbend(low + ((high - low) * (at + 0.15)) / 6.3));
    if (low < 0 && high > 0) {
      const nearest = even.reduce((best, v, at) => (Math.abs(v) < Math.abs(even[best]) ? at : best), 0);
      even[nearest] = 0;
    }
    for (let digits = 1; digits < 7; digits += 1) {
      const round = even.map((value) => Number(value.toPrecision(digits)));
      const rising = round.every((value, at) => !at || value > round[at - 1]);
      if (rising && round[0] >= unbend(low) && round[6] <= unbend(high)) return round;
    }
    return [even[0], even[6]];
  }
  function quantileTable(each) {
    const label = (p) => ({ 0: "min", 0.5: "median", 1: "max" })[p] || `q${Number((100 * p).toPrecision(6))}`;
    const sets = [
      ["natural units", each.quantiles], ["|x| without zeros", each.abs_quantiles],
      ["reference", (each.reference || {}).quantiles], ["after scaling", (each.scaled || {}).quantiles],
    ].filter(([, values]) => values);
    return table(["", ...sets.map(([name]) => name)],
      probabilities.map((p) => [label(p), ...sets.map(([, values]) => number(quantile(values, p)))]));
  }
  function scaling(each) {
    const { center, scale, squash } = each.scaled;
    const inner = data.redacted ? "(x − center) / scale" : `(x − ${number(center)}) / ${number(scale)}`;
    const [q1, q25, q75, q99] = [0.01, 0.25, 0.75, 0.99].map((p) => number(quantile(each.scaled.quantiles, p), 3));
    return el("p", {}, el("code", {}, squash ? `asinh(${inner})` : inner),
      ` brings half of the rows within ${q25} to ${q75}, and 98% within ${q1} to ${q99}.`);
  }
  function sliceTable(each) {
    const medians = known(slices.map((_, at) => sliceOf(each, at, "median")));
    const [least, most] = [Math.min(...medians), Math.max(...medians)];
    const mini = (...children) => el("td", { class: "mini" }, svg("svg", { "aria-hidden": "true" },
      svg("rect", { class: "whole", width: 64, height: 12, rx: 2 }), children));
    const body = slices.map((name, at) => {
      const [log2, median, zeros] = ["log2", "median", "zeros"].map((key) => sliceOf(each, at, key));
      const reach = log2 === null ? 0 : 32 * Math.min(Math.abs(log2) / 4, 1);
      const place = median === null || most === least ? 30 : (56 * (median - least)) / (most - least);
      const ratio = log2 === null ? null : svg("rect", {
        class: ratioClass(log2, [0, 0.5, 1, 3]), x: log2 < 0 ? 32 - reach : 32, width: Math.max(reach, 1), height: 12,
      });
      const middle = median === null ? null
        : svg("rect", { class: "point", x: place + 2, y: 2, width: 4, height: 8, rx: 1 });
      return [short(name, 40), number(data.slices[at].rows), number(sliceOf(each, at, "scale")),
        mini(ratio, svg("path", { class: "grid one", d: "M32 0v12" })),
        log2 === null ? "—" : signed(log2), number(median), mini(middle),
        percent(zeros), mini(svg("rect", { class: "zeros", width: 64 * (zeros || 0), height: 12, rx: 2 }))];
    });
    const head = ["slice", "rows", "scale", "", "log2", "median", "", "zeros", ""];
    return el("div", { class: "wide" }, table(head, body));
  }
  function timeline(each) {
    const at = checks.findIndex((one) => one.metric === "scale drift");
    const beyond = Object.values(bounds(each, at)).filter((value) => value > 0);
    const most = Math.max(...known(each.time).map(Math.abs), (beyond[0] || 0.5) * 1.15);
    const width = 584, tall = 90, y = (value) => tall / 2 - (value / most) * (tall / 2 - 6);
    const x = (at) => 6 + ((width - 60) * at) / Math.max(each.time.length - 1, 1);
    const values = each.time.map((value, at) => `${day((chunks[at] || {}).first)} ${number(value, 2)}`);
    const root = svg("svg", {
      viewBox: `0 0 ${width} ${tall + 18}`, role: "img",
      "aria-label": `log2 of the scale of each stretch of time over that of all: ${values.join(", ")}.`,
    },
    svg("path", { class: "grid one", d: `M0 ${y(0)}H${width - 46}` }),
    svg("text", { x: width, y: y(0) + 4, "text-anchor": "end" }, "as all"));
    for (const bound of beyond.filter((value) => value <= most)) {
      for (const value of [bound, -bound]) {
        root.append(svg("path", { class: "limit", d: `M0 ${y(value)}H${width - 46}` }),
          svg("text", { x: width, y: y(value) + 4, "text-anchor": "end" }, `${number(2 ** value, 3)}x`));
      }
    }
    let pen = "M";
    const ink = new Ink(root);
    each.time.forEach((value, at) => {
      if (typeof value !== "number") { pen = "M"; return; }
      ink.add("line", `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
      ink.dot("point", x(at), y(value), 2.5);
      pen = "L";
    });
    ink.done();
    const last = chunks[chunks.length - 1] || {};
    root.append(svg("text", { x: 0, y: tall + 15 }, day((chunks[0] || {}).first)),
      svg("text", { x: width - 46, y: tall + 15, "text-anchor": "end" }, day(last.last)));
    return root;
  }
  function contract({ expect, broken }) {
    const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
    return [
      table(["expected", ""], Object.entries(expect || {}).map(([key, value]) => [key, text(value)])),
      (broken || []).map((each) => el("p", { class: "broken" }, icon("fail"), ` ${text(each)}`)),
    ].flat();
  }
  function checkList(each) {
    return checks.map((check, at) => {
      const [value, level, severity] = (each.checks || [])[at] || [null, null, ""];
      const wide = level === null ? 0 : Math.max(76 * Math.min(level / 3, 1), 2);
      const bar = svg("svg", { "aria-hidden": "true" }, svg("rect", { class: "whole", width: 76, height: 8, rx: 2 }),
        svg("rect", { class: levelClass(level || 0), width: wide, height: 8, rx: 2 }),
        [1, 2].map((edge) => svg("path", { class: "mark", d: `M${(76 * edge) / 3} 0v8` })));
      return el("details", { class: "check" },
        el("summary", {}, el("span", {}, check.metric),
          el("span", {}, severity ? icon(severity) : null, ` ${number(value)}`),
          el("span", { class: "dim" }, limits(each, at)),
          el("span", {}, bar, el("span", { class: "hidden" }, `level ${number(level, 2)}`))),
        el("p", {}, el("code", {}, `${check.formula || check.metric} = ${number(value, 6)}`), el("br", {}),
          `${verdictOf([value, level, severity])}; level ${number(level, 3)}. `, check.why ? `${check.why}.` : ""));
    });
  }

  // ---- Findings ---------------------------------------------------------------------------
  function fillButtons(finding, jumps = true) {
    const place = finding.querySelector(".do");
    if (!place || place.childElementCount) return;
    const fix = finding.querySelector(".fix code"), command = finding.querySelector(".command code");
    const { feature, block } = finding.dataset;
    if (fix) place.append(button("Copy YAML", () => copy(fix.textContent)));
    if (command) place.append(button("Copy command", () => copy(command.textContent)));
    if (!jumps) return;
    place.append(button("Jump", () => {
      const to = feature !== undefined || block !== undefined ? $("explore") : $("model");
      if (feature !== undefined) {
        Object.assign(state, { q: "", block: null, status: "", select: "" });
        set({});
        open(features[feature]);
      } else if (block !== undefined) {
        set({ tab: "table", q: "", status: "", select: "", block: blocks.includes(block) ? block : null });
      }
      to.scrollIntoView();
    }));
  }
  const fillAll = (root) => root.querySelectorAll(".finding").forEach((each) => fillButtons(each));

  // ---- The page ---------------------------------------------------------------------------
  const draw = { map: drawMap, checks: drawChecks, slices: drawSlices, time: drawTime, table: drawTable };

  function set(change) {
    Object.assign(state, change);
    save();
    render();
  }
  function render() {
    for (const tab of TABS) {
      const here = tab === state.tab, knob = $(`tab-${tab}`);
      knob.setAttribute("aria-selected", String(here));
      knob.tabIndex = here ? 0 : -1;
      $(`panel-${tab}`).hidden = !here;
      $(`panel-${tab}`).replaceChildren();
    }
    // The table is printed, whichever tab is open.
    if (state.tab !== "table") drawTable($("panel-table"));
    hideTip();
    draw[state.tab]($(`panel-${state.tab}`));
    const count = selected(matching()).length;
    $("shown").textContent = count < features.length ? `${number(count)} of ${number(features.length)}`
      : `${number(count)} feature${count === 1 ? "" : "s"}`;
    $("unselect").hidden = !state.select;
    $("unselect").textContent = `${number(count)} selected  ×`;
    $("shown").hidden = Boolean(state.select);
    if ($("search").value !== state.q) $("search").value = state.q;
    $("block").value = state.block === null ? "" : String(blocks.indexOf(state.block));
    $("status").value = state.status;
    const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    if (state.theme) document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
    $("theme").textContent = dark ? "Light" : "Dark";
    const figures = [...document.querySelectorAll("#blocks figure")];
    const views = figures.map((each) => each.dataset.view);
    const view = views.includes(state.share) ? state.share : views[0];
    figures.forEach((each) => { each.hidden = each.dataset.view !== view; });
    document.querySelectorAll("#blocks .views button").forEach((each) =>
      each.setAttribute("aria-pressed", String(each.textContent === view)));
  }
  function step(by) {
    const list = state.tab === "table" ? shownRows : rows();
    if (!list.length) return;
    const here = list.indexOf(cursor);
    const next = list[here < 0 ? 0 : Math.min(Math.max(here + by, 0), list.length - 1)];
    if (!$("drawer").hidden) open(next);
    cursor = next;
    redraw();
  }
  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape" && !$("help").open) {
      if (typing && state.q) set({ q: "" });
      else if (typing) event.target.blur();
      else if (!$("drawer").hidden) close();
      else if (state.select) set({ select: "" });
      return;
    }
    if (typing || $("help").open) return;
    if (event.key === "Enter" && (event.target.closest("button, summary, a") || !cursor)) return;
    const act = {
      "/": () => { $("search").focus(); $("search").select(); },
      "?": () => $("help").showModal(),
      j: () => step(1), k: () => step(-1),
      Enter: () => open(cursor),
    }[event.key] || (TABS[Number(event.key) - 1] && (() => set({ tab: TABS[Number(event.key) - 1] })));
    if (!act) return;
    event.preventDefault();
    act();
  }
  function start() {
    document.documentElement.classList.add("on");
    load();
    const count = (name) =>
      features.filter((each) => (name === "repaired" ? each.repaired : each.status === name)).length;
    $("block").append(el("option", { value: "" }, "All blocks"),
      ...blocks.map((name, at) => el("option", { value: at }, short(name || "(no block)", 40))));
    $("status").append(el("option", { value: "" }, "All statuses"),
      ...["fail", "warn", "ok", "repaired"].map((name) => el("option", { value: name }, `${name} (${count(name)})`)));
    $("search").addEventListener("input", (event) => set({ q: event.target.value }));
    $("block").addEventListener("change", (event) => set({ block: blocks[event.target.value || -1] ?? null }));
    $("status").addEventListener("change", (event) => set({ status: event.target.value }));
    $("unselect").addEventListener("click", () => set({ select: "" }));
    for (const [at, tab] of TABS.entries()) {
      $(`tab-${tab}`).addEventListener("click", () => set({ tab }));
      $(`tab-${tab}`).addEventListener("keydown", (event) => {
        const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: 4 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        set({ tab: TABS[(to + 5) % 5] });
        $(`tab-${state.tab}`).focus();
      });
    }
    const shares = [...document.querySelectorAll("#blocks figure")].map((each) => each.dataset.view);
    document.querySelector("#blocks .views").append(
      ...shares.map((view) => button(view, () => set({ share: view }))));
    $("theme").addEventListener("click", () => set({ theme: $("theme").textContent.toLowerCase() }));
    $("keys").addEventListener("click", () => $("help").showModal());
    $("help-close").addEventListener("click", () => $("help").close());
    fillAll(document.querySelector("#findings > .findings") || document.createElement("i"));
    for (const folded of document.querySelectorAll("#findings details")) {
      folded.addEventListener("toggle", () => fillAll(folded), { once: true });
    }
    document.addEventListener("keydown", pressed);
    addEventListener("hashchange", () => { load(); render(); });
    addEventListener("beforeprint", () => {
      document.querySelectorAll("details.more").forEach((each) => { each.open = true; });
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
    let waiting = 0, wide = innerWidth, tall = innerHeight;
    addEventListener("resize", () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => {
        if (wide !== innerWidth || tall !== innerHeight) render();
        [wide, tall] = [innerWidth, innerHeight];
      });
    });
    render();
    if (state.feature !== null) open(features[state.feature]);
  }
  start();
})();
