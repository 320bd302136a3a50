// The page's interaction. The data come from kd/report/embedded.py; without this script the page
// still has all its drawings and tables.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const count = data.classes.length;
const MOST_CLASSES = 20; // of a confusion matrix that is shown whole
const MANY_TILES = 60;

// ---------------------------------------------------------------- small helpers
const byId = (id) => document.getElementById(id);

/** Build an element; children that are no nodes become text, so that names cannot be markup. */
function build(tag, attributes = {}, ...children) {
  const svg = ["svg", "line", "circle", "text", "polyline", "rect", "title"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const known = (values) => values.filter((v) => v !== null && v !== undefined);
const minus = (text) => text.replace("-", "−");
const signed = (value, digits = 2) => {
  const text = value.toFixed(digits);
  return minus(Number(text) === 0 ? (0).toFixed(digits) : (value > 0 ? "+" : "") + text);
};
const short = (name, most = 8) => (name.length > most ? name.slice(0, most - 1) + "…" : name);

/** Unpack an array that Python packed: base64, deflated. */
async function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

// ---------------------------------------------------------------- figures of cells
const SHOWN = {
  gain: { title: "gain over the student alone, points", factor: 100, digits: 2, sign: true, good: 1 },
  acc: { title: "test accuracy, %", factor: 100, digits: 2, good: 1 },
  val: { title: "validation accuracy, %", factor: 100, digits: 2, good: 1 },
  agreement: { title: "agreement with the teacher, %", factor: 100, digits: 2, good: 1 },
  kl: { title: "KL to the teacher, nats (less is nearer)", factor: 1, digits: 3, good: -1 },
};

const state = { method: 0, show: "gain", seed: null, cell: null, other: null };

/** The places of a cell's runs that the choice of a seed leaves. */
function places(cell) {
  const all = cell.runs.map((run, place) => place);
  return state.seed === null ? all : all.filter((p) => runs.seed[cell.runs[p]] === state.seed);
}

/** The gains of a cell's runs over the students alone of their seeds, in points. */
function gains(cell) {
  return known(places(cell).map((p) => cell.alone[p] === null ? null
    : 100 * (runs.acc[cell.runs[p]] - runs.acc[cell.alone[p]])));
}

/** A cell's figure as the map shows it; null where there is none. */
function figure(cell, show) {
  if (show === "gain") {
    if (state.seed === null && cell.gain !== null) return 100 * cell.gain;
    const found = gains(cell);
    return found.length ? mean(found) : null;
  }
  const found = known(places(cell).map((p) => runs[show][cell.runs[p]]));
  return found.length ? SHOWN[show].factor * mean(found) : null;
}

function written(value, show) {
  const { digits, sign } = SHOWN[show];
  return value === null ? "–" : sign ? signed(value, digits) : minus(value.toFixed(digits));
}

const label = (cell) => `T = ${cell.T}, alpha = ${cell.alpha}`;

// ---------------------------------------------------------------- answers to the test images
const answered = new Map((data.answered || []).map((run, place) => [run, place]));
let labels = null, answers = null, matrices = null;

/** The class that a run names for an image, by the image's place among the labels. */
function answer(run, image) {
  const distance = answers[image * answered.size + answered.get(run)];
  return (labels[image] + distance) % count;
}

/** The summed confusion matrix of some runs; null where their answers are not in the page. */
function confusion(chosen) {
  if (!answers || !chosen.length || !chosen.every((run) => answered.has(run))) return null;
  const matrix = new Float64Array(count * count);
  for (const run of chosen)
    for (let i = 0; i < labels.length; i++) matrix[labels[i] * count + answer(run, i)]++;
  return matrix;
}

/** The mean confusion matrix of a cell, or of its students alone, per seed. */
function cellConfusion(cell, alone) {
  const own = places(cell).map((p) => (alone ? cell.alone : cell.runs)[p]);
  const sum = confusion(known(own));
  if (sum) return sum.map((n) => n / known(own).length);
  if (!matrices || state.seed !== null) return null;
  const start = (2 * data.cells.indexOf(cell) + (alone ? 1 : 0)) * count * count;
  const n = known(alone ? cell.alone : cell.runs).length;
  return n ? Float64Array.from(matrices.slice(start, start + count * count), (v) => v / n) : null;
}

/** F1 of every class, from a confusion matrix. */
function f1(matrix) {
  return data.classes.map((_, c) => {
    let actual = 0, named = 0;
    for (let k = 0; k < count; k++) {
      actual += matrix[c * count + k];
      named += matrix[k * count + c];
    }
    return actual + named ? (2 * matrix[c * count + c]) / (actual + named) : 0;
  });
}

/** The share of images on which a cell's runs name the teacher's class. */
function agreement(cell) {
  const teacher = data.teacher;
  const own = places(cell).map((p) => cell.runs[p]);
  if (!answers || !answered.has(teacher) || !own.every((run) => answered.has(run))) return null;
  const same = own.map((run) => {
    let n = 0;
    for (let i = 0; i < labels.length; i++) n += answer(run, i) === answer(teacher, i);
    return n / labels.length;
  });
  return same.length ? mean(same) : null;
}

// ---------------------------------------------------------------- the map
const ofMethod = () => {
  const cells = data.cells.filter((cell) => cell.m === state.method);
  const tested = cells.filter((cell) => !cell.control);
  return tested.length ? tested : cells;
};
const unique = (values) => [...new Set(values)].sort((a, b) => a - b);

function drawMap(focus = false) {
  const cells = ofMethod();
  const Ts = unique(cells.map((c) => c.T)), alphas = unique(cells.map((c) => c.alpha));
  const { good, sign, title } = SHOWN[state.show];
  const values = known(cells.map((c) => figure(c, state.show))).map((v) => good * v);
  const low = Math.min(...values), high = Math.max(...values), far = Math.max(-low, high);
  const cellAt = (T, alpha) => cells.find((c) => c.T === T && c.alpha === alpha);
  const rows = Ts.map((T) => build("tr", {}, build("th", { scope: "row" }, String(T)),
    ...alphas.map((alpha) => {
      const cell = cellAt(T, alpha);
      return cell ? mapCell(cell) : build("td", {}, "–");
    })));
  function mapCell(cell) {
    const value = figure(cell, state.show), number = data.cells.indexOf(cell);
    const star = number === data.chosen;
    let strength = 0;
    if (value !== null) strength = sign ? Math.abs(value) / (far || 1)
      : (good * value - low) / (high - low || 1);
    let text = written(value, state.show);
    if (sign && state.seed === null && cell.p !== undefined && cell.p !== null && cell.p >= 0.05)
      text = `(${text})`;
    return build("td", {
      "data-cell": number, tabindex: cell === state.cell ? 0 : -1,
      "aria-selected": cell === state.cell ? "true" : "false",
      "aria-label": `${label(cell)}: ${text}${star ? ", chosen on validation" : ""}`,
      class: `${sign && value < 0 ? "bad" : "good"}${cell === state.other ? " other" : ""}`,
      style: `--s:${Math.round(60 * strength)}%`,
    }, (star ? "★ " : "") + text);
  }
  const head = build("tr", {}, build("th", { scope: "col" }, "T \\ alpha"),
    ...alphas.map((alpha) => build("th", { scope: "col" }, String(alpha))));
  byId("map").replaceChildren(build("table", { class: "map", role: "grid", "aria-label": title },
    build("thead", {}, head), build("tbody", {}, ...rows)));
  byId("map").parentElement.style.gridColumn = alphas.length > 7 ? "1 / -1" : "";
  if (focus) byId("map").querySelector("[tabindex='0']")?.focus();
  const alone = state.cell && known(places(state.cell).map((p) => state.cell.alone[p]));
  const brackets = cells.some((c) => c.p >= 0.05) && sign ? " In brackets: not significant." : "";
  byId("reference").textContent = (data.chosen === null ? "" : "★ is chosen on validation. ")
    + (alone?.length ? "The student alone (alpha = 1) has "
      + `${(100 * mean(alone.map((run) => runs.acc[run]))).toFixed(2)} % on test.` : "") + brackets;
}

function choose(cell, compare = false, focus = false) {
  if (compare && state.cell && cell !== state.cell) state.other = cell;
  else [state.cell, state.other] = [cell, null];
  drawMap(focus);
  drawCell();
  writeAddress();
}

function onMapClick(event) {
  const found = event.target.closest("[data-cell]");
  if (found) choose(data.cells[found.dataset.cell], event.shiftKey || byId("compare").checked, true);
}

function onMapKey(event) {
  const from = event.target.closest("[data-cell]");
  if (!from) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return choose(data.cells[from.dataset.cell], event.shiftKey || byId("compare").checked, true);
  }
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const move = step[event.key];
  if (!move) return;
  event.preventDefault();
  const row = from.parentElement, table = row.parentElement.rows;
  let r = row.rowIndex - 1, c = from.cellIndex, target = null;
  do { // over places of the grid without a run
    [r, c] = [r + move[0], c + move[1]];
    target = table[r]?.cells[c];
  } while (target && !target.dataset.cell && c > 0);
  if (!target?.dataset.cell) return;
  if (event.shiftKey) { // only move: Shift and Enter compares
    from.tabIndex = -1;
    target.tabIndex = 0;
    target.focus();
  } else choose(data.cells[target.dataset.cell], false, true);
}

// ---------------------------------------------------------------- the choice in the address
function writeAddress() {
  const name = (c) => `T=${c.T},alpha=${c.alpha}`;
  let hash = `#${name(state.cell)}`;
  if (data.methods.length > 1) hash += `,method=${encodeURIComponent(data.methods[state.method])}`;
  if (state.other) hash += `,with=${state.other.T}:${state.other.alpha}`;
  history.replaceState(null, "", hash);
}

/** Choose the cell that the address names, if it names one. */
function readAddress() {
  if (!location.hash.startsWith("#T=")) return false;
  const words = Object.fromEntries(location.hash.slice(1).split(",").map((w) => w.split("=")));
  const method = data.methods.indexOf(decodeURIComponent(words.method || ""));
  const m = method >= 0 ? method : state.method;
  const find = (T, alpha) => data.cells.find((c) => c.m === m && c.T === +T && c.alpha === +alpha);
  const cell = find(words.T, words.alpha);
  if (!cell) return false;
  state.method = m;
  byId("method").value = m;
  listSeeds();
  [state.cell, state.other] = [cell, words.with ? find(...words.with.split(":")) || null : null];
  drawMap();
  drawCell();
  return true;
}

// ---------------------------------------------------------------- drawings
const WIDTH = 340;
const scale = (low, high, start, end) => (v) => start + ((v - low) / (high - low || 1)) * (end - start);

/** Round values between two others, about as many as given. */
function ticks(low, high, most = 5) {
  const power = 10 ** Math.floor(Math.log10((high - low || 1) / most));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => (high - low) / s <= most);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high + 1e-9; n++) found.push(n * step);
  return found.map((v) => Number(v.toPrecision(6)));
}

