// Regions of interest and ignored ones, drawn as polygons on the image of a part.

import { html, nothing, svg } from "../vendor/lit-html/lit-html.js";
import { address } from "./api.js";
import { changed } from "./state.js";

const KINDS = { interest: "Defects count only here", ignore: "Defects do not count here" };
const LEAST = 3;
let corners = []; // of the polygon that is being drawn, as shares of width and height
let kind = "interest";

/** An editor of `regions`, on the image of a part; `onChange` gets the new list. */
export function regionEditor(regions, part, onChange) {
  const finish = () => {
    if (corners.length >= LEAST) onChange([...regions, { name: freeName(regions), kind, points: corners }]);
    corners = [];
    changed();
  };
  return html`<div class="regions">
    <div class="look">
      <fieldset class="segments"><legend class="hidden">Kind of region</legend>
        ${Object.keys(KINDS).map((each) => html`<button type="button" aria-pressed=${String(kind === each)}
          @click=${() => { kind = each; changed(); }}>${each}</button>`)}</fieldset>
      <span class="muted">${corners.length ? `${corners.length} corners` : `${KINDS[kind]}: tap its corners on the image`}</span>
      ${corners.length
        ? html`<button type="button" class="primary" ?disabled=${corners.length < LEAST} @click=${finish}>Close the shape</button>
            <button type="button" @click=${() => { corners = []; changed(); }}>Discard</button>`
        : nothing}
    </div>
    ${part ? canvas(regions, part) : html`<p class="muted">The first part that is stored will be shown here.</p>`}
    <ul class="regionlist">${regions.map((region, index) => html`<li class=${region.kind}>
      <strong>${region.name}</strong> ${KINDS[region.kind].toLowerCase()}
      <button type="button" @click=${() => onChange(regions.filter((_, i) => i !== index))} aria-label="Remove ${region.name}">Remove</button></li>`)}
    </ul></div>`;
}

function canvas(regions, part) {
  const { width, height } = part;
  const text = (points) => points.map(([x, y]) => `${x * width},${y * height}`).join(" ");
  const add = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const share = (value, from, size) => Math.min(Math.max((value - from) / size, 0), 1);
    corners = [...corners, [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)]];
    changed();
  };
  return html`<div class="viewer" .style=${`--ratio:${width / height}`}>
    <img class="photo" src=${address(`/inspections/${part.id}/preview`, { aligned: true })} alt="Last part" />
    <svg class="draw" viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" @click=${add}>
      ${regions.map((region) => svg`<polygon class=${region.kind} points=${text(region.points)} />`)}
      ${corners.length ? svg`<polyline class="new ${kind}" points=${text(corners)} />` : nothing}
      ${corners.map(([x, y]) => svg`<circle class=${kind} cx=${x * width} cy=${y * height} r=${Math.max(width, height) / 120} />`)}
    </svg></div>`;
}

function freeName(regions) {
  const taken = new Set(regions.map((region) => region.name));
  let number = 1;
  while (taken.has(`region ${number}`)) number += 1;
  return `region ${number}`;
}
