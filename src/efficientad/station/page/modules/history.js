// History: every stored part, by filters, with its image and its reviews.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { attempt, get, send } from "./api.js";
import { changed, notify, state } from "./state.js";
import { lookBar, scoreLine, thumbnail, viewer } from "./viewer.js";
import { badge, count, date, empty, name, number, score, sign, word } from "./words.js";

const NO_FILTER = { decision: "", source: "", review_state: "", part: "", since: "", until: "" };
let filter = { ...NO_FILTER };
let items = [];
let next = null;
let selected = null;
let loading = false;
let asked = 0;

async function load(more = false) {
  const turn = ++asked;
  loading = true;
  changed();
  const query = { ...filter, since: utc(filter.since), until: utc(filter.until), limit: 60, before: more ? next : "" };
  const page = await attempt(() => get("/inspections", query));
  if (turn !== asked) return;
  loading = false;
  if (page) {
    items = more ? [...items, ...page.items] : page.items;
    next = page.next;
  }
  changed();
}

function utc(time) {
  return time && new Date(time).toISOString();
}

/** A time as a field for local times has it. */
function local(time) {
  const at = new Date(time);
  return new Date(at - 60000 * at.getTimezoneOffset()).toISOString().slice(0, 16);
}

async function open(id) {
  const found = await attempt(() =>
    Promise.all([get(`/inspections/${id}`), get(`/inspections/${id}/reviews`)]));
  if (found) {
    const [part, { items: reviews, counts, is_golden: golden }] = found;
    selected = { ...part, reviews, golden, verdict: counts?.verdict };
  }
  changed();
  if (selected) document.querySelector("#part-title")?.focus();
}

function close() {
  const last = selected?.id;
  selected = null;
  window.history.replaceState(null, "", "#/history");
  changed();
  requestAnimationFrame(() => document.querySelector(`[href="#/history/${last}"]`)?.focus());
}

function set(field) {
  return (event) => {
    filter = { ...filter, [field]: event.target.value.trim() };
    load();
  };
}

function template() {
  if (selected) return details(selected);
  return html`<h1>History</h1>
    <form class="filters" @submit=${(event) => event.preventDefault()}>
      <label>Part <input data-filter type="search" .value=${filter.part} @change=${set("part")} placeholder="number" /></label>
      <label>Decision ${choice("decision", ["normal", "anomalous", "undecided"])}</label>
      <label>Review ${choice("review_state", ["queued", "reviewed"])}</label>
      <label>Source ${choice("source", sources())}</label>
      <label>From <input type="datetime-local" .value=${filter.since} @change=${set("since")} /></label>
      <label>Until <input type="datetime-local" .value=${filter.until} @change=${set("until")} /></label>
      <button type="button" @click=${clear}>Clear</button>
    </form>
    ${items.length
      ? html`<ul class="parts">${items.map(tile)}</ul>`
      : loading ? nothing : empty("No part fits", "Change the filter, or clear it.")}
    ${next ? html`<button type="button" class="more" ?disabled=${loading} @click=${() => load(true)}>Older parts</button>` : nothing}`;
}

function sources() {
  const known = (state.station?.sources ?? []).map((source) => source.name);
  return [...new Set([...known, ...state.recent.map((part) => part.source)])].sort();
}

function clear() {
  filter = { ...NO_FILTER };
  load();
}

function choice(field, values) {
  return html`<select @change=${set(field)}>
    <option value="">all</option>
    ${values.map((value) => html`<option .selected=${filter[field] === value} value=${value}>${value}</option>`)}
  </select>`;
}

function tile(part) {
  return html`<li><a class="part ${part.decision}" href="#/history/${part.id}">
    <img src=${thumbnail(part)} alt="" loading="lazy" />
    ${badge(part.decision)}
    <span class="name">${name(part)}</span>
    <span class="muted">${date(part.received_at)}</span>
    <span class="muted">score ${number(score(part))}${part.review_state ? html` · ${part.review_state}` : nothing}</span>
  </a></li>`;
}

