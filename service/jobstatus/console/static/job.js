// One job: its life as a picture, its facts, and what one may do with it.

import { confirm } from "./dialogs.js";
import { el, say, setAttribute, setText } from "./element.js";
import { ago, bytes, coarse, count, duration, now, time, typeName } from "./format.js";
import { progressOf } from "./jobs.js";
import { ask } from "./session.js";
import { timeline } from "./timeline.js";

const READERS = {
  key: (job) => `Virtual key ${job.key}, and admins`,
  admins: () => "Admins only, as it has no virtual key",
  anyone: () => "Every valid credential, as it has no virtual key",
};

export function jobView({ id, context, reload }) {
  const state = el("span", { class: "state" });
  const acts = el("div", { class: "acts" });
  const picture = timeline();
  const facts = el("dl", { class: "facts" });
  const lease = el("dd");
  const expiry = el("dd");
  const result = el("section", { class: "card", hidden: true, "aria-labelledby": "result-title" });
  const copies = el("div", { class: "pad" });
  const body = el("div", { class: "stackless" });
  let job = null;
  let isResultOffered = false;

  function onLine(line) {
    if (line.job) show(line.job);
  }

  function show(newer) {
    const isFirst = job === null;
    if (!isFirst && job.state !== newer.state) say(`The job is ${newer.state}.`);
    job = newer;
    setAttribute(state, "data-state", job.state);
    setText(state, job.state);
    picture.show(job);
    facts.replaceChildren(...factsOf());
    tick();
    if (isFirst) copies.replaceChildren(...commands(job).map(copyable));
    acts.replaceChildren(...actsOf());
    offerResult();
  }

  function vanish(message) {
    setAttribute(state, "data-state", "gone");
    setText(state, "gone");
    acts.replaceChildren();
    if (!job) facts.replaceChildren(el("div", { class: "wide" }, el("dt", {}, "Not found"), el("dd", {}, message)));
  }

  function factsOf() {
    const error = job.error && [el("code", {}, job.error), ` ${job.error_message ?? ""}`];
    const given = [
      ["Type", typeName(job.type)],
      ["Virtual key", job.key ? el("a", { class: "id", href: `#/jobs?key=${encodeURIComponent(job.key)}` }, job.key) : "none"],
      ["Who may read it", READERS[job.readers](job)],
      ["Provider and model", [job.provider, job.model].filter(Boolean).join(", ")],
      ["Worker", job.worker ? el("a", { class: "id", href: `#/jobs?worker=${encodeURIComponent(job.worker)}` }, job.worker) : ""],
      ["Attempt", job.attempt ? `${job.attempt} of ${job.attempts}` : `none of ${job.attempts} yet`],
      ["Version", count(job.version)],
      ["Written last by", job.writer],
      ["Trace", job.traceparent ? el("code", {}, job.traceparent.split("-")[1]) : ""],
      ["Progress", job.state === "processing" ? progressOf(job) : ""],
      ["Status code", job.code ? String(job.code) : ""],
      ["How it ended", job.outcome?.replace("_", " ")],
    ].map(([name, value]) => [name, el("dd", {}, ...[value ?? ""].flat())]);
    const timed = [
      [job.state === "processing" ? "Lease" : "", lease],
      [job.expires ? "Readable until" : "Readable after its end for", expiry],
    ];
    const wide = [["Error", error]].filter(([, value]) => value);
    return [
      ...[...given, ...timed].filter(([name, value]) => name && (value.childNodes.length || value === lease || value === expiry)).map(([name, value]) => el("div", {}, el("dt", {}, name), value)),
      ...wide.map(([name, value]) => el("div", { class: "wide" }, el("dt", {}, name), el("dd", {}, ...value))),
    ];
  }

  function tick() {
    if (!job) return;
    picture.show(job);
    if (job.lease === undefined) setText(lease, "none: it is not taken away from its worker");
    else {
      const left = job.leased_until - now();
      setText(lease, left > 0 ? `${coarse(left)} left of ${coarse(job.lease)}` : `ended ${coarse(-left)} ago; another worker may take the job`);
    }
    setText(expiry, job.expires ? `${time(job.expires)}, in ${coarse(job.expires - now())}` : duration(job.result_ttl));
  }

  function actsOf() {
    if (!context.actions) return [];
    const path = `jobs/${encodeURIComponent(id)}`;
    const cancel = !job.ended && el("button", {
      type: "button",
      onclick: () => confirm({ title: "Cancel this job?", text: "It ends as failed, with the code cancelled_by_client, for good. Its worker is told at its next heartbeat.", verb: "Cancel the job", path: `${path}/cancel`, done: "The job is cancelled." }),
    }, "Cancel job");
    const remove = el("button", {
      type: "button", class: "danger",
      onclick: () => confirm({ title: "Delete this job?", text: "It is gone at once, with its result. Whoever polls it gets a 404.", verb: "Delete the job", path: `${path}/delete`, done: "The job is deleted." }),
    }, "Delete job");
    return [cancel, remove].filter(Boolean);
  }

  function offerResult() {
    if (isResultOffered || job.state !== "completed" || job.result_bytes === undefined) return;
    isResultOffered = true;
    const place = el("div", { class: "pad" });
    const button = el("button", { type: "button", onclick: show }, "Show the result");
    async function show() {
      button.disabled = true;
      try {
        const found = await ask(`jobs/${encodeURIComponent(id)}/result`);
        const note = found.cut ? el("p", { class: "muted" }, `The first part of ${bytes(found.bytes)}.`) : "";
        place.replaceChildren(el("pre", { tabindex: "0", "aria-label": "Result" }, found.text), ...(note ? [note] : []));
      } catch (error) {
        place.replaceChildren(el("p", { role: "alert" }, error.message), button);
        button.disabled = false;
      }
    }
    place.append(button);
    result.replaceChildren(el("header", {}, el("h2", { id: "result-title" }, "Result"), el("p", {}, bytes(job.result_bytes))), place);
    result.hidden = false;
  }

  return {
    title: id,
    elements: [
      el("div", { class: "head" }, el("div", { class: "title" }, el("h1", {}, id), state), acts),
      el("section", { class: "card", "aria-label": "Timeline" }, el("div", { class: "pad" }, picture.element)),
      el("section", { class: "card", "aria-label": "Facts" }, el("div", { class: "pad" }, facts)),
      result,
      el("section", { class: "card" }, el("header", {}, el("h2", {}, "From a shell")), copies),
    ],
    query: () => `view=job&job_id=${encodeURIComponent(id)}`,
    onLine,
    onProblem: vanish,
    tick,
  };
}

function commands(job) {
  return [
    `curl -i -H "Authorization: Bearer $TOKEN" "$JOBSTATUS_URL${job.path}"`,
    `jobstatus jobs get ${job.id}`,
  ];
}

function copyable(text) {
  const button = el("button", { type: "button", onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setText(button, "Copied");
      say("Copied.");
    } catch {
      getSelection().selectAllChildren(shown); // without a secure address there is no clipboard
      setText(button, "Selected");
    }
    setTimeout(() => setText(button, "Copy"), 2000);
  }
  const shown = el("pre", {}, text);
  return el("div", { class: "copy" }, shown, button);
}
