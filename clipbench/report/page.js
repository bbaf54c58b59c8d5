"use strict";
// Nothing here writes markup: text from files becomes text nodes, attributes and files that are saved.

const make = (name, properties = {}, ...inside) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
};
const draw = (parent, name, attributes = {}, text = "") => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
};

// Tables sort by the column clicked; what has no value stays last.
for (const head of document.querySelectorAll("thead th")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const up = head.getAttribute("aria-sort") === "descending" || (column === 0 && !head.hasAttribute("aria-sort"));
    const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const by = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? by : -by;
    };
    body.append(...[...body.rows].sort(order));
  });
}

// Numbers and widths of text.
const FONT = 11;
const penOf = (weight) => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${weight} ${FONT}px ${getComputedStyle(document.body).fontFamily}`;
  return (text) => pen.measureText(text).width;
};
const widthOf = penOf(400), widthOfName = penOf(600);
const cut = (text, room, width = widthOf) => {
  if (width(text) <= room) return text;
  while (text.length > 1 && width(text + "…") > room) text = text.slice(0, -1);
  return text + "…";
};
const raised = (power) => [...String(power)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");
const inWords = (value, digits = 4) => {
  if (value === null || Number.isNaN(value)) return "–";
  if (!isFinite(value)) return value < 0 ? "−∞" : "∞";
  const size = Math.abs(value);
  if (size === 0 || (size < 1e6 && size >= 1e-4)) return String(Number(value.toPrecision(digits))).replace("-", "−");
  const [front, power] = value.toExponential(Math.min(digits - 1, 2)).split("e");
  const short = String(Number(front)).replace("-", "−");
  return `${short === "1" ? "" : short + "·"}10${raised(Number(power))}`;
};

// An axis: values to pixels, and its ticks, each with its text.
const scale = (log, [low, high], from, to) => {
  const at = log ? (value) => Math.log10(Math.max(value, low)) : (value) => value;
  const start = at(low), length = at(high) - start || 1;
  return (value) => from + ((to - from) * (at(value) - start)) / length;
};
const roundTicks = ([low, high], count, whole = false) => {  // three at least, if more than `count`
  const rough = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough));
  const round = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999), step = whole ? Math.max(1, round) : round;
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    const value = i * step || 0;
    const plain = Math.abs(value) < 1e6 && decimals < 5;
    found.push([value, plain ? value.toFixed(decimals).replace("-", "−") : inWords(value, 3)]);
  }
  return found.length < 3 && count < 12 ? roundTicks([low, high], count + 1, whole) : found;
};
const logTicks = ([low, high], count) => {
  const decades = Math.log10(high / low);
  const firsts = decades > 2.5 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 5];
  const found = [], every = Math.max(1, Math.ceil(decades / Math.max(1, count)));
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    if (power % every) continue;
    for (const first of firsts) {
      const value = Number(`${first}e${power}`);
      if (value >= low && value <= high) found.push([value, inWords(value)]);
    }
  }
  return found.length > 1 ? found : roundTicks([low, high], count).filter(([value]) => value > 0);
};
const apart = (ticks, at, size, gap) => {  // those whose texts do not touch; the last, as ∞, is kept
  const kept = [];
  for (const tick of [...ticks].reverse()) {
    const middle = at(tick[0]), half = size(tick[1]) / 2 + gap / 2;
    if (kept.every((other) => Math.abs(other.middle - middle) >= other.half + half)) kept.push({ tick, middle, half });
  }
  return kept.map(({ tick }) => tick).reverse();
};

const fits = (values, log, margin = 0.05) => {
  const usable = values.filter((value) => value !== null && isFinite(value) && (!log || value > 0));
  if (!usable.length) return log ? [0.1, 1] : [0, 1];
  let low = usable.reduce((a, b) => Math.min(a, b)), high = usable.reduce((a, b) => Math.max(a, b));
  if (log) {
    const factor = (high / low) ** margin || 1.5;
    return high > low ? [low / factor, high * factor] : [low / 1.5, high * 1.5];
  }
  const more = margin * (high - low) || 0.05 * Math.abs(high) || 1;
  return [low - more, high + more];
};
const path = (xs, ys) => {
  let found = "", on = false;
  for (let i = 0; i < xs.length; i++) {
    const there = isFinite(xs[i]) && isFinite(ys[i]);
    if (there) found += `${on ? "L" : "M"}${xs[i].toFixed(1)},${ys[i].toFixed(1)}`;
    on = there;
  }
  return found;
};
const band = (xs, lows, highs) => {  // a piece for each stretch that has both ends
  let found = "", piece = [];
  for (let i = 0; i <= xs.length; i++) {
    if (i < xs.length && isFinite(lows[i]) && isFinite(highs[i]) && isFinite(xs[i])) piece.push(i);
    else if (piece.length) {
      const up = piece.map((j) => `${xs[j].toFixed(1)},${highs[j].toFixed(1)}`);
      const down = piece.reverse().map((j) => `${xs[j].toFixed(1)},${lows[j].toFixed(1)}`);
      found += `M${[...up, ...down].join("L")}Z`;
      piece = [];
    }
  }
  return found;
};

const BANDS = 4;  // methods on view; of more only some keep their bands and thin lines

class Part {  // a section: its methods, which of them are hidden, which axis is below
  constructor(legend) {
    this.legend = legend;
    this.section = legend.closest("section");
    this.methods = JSON.parse(legend.querySelector("script").textContent);
    this.method = new Map(this.methods.map((method) => [method.name, method]));
    this.hidden = new Set();
    this.axis = 0;
    this.charts = [...this.section.querySelectorAll("figure.chart")].map((figure) => {
      const data = JSON.parse(figure.querySelector("script").textContent);
      return data.kind === "rows" ? new Rows(this, figure, data) : new Curves(this, figure, data);
    });
    this.controls();
  }
  controls() {
    [...this.legend.querySelectorAll("span")].forEach((name, i) => {
      const method = this.methods[i], button = make("button", { type: "button", title: "hide or show" }, ...name.childNodes);
      button.setAttribute("aria-pressed", "true");
      button.addEventListener("click", () => {
        const shown = this.hidden.delete(method.name);
        if (!shown) this.hidden.add(method.name);
        button.setAttribute("aria-pressed", String(shown));
        this.redraw();
      });
      for (const [event, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]])
        button.addEventListener(event, () => this.charts.forEach((chart) => chart.single(on && !this.hidden.has(method.name) ? method.name : "")));
      name.replaceWith(button);
    });
    const axes = this.charts.map((chart) => chart.data.x ?? []).find((x) => x.length > 1);
    if (!axes) return;
    const choice = make("select", {}, ...axes.map((axis) => make("option", { textContent: axis.label })));
    choice.addEventListener("change", () => {
      this.axis = choice.selectedIndex;
      this.redraw();
    });
    this.legend.append(make("label", {}, "curves against ", choice));
  }
  redraw() {
    for (const chart of this.charts) chart.draw();
  }
}

class Chart {
  constructor(part, figure, data) {
    this.part = part;
    this.figure = figure;
    this.plot = figure.querySelector(".plot");
    this.data = data;
    this.wide = false;
    figure.hidden = false;
    figure.classList.add(this.data.kind);
    const [described] = figure.querySelectorAll(".unseen");
    described.id = `in-words-${(Chart.count = (Chart.count ?? 0) + 1)}`;
    this.number = Chart.count;
    this.tip = make("div", { className: "tip", hidden: true });
    this.told = make("p", { className: "unseen" });
    this.told.setAttribute("aria-live", "polite");
    const about = { tabIndex: 0, role: "application", ariaLabel: `${this.data.what}. Arrow keys read values.`, ariaRoleDescription: "chart" };
    Object.assign(this.plot, about);
    this.plot.setAttribute("aria-describedby", described.id);
    this.plot.append(this.tip);
    figure.append(this.told, this.tools());
    for (const kind of ["pointermove", "pointerdown"]) {  // a finger that taps does not move
      this.plot.addEventListener(kind, (event) => {
        const box = this.svg.getBoundingClientRect();
        this.point(event.clientX - box.left, event.clientY - box.top);
      });
    }
    this.plot.addEventListener("pointerleave", ({ pointerType }) => pointerType === "touch" || this.leave());
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.leave();
      else if (this.step(event.key)) event.preventDefault();
    });
  }
  tools() {
    const tools = make("p", { className: "tools" });
    const add = (text, what, act, pressed) => {
      const button = make("button", { type: "button", textContent: text, ariaLabel: `${what}: ${this.data.what}`, title: what });
      if (pressed !== undefined) button.setAttribute("aria-pressed", String(pressed));
      button.addEventListener("click", () => act(button));
      tools.append(button);
    };
    if (this.canLog) {
      add("log", "logarithmic axis", (button) => {
        this.log = !this.log;
        button.setAttribute("aria-pressed", String(this.log));
        this.draw();
      }, this.log);
    }
    add("enlarge", "enlarge", (button) => {
      this.wide = this.figure.classList.toggle("wide");
      button.setAttribute("aria-pressed", String(this.wide));
      this.draw();
    }, false);
    add("CSV", "save the numbers as CSV", () => save(this.csv(), "text/csv", this.fileName("csv")));
    add("SVG", "save the drawing as SVG", () => save(this.drawing(), "image/svg+xml", this.fileName("svg")));
    return tools;
  }
  fileName(ending) {
    const place = `${this.part.section.querySelector("h2").textContent} ${this.data.what}`;
    return `${place.normalize("NFKD").replace(/[^A-Za-z0-9.-]+/g, "_").replace(/^[_.]+|_+$/g, "").slice(0, 120)}.${ending}`;
  }
  get room() {
    return this.paper || Math.max(160, Math.floor(this.plot.clientWidth));
  }
  begin(width, height) {
    this.svg?.remove();
    this.svg = draw(this.plot, "svg", { width, height, viewBox: `0 0 ${width} ${height}`, "font-size": FONT, "font-family": "sans-serif", "aria-hidden": "true" });
    this.plot.prepend(this.svg);
    this.leave();
    return this.svg;
  }
  colour(name, what = "stroke") {
    const method = this.part.method.get(name);
    return method ? { [what]: method.colour, class: what, style: `--night:${method.night}` } : { [what]: "#767676" };
  }
  single(name) {
    this.svg?.classList.toggle("one", name !== "");
    for (const group of this.svg?.querySelectorAll("[data-method]") ?? []) group.classList.toggle("that", group.dataset.method === name);
  }
  leave() {
    this.tip.hidden = true;
    this.svg?.querySelector(".cross")?.remove();
  }
  show(x, y, above, title, lines, aloud) {  // below y, or where the window ends before it, above `above`
    this.tip.replaceChildren(make("b", { textContent: title }));
    for (const [name, text] of lines) {
      const line = make("span", {});
      const method = this.part.method.get(name);
      if (method) {
        const chip = draw(line, "svg", { width: 14, height: 8, viewBox: "0 0 14 8" });
        draw(chip, "line", { x1: 0, y1: 4, x2: 14, y2: 4, "stroke-width": 2.5, "stroke-dasharray": method.dash, ...this.colour(name) });
      }
      line.append(`${name} ${text}`);
      this.tip.append(line);
    }
    this.tip.hidden = false;
    const room = this.plot.clientWidth, size = this.tip.offsetWidth;
    const left = x + 14 + size <= room ? x + 14 : x - 14 - size;
    const fits = this.plot.getBoundingClientRect().top + y + this.tip.offsetHeight <= innerHeight;
    this.tip.style.left = `${Math.max(0, Math.min(left, room - size))}px`;
    this.tip.style.top = `${fits ? y : above - this.tip.offsetHeight}px`;
    if (aloud) this.told.textContent = [title, ...lines.map((line) => line.join(" "))].join("; ");
  }
  drawing() {  // as it is drawn now, on white paper, with what the colours mean below
    const copy = this.svg.cloneNode(true), width = this.svg.clientWidth;
    let height = this.svg.clientHeight;
    copy.querySelector(".cross")?.remove();
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const names = this instanceof Rows ? [] : this.part.methods.filter((method) => !this.part.hidden.has(method.name));
    for (const method of names) {
      const y = height + 8;
      draw(copy, "line", { x1: 8, x2: 30, y1: y, y2: y, stroke: method.colour, "stroke-width": 2, "stroke-dasharray": method.dash });
      draw(copy, "text", { x: 36, y: y + 4, fill: "#333" }, method.name);
      height += 16;
    }
    copy.setAttribute("height", height);
    copy.setAttribute("viewBox", `0 0 ${width} ${height}`);
    copy.prepend(draw(copy, "rect", { width, height, fill: "white" }));
    copy.prepend(draw(copy, "title", {}, this.data.what));
    return new XMLSerializer().serializeToString(copy);
  }
}

class Curves extends Chart {
  get canLog() {
    const { y, series } = this.data;
    this.log ??= y.log;
    return !y.ends && series.some((each) => each.y.some((value) => value > 0)) && series.every((each) => each.y.every((value) => value === null || value >= 0));
  }
  xOf(series) {
    return this.data.xs[series.x[Math.min(this.part.axis, series.x.length - 1)]];
  }
  fixed(value) {  // as many decimals as all others of the chart, four digits of the largest
    this.largest ??= this.data.series.flatMap(({ y }) => y).reduce((most, each) => Math.max(most, Math.abs(each)), 0);
    const decimals = 3 - Math.floor(Math.log10(this.largest || 1));
    if (value === null || this.data.y.log || decimals < 0 || decimals > 6) return inWords(value);
    return value.toFixed(decimals).replace("-", "−");
  }
  get axis() {
    return this.data.x[Math.min(this.part.axis, this.data.x.length - 1)];
  }
  get visible() {
    return this.data.series.filter((series) => !this.part.hidden.has(series.method));
  }
  draw() {
    const visible = this.visible;
    this.figure.hidden = !visible.length;
    if (!visible.length) return;
    const { data, axis, log } = this, width = this.room;
    const height = this.wide ? Math.min(520, Math.max(260, width * 0.5)) : Math.min(260, Math.max(190, width * 0.66));
    const svg = this.begin(width, Math.round(height));
    const rugs = this.part.methods.map((method) => visible.find((series) => series.style === "rug" && series.method === method.name)).filter(Boolean);
    const top = 26 + 9 * rugs.length, bottom = height - 36;
    let ends = data.y.ends ?? fits(visible.flatMap((series) => (["line", "fine", "level", "thin", "points"].includes(series.style) ? series.y : [])), log);
    for (const level of data.levels) ends = this.also(level.y, ends, log);
    const count = Math.max(2, Math.floor((bottom - top) / 28));
    const y = scale(log, ends, bottom, top);
    const yTicks = apart((log ? logTicks : roundTicks)(ends, count), y, () => FONT, 5);
    const left = Math.ceil(Math.max(24, ...yTicks.map(([, text]) => widthOf(text)))) + 10, right = width - 12;
    const values = visible.flatMap((series) => this.xOf(series));
    const across = fits(axis.infinity ? values.concat(axis.infinity) : values, axis.log, axis.log || data.series.some((series) => series.style === "points") ? 0.04 : 0);
    const x = scale(axis.log, across, left, right);
    let xTicks = axis.ticks ? axis.ticks.map((value) => [value, inWords(value)]) : (axis.log ? logTicks : roundTicks)(across, Math.max(2, Math.floor((right - left) / 70)), values.every(Number.isInteger));
    if (axis.infinity) xTicks = [...xTicks.filter(([value]) => value < axis.infinity * 0.999), [axis.infinity, "∞"]];
    xTicks = apart(xTicks, x, widthOf, 10);
    for (const [value, text] of yTicks) {
      draw(svg, "line", { x1: left, x2: right, y1: y(value), y2: y(value), stroke: "#888", "stroke-opacity": 0.2 });
      draw(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", fill: "#555" }, text);
    }
    for (const [value, text] of xTicks) {
      const half = widthOf(text) / 2, at = Math.min(Math.max(x(value), half), width - half - 1);
      draw(svg, "line", { x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4, stroke: "#888" });
      draw(svg, "text", { x: at, y: bottom + 15, "text-anchor": "middle", fill: "#555" }, text);
    }
    draw(svg, "line", { x1: left, x2: right, y1: bottom, y2: bottom, stroke: "#888" });
    draw(svg, "text", { x: 0, y: 11, fill: "#555" }, cut(data.y.label, width - 4));
    draw(svg, "text", { x: right, y: height - 4, "text-anchor": "end", fill: "#555" }, cut(axis.label, width - 16));
    const clip = draw(draw(svg, "clipPath", { id: `clip-${this.number}` }), "rect", { x: left - 2, y: top - 3, width: right - left + 4, height: bottom - top + 6 });
    const inside = draw(svg, "g", { "clip-path": `url(#${clip.parentNode.id})`, fill: "none", "stroke-linejoin": "round" });
    this.levels(inside, svg, y, left, right, ends);
    const names = new Set(visible.map((series) => series.method)), crowd = names.size > BANDS;
    const order = { faint: 0, thin: 1, points: 2, lost: 3 };
    const sorted = [...visible].sort((a, b) => (order[a.style] ?? 4) - (order[b.style] ?? 4));
    this.places = [];
    for (const series of sorted) {
      if (series.style === "rug") continue;
      const spread = !crowd || this.part.method.get(series.method).banded;
      const xs = this.xOf(series).map((value) => (value === null ? NaN : x(value))), ys = series.y.map((value) => (value === null || (log && value < 0) ? NaN : y(value)));
      this.places.push({ series, xs, ys });
      const group = draw(inside, "g", { "data-method": series.method, class: spread ? "" : "crowd" });
      this.mark(group, series, xs, ys, y, svg, top, bottom);
    }
    rugs.forEach((series, i) => this.rug(svg, series, x, 24 + 9 * i, left, right));
    this.frame = { x, y, left, right, top, bottom };
  }
  also(value, [low, high], log) {  // room for a level, unless it would squeeze the rest into less than half
    const at = log ? Math.log : (y) => y, back = log ? Math.exp : (y) => y;
    if (log && value <= 0) return [low, high];
    const [bottom, top, place] = [at(low), at(high), at(value)], room = top - bottom;
    if (place < bottom - room || place > top + room) return [low, high];
    return [back(Math.min(bottom, place - 0.08 * room)), back(Math.max(top, place + 0.08 * room))];
  }
  levels(inside, svg, y, left, right, [low, high]) {
    for (const level of this.data.levels) {
      if (level.y < low || level.y > high) continue;
      draw(inside, "line", { x1: left, x2: right, y1: y(level.y), y2: y(level.y), "stroke-width": 1, "stroke-dasharray": "2 3", stroke: "#767676" });
      draw(svg, "text", { x: right, y: y(level.y) - 4, "text-anchor": "end", fill: "#555", class: "halo" }, level.name);
    }
  }
  mark(group, series, xs, ys, y, svg, top, bottom) {
    const method = this.part.method.get(series.method), dash = method?.dash ?? "";
    const line = (attributes) => draw(group, "path", { d: path(xs, ys), "stroke-dasharray": dash, ...this.colour(series.method), ...attributes });
    if (series.style === "points") {
      group.setAttribute("class", "");
      xs.forEach((at, i) => isFinite(ys[i]) && draw(group, "circle", { cx: at.toFixed(1), cy: ys[i].toFixed(1), r: 2.6, "fill-opacity": 0.5, ...this.colour(series.method, "fill") }));
    } else if (series.style === "faint") {
      line({ "stroke-width": 0.8, "stroke-opacity": 0.3, "stroke-dasharray": "", "data-spread": "" });
    } else if (series.style === "thin") {
      line({ "stroke-width": 0.9, "stroke-opacity": 0.5, "data-spread": "" });
    } else if (series.style === "fine") {
      line({ "stroke-width": 0.9 });
    } else if (series.style === "level") {
      line({ "stroke-width": 1.2, "stroke-dasharray": "1 3" });
    } else if (series.style === "lost") {
      line({ "stroke-width": 0.9 });
      const last = ys.length - 1, at = Math.min(Math.max(isFinite(ys[last]) ? ys[last] : top, top), bottom);
      draw(svg, "path", { d: `M${xs[last] - 3.5},${at - 3.5}l7,7m-7,0l7,-7`, "stroke-width": 2, fill: "none", ...this.colour(series.method) });
    } else {
      if (series.low && !series.few) {
        const ends = [series.low, series.high].map((values) => values.map((value) => (value === null ? NaN : y(value))));
        draw(group, "path", { d: band(xs, ...ends), "fill-opacity": 0.14, "data-spread": "", ...this.colour(series.method, "fill") });
      }
      line({ "stroke-width": 1.8 });
      if (xs.length <= 25) xs.forEach((at, i) => isFinite(ys[i]) && draw(group, "circle", { cx: at.toFixed(1), cy: ys[i].toFixed(1), r: 1.8, ...this.colour(series.method, "fill") }));
    }
  }
  rug(svg, series, x, y, left, right) {
    const group = draw(svg, "g", { "data-method": series.method });
    draw(group, "line", { x1: left, x2: right, y1: y, y2: y, "stroke-width": 0.6, "stroke-opacity": 0.5, ...this.colour(series.method) });
    const xs = this.xOf(series).map(x);
    for (const at of xs) draw(group, "path", { d: `M${at - 3},${y - 3}l6,6m-6,0l6,-6`, "stroke-width": 1.6, fill: "none", ...this.colour(series.method) });
    this.places.push({ series, xs, ys: xs.map(() => y) });
  }
  // What is told where the pointer is: a single point that is near, or else every line at that place.
  point(px, py) {
    const { left, right } = this.frame;
    let near = null, least = 9;
    for (const { series, xs, ys } of this.places) {
      if (!["points", "rug"].includes(series.style)) continue;
      xs.forEach((at, i) => {
        const distance = Math.hypot(at - px, ys[i] - py);
        if (distance < least) [near, least] = [{ series, i, at, y: ys[i] }, distance];
      });
    }
    if (near) {
      const { series, i } = near, text = series.words ? series.words[i] : inWords(series.y[i]);
      this.cross(near.at);
      this.show(near.at, near.y + 8, near.y - 8, `${this.axis.label} ${this.placeInWords(this.xOf(series)[i])}`, [[series.method, text]]);
    } else if (px >= left - 6 && px <= right + 6) this.read(px);
    else this.leave();
  }
  placeInWords(value) {
    return this.axis.infinity && value >= this.axis.infinity * 0.999 ? "∞" : inWords(value);
  }
  get lines() {
    const read = this.places.filter(({ series }) => series.style === "line");
    return read.length ? read : this.places.filter(({ series }) => series.style === "points");
  }
  read(px, aloud = false) {
    const nearest = ({ xs }) => xs.reduce((best, at, i) => (Math.abs(at - px) < Math.abs(xs[best] - px) ? i : best), 0);
    let first = null;
    for (const line of this.lines) {
      const i = nearest(line), distance = Math.abs(line.xs[i] - px);
      if (!first || distance < first.distance) first = { line, i, distance };
    }
    if (!first) return;
    const at = first.line.xs[first.i];
    const lines = [];
    for (const method of this.part.methods) {
      for (const line of this.lines.concat(this.beside)) {
        if (line.series.method !== method.name) continue;
        const i = nearest(line), step = Math.abs((line.xs[1] ?? line.xs[0]) - line.xs[0]);
        if (Math.abs(line.xs[i] - at) > Math.max(2, step)) continue;  // it had ended, or not begun
        lines.push([method.name, this.valueInWords(line.series, i)]);
      }
    }
    this.at = at;
    this.cross(at);
    this.show(at, this.frame.bottom + 18, this.frame.top - 4, `${this.axis.label} ${this.placeInWords(this.xOf(first.line.series)[first.i])}`, lines, aloud);
  }
  get beside() {  // the norm before clipping and the level, told too
    return this.places.filter(({ series }) => ["fine", "level"].includes(series.style));
  }
  valueInWords({ y, low, high, of }, i) {
    const words = ["before", "after", "level η"].includes(of) ? `${of} ` : "";
    const ends = low && low[i] !== null && high[i] !== null ? ` (${this.fixed(low[i])} to ${this.fixed(high[i])})` : "";
    return `${words}${this.fixed(y[i])}${ends}`;
  }
  cross(at) {
    const { top, bottom } = this.frame;
    this.svg.querySelector(".cross")?.remove();
    draw(this.svg, "line", { class: "cross", x1: at, x2: at, y1: top, y2: bottom, stroke: "#888", "stroke-width": 1 });
  }
  step(key) {
    const places = [...new Set(this.lines.flatMap(({ xs }) => xs.filter(isFinite).map((at) => Math.round(at * 10) / 10)))].sort((a, b) => a - b);
    if (!places.length) return false;
    const now = this.tip.hidden ? -1 : places.reduce((best, at, i) => (Math.abs(at - this.at) < Math.abs(places[best] - this.at) ? i : best), 0);
    const by = Math.max(1, Math.round(places.length / 20));
    const to = { ArrowRight: now + 1, ArrowLeft: now - 1, PageUp: now + by, PageDown: now - by, Home: 0, End: places.length - 1 }[key];
    if (to === undefined) return false;
    this.read(places[Math.min(Math.max(to, 0), places.length - 1)], true);
    return true;
  }
  csv() {
    const { data } = this;
    const rows = [["method", "what", ...data.x.map((axis) => axis.label), data.y.label, "low", "high"]];
    for (const series of data.series) {
      const xs = series.x.map((place) => data.xs[place]);
      series.y.forEach((value, i) => {
        const what = series.words ? series.words[i] : series.of || series.style;
        rows.push([series.method, what, ...xs.map((each) => each[i]), value, series.low?.[i], series.high?.[i]]);
      });
    }
    for (const level of data.levels) rows.push([level.name, "level", ...data.x.map(() => null), level.y]);
    return asCsv(rows);
  }
}

