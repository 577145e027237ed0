// Keys: one each, off in fields, and switchable for those who type by speech.

import { changed, keep, state } from "./state.js";

export const HELP = [
  ["1", "Review: normal, then the next part"],
  ["2", "Review: defect, then the next part"],
  ["3", "Review: unsure, then the next part"],
  ["z", "Undo the last verdict"],
  ["n", "Write a note"],
  ["← →", "Newer or older part"],
  ["m", "Next map: combined, local, global"],
  ["[ ]", "Heatmap weaker or stronger"],
  ["o", "Original image without heatmap and boxes"],
  ["/", "Filter"],
  ["?", "This list"],
];

const FIELDS = "input:not([type=range]):not([type=checkbox]), select, textarea, [contenteditable]";

/** Call the function of a key, as long as keys are on and nobody types. */
export function listen(keysOf) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target.matches?.(FIELDS)) event.target.blur();
    if (!state.keys || event.target.matches?.(FIELDS)) return;
    if (document.querySelector("dialog[open]") && event.key !== "?") return;
    const action = keysOf()[event.key];
    if (!action || (event.repeat && "123z".includes(event.key))) return;
    event.preventDefault();
    action();
  });
}

export function switchKeys() {
  state.keys = !state.keys;
  keep("keys", state.keys ? "on" : "off");
  changed();
}
