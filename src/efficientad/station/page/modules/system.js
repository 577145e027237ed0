// System: whether all works, what has happened, and how the station is set.

import { html } from "../vendor/lit-html/lit-html.js";
import { attempt, get, send } from "./api.js";
import { switchKeys } from "./keys.js";
import { changed, notify, state } from "./state.js";
import { age, bytes, count, date, percent } from "./words.js";

async function load() {
  const found = await attempt(() => get("/system"));
  if (found) state.station = found;
  changed();
}

async function turn(source, verb) {
  const done = await attempt(async () => (await send("POST", `/sources/${source.name}/${verb}`)) ?? true);
  if (done) notify(`${source.name}: ${verb === "pause" ? "paused" : "running again"}`);
  await load();
}

async function exportParts() {
  const job = await attempt(() => send("POST", "/exports", {}));
  if (job) notify(`The data set is being written to exports/${job.id} in the data folder`);
}

async function signOut() {
  await attempt(() => send("DELETE", "/session"));
  state.signedOut = true;
  changed();
}

function template() {
  const it = state.station;
  if (!it) return html`<h1>System</h1>`;
  const used = 1 - it.free_bytes / it.total_bytes;
  return html`<h1>System</h1>
    <div class="cards">
      <section class="card ${it.problem ? "alarm" : ""}"><h2>State</h2>
        <p class="big">${it.problem ? html`Not ready: ${it.problem}` : "Ready"}</p>
        <dl class="facts">
          <div><dt>Running since</dt><dd>${date(it.started_at)}</dd></div>
          <div><dt>Last stored part</dt><dd>${it.last_stored ? `${age(it.last_stored)} ago` : "none"}</dd></div>
          <div><dt>Images under way</dt><dd>${count(it.queue_length)}</dd></div>
          <div><dt>Version</dt><dd>${it.version}</dd></div>
          <div><dt>Your role</dt><dd>${state.role}</dd></div>
        </dl></section>
      <section class="card"><h2>Storage</h2>
        <p class="big">${bytes(it.free_bytes)} free</p>
        <meter min="0" max="1" low="0.8" high="0.95" optimum="0" .value=${used}>${percent(used)}</meter>
        <p class="muted">${percent(used)} of ${bytes(it.total_bytes)} is used.</p></section>
      <section class="card"><h2>Sinks</h2>
        ${Object.keys(it.undelivered).length
          ? html`<dl class="facts">${Object.entries(it.undelivered).map(([name, n]) => html`<div><dt>${name}</dt><dd>${n ? `${count(n)} wait` : "all delivered"}</dd></div>`)}</dl>`
          : html`<p class="muted">No broker and no webhook is set.</p>`}</section>
      <section class="card"><h2>This browser</h2>
        <label><input type="checkbox" .checked=${state.keys} @change=${switchKeys} /> Keys for reviews and maps</label>
        <p><button type="button" @click=${signOut}>Sign out</button></p></section>
    </div>
    <section class="card"><h2>Sources</h2>
      ${it.sources.length
        ? html`<ul class="sources">${it.sources.map((source) => html`<li><strong>${source.name}</strong> <span class="muted">${source.kind}</span>
            <span>${source.state}</span>
            ${source.state === "paused"
              ? html`<button type="button" @click=${() => turn(source, "resume")}>Resume</button>`
              : html`<button type="button" @click=${() => turn(source, "pause")}>Pause</button>`}</li>`)}</ul>`
        : html`<p class="muted">Images come by HTTP alone.</p>`}</section>
    <section class="card"><h2>Incidents</h2>
      ${it.incidents.length
        ? html`<div class="scroll" tabindex="0"><table><thead><tr><th>Time</th><th>Kind</th><th>Times</th><th>Detail</th></tr></thead>
          <tbody>${it.incidents.map((each) => html`<tr><td>${date(each.at)}</td><td>${each.kind.replaceAll("_", " ")}</td><td>${count(each.count)}</td><td>${each.detail}</td></tr>`)}</tbody></table></div>`
        : html`<p class="muted">None.</p>`}</section>
    <section class="card"><h2>Retraining</h2>
      <p>Reviewed parts become a data set that <code>efficientad train</code> reads: normal ones for the training, defects by their types for the test.</p>
      <button type="button" @click=${exportParts}>Write the data set</button></section>
    <section class="card"><h2>Settings</h2>
      <p class="muted">They come from flags, environment and file at the start; the page cannot change them.</p>
      <div class="scroll" tabindex="0"><table><tbody>${Object.entries(it.settings).map(([name, value]) => html`<tr><th scope="row">${name}</th>
        <td><code>${typeof value === "object" ? JSON.stringify(value) : String(value)}</code></td></tr>`)}</tbody></table></div></section>`;
}

let timer = 0;

export const system = {
  title: "System",
  template,
  async enter() {
    clearInterval(timer);
    timer = setInterval(() => (state.view === "system" ? load() : clearInterval(timer)), 5000);
    await load();
  },
  on: (kind) => kind === "incident" && load(),
};