class Rows extends Chart {  // differences around 0: a name and numbers, below them dots and the interval
  draw() {
    const { data } = this, shown = data.rows.filter((row) => !this.part.hidden.has(row.method));
    this.figure.hidden = !shown.length;
    if (!shown.length) return;
    const width = this.room;
    const tall = 44, top = 6, bottom = top + tall * shown.length, height = bottom + 38;
    const svg = this.begin(width, height), left = 10, right = width - 10;
    const ends = data.ends, x = scale(false, ends, left, right);
    const [from, to] = [Math.max(-data.worth, ends[0]), Math.min(data.worth, ends[1])].map(x);
    if (data.worth) draw(svg, "rect", { x: from, width: to - from, y: top, height: bottom - top, fill: "#888", "fill-opacity": 0.2 });
    for (const [value, text] of apart(roundTicks(ends, Math.max(2, Math.floor(width / 80))), x, widthOf, 12)) {
      const half = widthOf(text) / 2, at = Math.min(Math.max(x(value), half), width - half - 1);
      draw(svg, "line", { x1: x(value), x2: x(value), y1: top, y2: bottom + 4, stroke: "#888", "stroke-opacity": value === 0 ? 1 : 0.2 });
      draw(svg, "text", { x: at, y: bottom + 17, "text-anchor": "middle", fill: "#555" }, text);
    }
    draw(svg, "text", { x: right, y: height - 5, "text-anchor": "end", fill: "#555" }, cut(`${data.label} →`, width - 12));
    this.places = shown.map((row, i) => this.row(svg, row, x, top + tall * i, width, left, right));
  }
  row(svg, row, x, y, width, left, right) {
    const group = draw(svg, "g", { "data-method": row.method, fill: "none" }), middle = y + 30;
    const words = cut(row.words, width * 0.62 - 8), room = width - 24 - widthOf(words);
    for (const [at, anchor, text] of [[left, "start", cut(row.method, room, widthOfName)], [right, "end", words]]) {
      const ground = (anchor === "start" ? widthOfName : widthOf)(text) + 6;
      draw(group, "rect", { class: "ground", fill: "white", x: anchor === "end" ? at - ground + 3 : at - 3, y: y + 3, width: ground, height: 14 });
      draw(group, "text", { class: anchor === "start" ? "name" : "", x: at, y: y + 14, "text-anchor": anchor, fill: anchor === "start" ? "#111" : "#555", "font-weight": anchor === "start" ? 600 : 400 }, text);
    }
    const inside = (value) => Math.min(Math.max(x(value), left), right), line = this.colour(row.method);
    if (row.low !== null && row.high !== null) {
      const [low, high] = [inside(row.low), inside(row.high)];
      draw(group, "path", { d: `M${low},${middle}H${high}`, "stroke-width": 2, ...line });
      for (const [at, value, to] of [[low, row.low, 1], [high, row.high, -1]]) {
        const isCut = Math.abs(x(value) - at) > 0.5;
        draw(group, "path", { d: isCut ? `M${at + 5 * to},${middle - 5}l${-5 * to},5l${5 * to},5` : `M${at},${middle - 5}v10`, "stroke-width": 2, ...line });
      }
    }
    for (const [, value] of row.pairs) draw(group, "circle", { cx: inside(value).toFixed(1), cy: middle, r: 3.2, "fill-opacity": 0.4, ...this.colour(row.method, "fill") });
    if (row.mean !== null) draw(group, "path", { d: `M${inside(row.mean)},${middle - 6}l6,6l-6,6l-6,-6Z`, ...this.colour(row.method, "fill") });
    return { row, y, x: inside };
  }
  point(px, py) {
    const found = this.places.find(({ y }) => py >= y && py < y + 44);
    if (found) this.read(found, px);
    else this.leave();
  }
  read({ row, y, x }, px, aloud = false) {
    let near = row.pairs;
    if (!aloud) near = near.filter(([, value]) => Math.abs(x(value) - px) < 6);
    if (!near.length) near = row.pairs;
    this.show(px, y + 42, y, `${row.method} ${row.words}`, near.map(([name, value]) => [name, inWords(value)]), aloud);
  }
  step(key) {
    if (!this.places?.length) return false;
    const last = this.places.length - 1, now = this.tip.hidden ? -1 : this.now;
    const to = { ArrowDown: now + 1, ArrowRight: now + 1, ArrowUp: now - 1, ArrowLeft: now - 1, Home: 0, End: last }[key];
    if (to === undefined) return false;
    this.now = Math.min(Math.max(to, 0), last);
    const { row, x } = this.places[this.now];
    this.read(this.places[this.now], x(row.mean ?? 0), true);
    return true;
  }
  csv() {
    const rows = [["method", "what", this.data.label, "low", "high"]];
    for (const row of this.data.rows) {
      rows.push([row.method, "mean", row.mean, row.low, row.high]);
      for (const [name, value] of row.pairs) rows.push([row.method, name, value]);
    }
    return asCsv(rows);
  }
}

