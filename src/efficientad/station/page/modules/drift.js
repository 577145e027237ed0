// Drift: do parts still look as they did, and since when not.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { attempt, get, send } from "./api.js";
import "./chart.js";
import { changed, notify, state } from "./state.js";
import { age, count, date, empty, number, span } from "./words.js";

const NAMES = {
  score: "Score of normal parts",
  brightness: "Brightness",
  contrast: "Contrast",
  sharpness: "Sharpness",
  flag_rate: "Share of anomalous parts",
};
const LINES = { score: "--accent", brightness: "--c2", contrast: "--c3", sharpness: "--c4", flag_rate: "--c5" };
let report = null;

async function load() {
  report = await attempt(() => get("/drift"));
  if (report) state.alarms = open().length;
  changed();
}

function open() {
  return report.alarms.filter((alarm) => !alarm.acknowledged_by);
}

async function acknowledge(event, alarm) {
  event.preventDefault();
  const note = new FormData(event.target).get("note");
  const done = await attempt(async () => (await send("POST", `/alarms/${alarm.id}/acknowledge`, { note })) ?? true);
  if (done) notify("Acknowledged; the watch begins anew");
  await load();
}

function template() {
  if (!report) return html`<h1>Drift</h1>`;
  const closed = report.alarms.filter((alarm) => alarm.acknowledged_by);
  return html`<h1>Drift</h1>
    ${open().map(alarmCard)}
    ${report.sources.length
      ? report.sources.map(source)
      : empty("Nothing is watched yet", "The watch begins with the first part of a source.")}
    ${closed.length
      ? html`<section class="card"><h2>Earlier alarms</h2><div class="scroll" tabindex="0"><table>
          <thead><tr><th>Raised</th><th>Source</th><th>Changed</th><th>Since</th><th>Acknowledged by</th><th>Note</th></tr></thead>
          <tbody>${closed.map((alarm) => html`<tr><td>${date(alarm.raised_at)}</td><td>${alarm.source}</td><td>${NAMES[alarm.kind] ?? alarm.kind}</td>
            <td>${alarm.since ? date(alarm.since) : "–"}</td><td>${alarm.acknowledged_by}</td><td>${alarm.note}</td></tr>`)}</tbody></table></div></section>`
      : nothing}`;
}

function alarmCard(alarm) {
  return html`<section class="card alarm" role="alert">
    <h2>${NAMES[alarm.kind] ?? alarm.kind} has changed · ${alarm.source}</h2>
    <p>Since about <strong>${alarm.since ? date(alarm.since) : "an unknown time"}</strong>; raised ${age(alarm.raised_at)} ago.
      Look at light, lens and parts${alarm.since ? html`, for example at <a href="#/history/since/${encodeURIComponent(alarm.since)}">the parts since then</a>` : nothing}.</p>
    <form class="inline" @submit=${(event) => acknowledge(event, alarm)}>
      <label>What was found <input name="note" required maxlength="2000" /></label>
      <button class="primary">Acknowledge</button>
    </form></section>`;
}

function source(each) {
  return html`<section class="card">
    <h2>${each.source}</h2>
    <p class="muted">${count(each.n_parts)} parts since ${date(each.since)}. While nothing changes, a false alarm comes less than once in
      ${count(report.parts_per_false_alarm)} parts${each.days_per_false_alarm ? html`: at the rate of now, once in <strong>${span(86400 * each.days_per_false_alarm)}</strong>` : nothing}.</p>
    <ul class="meters">${each.statistics.map(meter)}</ul>
    ${each.statistics[0].history.length > 1
      ? html`<time-chart .plot=${plot(each)}></time-chart>
        <p class="legend">${each.statistics.map((s) => html`<span class="key ${s.statistic}">${NAMES[s.statistic]}</span>`)}
          <span class="limit-line">alarm</span></p>`
      : nothing}
  </section>`;
}

function meter(each) {
  // Without drift it is the number of parts.
  const n = Math.max(each.n_parts, 1);
  const share = Math.log10(Math.max(each.value / n, 1)) / Math.log10(each.level / n);
  const isAlarm = each.value >= each.level;
  const text = isAlarm ? "changed" : share > 0.5 ? "being watched" : "as before";
  return html`<li class=${isAlarm ? "bad" : share > 0.5 ? "watch" : each.n_parts ? "good" : ""}>
    <span>${NAMES[each.statistic]}</span>
    <meter min="0" max="1" low="0.5" high="0.999" optimum="0" .value=${Math.min(share, 1)}>${number(100 * share, 0)} %</meter>
    <strong>${each.n_parts ? text : "learning"}</strong>
    <small>${each.since && share > 0.25 ? `perhaps since ${date(each.since)}` : ""}</small></li>`;
}

function plot(each) {
  const times = each.statistics[0].history.map(([at]) => at);
  return {
    x: times,
    unit: "evidence, log₁₀",
    range: (_, low, high) => [Math.min(low ?? 0, 0), Math.max((high ?? 0) + 0.5, Math.log10(each.statistics[0].level) + 0.5)],
    series: [
      ...each.statistics.map((s) => ({ label: s.statistic, values: s.history.map(([, value]) => value), color: LINES[s.statistic], line: true })),
      { label: "alarm", values: times.map(() => Math.log10(each.statistics[0].level)), color: "--anomalous", line: true, dash: [6, 4] },
    ],
  };
}

export const drift = { title: "Drift", template, enter: load, on: (kind) => kind === "alarm" && load() };