function picture(height, words, ...parts) {
  const box = { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": words };
  return build("svg", box, ...parts);
}

const write = (x, y, text, kind = "") => build("text", { x, y, class: kind }, minus(text));

/** A dot per seed for each cell. */
function drawSeeds(rows) {
  const all = rows.flatMap((row) => row.values);
  const x = scale(Math.min(0, ...all), Math.max(0, ...all), 122, WIDTH - 16);
  const parts = [build("line", { x1: x(0), x2: x(0), y1: 4, y2: 22 * rows.length, class: "zero" })];
  rows.forEach((row, n) => {
    const y = 22 * n + 14;
    parts.push(write(0, y + 4, short(row.name, 18)));
    row.values.forEach((value, place) => parts.push(build("circle",
      { cx: x(value), cy: y, r: 4.5, class: `dot ${value < 0 ? "bad" : "good"}` },
      build("title", {}, `seed ${row.seeds[place]}: ${signed(value)} points`))));
  });
  ticks(Math.min(0, ...all), Math.max(0, ...all), 4).forEach((v) =>
    parts.push(write(x(v), 22 * rows.length + 14, String(v), "middle faint")));
  const words = rows.map((row) => `${row.name}: ${row.values.map((v) => signed(v)).join(", ")}`);
  return picture(22 * rows.length + 18, `Gain by seed in points. ${words.join("; ")}`, ...parts);
}

/** Validation accuracy by epoch, a line per name. */
function drawCurves(curves) {
  const all = curves.flatMap(([, values]) => values), last = Math.max(...curves.map(([, v]) => v.length));
  const low = Math.min(...all), high = Math.max(...all);
  const x = scale(1, Math.max(last, 2), 40, WIDTH - 8), y = scale(low, high, 140, 10);
  const parts = ticks(low, high).flatMap((v) => [
    build("line", { x1: 40, x2: WIDTH - 8, y1: y(v), y2: y(v), class: "grid" }),
    write(35, y(v) + 4, String(v), "end faint")]);
  ticks(1, Math.max(last, 2), 8).filter(Number.isInteger).forEach((v) =>
    parts.push(write(x(v), 156, String(v), "middle faint")));
  curves.forEach(([name, values, kind], n) => {
    const points = values.map((v, i) => `${x(i + 1).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    parts.push(build("polyline", { points, class: `curve ${kind}` }));
    parts.push(build("line", { x1: 40, x2: 66, y1: 170 + 16 * n, y2: 170 + 16 * n, class: `curve ${kind}` }));
    parts.push(write(72, 174 + 16 * n, name));
  });
  const words = curves.map(([name, values]) => `${name}: ${values.at(-1)} % at the end`).join("; ");
  return picture(166 + 16 * curves.length, `Validation accuracy by epoch. ${words}`, ...parts);
}

// ---------------------------------------------------------------- the panel of a cell
function describe(cell) {
  const figures = [];
  const add = (name, value) => figures.push(build("dt", {}, name), build("dd", { "data-name": name }, value));
  add("test accuracy", `${written(figure(cell, "acc"), "acc")} %`);
  const gain = figure(cell, "gain");
  if (gain !== null) add("gain", `${signed(gain)} points`);
  if (state.seed === null && cell.low !== null && cell.p !== undefined) {
    add("95 % interval", `${signed(100 * cell.low)} to ${signed(100 * cell.high)}`);
    if (cell.p !== null) add("p after Holm", cell.p < 0.001 ? "below 0.001" : cell.p.toFixed(3));
  }
  const same = agreement(cell);
  const agreed = same === null ? figure(cell, "agreement") : 100 * same;
  if (agreed !== null) add("agreement with the teacher", `${agreed.toFixed(2)} %`);
  if (figure(cell, "kl") !== null) add("KL to the teacher", `${figure(cell, "kl").toFixed(4)} nats`);
  add("seeds", state.seed === null ? String(cell.runs.length) : `seed ${state.seed}`);
  return build("dl", {}, ...figures);
}

function drawCell() {
  const { cell, other } = state, panel = byId("cell");
  if (!cell) return panel.replaceChildren();
  const shown = other ? [cell, other] : [cell];
  const first = [build("h3", {}, shown.map(label).join(" and "))], parts = [];
  if (data.methods.length > 1) first.push(build("p", { class: "hint" }, data.methods[cell.m]));
  if (places(cell).length) first.push(...shown.flatMap((c) => (other ? [build("h4", {}, label(c))] : []).concat(describe(c))));
  const rows = shown.map((c) => ({
    name: `T=${c.T} alpha=${c.alpha}`, values: gains(c),
    seeds: places(c).filter((p) => c.alone[p] !== null).map((p) => runs.seed[c.runs[p]]),
  })).filter((row) => row.values.length);
  if (rows.length) first.push(build("h4", {}, "gain by seed, points"), drawSeeds(rows));
  const curves = shown.map((c, n) => [label(c), data.curves[data.cells.indexOf(c)], `c${1 - n}`]);
  curves.push(["student alone", data.curves_alone[cell.m], "c2"]);
  const drawn = curves.filter(([, values]) => values.length);
  if (drawn.length) parts.push([build("h4", {}, "validation accuracy by epoch, %, mean over seeds"), drawCurves(drawn)]);
  const own = cellConfusion(cell, false);
  const base = other ? cellConfusion(other, false) : cellConfusion(cell, true);
  const against = other ? label(other) : "the student alone";
  if (own && base) parts.push(
    [build("h4", {}, `more or fewer images than by ${against}, per seed`), confusionTable(own, base)],
    [build("h4", {}, "F1 by class"), f1Table(f1(own), f1(base), other ? label(other) : "alone")]);
  panel.replaceChildren(...[first, ...parts].map((part) => build("div", {}, ...part)));
}

function confusionTable(own, base) {
  const change = own.map((n, place) => n - base[place]);
  const whole = places(state.cell).length === 1 && !state.other;
  const text = (v) => (Math.abs(v) < 0.05 ? "·" : signed(v, whole ? 0 : 1));
  if (count > MOST_CLASSES) {
    const order = [...change.keys()].filter((p) => Math.floor(p / count) !== p % count);
    order.sort((a, b) => Math.abs(change[b]) - Math.abs(change[a]));
    return build("ol", {}, ...order.slice(0, 12).filter((p) => change[p]).map((p) => build("li", {},
      `${data.classes[Math.floor(p / count)]} taken for ${data.classes[p % count]}: ${text(change[p])}`)));
  }
  const far = Math.max(...change.map(Math.abs)) || 1;
  const rows = data.classes.map((name, i) => build("tr", {}, build("th", { scope: "row" }, short(name)),
    ...data.classes.map((_, j) => {
      const value = change[i * count + j], better = i === j ? value > 0 : value < 0;
      const kind = { class: better ? "good" : "bad", style: `--s:${Math.round((60 * Math.abs(value)) / far)}%` };
      if (i === j || !data.digits || (!own[i * count + j] && !base[i * count + j]))
        return build("td", kind, text(value));
      const words = `${name} taken for ${data.classes[j]}: ${text(value)}; show these images`;
      return build("td", kind, build("button", { type: "button", "aria-label": words, onclick: () => filterDigits(i, j) }, text(value)));
    })));
  const head = build("tr", {}, build("th", { scope: "col" }, "is \\ named"),
    ...data.classes.map((name) => build("th", { scope: "col" }, short(name))));
  return build("div", { class: "wide", tabindex: 0 }, build("table", { class: "map small" }, build("thead", {}, head), build("tbody", {}, ...rows)));
}

function f1Table(own, base, name) {
  let order = [...data.classes.keys()];
  const apart = (c) => Math.abs(own[c] - base[c]);
  if (count > MOST_CLASSES) order = order.sort((a, b) => apart(b) - apart(a)).slice(0, 12);
  const head = ["class", "this cell", name, "difference"].map((w) => build("th", { scope: "col" }, w));
  const rows = order.map((c) => build("tr", {}, build("th", { scope: "row" }, short(data.classes[c], 16)),
    ...[own[c].toFixed(4), base[c].toFixed(4), signed(own[c] - base[c], 4)].map((v) => build("td", {}, v))));
  return build("table", { id: "f1" }, build("thead", {}, build("tr", {}, ...head)), build("tbody", {}, ...rows));
}

// ---------------------------------------------------------------- images and the slider
const digits = { group: 0, pair: null, chosen: null, tiles: MANY_TILES };
let truth = null, logits = null, steps = null, spots = null;

/** The probabilities that a network gives the classes of an image at temperature T. */
function softmax(network, image, T) {
  const place = network * data.digits.count + image;
  const values = [];
  for (let c = 0; c < count; c++) values.push(Math.exp((-logits[place * count + c] * steps[place]) / T));
  const sum = values.reduce((a, b) => a + b, 0);
  return values.map((v) => v / sum);
}

const named = (network, image) => {
  const place = (network * data.digits.count + image) * count;
  return logits.subarray(place, place + count).indexOf(0); // the largest is coded as 0
};

function groups() {
  const last = data.digits.networks.length - 1, teacher = data.digits.networks[0] === "teacher";
  const right = (network, i) => named(network, i) === truth[i];
  if (!teacher || !last) return [["wrong", (i) => !right(last, i)]];
  return [
    ["both wrong", (i) => !right(0, i) && !right(last, i)],
    ["teacher only right", (i) => right(0, i) && !right(last, i)],
    ["student only right", (i) => !right(0, i) && right(last, i)],
  ];
}

const images = () => [...Array(data.digits.count).keys()];

/** The images to show: those of a group, or those of a pair of classes for the chosen cell. */
function shownImages() {
  if (!digits.pair) return images().filter(groups()[digits.group][1]);
  const [i, j] = digits.pair;
  const own = places(state.cell).map((p) => state.cell.runs[p]).filter((run) => answered.has(run));
  return images().filter((k) => truth[k] === i && own.some((run) => answer(run, spots[k]) === j));
}

function filterDigits(i, j) {
  digits.pair = [i, j];
  digits.tiles = MANY_TILES;
  drawDigits();
  byId("digits").scrollIntoView({ block: "start" });
}

function drawDigits() {
  const found = shownImages(), [i, j] = digits.pair || [];
  byId("groups").replaceChildren(...groups().map(([name, belongs], n) => build("button", {
    type: "button", "aria-pressed": !digits.pair && n === digits.group ? "true" : "false",
    onclick: () => { Object.assign(digits, { group: n, pair: null, tiles: MANY_TILES }); drawDigits(); },
  }, `${name} (${images().filter(belongs).length})`)));
  if (digits.pair) byId("groups").append(build("span", {},
    `${data.classes[i]} taken for ${data.classes[j]} at ${label(state.cell)}`));
  const cut = data.digits.count < data.digits.wrong ? ` Of ${data.digits.wrong} such images, ${data.digits.count} are in this page.` : "";
  byId("counted").textContent = `${found.length} images. Choose one to see what the networks make of it.${cut}`;
  byId("tiles").replaceChildren(...found.slice(0, digits.tiles).map((k) => {
    const { columns } = data.digits, x = k % columns, y = Math.floor(k / columns);
    const words = data.digits.networks.map((name, n) => `${name}: ${data.classes[named(n, k)]}`);
    return build("button", {
      type: "button", class: "tile", "data-image": k, title: `is ${data.classes[truth[k]]}; ${words.join("; ")}`,
      "aria-label": `is ${data.classes[truth[k]]}; ${words.join("; ")}`,
      "aria-pressed": k === digits.chosen ? "true" : "false",
      style: `background-position:${-48 * x}px ${-48 * y}px`, onclick: () => showImage(k),
    });
  }));
  byId("more").hidden = found.length <= digits.tiles;
}

function showImage(k) {
  digits.chosen = k;
  for (const tile of document.querySelectorAll(".tile"))
    tile.setAttribute("aria-pressed", Number(tile.dataset.image) === k ? "true" : "false");
  byId("answer").hidden = false;
  drawBars();
}

/** Draw what the networks give each class, at the slider's temperature. */
function drawBars() {
  const k = digits.chosen, T = Number(byId("temperature").value);
  byId("at").textContent = String(T);
  byId("about").textContent = `The label says ${data.classes[truth[k]]}.`;
  const all = data.digits.networks.map((_, n) => softmax(n, k, T));
  let order = [...data.classes.keys()];
  if (count > 12) order = order.sort((a, b) => all[0][b] - all[0][a]).slice(0, 12);
  const wide = (WIDTH - 10) / order.length;
  byId("bars").replaceChildren(...data.digits.networks.map((name, n) => {
    const top = [...all[n].keys()].sort((a, b) => all[n][b] - all[n][a]).slice(0, 3);
    const words = top.map((c) => `${data.classes[c]} ${(100 * all[n][c]).toFixed(1)} %`).join(", ");
    const parts = order.flatMap((c, place) => [
      build("rect", { x: 5 + place * wide + 2, width: wide - 4, y: 54 - 50 * all[n][c],
        height: 50 * all[n][c], class: c === truth[k] ? "bar true" : "bar" },
      build("title", {}, `${data.classes[c]}: ${(100 * all[n][c]).toFixed(2)} %`)),
      write(5 + (place + 0.5) * wide, 66, short(data.classes[c], 4), c === truth[k] ? "middle strong" : "middle faint")]);
    return build("div", {}, build("b", {}, `${name}: `), words,
      picture(70, `${name} at T = ${T}: ${words}`, ...parts));
  }));
}

async function startDigits() {
  if (!data.digits) return;
  [truth, logits, steps, spots] = await Promise.all([
    unpack(data.digits.labels, Uint16Array), unpack(data.digits.logits, Uint8Array),
    unpack(data.digits.steps, Float32Array), unpack(data.digits.places, Uint32Array)]);
  const wide = 48 * data.digits.columns;
  document.head.append(build("style", {}, `.tile { background-image: url(${data.digits.sprite}); background-size: ${wide}px auto; }`));
  const cell = data.cells[data.chosen ?? 0], slider = byId("temperature");
  if (cell) {
    slider.max = Math.max(20, ...data.cells.map((c) => c.T));
    slider.value = cell.T > 1 ? cell.T : 4;
  }
  digits.group = groups().findIndex(([, belongs]) => images().some(belongs));
  if (groups()[1] && images().some(groups()[1][1])) digits.group = 1;
  slider.addEventListener("input", drawBars);
  byId("more").addEventListener("click", () => { digits.tiles += 4 * MANY_TILES; drawDigits(); });
  byId("digits").hidden = false;
  drawDigits();
  const [first] = shownImages();
  if (first !== undefined) showImage(first);
}

// ---------------------------------------------------------------- tables, buttons, print
function makeSortable(table) {
  const value = (row, column) => {
    const text = row.cells[column].textContent;
    const number = parseFloat(text.replaceAll(",", "").replace("−", "-"));
    return Number.isNaN(number) ? text : number;
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
      const numeric = rows.every(([v]) => typeof v === "number" || v === "–");
      const order = new Intl.Collator("en", { numeric: true });
      const compare = ([a], [b]) => numeric ? (a === "–") - (b === "–") || a - b
        : order.compare(String(a), String(b));
      rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
      for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    };
    head.replaceChildren(build("button", { type: "button", onclick: sort }, head.textContent));
  });
}

function makeCopy(button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = button.parentElement.querySelector("pre, code");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "copied";
    } catch { // a page from a file may not write there: select it for the keyboard
      getSelection().selectAllChildren(source);
      button.textContent = "selected: press Ctrl-C";
    }
  });
}

// ---------------------------------------------------------------- start
function listSeeds() {
  const seeds = unique(ofMethod().flatMap((c) => c.runs.map((run) => runs.seed[run])));
  if (!seeds.includes(state.seed)) state.seed = null;
  byId("seed").replaceChildren(build("option", { value: "" }, "mean"),
    ...seeds.map((s) => build("option", { value: s, selected: s === state.seed }, String(s))));
}

function startMap() {
  if (!data.cells.length) return;
  const redraw = () => { drawMap(); drawCell(); if (digits.pair) drawDigits(); };
  byId("method").append(...data.methods.map((name, n) => build("option", { value: n }, name)));
  const has = (show) => data.cells.some((cell) => figure(cell, show) !== null);
  const shows = Object.keys(SHOWN).filter(has);
  byId("show").append(...shows.map((key) => build("option", { value: key }, SHOWN[key].title)));
  state.show = shows[0];
  const first = data.cells[data.chosen ?? 0];
  state.method = first.m;
  state.cell = first;
  byId("method").value = first.m;
  byId("method").addEventListener("change", (event) => {
    state.method = Number(event.target.value);
    listSeeds();
    choose(ofMethod()[0]);
  });
  byId("show").addEventListener("change", (event) => { state.show = event.target.value; redraw(); });
  byId("seed").addEventListener("change", (event) => {
    state.seed = event.target.value === "" ? null : Number(event.target.value);
    redraw();
  });
  byId("map").addEventListener("click", onMapClick);
  byId("map").addEventListener("keydown", onMapKey);
  addEventListener("hashchange", readAddress);
  listSeeds();
  byId("explore").hidden = false;
  if (!readAddress()) redraw();
}

async function start() {
  document.querySelectorAll(".copy").forEach(makeCopy);
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  startMap();
  if (data.answers) [labels, answers] = await Promise.all([unpack(data.labels, Uint8Array), unpack(data.answers, Uint8Array)]);
  if (data.matrices) matrices = await unpack(data.matrices, Uint32Array);
  drawCell();
  await startDigits();
  document.body.dataset.ready = "yes"; // for the tests
}

start();
