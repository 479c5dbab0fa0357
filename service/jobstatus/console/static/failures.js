// Failed jobs, grouped by error.

import { el, setText } from "./element.js";
import { ago, count, time, typeName } from "./format.js";
import { filtersOf } from "./jobs.js";

export function failuresView({ params }) {
  const filters = filtersOf(params);
  const body = el("tbody");
  const note = el("p");
  const nothing = el("p", { class: "nothing", hidden: true }, "No job has failed.");
  let groups = [];

  function draw() {
    const most = Math.max(1, ...groups.map((group) => group.jobs));
    body.replaceChildren(...groups.map((group) => rowOf(group, most)));
  }

  return {
    title: "Failures",
    elements: [
      el("div", { class: "head" }, el("h1", {}, "Failures"), note),
      el(
        "section",
        { class: "card" },
        el(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Failures by error" },
          el(
            "table", {},
            el("caption", { class: "said" }, "Failed jobs by error, the most frequent first"),
            el("thead", {}, el("tr", {}, ...["Error", "Jobs", "Status", "Types", "Latest", "What it says"].map((name) => el("th", { scope: "col", class: name === "Jobs" ? "number" : null }, name)))),
            body,
          ),
        ),
        nothing,
      ),
    ],
    query: () => `view=failures&${filters}`,
    onLine(line) {
      if (!line.failures) return;
      groups = line.failures.groups;
      nothing.hidden = groups.length > 0;
      setText(note, line.failures.jobs >= line.failures.limit ? `of the newest ${count(line.failures.limit)} failed jobs` : `${count(line.failures.jobs)} failed jobs`);
      draw();
    },
    tick: draw,
  };
}

function rowOf(group, most) {
  const share = el("span", { class: "share", "aria-hidden": "true" });
  share.style.width = `${(100 * group.jobs) / most}%`;
  const types = Object.entries(group.types).map(([type, jobs]) => `${typeName(type)} ${count(jobs)}`).join(", ");
  return el(
    "tr", {},
    el("th", { scope: "row" }, el("code", {}, group.error), share),
    el("td", { class: "number" }, el("a", { href: `#/jobs?${new URLSearchParams({ state: "failed", [group.filter]: group[group.filter === "error" ? "error" : "code"] })}`, "aria-label": `Show ${count(group.jobs)} jobs` }, count(group.jobs))),
    el("td", {}, String(group.code ?? "")),
    el("td", {}, types),
    el("td", { class: "brief", title: time(group.latest.ended) }, el("a", { class: "id", href: `#/jobs/${encodeURIComponent(group.latest.id)}`, "data-row": true }, group.latest.id), ` ${ago(group.latest.ended)}`),
    el("td", { class: "muted" }, group.latest.error_message ?? ""),
  );
}
