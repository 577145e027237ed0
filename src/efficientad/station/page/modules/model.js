// Model: what decides now, and a new rule tried on the last parts before it counts.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { attempt, get, send } from "./api.js";
import { regionEditor } from "./regions.js";
import { changed, notify, state } from "./state.js";
import { thumbnail } from "./viewer.js";
import { badge, bytes, count, date, empty, name, number, percent } from "./words.js";

let models = [];
let rules = [];
let activations = [];
let golden = [];
let draft = null; // rule that is being written
let trial = null; // what it would decide
let trials = {}; // by model
let busy = "";

async function load() {
  const found = await attempt(() =>
    Promise.all([get("/models"), get("/rules"), get("/activations"), get("/golden")]));
  if (!found) return;
  [models, rules, activations, golden] = found;
  if (!draft && active()) begin(active().model);
  changed();
  await loadTrials();
}

async function loadTrials() {
  const found = await attempt(() => Promise.all(models.map(({ sha256 }) => get(`/models/${sha256}/trials`))));
  if (!found) return;
  trials = Object.fromEntries(models.map(({ sha256 }, n) => [sha256, found[n]]));
  changed();
  if (state.view === "model" && found.flat().some((each) => each.state === "running")) setTimeout(loadTrials, 1000);
}

async function tryModel(model) {
  const job = await attempt(() => send("POST", `/models/${model}/trials`, {}));
  if (job) await loadTrials();
}

function active() {
  return activations.find((each) => each.active && each.source === "*") ?? activations.find((each) => each.active);
}

function newest(model) {
  return rules.filter((rule) => rule.model === model).sort((a, b) => b.version - a.version)[0];
}

function begin(model) {
  const rule = newest(model);
  if (!rule) return;
  const { threshold, budget, min_area: area, regions, version } = rule;
  draft = { model, version: version + 1, threshold, budget, min_area: area, regions, reason: "" };
  trial = null;
  changed();
}

function edit(change) {
  draft = { ...draft, ...change };
  trial = null;
  changed();
}

async function preview() {
  busy = "preview";
  changed();
  const { version, reason, ...rule } = draft;
  trial = await attempt(() => send("POST", "/rules/preview", rule)) ?? null;
  busy = "";
  changed();
}

async function save(event) {
  event.preventDefault();
  busy = "save";
  changed();
  const rule = await attempt(() => send("POST", "/rules", draft));
  busy = "";
  if (rule) {
    notify(`Rule ${rule.version} is written; it counts once it is activated`);
    draft = null;
    await load();
  }
  changed();
}

async function activate(event, source, model, rule) {
  event.preventDefault();
  const reason = new FormData(event.target).get("reason");
  busy = "activate";
  changed();
  const done = await attempt(() => send("POST", "/activations", { source, model, rule, reason }));
  busy = "";
  if (done) {
    notify("Activated; the golden samples agree");
    event.target.reset();
  }
  await load();
}

function nameOf(sha) {
  return models.find((model) => model.sha256 === sha)?.name ?? sha.slice(0, 12);
}

function template() {
  if (!models.length) return html`<h1>Model</h1>${empty("No model yet", "The station is opening its first model.")}`;
  return html`<h1>Model</h1>
    ${activeCard()}
    ${draft ? ruleCard() : nothing}
    ${goldenCard()}
    ${modelsCard()}
    ${historyCard()}`;
}

function activeCard() {
  return html`<section class="card"><h2>Decides now</h2><div class="scroll" tabindex="0"><table>
    <thead><tr><th>Source</th><th>Model</th><th>Rule</th><th>Threshold</th><th>Least area</th><th>Regions</th><th>Since</th><th>By</th></tr></thead>
    <tbody>${activations.filter((each) => each.active).map((each) => {
      const rule = rules.find((known) => known.id === each.rule);
      return html`<tr><td>${each.source === "*" ? "all" : each.source}</td><td>${nameOf(each.model)}</td><td>${rule?.version}</td>
        <td>${number(rule?.threshold)}</td><td>${count(rule?.min_area)} px</td><td>${count(rule?.regions.length)}</td><td>${date(each.at)}</td><td>${each.by}</td></tr>`;
    })}</tbody></table></div></section>`;
}

function ruleCard() {
  const before = newest(draft.model);
  const value = (field) => (event) => edit({ [field]: Number(event.target.value) });
  return html`<section class="card"><h2>New rule ${draft.version} of ${nameOf(draft.model)}</h2>
    <form class="rule" @submit=${save}>
      <div class="fields">
        <label>Threshold <input type="number" step="any" required .value=${String(Number(draft.threshold.toPrecision(6)))} @change=${value("threshold")} />
          <small>now ${number(before.threshold)}; higher scores are anomalous</small></label>
        <label>Least area, pixels <input type="number" min="0" step="1" required .value=${String(draft.min_area)} @change=${value("min_area")} />
          <small>smaller regions do not count</small></label>
        <label>Reason <input required maxlength="2000" .value=${draft.reason} @input=${(event) => { draft.reason = event.target.value; }} /></label>
        <div class="actions">
          <button type="button" ?disabled=${busy} @click=${preview}>Try it on the last 1000 parts</button>
          <button class="primary" ?disabled=${busy}>Write the rule</button>
          <button type="button" @click=${() => begin(draft.model)}>Reset</button>
        </div>
        ${trial ? trialNote() : nothing}
      </div>
      ${regionEditor(draft.regions, state.recent.find((part) => part.width), (regions) => edit({ regions }))}
    </form></section>`;
}

