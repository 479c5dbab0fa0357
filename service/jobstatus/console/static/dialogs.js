// Dialogs: the confirmation of an action, and the keyboard's shortcuts.

import { el, say } from "./element.js";
import { ask } from "./session.js";

const dialog = document.getElementById("dialog");

function open(...content) {
  dialog.replaceChildren(...content);
  dialog.showModal(); // the browser gives the focus back when it closes
}

/** Ask whether to do it; do it, and resolve with whether it was done. */
export function confirm({ title, text, verb, path, done }) {
  return new Promise((resolve) => {
    const problem = el("p", { class: "problem", role: "alert" });
    const yes = el("button", { class: "primary danger", type: "submit" }, verb);
    const no = el("button", { type: "button", onclick: () => dialog.close() }, "Keep it");
    const form = el("form", { method: "dialog" }, no, yes);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      yes.disabled = true;
      try {
        await ask(path, { method: "POST" });
        say(done);
        resolve(true);
        dialog.close();
      } catch (error) {
        problem.textContent = error.message;
        yes.disabled = false;
      }
    });
    dialog.addEventListener("close", () => resolve(false), { once: true });
    open(el("h2", { id: "dialog-title" }, title), el("p", {}, text), problem, form);
    no.focus();
  });
}

const SHORTCUTS = [
  ["1 … 5", "Now, Jobs, Failures, Workers, Virtual keys"],
  ["/", "To the filters"],
  ["j  k", "To the next or previous row"],
  ["Enter", "Open the row"],
  ["n", "Show new jobs"],
  ["Esc", "Back to the jobs"],
];

export function showShortcuts() {
  open(
    el("h2", { id: "dialog-title" }, "Keyboard"),
    el("dl", {}, ...SHORTCUTS.flatMap(([keys, does]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, does)])),
    el("form", { method: "dialog" }, el("button", { class: "primary", type: "button", onclick: () => dialog.close() }, "Close")),
  );
}
