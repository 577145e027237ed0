"use strict";
const byId = (id) => document.getElementById(id);
const grid = byId("grid");
const cards = grid ? [...grid.querySelectorAll(".picture")] : [];
const plural = (n, one, many) => `${n} ${n === 1 ? one : many}`;

// Another threshold: what would change?

const trial = byId("trial");
const scores = JSON.parse(byId("all-scores").textContent);
const given = parseFloat(trial.dataset.threshold);
const [low, high] = [parseFloat(trial.dataset.low), parseFloat(trial.dataset.high)];
const isLog = trial.dataset.log === "1";
const line = document.querySelector(".chart .threshold");
const label = document.querySelector(".chart .threshold-label");

function thresholdOf(position) {
  const value = low + (high - low) * position / 1000;
  return isLog ? 10 ** value : value;
}

function tryThreshold() {
  const isGiven = trial.value === trial.dataset.start;
  const at = isGiven ? given : thresholdOf(Number(trial.value));
  const count = (isDefect, limit) => scores.filter(([d, s]) => d === isDefect && s > limit).length;
  const [found, alarms] = [count(true, at), count(false, at)];
  const [foundBefore, alarmsBefore] = [count(true, given), count(false, given)];
  const nDefects = scores.filter(([d]) => d).length;
  const signed = (n) => n ? ` (${n > 0 ? "+" : "\u2212"}${Math.abs(n)})` : "";
  byId("what-if").textContent = isGiven
    ? "Move the slider to see what another threshold would change."
    : `At ${at.toPrecision(3)}: ${found} of ${nDefects} defects found${signed(found - foundBefore)}, `
      + `${plural(alarms, "false alarm", "false alarms")} in ${scores.length - nDefects} normal images${signed(alarms - alarmsBefore)}. `
      + `To keep it: efficientad threshold MODEL --at ${at.toPrecision(3)}`;
  const [left, right] = [Number(trial.dataset.left), Number(trial.dataset.right)];
  const x = left + (right - left) * Number(trial.value) / 1000;
  for (const end of ["x1", "x2"]) line.setAttribute(end, x.toFixed(1));
  label.setAttribute("x", (x + (x > (left + right) / 2 ? -6 : 6)).toFixed(1));
  label.setAttribute("text-anchor", x > (left + right) / 2 ? "end" : "start");
  label.textContent = `threshold ${at.toPrecision(4)}`;
  for (const card of cards) {
    const is = Number(card.dataset.score) > at;
    card.classList.toggle("changes", is !== (Number(card.dataset.score) > given));
  }
}

if (line) {
  const start = isLog ? Math.log10(given) : given;
  trial.value = Math.round(1000 * (start - low) / (high - low));
  trial.dataset.start = trial.value;
  trial.hidden = false;
  trial.addEventListener("input", tryThreshold);
  tryThreshold();
}

// The grid: filter and sort.

const controls = byId("controls");
const isWrong = (card) => ["missed", "false alarm"].includes(card.dataset.verdict);
const scoreOf = (card) => Number(card.dataset.score);
const near = (card) => Math.abs(scoreOf(card) - given);
const orders = {
  wrong: (a, b) => isWrong(b) - isWrong(a) || near(a) - near(b),
  high: (a, b) => scoreOf(b) - scoreOf(a),
  low: (a, b) => scoreOf(a) - scoreOf(b),
  near: (a, b) => near(a) - near(b),
  name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
};

function arrange() {
  const chosen = Object.fromEntries(new FormData(controls));
  cards.sort(orders[chosen.order]);
  let shown = 0;
  for (const card of cards) {
    const { verdict, type, source, name } = card.dataset;
    const fits = (!chosen.verdict || verdict === chosen.verdict)
      && (!chosen.type || type === chosen.type)
      && (!chosen.source || source === chosen.source)
      && name.toLowerCase().includes(chosen.search.toLowerCase());
    card.hidden = !fits;
    shown += fits;
  }
  grid.append(...cards);
  byId("n-shown").textContent = plural(shown, "image", "images");
}

// The viewer: full size, maps, keys.

const viewer = byId("viewer");
let current = null;
let layer = 0;

function showLayer(index) {
  layer = index;
  const map = viewer.querySelector(".map");
  const combined = current.querySelector(".map").src;
  const layers = [["combined", combined], ...JSON.parse(current.dataset.layers)];
  map.hidden = index < 0 || index >= layers.length;
  if (!map.hidden) map.src = layers[index][1];
  const buttons = [...layers.map(([name]) => name), "no map"].map((name, k) => {
    const button = document.createElement("button");
    const target = k < layers.length ? k : -1;
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", target === layer);
    button.addEventListener("click", () => showLayer(target));
    return button;
  });
  byId("view-layers").replaceChildren(...buttons);
}

function setLines() {
  viewer.querySelector(".lines").hidden = !byId("view-lines").checked || !current.querySelector(".lines");
}

function view(card) {
  current = card;
  const { name, type, score, verdict, reason, p } = card.dataset;
  const stack = viewer.querySelector(".stack");
  stack.style.cssText = card.style.cssText;
  stack.querySelector(".photo").src = card.querySelector(".photo").src;
  stack.querySelector(".photo").alt = name;
  const lines = card.querySelector(".lines");
  if (lines) stack.querySelector(".lines").src = lines.src;
  byId("view-name").textContent = name;
  byId("view-verdict").textContent = verdict;
  byId("view-verdict").className = card.querySelector(".verdict").className;
  const kind = type === "good" ? "normal image" : `defect: ${type}`;
  byId("view-reason").textContent = `${kind}; score ${Number(score).toPrecision(3)}, threshold ${given.toPrecision(3)}; `
    + reason + `; p-value ${p}`;
  showLayer(layer);
  setLines();
  if (!viewer.open) viewer.showModal();
}

function go(step) {
  const shown = cards.filter((card) => !card.hidden);
  const at = shown.indexOf(current);
  if (shown.length) view(shown[(at + step + shown.length) % shown.length]);
}

if (viewer) {
  const byIndex = new Map(cards.map((card) => [card.dataset.index, card]));
  controls.hidden = false;
  controls.addEventListener("input", arrange);
  controls.addEventListener("submit", (event) => event.preventDefault());
  arrange();
  document.addEventListener("click", (event) => {
    const card = event.target.closest(".picture");
    if (card) view(byIndex.get(card.dataset.index));
    const button = event.target.closest("[data-go]");
    if (button) go(Number(button.dataset.go));
    if (event.target.closest("[data-close]") || event.target === viewer) viewer.close();
  });
  byId("strength").addEventListener("input", (event) => {
    viewer.querySelector(".map").style.opacity = event.target.value;
  });
  byId("view-lines").addEventListener("input", setLines);
  byId("view-gray").addEventListener("input", (event) => {
    viewer.classList.toggle("gray", event.target.checked);
  });
  viewer.addEventListener("close", () => current.focus());
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
    if (/^[0-9]$/.test(event.key)) showLayer(Number(event.key) - 1);
    if (event.key === "o") byId("view-lines").click();
    if (event.key === "g") byId("view-gray").click();
  });
}
