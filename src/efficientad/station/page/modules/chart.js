// Charts by uPlot, in the colors of the page.

import { clock } from "./words.js";

/** `plot` is { x, series: [{ label, values, color, line, dash }] }. */
class TimeChart extends HTMLElement {
  #chart = null;
  #shape = "";
  #plot = null;
  #watcher = new ResizeObserver(() => this.#fit());
  #dark = matchMedia("(prefers-color-scheme: dark)");

  connectedCallback() {
    this.#watcher.observe(this);
    this.#dark.addEventListener("change", this.#anew);
  }

  disconnectedCallback() {
    this.#watcher.disconnect();
    this.#dark.removeEventListener("change", this.#anew);
    this.#chart?.destroy();
    this.#chart = null;
  }

  set plot(plot) {
    this.#plot = plot;
    this.#show();
  }

  #anew = () => {
    this.#chart?.destroy();
    this.#chart = null;
    this.#show();
  };

  #show() {
    const { x, series } = this.#plot;
    const data = [x, ...series.map((each) => each.values)];
    const shape = series.map((each) => each.label).join();
    if (this.#chart && shape === this.#shape) {
      this.#chart.setData(data);
      return;
    }
    this.#chart?.destroy();
    this.#chart = null;
    if (!this.clientWidth) return;
    this.#shape = shape;
    this.#chart = new globalThis.uPlot(this.#options(), data, this);
  }

  /** Return a color of the page, light or dark. */
  #color(name) {
    this.style.color = `var(${name})`;
    return getComputedStyle(this).color;
  }

  #options() {
    const { series, unit = "", range } = this.#plot;
    const font = "12px system-ui, sans-serif";
    const grid = { stroke: this.#color("--line"), width: 1 };
    const axis = { stroke: this.#color("--muted"), grid, ticks: { show: false }, font };
    const times = (_, splits) => splits.map((at) => clock(1000 * at).slice(0, splits[1] - splits[0] < 60 ? 8 : 5));
    return {
      width: this.clientWidth,
      height: this.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { show: false } },
      padding: [8, 8, 0, 0],
      scales: { y: { range } },
      axes: [
        { ...axis, values: times, space: 90, size: 28 },
        { ...axis, size: 52, label: unit || undefined, labelSize: 16, labelFont: font },
      ],
      series: [{}, ...series.map((each) => this.#series(each))],
    };
  }

  #series({ label, color, line, dash }) {
    const stroke = this.#color(color);
    if (line) return { label, stroke, width: 1.5, dash, points: { show: false } };
    return { label, stroke, paths: () => null, points: { show: true, size: 6, width: 1.5, stroke, fill: stroke } };
  }

  #fit() {
    if (!this.#chart) {
      if (this.#plot) this.#show();
      return;
    }
    this.#chart.setSize({ width: this.clientWidth, height: this.clientHeight });
  }
}

customElements.define("time-chart", TimeChart);
