// Words, numbers and signs that all views share.

import { html, svg } from "../vendor/lit-html/lit-html.js";
import { now } from "./api.js";

const SIGNS = {
  normal: svg`<circle cx="12" cy="12" r="10" class="fill"/><path d="m7 12.5 3.5 3.5L17 8.5" class="stroke"/>`,
  anomalous: svg`<path d="M8 2h8l6 6v8l-6 6H8l-6-6V8z" class="fill"/><path d="M12 6.5v7M12 17v.2" class="stroke"/>`,
  undecided: svg`<path d="M12 1 23 12 12 23 1 12z" class="fill"/><path d="M9.3 9.5a2.7 2.7 0 1 1 3.9 2.4c-.8.4-1.2.9-1.2 1.7M12 16.8v.2" class="stroke"/>`,
};
SIGNS.unsure = SIGNS.undecided;
SIGNS.defect = SIGNS.anomalous;

const WORDS = {
  normal: "Normal",
  anomalous: "Anomalous",
  undecided: "Undecided",
  unsure: "Unsure",
  defect: "Defect",
};

export function sign(decision) {
  return html`<svg class="sign ${decision}" viewBox="0 0 24 24" aria-hidden="true">
    ${SIGNS[decision] ?? SIGNS.undecided}
  </svg>`;
}

/** A decision or verdict by word, shape and color. */
export function badge(decision) {
  return html`<span class="badge ${decision}">${sign(decision)}${word(decision)}</span>`;
}

export function word(decision) {
  return WORDS[decision] ?? decision;
}

export function number(value, digits = 3) {
  if (value == null) return "–";
  return Number(value).toLocaleString(undefined, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

export function count(value) {
  return value == null ? "–" : Number(value).toLocaleString();
}

export function percent(share, digits = 1) {
  return share === null || Number.isNaN(share) ? "–" : `${number(100 * share, digits)} %`;
}

export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  let left = value;
  while (left >= 1000 && step < units.length - 1) {
    left /= 1000;
    step += 1;
  }
  return `${number(left, step > 1 && left < 100 ? 1 : 0)} ${units[step]}`;
}

/** A span of time in one unit: 4 s, 12 min, 3 h, 5 days. */
export function span(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, seconds);
  if (s < 100) return `${Math.floor(s)} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${count(Math.floor(s / 86400))} days`;
}

export function age(time) {
  return span((now() - Date.parse(time)) / 1000);
}

export function clock(time) {
  return new Date(time).toLocaleTimeString(undefined, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hourCycle: "h23",
  });
}

export function date(time) {
  const day = new Date(time);
  const isToday = day.toDateString() === new Date(now()).toDateString();
  return isToday
    ? clock(time)
    : `${day.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" })}, ${clock(time)}`;
}

/** A short name of a part. */
export function name(part) {
  return part.part || `…${part.id.slice(-6)}`;
}

export function score(part) {
  return part.masked_score ?? part.image_score ?? null;
}

export function empty(title, text) {
  return html`<div class="empty"><strong>${title}</strong><p>${text}</p></div>`;
}
