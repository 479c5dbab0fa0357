// The life of a job as a picture: how long it waited and ran, its heartbeats, its lease and its end.

import { svg } from "./element.js";
import { coarse, duration, now, time } from "./format.js";

const HEIGHT = 84;
const BAR = { y: 34, height: 18 };
const EDGE = 2;
const MAX_BEATS = 200;

/** A picture that `show` draws anew. Heartbeats are those seen while the page is open. */
export function timeline() {
  const element = svg("svg", { class: "timeline", role: "img", "aria-label": "The life of the job", height: HEIGHT });
  const beats = new Set();
  function show(job) {
    if (job.lease !== undefined && job.started) beats.add(Math.max(job.started, job.leased_until - job.lease));
    while (beats.size > MAX_BEATS) beats.delete(beats.values().next().value);
    const width = Math.max(280, element.clientWidth || 800);
    element.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    element.setAttribute("aria-label", inWords(job));
    element.replaceChildren(...parts(job, [...beats], width));
  }
  return { element, show };
}

function inWords(job) {
  const words = [`Created at ${time(job.created)}`];
  if (job.started) words.push(`started after ${duration(job.started - job.created)}`);
  if (job.ended) words.push(`${job.state} after ${duration(job.ended - (job.started ?? job.created))}`);
  else words.push(job.started ? `has been running for ${coarse(now() - job.started)}` : `has been waiting for ${coarse(now() - job.created)}`);
  return `${words.join(", ")}.`;
}

function parts(job, beats, width) {
  const end = job.ended ?? Math.max(now(), job.leased_until ?? 0);
  const last = Math.max(end, job.created + 1);
  const x = (at) => EDGE + ((width - 2 * EDGE) * (Math.min(Math.max(at, job.created), last) - job.created)) / (last - job.created);
  const until = job.ended ?? now();
  const drawn = [];
  const bar = (from, to, kind) => {
    const left = x(from);
    drawn.push(svg("rect", { class: kind, x: left, y: BAR.y, width: Math.max(2, x(to) - left), height: BAR.height, rx: 3 }));
  };
  bar(job.created, job.started ?? until, "queued");
  if (job.started) bar(job.started, until, job.ended ? `ended-${job.state}` : "running");
  if (!job.ended && job.leased_until > until) {
    drawn.push(svg("rect", { class: "lease", x: x(until), y: BAR.y + 0.5, width: Math.max(0, x(job.leased_until) - x(until)), height: BAR.height - 1, rx: 3 }));
  }
  for (const at of beats) drawn.push(svg("line", { class: "beat", x1: x(at), x2: x(at), y1: BAR.y, y2: BAR.y + BAR.height }));
  return [...drawn, ...labels(job, x, until, width)];
}

function labels(job, x, until, width) {
  const marks = [{ at: job.created, above: "created", below: time(job.created) }];
  if (job.started) marks.push({ at: job.started, above: "started", below: `after ${duration(job.started - job.created)}` });
  if (job.ended) marks.push({ at: job.ended, above: job.state, below: `${job.started ? "ran" : "waited"} ${duration(job.ended - (job.started ?? job.created))}` });
  else marks.push({ at: until, above: job.started ? "running" : "waiting", below: `for ${coarse(until - (job.started ?? job.created))}` });
  if (!job.ended && job.leased_until > until) marks.push({ at: job.leased_until, above: "lease ends", below: `in ${coarse(job.leased_until - until)}` });
  return apart(marks.map((mark) => ({ ...mark, x: x(mark.at) })), width).flatMap((mark) => [
    svg("line", { class: "mark", x1: mark.x, x2: mark.x, y1: BAR.y - 8, y2: BAR.y + BAR.height + 8 }),
    svg("text", { class: "strong", x: mark.textX, y: BAR.y - 14, "text-anchor": mark.anchor }, mark.above),
    svg("text", { x: mark.textX, y: BAR.y + BAR.height + 22, "text-anchor": mark.anchor }, mark.below),
  ]);
}

const LABEL_WIDTH = 92;

/** Move labels apart that would overlap: the first stands at the left edge, the last at the right one. */
function apart(marks, width) {
  let least = 0;
  marks.forEach((mark, at) => {
    const room = width - LABEL_WIDTH * (marks.length - 1 - at);
    mark.textX = Math.min(Math.max(mark.x, least), at === marks.length - 1 ? width : room - LABEL_WIDTH * 0.15);
    least = mark.textX + LABEL_WIDTH;
    mark.anchor = at === marks.length - 1 && at > 0 ? "end" : "start";
    if (mark.anchor === "end") mark.textX = Math.max(mark.x, least - LABEL_WIDTH, Math.min(width, marks.length * LABEL_WIDTH));
    if (mark.anchor === "end") mark.textX = Math.min(width, mark.textX);
  });
  return marks;
}
