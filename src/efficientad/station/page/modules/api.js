// The station's HTTP interface.

import { changed, notify, state, stored } from "./state.js";

const ROOT = "/api/v1";
let ahead = 0; // station's clock minus this computer's, ms

/** An answer other than success, as RFC 9457 describes it. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || `the station answers with ${status}`);
    this.status = status;
    this.body = body;
  }
}

/** Return the time on the station's clock, ms. */
export function now() {
  return Date.now() + ahead;
}

export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  const text = new URLSearchParams(given).toString();
  return `${ROOT}${path}${text && `?${text}`}`;
}

export function get(path, query) {
  return request("GET", address(path, query));
}

export function send(method, path, body) {
  return request(method, address(path), body);
}

async function request(method, url, body) {
  const options = { method, headers: { accept: "application/json" } };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Problem(0, { detail: "the station does not answer" });
  }
  const date = Date.parse(answer.headers.get("date"));
  if (date && Math.abs(date + 500 - now()) > 1500) ahead = date + 500 - Date.now();
  const content = answer.headers.get("content-type") || "";
  const json = answer.status !== 204 && content.includes("json") ? await answer.json() : null;
  if (answer.status === 401 && !state.signedOut) {
    state.signedOut = true;
    changed();
  }
  if (!answer.ok) throw new Problem(answer.status, json);
  return json;
}

/** Run what a button does; show what goes wrong. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status !== 401) notify(error.message, "error");
    return undefined;
  }
}

const AGAIN_MS = 5000;
let events = null;

async function followAgain(onEvent) {
  await get("/session").catch(() => null);
  if (!state.signedOut) follow(onEvent);
}

/** Follow what happens at the station, also after it was away. */
export function follow(onEvent) {
  events?.close();
  events = new EventSource(`${ROOT}/events`);
  events.onopen = () => {
    state.connected = true;
    onEvent("open", null);
    changed();
  };
  events.onerror = () => {
    state.connected = false;
    changed();
    if (events.readyState === EventSource.CLOSED) setTimeout(() => followAgain(onEvent), AGAIN_MS);
  };
  events.addEventListener("inspection", (event) => {
    const part = JSON.parse(event.data);
    stored(part);
    onEvent("inspection", part);
    changed();
  });
  for (const kind of ["review", "alarm", "incident", "activation"]) {
    events.addEventListener(kind, (event) => onEvent(kind, JSON.parse(event.data)));
  }
}
