// A part with its heatmap and the boxes of its regions.

import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { address } from "./api.js";
import { setLook, state } from "./state.js";
import { name, number, score, word } from "./words.js";

export const MAPS = ["combined", "local", "global"];
const STEP = 0.1;
let usualRatio = 1; // of the last part, until the size of a new one is known

export function thumbnail(part) {
  return address(`/inspections/${part.id}/thumbnail`);
}

/** The image of a part under its heatmap and boxes. */
export function viewer(part) {
  const { map, opacity, boxes } = state.look;
  const path = `/inspections/${part.id}`;
  if (part.media_state === "removed") {
    return html`<div class="viewer gone">The image was removed by the retention rules.</div>`;
  }
  if (part.width) usualRatio = part.width / part.height;
  const hasMap = boxes && part.decision !== "undecided";
  return html`<div class="viewer" .style=${`--ratio:${usualRatio}`}>
    <img class="photo" src=${address(`${path}/preview`)} alt="Part ${name(part)}, ${word(part.decision)}" />
    ${hasMap
      ? html`<img class="heat" .style=${`opacity:${opacity}`} alt=""
          src=${address(`${path}/heatmap`, { map })} />`
      : nothing}
    ${boxes ? regionBoxes(part) : nothing}
  </div>`;
}

function regionBoxes(part) {
  const { width, height } = part;
  if (!part.regions?.length) return nothing;
  const pad = Math.max(width, height) / 80;
  return html`<svg class="boxes" viewBox="0 0 ${width} ${height}" aria-hidden="true">
    ${part.regions.map((region) => [box(region, pad, "under"), box(region, pad, "")])}
  </svg>`;
}

/** A box around a region, with some room. */
function box({ x, y, width, height }, pad, kind) {
  return svg`<rect class=${kind} x=${x - pad} y=${y - pad} width=${width + 2 * pad} height=${height + 2 * pad} />`;
}

/** Choice of the map, its opacity, and the image alone. */
export function lookBar(part) {
  const { map, opacity, boxes } = state.look;
  return html`<div class="look">
    <fieldset class="segments">
      <legend class="hidden">Map</legend>
      ${MAPS.map(
        (each) => html`<button type="button" aria-pressed=${String(boxes && map === each)}
          @click=${() => setLook({ map: each, boxes: true })}>${each}</button>`,
      )}
      <button type="button" aria-pressed=${String(!boxes)}
        @click=${() => setLook({ boxes: !boxes })}>original</button>
    </fieldset>
    <label class="slider">Heatmap
      <input type="range" min="0" max="1" step=${STEP} .value=${String(opacity)}
        ?disabled=${!boxes}
        @input=${(event) => setLook({ opacity: Number(event.target.value) })} />
    </label>
    <a href=${address(`/inspections/${part.id}/image`)} target="_blank" rel="noopener">Open the file</a>
  </div>`;
}

/** Score of a part on a line with its threshold. */
export function scoreLine(part) {
  const value = score(part);
  const { threshold } = part;
  if (value === null || !threshold) {
    return html`<p class="muted">No score: ${part.error || "the part could not be inspected"}.</p>`;
  }
  const top = 2 * threshold;
  const at = 100 * Math.min(Math.max(value / top, 0), 1);
  return html`<div class="scoreline ${part.decision}">
    <div class="track"><span class="limit"></span><span class="value" .style=${`left:${at}%`}></span></div>
    <p><strong>Score ${number(value)}</strong>
      <span>threshold ${number(threshold)}${value > top ? ", far above" : ""}</span></p>
  </div>`;
}

/** Keys of the viewer. */
export const LOOK_KEYS = {
  m: () => setLook({ map: MAPS[(MAPS.indexOf(state.look.map) + 1) % MAPS.length], boxes: true }),
  "[": () => setLook({ opacity: stepped(-STEP) }),
  "]": () => setLook({ opacity: stepped(STEP) }),
  o: () => setLook({ boxes: !state.look.boxes }),
};

function stepped(by) {
  return Math.round(10 * Math.min(Math.max(state.look.opacity + by, 0), 1)) / 10;
}