function details(part) {
  const fact = (term, value) => (!value || value === "–" ? nothing : html`<div><dt>${term}</dt><dd>${value}</dd></div>`);
  const places = (part.regions ?? []).map((each) => each.name ?? "");
  const ms = (value) => (value == null ? null : `${number(value, 1)} ms`);
  return html`<div class="bar"><button type="button" @click=${close}>← Back</button>
      <h1 id="part-title" tabindex="-1">${name(part)}</h1></div>
    <div class="split">
      <section class="stage card ${part.decision}">
        <header class="verdict ${part.decision}">${sign(part.decision)}<strong>${word(part.decision)}</strong><span class="of">${part.source} · ${date(part.received_at)}</span></header>
        ${viewer(part)}
        <footer>${scoreLine(part)}${lookBar(part)}</footer>
      </section>
      <aside>
        <section class="card"><h2>Verdict</h2>
          ${verdictButtons((verdict) => decide(part, verdict))}
          ${part.reviews?.length
            ? html`<ol class="reviews">${part.reviews.map((each) => html`<li>${badge(each.verdict)} ${each.defect_type ?? ""}
                <span class="muted">${each.by}, ${date(each.at)}</span>${each.note ? html`<p>${each.note}</p>` : nothing}</li>`)}</ol>`
            : html`<p class="muted">Nobody has reviewed this part.</p>`}
          ${part.verdict === "normal" || part.verdict === "defect"
            ? html`<button type="button" @click=${() => golden(part)}>${part.golden ? "No longer a golden sample" : "Make it a golden sample"}</button>`
            : nothing}
        </section>
        <section class="card"><h2>Facts</h2><dl class="facts">
          ${fact("Score", number(score(part)))}${fact("Threshold", number(part.threshold))}
          ${fact("p-value", number(part.p_value))}
          ${fact("Regions", places.length && [count(places.length), ...new Set(places)].join(" "))}
          ${fact("Size", part.width && `${part.width} × ${part.height} pixels`)}
          ${fact("Brightness", number(part.brightness, 1))}
          ${fact("Waited", ms(part.wait_ms))}${fact("Decoded", ms(part.decode_ms))}
          ${fact("Predicted", ms(part.predict_ms))}${fact("Stored", ms(part.store_ms))}
          ${fact("Expected", part.expected)}${fact("Error", part.error)}
          ${fact("Model", html`<code>${part.model?.slice(0, 12)}</code>`)}
          ${fact("Rule", html`<code>${part.rule?.slice(-8)}</code>`)}
          ${fact("SHA-256", html`<code>${part.sha256?.slice(0, 16)}…</code>`)}
          ${fact("Identifier", html`<code>${part.id}</code>`)}
        </dl></section>
      </aside>
    </div>`;
}

export function verdictButtons(chosen) {
  return html`<div class="verdicts">
    <button type="button" class="normal" @click=${() => chosen("normal")} aria-keyshortcuts="1">${badge("normal")}<kbd>1</kbd></button>
    <button type="button" class="defect" @click=${() => chosen("defect")} aria-keyshortcuts="2">${badge("defect")}<kbd>2</kbd></button>
    <button type="button" class="unsure" @click=${() => chosen("unsure")} aria-keyshortcuts="3">${badge("unsure")}<kbd>3</kbd></button>
  </div>`;
}

async function decide(part, verdict) {
  const done = await attempt(() => send("POST", `/inspections/${part.id}/reviews`, { verdict }));
  if (done) await open(part.id);
}

async function golden(part) {
  const done = await attempt(async () => {
    if (part.golden) await send("DELETE", `/golden/${part.id}`);
    else await send("PUT", `/golden/${part.id}`, { verdict: part.verdict });
    return true;
  });
  if (!done) return;
  notify(part.golden ? "No longer a golden sample" : "A golden sample from now on");
  await open(part.id);
}

function step(by) {
  const at = items.findIndex((part) => part.id === selected?.id) + by;
  if (selected && items[at]) location.hash = `#/history/${items[at].id}`;
}

export const history = {
  title: "History",
  template,
  async enter([id, since]) {
    selected = null;
    if (id === "since") {
      filter = { ...NO_FILTER, since: local(since) };
      await load();
      return;
    }
    if (id) await open(id);
    if (!items.length || !id) await load();
  },
  keys: () =>
    selected
      ? {
          ArrowRight: () => step(1),
          ArrowLeft: () => step(-1),
          1: () => decide(selected, "normal"),
          2: () => decide(selected, "defect"),
          3: () => decide(selected, "unsure"),
        }
      : {},
};
