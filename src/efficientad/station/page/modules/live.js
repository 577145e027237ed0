// Live: the newest part, those before it, and the scores.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import "./chart.js";
import { attempt, get } from "./api.js";
import { changed, state } from "./state.js";
import { lookBar, scoreLine, thumbnail, viewer } from "./viewer.js";
import { age, badge, clock, count, empty, name, percent, score, sign, word } from "./words.js";

const N_STRIP = 10;
const REACH = 2.4; // thresholds that the chart shows; higher scores are at its edge
let asked = null; // part whose details are on their way
let held = null; // part that is looked at; null: the newest one

function shown() {
  return state.recent.find((part) => part.id === held) ?? state.recent[0];
}

/** Get size and regions of a part: the events do not have them. */
async function complete(part) {
  if (part.regions || asked === part.id) return;
  asked = part.id;
  const full = await attempt(() => get(`/inspections/${part.id}`));
  if (full) Object.assign(part, full);
  changed();
}

function hold(part) {
  held = part?.id ?? null;
  changed();
}

function step(by) {
  const at = state.recent.indexOf(shown()) + by;
  if (state.recent[at]) hold(at === 0 && by < 0 ? null : state.recent[at]);
}

function template() {
  const part = shown();
  if (!part) {
    return html`<h1>Live</h1>${empty("Waiting for the first part", "Send one by HTTP, put one into a watched folder, or start a camera.")}`;
  }
  complete(part);
  return html`<h1 class="hidden">Live</h1>
    <div class="live-grid">
      <section class="stage card ${part.decision}" aria-label="Part">
        <header class="verdict ${part.decision}">
          ${sign(part.decision)}
          <strong>${word(part.decision)}</strong>
          <span class="of">${name(part)} · ${part.source} · ${clock(part.received_at)}</span>
          ${held
            ? html`<button type="button" class="follow" @click=${() => hold(null)}>Follow the newest</button>`
            : nothing}
        </header>
        ${viewer(part)}
        <footer>${scoreLine(part)}${lookBar(part)}</footer>
      </section>
      <aside>${numbers()}${lastAnomalous()}</aside>
      <section class="strip" aria-label="Last parts">
        ${state.recent.slice(0, N_STRIP).map(
          (each) => html`<button type="button" class="tile ${each.decision}" aria-pressed=${String(each === part)}
            @click=${() => hold(each)} aria-label="${word(each.decision)}, ${name(each)}, ${clock(each.received_at)}">
            <img src=${thumbnail(each)} alt="" loading="lazy" />
            <span>${sign(each.decision)}${clock(each.received_at)}</span></button>`,
        )}
      </section>
      <section class="card scores">
        <h2>Scores of the last ${count(state.recent.length)} parts</h2>
        <time-chart .plot=${plot()}></time-chart>
        <p class="legend">${badge("normal")}${badge("anomalous")}<span class="limit-line">threshold</span></p>
      </section>
    </div>`;
}

function numbers() {
  const today = state.station?.counts_today ?? {};
  const n = Object.values(today).reduce((sum, each) => sum + each, 0);
  const row = (decision) => html`<div class="number ${decision}">
    <dt>${sign(decision)}${word(decision)}</dt>
    <dd>${count(today[decision] ?? 0)} <small>${n ? percent((today[decision] ?? 0) / n) : ""}</small></dd></div>`;
  return html`<section class="card numbers"><h2>Today: ${count(n)} parts</h2>
    <dl>${["normal", "anomalous", "undecided"].map(row)}</dl></section>`;
}

function lastAnomalous() {
  const part = state.recent.find((each) => each.decision !== "normal");
  return html`<section class="card"><h2>Last part that was not normal</h2>
    ${part
      ? html`<button type="button" class="last ${part.decision}" @click=${() => hold(part)}>
          <img src=${thumbnail(part)} alt="" />
          <span>${badge(part.decision)}<br />${name(part)}<br /><small>${age(part.received_at)} ago</small></span></button>`
      : html`<p class="muted">None among these parts.</p>`}</section>`;
}

function plot() {
  const parts = [...state.recent].reverse();
  const of = (decision) => parts.map((part) => (part.decision === decision ? clipped(part) : null));
  return {
    x: parts.map((part) => Date.parse(part.received_at) / 1000),
    series: [
      { label: "Normal", values: of("normal"), color: "--normal" },
      { label: "Anomalous", values: of("anomalous"), color: "--anomalous" },
      { label: "Threshold", values: parts.map((part) => part.threshold ?? null), color: "--ink", line: true, dash: [6, 4] },
    ],
  };
}

function clipped(part) {
  const value = score(part);
  return value === null || !part.threshold ? value : Math.min(value, REACH * part.threshold);
}

export const live = {
  title: "Live",
  template,
  enter() {
    held = null;
  },
  keys: () => ({ ArrowRight: () => step(1), ArrowLeft: () => step(-1) }),
};
