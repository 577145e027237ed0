// The frame of the page: navigation, the time since the last stored part, messages.

import { html, nothing, render, svg } from "../vendor/lit-html/lit-html.js";
import { attempt, follow, get, now, send } from "./api.js";
import { audit } from "./audit.js";
import { drift } from "./drift.js";
import { history } from "./history.js";
import { HELP, listen, switchKeys } from "./keys.js";
import { live } from "./live.js";
import { model } from "./model.js";
import { review } from "./review.js";
import { changed, notify, onChange, state, stored } from "./state.js";
import { system } from "./system.js";
import { LOOK_KEYS } from "./viewer.js";
import { span } from "./words.js";

const VIEWS = { live, history, review, model, drift, audit, system };
const ICONS = {
  live: svg`<circle cx="12" cy="12" r="3"/><path d="M6 6a8.5 8.5 0 0 0 0 12M18 6a8.5 8.5 0 0 1 0 12"/>`,
  history: svg`<circle cx="12" cy="12" r="9"/><path d="M12 7v5l4 2"/>`,
  review: svg`<path d="M4 5h16M4 12h8M4 19h6M14 16l3 3 5-6"/>`,
  model: svg`<path d="m12 3 8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9"/>`,
  drift: svg`<path d="M3 17l5-5 4 3 9-9M15 6h6v6"/>`,
  audit: svg`<path d="M6 3h9l4 4v14H6zM9 11h7M9 15h7"/>`,
  system: svg`<circle cx="12" cy="12" r="3"/><path d="M12 2v4M12 18v4M2 12h4M18 12h4M5 5l3 3M16 16l3 3M19 5l-3 3M8 16l-3 3"/>`,
};
const LATE = { least: 10, times: 5 };

const root = document.createElement("div");
root.id = "app";
document.body.append(root);

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  state.view = VIEWS[name] ? name : "live";
  document.title = `${VIEWS[state.view].title} · ${state.station?.name ?? "Inspection station"}`;
  attempt(() => VIEWS[state.view].enter?.(rest.map(decodeURIComponent)));
  changed();
}

function shell() {
  if (state.signedOut) return signIn();
  const view = VIEWS[state.view];
  return html`
    <a class="skip" href="#main" @click=${skip}>Skip to content</a>
    <header class="top">
      <span class="brand"><img src="icon.svg" alt="" width="28" height="28" />
        <span>${state.station?.name ?? "Inspection station"}</span></span>
      ${lastStored()}
      <button type="button" class="plain" @click=${openHelp} aria-label="Keys and help">?</button>
    </header>
    <nav aria-label="Views">
      ${Object.entries(VIEWS).map(
        ([name, each]) => html`<a href="#/${name}" aria-current=${name === state.view ? "page" : nothing}>
          <svg viewBox="0 0 24 24" aria-hidden="true">${ICONS[name]}</svg>
          <span>${each.title}</span>${mark(name)}</a>`,
      )}
    </nav>
    <main id="main" tabindex="-1" class=${state.view}>${view.template()}</main>
    ${help()}
    <div class="notices" role="status" aria-live="polite">${notice()}</div>`;
}

function mark(name) {
  if (name === "review" && state.queued) {
    return html`<b class="mark">${state.queued > 999 ? "999+" : state.queued}<span class="hidden"> parts to review</span></b>`;
  }
  if (name === "drift" && state.alarms) {
    return html`<b class="mark bad">${state.alarms}<span class="hidden"> open alarms</span></b>`;
  }
  return nothing;
}

/** Seconds since the last part is on the disk. */
function lastStored() {
  if (!state.connected && state.station) {
    return html`<p class="stored late"><strong>No connection</strong> to the station, trying again</p>`;
  }
  if (state.lastStored === null) return html`<p class="stored">No part is stored yet</p>`;
  const seconds = (now() - state.lastStored) / 1000;
  const usual = [...state.gaps].sort((a, b) => a - b)[state.gaps.length >> 1] ?? LATE.least;
  const late = seconds > Math.max(LATE.least, LATE.times * usual);
  return html`<p class="stored ${late ? "late" : ""}">
    <span>${late ? "No part for" : "Last part stored"}</span> <strong>${span(seconds)}</strong>${late ? nothing : " ago"}</p>`;
}

function notice() {
  if (!state.notice) return nothing;
  const { text, kind } = state.notice;
  return html`<div class="notice ${kind}">${text}</div>`;
}

function help() {
  return html`<dialog id="help" aria-labelledby="help-title">
    <h2 id="help-title">Keys</h2>
    <dl>${HELP.map(([key, text]) => html`<div><dt>${key.split(" ").map((k) => html`<kbd>${k}</kbd>`)}</dt><dd>${text}</dd></div>`)}</dl>
    <label><input type="checkbox" .checked=${state.keys} @change=${switchKeys} /> Use these keys in this browser</label>
    <form method="dialog"><button>Close</button></form>
  </dialog>`;
}

function openHelp() {
  const dialog = document.querySelector("#help");
  if (dialog?.open) dialog.close();
  else dialog?.showModal();
}

function skip(event) {
  event.preventDefault();
  document.querySelector("#main").focus();
}

function signIn() {
  return html`<main class="signin"><form @submit=${trySignIn}>
    <img src="icon.svg" alt="" width="48" height="48" />
    <h1>Inspection station</h1>
    <label>Token <input name="token" type="password" autocomplete="current-password" required autofocus /></label>
    <button class="primary">Sign in</button>
    <p class="muted">An administrator makes tokens with <code>efficientad serve --new-token</code>.</p>
  </form></main><div class="notices" role="status" aria-live="polite">${notice()}</div>`;
}

async function trySignIn(event) {
  event.preventDefault();
  const token = new FormData(event.target).get("token");
  try {
    await send("POST", "/session", { token });
  } catch (error) {
    notify(error.status === 401 ? "This token is not known, or has ended" : error.message, "error");
    return;
  }
  state.signedOut = false;
  start();
}

async function refresh() {
  state.station = await get("/system");
  state.role = (await get("/session")).role;
  const alarms = await get("/drift");
  state.alarms = alarms.alarms.filter((alarm) => !alarm.acknowledged_by).length;
  state.queued = (await get("/review-queue", { limit: 1 })).total;
}

/** Take in the newest parts. */
async function catchUp() {
  const { items } = await get("/inspections", { limit: 200 });
  for (const part of items.reverse()) stored(part);
}

async function onEvent(kind, content) {
  if (kind === "open") await attempt(catchUp);
  if (kind === "open" || kind === "alarm" || kind === "review") await attempt(refresh);
  if (kind === "inspection") {
    const today = state.station?.counts_today;
    if (today) today[content.decision] = (today[content.decision] ?? 0) + 1;
    if (content.review_state === "queued") state.queued += 1;
  }
  if (kind === "alarm") notify(`Drift alarm of ${content.source}`, "error");
  VIEWS[state.view].on?.(kind, content);
  changed();
}

async function start() {
  const isBegun = await attempt(async () => {
    await refresh();
    await catchUp();
    follow(onEvent);
    route();
    return true;
  });
  if (!isBegun && !state.signedOut) setTimeout(start, 5000);
}

// Today's counts end at midnight.
setInterval(() => !state.signedOut && refresh().then(changed, () => {}), 60000);
onChange(() => render(shell(), root));
listen(() => ({
  ...LOOK_KEYS,
  "/": () => document.querySelector("[data-filter]")?.focus(),
  "?": openHelp,
  ...VIEWS[state.view].keys?.(),
}));
addEventListener("hashchange", route);
setInterval(changed, 1000);
changed();
start();
