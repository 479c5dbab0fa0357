// Who holds what, and when each worker was heard last.

import { el, setText } from "./element.js";
import { ago, count, now, time } from "./format.js";

const SHOWN_JOBS = 4;

export function workersView() {
  const body = el("tbody");
  const note = el("p");
  const nothing = el("p", { class: "nothing", hidden: true }, "No worker holds a job, and none of the newest jobs names one.");
  let workers = [];

  function draw() {
    body.replaceChildren(...workers.map(rowOf));
  }

  return {
    title: "Workers",
    elements: [
      el("div", { class: "head" }, el("h1", {}, "Workers"), note),
      el(
        "section",
        { class: "card" },
        el(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Workers" },
          el(
            "table", {},
            el("caption", { class: "said" }, "Workers, those with the most jobs first"),
            el("thead", {}, el("tr", {}, ...["Worker", "Heard", "Holds", "Jobs", "Completed", "Failed"].map((name) => el("th", { scope: "col", class: ["Holds", "Completed", "Failed"].includes(name) ? "number" : null }, name)))),
            body,
          ),
        ),
        nothing,
      ),
    ],
    query: () => "view=workers",
    onLine(line) {
      if (!line.workers) return;
      workers = line.workers.workers;
      nothing.hidden = workers.length > 0;
      const busy = workers.filter((worker) => worker.jobs.length).length;
      const held = line.workers.held >= line.workers.limit ? `the newest ${count(line.workers.limit)}` : count(line.workers.held);
      setText(note, `${count(busy)} with ${held} jobs; ended jobs are those of the newest ${count(line.workers.of)}`);
      draw();
    },
    tick: draw,
  };
}

function rowOf(worker) {
  const shown = worker.jobs.slice(0, SHOWN_JOBS);
  const links = shown.map((job) => el("li", {}, el("a", { class: "id", href: `#/jobs/${encodeURIComponent(job.id)}`, "data-row": true }, job.id), isLate(job) && el("span", { class: "state", "data-state": "failed" }, "lease ended")));
  const more = worker.jobs.length > shown.length && el("li", { class: "muted" }, `and ${count(worker.jobs.length - shown.length)} more`);
  return el(
    "tr", {},
    el("th", { scope: "row" }, worker.id ? el("a", { class: "id", href: `#/jobs?worker=${encodeURIComponent(worker.id)}` }, worker.id) : el("span", { class: "muted" }, "without a name")),
    el("td", { class: "brief", title: worker.heard ? time(worker.heard) : null }, ago(worker.heard)),
    el("td", { class: "number" }, count(worker.jobs.length)),
    el("td", {}, el("ul", { class: "held" }, ...links, more)),
    el("td", { class: "number" }, count(worker.completed)),
    el("td", { class: "number" }, count(worker.failed)),
  );
}

function isLate(job) {
  return job.leased_until !== undefined && job.leased_until < now();
}
