// Virtual keys: their state and when they were used. Neither keys nor their hashes are ever sent to the page.

import { confirm } from "./dialogs.js";
import { el } from "./element.js";
import { ago, count, time } from "./format.js";

export function keysView({ params, context, reload }) {
  const body = el("tbody");
  const nothing = el("p", { class: "nothing", hidden: true }, "No virtual key is registered. ", el("code", {}, "jobstatus keys create ID"), " makes one.");
  const more = el("a", { hidden: true }, "More virtual keys");
  let keys = [];

  function draw() {
    if (body.contains(document.activeElement)) return; // a button that has the focus keeps it
    body.replaceChildren(...keys.map(rowOf));
  }

  function rowOf(key) {
    const can = context.actions && key.state !== "disabled";
    const act = can && el("button", { type: "button", class: "danger", onclick: () => disable(key), "aria-label": `Disable ${key.id}` }, "Disable");
    return el(
      "tr", {},
      el("th", { scope: "row" }, el("a", { class: "id", href: `#/jobs?key=${encodeURIComponent(key.id)}`, "data-row": true }, key.id)),
      el("td", {}, el("span", { class: "state", "data-state": key.state }, key.state)),
      el("td", { class: "number" }, count(key.keys)),
      el("td", { class: "brief", title: key.used ? time(key.used) : null }, key.used ? ago(key.used) : el("span", { class: "muted" }, "not lately")),
      el("td", {}, key.expires ? time(key.expires) : el("span", { class: "muted" }, "never")),
      el("td", {}, time(key.updated)),
      el("td", { class: "number" }, act || ""),
    );
  }

  async function disable(key) {
    const isDone = await confirm({
      title: `Disable ${key.id}?`,
      text: "Its keys and tokens stop working within 5 seconds. Its jobs go on. `jobstatus keys enable` takes it back.",
      verb: "Disable",
      path: `keys/${encodeURIComponent(key.id)}/disable`,
      done: `${key.id} is disabled.`,
    });
    if (isDone) reload();
  }

  return {
    title: "Virtual keys",
    elements: [
      el("div", { class: "head" }, el("h1", {}, "Virtual keys")),
      el(
        "section",
        { class: "card" },
        el(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Virtual keys" },
          el(
            "table", {},
            el("caption", { class: "said" }, "Virtual keys by their ids"),
            el("thead", {}, el("tr", {}, ...["Virtual key", "State", "Keys", "Created a job", "Expires", "Changed"].map((name) => el("th", { scope: "col", class: name === "Keys" ? "number" : null }, name)), el("td", {}, ""))),
            body,
          ),
        ),
        nothing,
        el("div", { class: "foot" }, el("span", {}, "When a key created a job is known from the newest jobs only."), more),
      ),
    ],
    query: () => `view=keys&page=${encodeURIComponent(params.get("page") ?? "")}`,
    onLine(line) {
      if (!line.keys) return;
      keys = line.keys.keys;
      nothing.hidden = keys.length > 0;
      more.hidden = !line.keys.next;
      if (line.keys.next) more.href = `#/keys?page=${encodeURIComponent(line.keys.next)}`;
      draw();
    },
    tick: draw,
  };
}
