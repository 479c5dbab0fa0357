// The table of jobs. Its rows stay where they are while one reads; what becomes of them is shown in place.

import { el, say, setAttribute, setText } from "./element.js";
import { ago, coarse, count, duration, now, time, typeName } from "./format.js";

export const TYPES = [
  "transcription", "speech", "chat_completion", "text_completion", "responses", "embedding",
  "image_generation", "image_edit", "image_variation", "rerank", "ocr",
];
const STATES = ["pending", "processing", "completed", "failed"];
const AGES = [
  ["", "Any age"],
  ["l300", "Last 5 minutes"],
  ["l3600", "Last hour"],
  ["l86400", "Last day"],
  ["o300", "Older than 5 minutes"],
  ["o3600", "Older than an hour"],
  ["o86400", "Older than a day"],
];
const TYPING_MS = 350;

/** The filters of an address as parameters of a question; ages become times. */
export function filtersOf(params) {
  const query = new URLSearchParams();
  for (const name of ["state", "type", "key", "worker", "error", "status", "page"]) if (params.get(name)) query.set(name, params.get(name));
  const [, kind, seconds] = /^([lo])(\d+)$/.exec(params.get("age") ?? "") ?? [];
  if (kind) query.set(kind === "l" ? "after" : "before", Math.floor(now() - 1000 * Number(seconds)));
  return query;
}

export function jobsView({ params, reload }) {
  const filters = filtersOf(params);
  const rows = new Map();
  const body = el("tbody");
  const table = el("table", { class: "jobs" }, el("caption", { class: "said" }, "Jobs, newest first"), heads(), body);
  const nothing = el("p", { class: "nothing", hidden: true });
  const fresh = el("button", { type: "button", class: "new", hidden: true, onclick: showNew });
  const older = el("a", { hidden: true }, "Older jobs");
  const newest = el("a", { href: address(params, { page: "" }), hidden: !params.get("page") }, "Newest jobs");
  const status = el("span");
  let top = "";

  function showNew() {
    if (params.get("page")) location.hash = address(params, { page: "" });
    else reload();
  }

  function onLine(line) {
    if (line.jobs) showPage(line.jobs);
    if (line.rows) showChanges(line.rows);
  }

  function showPage(page) {
    top = page.top ?? "";
    rows.clear();
    for (const job of page.jobs) rows.set(job.id, rowOf(job));
    body.replaceChildren(...[...rows.values()].map((row) => row.element));
    nothing.hidden = page.jobs.length > 0;
    setText(nothing, filters.size ? "No job passes these filters." : "No jobs yet. The first one appears here at once.");
    older.hidden = !page.next;
    if (page.next) older.href = address(params, { page: page.next });
    fresh.hidden = true;
    setText(status, page.jobs.length ? `${count(page.jobs.length)} jobs, newest first` : "");
  }

  function showChanges(changes) {
    for (const job of changes.rows) rows.get(job.id)?.update(job);
    for (const id of changes.gone) rows.get(id)?.vanish();
    if (!rows.size && changes.new) return reload();
    fresh.hidden = !changes.new;
    const text = `${changes.new >= 100 ? "100 or more" : changes.new} new, show`;
    if (changes.new && fresh.textContent !== text) setText(fresh, text);
  }

  return {
    title: "Jobs",
    elements: [
      el("div", { class: "head" }, el("h1", {}, "Jobs")),
      el(
        "section",
        { class: "card", "aria-label": "Jobs" },
        filterBar(params),
        fresh,
        el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of jobs" }, table),
        nothing,
        el("div", { class: "foot" }, status, el("span", { class: "title" }, newest, older)),
      ),
    ],
    // A connection that is made again shows the same page, not the one that is newest by then.
    query: () => {
      const query = new URLSearchParams(filters);
      query.set("view", "jobs");
      if (top) {
        query.delete("page");
        query.set("at", top);
      }
      return query;
    },
    onLine,
    onProblem: (message) => {
      nothing.hidden = false;
      setText(nothing, message);
      say(message);
    },
    tick: () => rows.forEach((row) => row.tick()),
  };
}

function heads() {
  const names = ["State", "Job", "Type", "Virtual key", "Created", "Took", "Worker", "Progress or error"];
  return el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col", class: ["Created", "Took"].includes(name) ? "number" : null }, name))));
}

