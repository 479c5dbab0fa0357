// What happens now: counts, rates, times and the curves of the last hour.

import { FORMATS, chart } from "./charts.js";
import { el, setText } from "./element.js";
import { ago, coarse, count, duration, now, percent, rate, typeName } from "./format.js";

const STATES = ["pending", "processing", "completed", "failed"];
const OUTCOMES = {
  completed: "Completed",
  failed: "Failed, as its worker reported",
  cancelled: "Cancelled",
  never_started: "Never started in time",
  timed_out: "Did not end in time",
  worker_lost: "Lost with its worker",
};

export function nowView({ context }) {
  const tiles = Object.fromEntries(
    [
      ["pending", "Pending"],
      ["processing", "Processing"],
      ["created", "Created"],
      ["ended", "Ended"],
      ["failures", "Failures, last 5 min"],
      ["waiters", "Clients waiting"],
    ].map(([name, title]) => [name, tile(title)]),
  );
  const charts = [
    chart("Throughput", "jobs a second", [["created", "created"], ["completed", "completed"], ["failed", "failed"]], FORMATS.rate),
    chart("Backlog", "jobs", [["pending", "pending", "filled"], ["processing", "processing"]], FORMATS.count),
    chart("Times", "p50 and p99 of a minute", [["queued p50", "pending"], ["p99", "pending", "dashed"], ["run p50", "processing"], ["p99", "processing", "dashed"]], FORMATS.seconds, { log: true }),
  ];
  const types = el("tbody");
  const totals = el("tr");
  const counted = el("p");
  const times = el("tbody");
  const outcomes = el("tbody");
  let points = [];
  let limit = 720;

  function onLine(line) {
    if (line.limits) {
      limit = line.limits.points;
      points = [];
    }
    if (line.points) {
      points = [...points, ...line.points].slice(-limit);
      const column = (at) => points.map((point) => point[at]);
      charts[0].update([column(0), column(3), column(4), column(5)]);
      charts[1].update([column(0), column(1), column(2)]);
      charts[2].update([column(0), column(6), column(7), column(8), column(9)]);
    }
    if (line.now) showNow(line.now);
  }

  function showNow(known) {
    const states = known.count?.by_state ?? {};
    const ended = Object.values(known.ended ?? {}).reduce((sum, number) => sum + number, 0);
    const unleased = known.count?.leased_until_ms;
    const late = unleased && now() - unleased > 0 ? now() - unleased : 0;
    const waits = known.count?.oldest_created_ms;
    tiles.pending(count(states.pending), waits ? `oldest for ${coarse(now() - waits)}` : "", known.cause === "nothing_runs");
    tiles.processing(count(states.processing), late ? `without a lease for ${coarse(late)}` : known.heard_ms ? `a worker heard ${ago(known.heard_ms)}` : "", late > 60_000);
    tiles.created(rate(known.created_rate), "", false, "/s");
    tiles.ended(rate(known.ended_rate), "", false, "/s");
    tiles.failures(percent(known.failures, ended), ended ? `${count(known.failures)} of ${count(ended)}` : "no job ended");
    tiles.waiters(count(known.waiters), known.processes > 1 ? `at ${known.processes} processes` : "");
    showTypes(known);
    times.replaceChildren(
      ...[["Queued, until the start", known.queued], ["Run, until the end", known.run]].map(([name, of]) =>
        el("tr", {}, el("th", { scope: "row" }, name), ...[of?.p50, of?.p99].map((seconds) => number(seconds === undefined ? "–" : duration(seconds * 1000))), number(count(of?.jobs ?? 0))),
      ),
    );
    outcomes.replaceChildren(
      ...Object.entries(OUTCOMES).map(([name, title]) => el("tr", {}, el("th", { scope: "row" }, title), number(count(known.ended?.[name] ?? 0)))),
    );
  }

  function showTypes(known) {
    const of = new Map();
    for (const [state, type, jobs] of known.types?.counts ?? []) {
      if (!of.has(type)) of.set(type, {});
      of.get(type)[state] = jobs;
    }
    const rows = [...of].sort(([one], [other]) => one.localeCompare(other));
    types.replaceChildren(
      ...rows.map(([type, jobs]) =>
        el("tr", {}, el("th", { scope: "row" }, el("a", { href: `#/jobs?type=${type}` }, typeName(type))), ...STATES.map((state) => number(count(jobs[state] ?? 0))), number(count(sum(jobs)))),
      ),
    );
    const states = known.count?.by_state ?? {};
    totals.replaceChildren(el("th", { scope: "row" }, "All"), ...STATES.map((state) => number(count(states[state]))), number(count(sum(states))));
    setText(counted, known.types?.at_ms ? `counted ${ago(known.types.at_ms)}` : "");
  }

  const elements = [
    el("h1", { class: "said" }, "Now"),
    el("dl", { class: "tiles" }, ...Object.values(tiles).map((set) => set.element)),
    el("div", { class: "charts" }, ...charts.map((each) => each.element)),
    el(
      "div",
      { class: "two" },
      card("By type", counted, el("table", {}, head("Type", "Pending", "Processing", "Completed", "Failed", "All"), types, el("tfoot", {}, totals))),
      el(
        "div",
        { class: "stack" },
        card("Times of the last 5 minutes", el("p"), el("table", {}, head("", "p50", "p99", "Jobs"), times)),
        card("Ended in the last 5 minutes", el("p"), el("table", {}, head("How", "Jobs"), outcomes)),
      ),
    ),
  ];
  return {
    title: "Now",
    elements,
    query: () => "view=now",
    onLine,
    tick: () => context.now && showNow(context.now),
    leave: () => charts.forEach((each) => each.leave()),
  };
}

function tile(title) {
  const value = el("span");
  const unit = el("small");
  const note = el("div", { class: "note" });
  const set = (text, notice = "", isWarning = false, of = "") => {
    setText(value, text);
    setText(unit, of);
    setText(note, notice);
    note.classList.toggle("warn", isWarning);
  };
  set.element = el("div", { class: "tile" }, el("dt", {}, title), el("dd", {}, el("div", { class: "big" }, value, unit), note));
  set("–");
  return set;
}

function card(title, note, table) {
  return el("section", { class: "card" }, el("header", {}, el("h2", {}, title), note), el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table));
}

function head(first, ...others) {
  return el("thead", {}, el("tr", {}, first ? el("th", { scope: "col" }, first) : el("td"), ...others.map((name) => el("th", { scope: "col", class: "number" }, name))));
}

function number(text) {
  return el("td", { class: text === "0" ? "number zero" : "number" }, text);
}

function sum(numbers) {
  return Object.values(numbers).reduce((total, each) => total + each, 0);
}
