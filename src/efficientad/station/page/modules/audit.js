// Audit: who did what, when and why.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { address, attempt, get } from "./api.js";
import { changed } from "./state.js";
import { count, date, empty } from "./words.js";

let items = [];
let next = null;
let filter = "";
let check = null;

async function load(more = false) {
  const page = await attempt(() => get("/audit", { actor: filter, limit: 100, before: more ? next : "" }));
  if (page) {
    items = more ? [...items, ...page.items] : page.items;
    next = page.next;
  }
  changed();
}

async function verify() {
  check = await attempt(() => get("/audit/verify"));
  changed();
}

function template() {
  return html`<div class="bar"><h1>Audit</h1>
      <label class="inline">Person <input data-filter type="search" .value=${filter} @change=${(event) => { filter = event.target.value.trim(); load(); }} /></label>
      <button type="button" @click=${verify}>Verify the chain</button>
      <a class="button" href=${address("/audit.csv")} download>Save as CSV</a></div>
    ${check ? result() : nothing}
    ${items.length
      ? html`<div class="card scroll" tabindex="0"><table>
          <thead><tr><th>No.</th><th>Time</th><th>Person</th><th>Action</th><th>Subject</th><th>Change</th><th>Reason</th><th>Hash</th></tr></thead>
          <tbody>${items.map(row)}</tbody></table></div>`
      : empty("Nothing is recorded", "Every action of a person appears here.")}
    ${next ? html`<button type="button" class="more" @click=${() => load(true)}>Older entries</button>` : nothing}`;
}

function result() {
  return check.fault
    ? html`<p class="result bad" role="alert"><strong>The chain is broken:</strong> ${check.fault}.</p>`
    : html`<p class="result good" role="status"><strong>The chain is whole:</strong> ${count(check.n)} entries.
        Last hash <code>${check.hash.slice(0, 16)}…</code>. Compare it with the one in the log or at the broker: a chain alone does not show a cut end.</p>`;
}

function row(entry) {
  return html`<tr><td>${entry.seq}</td><td class="nowrap">${date(entry.at)}</td><td>${entry.actor} <small>${entry.role}</small></td><td class="nowrap">${entry.action}</td>
    <td><code>${entry.subject.length > 16 ? `…${entry.subject.slice(-8)}` : entry.subject}</code></td>
    <td>${difference(entry)}</td><td>${entry.reason}</td><td><code>${entry.hash.slice(0, 8)}</code></td></tr>`;
}

function difference({ before, after }) {
  const text = (value) => (value !== null && typeof value === "object"
    ? Object.entries(value).filter(([, each]) => each !== null).map(([key, each]) => `${key} ${typeof each === "object" ? JSON.stringify(each) : each}`).join(", ")
    : String(value));
  const short = (value) => text(value).replace(/\b([0-9a-f]{12})[0-9a-f]{52}\b/g, "$1…");
  if (before === null && after === null) return nothing;
  return html`${before === null ? nothing : html`<del>${short(before)}</del> `}${after === null ? nothing : html`<ins>${short(after)}</ins>`}`;
}

export const audit = { title: "Audit", template, enter: () => load() };
