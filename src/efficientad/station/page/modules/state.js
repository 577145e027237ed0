// What the page knows. Views read it; `changed` draws the page again.

export const state = {
  view: "live",
  signedOut: false,
  role: null,
  station: null, // GET /system
  connected: false,
  lastStored: null, // time on the station's clock, ms
  gaps: [], // seconds between the last parts
  recent: [], // newest first
  alarms: 0,
  queued: 0,
  notice: null, // { text, kind }
  keys: read("keys", "on") === "on",
  look: { map: read("map", "combined"), opacity: Number(read("opacity", "0.6")), boxes: true },
};

const MAX_RECENT = 300;
let draw = () => {};
let waiting = false;

export function onChange(callback) {
  draw = callback;
}

export function changed() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

/** Remember a choice of this browser. */
export function keep(name, value) {
  try {
    localStorage.setItem(`efficientad.${name}`, value);
  } catch {
    // Storage is off: the choice holds until the page is closed.
  }
}

function read(name, otherwise) {
  try {
    return localStorage.getItem(`efficientad.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

let noticeTimer = 0;

/** Show a message at the bottom for some seconds. */
export function notify(text, kind = "info") {
  state.notice = { text, kind };
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => {
    state.notice = null;
    changed();
  }, kind === "error" ? 10000 : 6000);
  changed();
}

/** Take in a part that the station has stored. */
export function stored(part) {
  if (state.recent.some((known) => known.id === part.id)) return;
  const at = Date.parse(part.received_at);
  if (state.lastStored !== null && at > state.lastStored) {
    state.gaps = [(at - state.lastStored) / 1000, ...state.gaps].slice(0, 20);
  }
  state.lastStored = Math.max(state.lastStored ?? 0, at);
  state.recent = [part, ...state.recent]
    .sort((a, b) => Date.parse(b.received_at) - Date.parse(a.received_at))
    .slice(0, MAX_RECENT);
}

export function setLook(change) {
  Object.assign(state.look, change);
  keep("map", state.look.map);
  keep("opacity", String(state.look.opacity));
  changed();
}
