// Curves, drawn by uPlot (vendor/). Colours come from the page's tokens, so that they follow the scheme.

import { el, setText } from "./element.js";
import { duration, rate, count, time } from "./format.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

export const FORMATS = { rate, count, seconds: (value) => duration(value * 1000) };

/** A chart with a title, its curves as [label, colour token, "filled" or "dashed"], and values written by `format`. */
export function chart(title, note, curves, format, options = {}) {
  const values = curves.map(() => el("span", { class: "value" }, "–"));
  const legend = el("ul", { class: "keys" }, ...curves.map(([label, token], at) => el("li", {}, swatch(curves[at]), label, " ", values[at])));
  const place = el("div", { class: "chart", role: "img", "aria-label": title });
  const empty = el("p", { class: "empty" }, "The curve begins now.");
  place.append(empty);
  const card = el("section", { class: "card" }, el("header", {}, el("h2", {}, title), el("p", {}, note)), legend, place);
  let data = [[], ...curves.map(() => [])];
  let plot = null;

  function make() {
    plot?.destroy();
    plot = new uPlot(settings(place.clientWidth - 20, curves, format, options, showAt), data, place);
  }
  function showAt(at) {
    values.forEach((value, curve) => {
      const found = data[curve + 1][at ?? data[0].length - 1];
      setText(value, found === undefined || found === null ? "–" : format(found));
    });
  }
  const resized = new ResizeObserver(() => plot?.setSize({ width: Math.max(160, place.clientWidth - 20), height: HEIGHT }));
  const recolor = () => plot && make();
  dark.addEventListener("change", recolor);

  return {
    element: card,
    update(next) {
      data = next;
      if (data[0].length < 2) return;
      empty.hidden = true;
      if (plot) plot.setData(data);
      else {
        make();
        resized.observe(place);
      }
      if (plot.cursor.idx === null || plot.cursor.idx === undefined) showAt();
      place.setAttribute("aria-label", `${title}: ${curves.map(([label], at) => `${label} ${values[at].textContent}`).join(", ")}`);
    },
    leave() {
      resized.disconnect();
      dark.removeEventListener("change", recolor);
      plot?.destroy();
    },
  };
}

const HEIGHT = 180;

function swatch([, token, kind]) {
  const element = el("i", { "aria-hidden": "true", class: kind === "dashed" ? "dashed" : null });
  element.style.color = `var(--${token})`;
  return element;
}

function settings(width, curves, format, { log = false } = {}, showAt) {
  const styles = getComputedStyle(document.documentElement);
  const color = (token) => styles.getPropertyValue(`--${token}`).trim();
  const axis = {
    stroke: color("muted"),
    font: "11px system-ui, sans-serif",
    grid: { stroke: color("grid"), width: 1 },
    ticks: { show: false },
  };
  return {
    width: Math.max(160, width),
    height: HEIGHT,
    ms: 1,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    scales: { x: { time: true }, y: log ? { distr: 3 } : { range: (_, least, most) => [0, Math.max(1, most * 1.1)] } },
    axes: [
      { ...axis, size: 26, values: (_, ticks) => ticks.map((at) => time(at).slice(0, ticks.at(-1) - ticks[0] < 300_000 ? 8 : 5)), space: 72 },
      { ...axis, size: 56, values: (_, ticks) => ticks.map((value) => (value === null ? "" : format(value))), space: 32 },
    ],
    series: [{}, ...curves.map(([label, token, kind]) => ({
      label, stroke: color(token), width: 1.75, spanGaps: true, points: { show: false },
      fill: kind === "filled" ? `${color(token)}22` : undefined,
      dash: kind === "dashed" ? [4, 3] : undefined,
    }))],
    hooks: { setCursor: [(plot) => showAt(plot.cursor.idx)] },
  };
}