/** A row, which is changed in place: `update` takes a newer version, `tick` lets time pass. */
export function rowOf(first) {
  let job = first;
  const state = el("span", { class: "state" });
  const link = el("a", { class: "id", href: `#/jobs/${encodeURIComponent(job.id)}`, "data-row": true }, job.id);
  const created = el("td", { class: "number" });
  const took = el("td", { class: "number" });
  const worker = el("td", { class: "low" });
  const progress = el("td");
  const element = el(
    "tr", {},
    el("td", {}, state),
    el("th", { scope: "row" }, link),
    el("td", { class: "low" }, typeName(job.type)),
    el("td", { class: "low" }, job.key ? el("a", { class: "id", href: `#/jobs?key=${encodeURIComponent(job.key)}` }, job.key) : el("span", { class: "muted" }, "none")),
    created, took, worker, progress,
  );
  function tick() {
    setText(created, ago(job.created));
    setText(took, job.ended ? duration(job.ended - (job.started ?? job.created)) : job.started ? coarse(now() - job.started) : "");
  }
  function draw() {
    setAttribute(state, "data-state", job.state);
    setText(state, job.outcome && !["completed", "failed"].includes(job.outcome) ? job.outcome.replace("_", " ") : job.state);
    setAttribute(created, "title", time(job.created));
    setText(worker, job.worker ?? "");
    setAttribute(worker, "title", job.worker ?? null);
    progress.replaceChildren(...progressOf(job));
    tick();
  }
  draw();
  return {
    element,
    tick,
    update(newer) {
      job = newer;
      draw();
      element.classList.remove("changed");
      void element.offsetWidth; // begin the animation anew
      element.classList.add("changed");
    },
    vanish() {
      element.classList.add("gone");
      setAttribute(state, "data-state", "gone");
      setText(state, "deleted");
    },
  };
}

export function progressOf(job) {
  if (job.error) return [el("span", { title: job.error_message ?? null }, el("code", {}, job.error), ` ${job.error_message ?? ""}`)];
  const parts = [];
  if (job.state === "processing" && job.progress !== undefined) {
    const bar = el("span");
    bar.style.width = `${Math.round(100 * job.progress)}%`;
    parts.push(el("span", { class: "meter", "aria-hidden": "true" }, bar), `${Math.round(100 * job.progress)} % `);
  }
  if (job.attempts > 1 && job.attempt) parts.push(el("span", { class: "muted" }, `attempt ${job.attempt} of ${job.attempts} `));
  if (job.state === "processing" && job.message) parts.push(el("span", { class: "muted" }, job.message));
  return parts;
}

function filterBar(params) {
  const chosen = new Set((params.get("state") ?? "").split(",").filter(Boolean));
  const bar = el("form", { class: "filters", role: "search", "aria-label": "Filters" });
  const states = STATES.map((state, at) =>
    el("label", {}, el("input", { type: "checkbox", name: "state", value: state, checked: chosen.has(state), "data-filter": at === 0 }), el("span", {}, state)),
  );
  bar.append(
    el("fieldset", {}, el("legend", {}, "State"), el("div", { class: "chips" }, ...states)),
    choice("Type", "type", [["", "All types"], ...TYPES.map((type) => [type, typeName(type)])], params),
    field("Virtual key", "key", params),
    field("Worker", "worker", params),
    field("Error code", "error", params),
    choice("Age", "age", AGES, params),
  );
  const apply = () => {
    const next = { status: "", state: [...bar.querySelectorAll("[name=state]:checked")].map((box) => box.value).join(","), page: "" };
    for (const name of ["type", "key", "worker", "error", "age"]) next[name] = bar.elements[name].value.trim();
    const hash = address(params, next);
    if (hash !== location.hash) location.hash = hash;
  };
  let timer = 0;
  bar.addEventListener("change", apply);
  bar.addEventListener("input", (event) => {
    clearTimeout(timer);
    if (event.target.type === "text") timer = setTimeout(apply, TYPING_MS);
  });
  bar.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
  return bar;
}

function choice(title, name, options, params) {
  const select = el("select", { name }, ...options.map(([value, text]) => el("option", { value, selected: (params.get(name) ?? "") === value }, text)));
  return el("label", {}, title, select);
}

function field(title, name, params) {
  return el("label", {}, title, el("input", { type: "text", name, value: params.get(name) ?? "", spellcheck: "false", autocapitalize: "off", placeholder: "any" }));
}

/** The address of the table with other filters. */
export function address(params, changes) {
  const next = new URLSearchParams(params);
  for (const [name, value] of Object.entries(changes)) value ? next.set(name, value) : next.delete(name);
  return next.size ? `#/jobs?${next}` : "#/jobs";
}