function trialNote() {
  const { n, n_flagged: flagged, n_flagged_before: before, changed: differs, is_exact: exact } = trial;
  return html`<div class="result ${flagged > before ? "watch" : "good"}" role="status">
    <p>Of the last ${count(n)} parts it would flag ${exact ? "" : "about "}<strong>${count(flagged)}</strong> (${percent(n ? flagged / n : NaN)}); they were ${count(before)}.</p>
    ${differs?.length
      ? html`<ul class="thumbs">${differs.slice(0, 12).map((part) => html`<li><a href="#/history/${part.id}"><img src=${thumbnail(part)} alt="${name(part)}" />
          ${badge(part.decision_then)}</a></li>`)}</ul>`
      : nothing}</div>`;
}

function goldenCard() {
  return html`<section class="card"><h2>Golden samples</h2>
    <p class="muted">A model or rule is activated only if it decides all of these as people did. Choose them in History.</p>
    ${golden.length
      ? html`<ul class="thumbs">${golden.map((each) => html`<li><a href="#/history/${each.inspection}">
          <img src=${thumbnail({ id: each.inspection })} alt="Golden sample" />${badge(each.verdict)}</a></li>`)}</ul>`
      : html`<p>None yet.</p>`}</section>`;
}

function modelsCard() {
  return html`<section class="card"><h2>Models and rules</h2>
    ${models.map((model) => html`<details><summary><strong>${model.name}</strong>
        <span class="muted">${bytes(model.bytes)}, added ${date(model.added_at)} by ${model.added_by}, <code>${model.sha256.slice(0, 12)}</code></span></summary>
      <dl class="facts">
        ${facts(model).map(([term, text]) => html`<div><dt>${term}</dt><dd>${text}</dd></div>`)}
      </dl>
      <div class="scroll" tabindex="0"><table><thead><tr><th>Rule</th><th>Threshold</th><th>Least area</th><th>Regions</th><th>Written</th><th>Reason</th><th></th></tr></thead>
      <tbody>${rules.filter((rule) => rule.model === model.sha256).map(ruleRow)}</tbody></table></div>
      ${(trials[model.sha256] ?? []).slice(0, 3).map(trialRow)}
      <button type="button" @click=${() => begin(model.sha256)}>New rule of this model</button>
      <button type="button" @click=${() => tryModel(model.sha256)}>Try it on the last 200 parts</button></details>`)}</section>`;
}

function trialRow({ at, by, state: now, detail, result }) {
  const words = result
    ? html`of ${count(result.n)} parts it flags <strong>${count(result.n_flagged)}</strong>, before ${count(result.n_flagged_before)};
        of ${count(result.n_reviewed)} reviewed ones <strong>${count(result.n_agreeing)}</strong> agree, before ${count(result.n_agreeing_before)}`
    : detail ?? "while the line rests";
  return html`<p class="result ${now === "failed" ? "bad" : "good"}" role="status">Trial of ${date(at)} by ${by}, ${now}: ${words}.</p>`;
}

function facts({ provenance, calibration }) {
  return [
    ["Preset", provenance.preset],
    ["Held-out normal images", calibration.normal_scores?.length],
    ["Threshold of the file", number(calibration.threshold)],
    ["False-alarm budget", calibration.false_alarm_budget && percent(calibration.false_alarm_budget)],
  ].filter(([, text]) => text !== undefined && text !== null);
}

function ruleRow(rule) {
  const isActive = activations.some((each) => each.active && each.rule === rule.id);
  return html`<tr><td>${rule.version}</td><td>${number(rule.threshold)}</td><td>${count(rule.min_area)} px</td><td>${rule.regions.length}</td>
    <td>${date(rule.at)}, ${rule.by}</td><td>${rule.reason}</td>
    <td>${isActive ? html`<strong>active</strong>` : html`<form class="inline" @submit=${(event) => activate(event, active()?.source ?? "*", rule.model, rule.id)}>
      <label><span class="hidden">Reason</span><input name="reason" placeholder="reason" required maxlength="2000" /></label>
      <button ?disabled=${busy}>Activate</button></form>`}</td></tr>`;
}

function historyCard() {
  return html`<section class="card"><h2>Activations</h2><div class="scroll" tabindex="0"><table>
    <thead><tr><th>Time</th><th>Source</th><th>Model</th><th>Rule</th><th>By</th><th>Reason</th></tr></thead>
    <tbody>${activations.slice(0, 20).map((each) => html`<tr><td>${date(each.at)}</td><td>${each.source === "*" ? "all" : each.source}</td>
      <td>${nameOf(each.model)}</td><td>${rules.find((rule) => rule.id === each.rule)?.version}</td><td>${each.by}</td><td>${each.reason}</td></tr>`)}</tbody>
  </table></div></section>`;
}

export const model = { title: "Model", template, enter: load };
