// Review: one part at a time, one key or finger for a verdict, then the next.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { attempt, get, send } from "./api.js";
import { verdictButtons } from "./history.js";
import { changed, state } from "./state.js";
import { lookBar, scoreLine, thumbnail, viewer } from "./viewer.js";
import { age, count, date, empty, name, percent, sign, word } from "./words.js";

const REASONS = {
  anomalous: "called anomalous",
  undecided: "not decided",
  close: "close to the threshold",
  random: "a random normal part: these show what is missed",
};
const N_AHEAD = 30;
let queue = [];
let at = 0;
let done = []; // parts with a verdict of this visit, newest last
let reason = "";
let note = "";
let type = "";
let types = [];
let missed = null;
let last = ""; // what was done last
let loading = false;
let writing = Promise.resolve();

function loadAnew() {
  queue = [];
  at = 0;
  return load();
}

async function load() {
  loading = true;
  const page = await attempt(() => get("/review-queue", { reason, limit: N_AHEAD }));
  loading = false;
  if (page) {
    // The part that is shown stays: a key is for it.
    const known = new Set([...done, ...queue].map((part) => part.id));
    queue = [...queue, ...page.items.filter((part) => !known.has(part.id))];
    state.queued = page.total;
    types = page.defect_types;
    missed = page.missed;
  }
  changed();
}

/** Store a review after those before it. */
function write(part, content) {
  writing = writing.then(() => attempt(() => send("POST", `/inspections/${part.id}/reviews`, content)));
  return writing;
}

/** Store a verdict and go on at once; a failure brings the part back. */
async function decide(verdict) {
  const part = queue[at];
  if (!part) return;
  const review = { verdict, note: note || null, defect_type: verdict === "defect" ? type || null : null };
  queue = queue.filter((each) => each !== part);
  at = Math.min(at, Math.max(queue.length - 1, 0));
  done = [...done, part].slice(-50);
  note = "";
  state.queued = Math.max(0, state.queued - 1);
  changed();
  if (!(await write(part, review))) {
    bringBack(part);
    return;
  }
  last = `${name(part)}: ${word(verdict).toLowerCase()}`;
  changed();
  if (queue.length < 5 && state.queued > queue.length) await load();
}

function undo() {
  const part = done.at(-1);
  if (!part) return;
  bringBack(part);
  last = `${name(part)} is back`;
  write(part, { verdict: "withdrawn" }).then((isGone) => isGone || load());
}

function bringBack(part) {
  done = done.filter((each) => each !== part);
  queue = [part, ...queue.filter((each) => each.id !== part.id)];
  at = 0;
  state.queued += 1;
  changed();
}

function step(by) {
  at = Math.min(Math.max(at + by, 0), Math.max(queue.length - 1, 0));
  changed();
}

function template() {
  const part = queue[at];
  return html`<div class="bar"><h1>Review</h1>
      <label class="inline">Reason
        <select data-filter @change=${(event) => { reason = event.target.value; loadAnew(); }}>
          <option value="">all</option>
          ${Object.keys(REASONS).map((each) => html`<option value=${each} .selected=${each === reason}>${each}</option>`)}
        </select></label>
      <span class="muted">${count(state.queued)} to review</span>
      <span role="status">${last}</span>
      <button type="button" ?disabled=${!done.length} @click=${undo} aria-keyshortcuts="z">Undo <kbd>z</kbd></button>
    </div>
    ${part ? stage(part) : loading ? nothing : empty("Nothing to review", "Anomalous parts, close ones and a few random normal ones appear here.")}
    ${missed ? missedNote() : nothing}`;
}

function missedNote() {
  const { n, n_defects: defects, bound } = missed;
  if (!n) return html`<p class="muted">No random normal part has a verdict yet, so it is not known how many defects are missed.</p>`;
  return html`<p class="muted">Of ${count(n)} random normal parts with a verdict, ${count(defects)} were defective: with 95 % confidence
    at most ${percent(bound)} of the parts called normal are defective.</p>`;
}

function stage(part) {
  return html`<div class="split review-split">
    <section class="stage card ${part.decision}">
      <header class="verdict ${part.decision}">${sign(part.decision)}<strong>${word(part.decision)}</strong>
        <span class="of">${name(part)} · ${part.source} · ${date(part.received_at)}</span></header>
      ${viewer(part)}
      <footer>${scoreLine(part)}${lookBar(part)}</footer>
    </section>
    <aside>
      <section class="card">
        <h2>Your verdict</h2>
        <p class="muted">In the queue for ${age(part.received_at)}: it is ${REASONS[part.reason] ?? part.reason}.</p>
        ${verdictButtons(decide)}
        <label>Type of a defect, for the next ones too
          <input list="types" .value=${type} maxlength="100" @input=${(event) => { type = event.target.value; }} placeholder="not named" /></label>
        <datalist id="types">${types.map((each) => html`<option value=${each}></option>`)}</datalist>
        <label>Note <textarea rows="2" maxlength="2000" data-note .value=${note} @input=${(event) => { note = event.target.value; }}></textarea></label>
      </section>
      <section class="card next"><h2>Next</h2>
        <ol>${queue.slice(at + 1, at + 7).map((each) => html`<li><img src=${thumbnail(each)} alt="${word(each.decision)}, ${name(each)}" /></li>`)}</ol>
        ${done.length ? html`<p class="muted">${count(done.length)} reviewed now.</p>` : nothing}
      </section>
    </aside>
  </div>`;
}

export const review = {
  title: "Review",
  template,
  enter: loadAnew,
  on(kind, content) {
    if (kind === "review") queue = queue.filter((part, index) => index <= at || part.id !== content.inspection);
    if (kind === "inspection" && content.review_state === "queued" && queue.length < 5) load();
  },
  keys: () => ({
    1: () => decide("normal"),
    2: () => decide("defect"),
    3: () => decide("unsure"),
    z: undo,
    n: () => document.querySelector("[data-note]")?.focus(),
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
  }),
};