// A spreadsheet takes for a formula what begins so: it becomes text.
const asCsv = (rows) => {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^\s*[=+\-@]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",") + "\n").join("");
};
const save = (text, type, name) => {
  const address = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
};

// What is on the screen is drawn at once, the rest while nothing else is to do.
const charts = [...document.querySelectorAll(".legend")].flatMap((legend) => new Part(legend).charts);
const later = [];
for (const chart of charts) {
  if (chart.figure.getBoundingClientRect().top < innerHeight) chart.draw();
  else later.push(chart);
}
const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 1));
const drawLater = () => {
  const end = performance.now() + 12;
  while (later.length && performance.now() < end) later.shift().draw();
  if (later.length) idle(drawLater);
};
const drawAll = () => {
  while (later.length) later.shift().draw();
};
idle(drawLater);

// A figure is drawn anew for its width: text keeps its size.
const widths = new WeakMap(charts.map((chart) => [chart.plot, chart]));
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const chart = widths.get(target);
    if (chart.svg && chart.svg.clientWidth !== chart.room) chart.draw();
  }
});
for (const chart of charts) watch.observe(chart.plot);

// Paper has nothing to click on, and columns of its own.
const onPaper = (on) => {
  later.length = 0;
  for (const chart of charts) {
    chart.paper = on && (chart instanceof Rows ? 640 : 320);
    chart.draw();
  }
};
addEventListener("afterprint", () => onPaper(false));
addEventListener("beforeprint", () => {
  onPaper(true);
  document.querySelectorAll("details").forEach((part) => (part.open = true));
});
