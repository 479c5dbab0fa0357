// The page: who is signed in, which view is shown, and the stream that feeds it.

import { banner } from "./banner.js";
import { showShortcuts } from "./dialogs.js";
import { el, say, setAttribute, setText } from "./element.js";
import { failuresView } from "./failures.js";
import { hearTime } from "./format.js";
import { jobView } from "./job.js";
import { jobsView } from "./jobs.js";
import { keysView } from "./keys.js";
import { nowView } from "./now.js";
import { prepare, provider } from "./open-id.js";
import { isSignedIn, redeem, signIn, signOut } from "./session.js";
import { follow } from "./stream.js";
import { workersView } from "./workers.js";

const VIEWS = [
  ["now", "Now", nowView],
  ["jobs", "Jobs", jobsView],
  ["failures", "Failures", failuresView],
  ["workers", "Workers", workersView],
  ["keys", "Keys", keysView],
];
const TICKET = "#ticket=";

const main = document.getElementById("main");
const nav = document.getElementById("views");
const live = document.getElementById("live");
const liveText = document.getElementById("live-text");
const context = { actions: false, now: null };
const issuer = provider();
let shown = null;
let stopping = new AbortController();
let signingIn = new AbortController();

/** Where the address points: the name of a view, the id of a job, and parameters. */
function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id = ""] = path.split("/");
  const known = VIEWS.some(([of]) => of === name);
  return { name: known ? name : "now", id: decoded(id), params: new URLSearchParams(query) };
}

/** A part of an address; as it is where its escapes are none, so that the service says what is wrong with it. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function show() {
  stopping.abort();
  stopping = new AbortController();
  shown?.leave?.();
  if (!isSignedIn()) return showSignIn();
  const { name, id, params } = place();
  for (const link of nav.children) setAttribute(link, "aria-current", link.dataset.view === name ? "page" : null);
  const make = name === "jobs" && id ? jobView : VIEWS.find(([of]) => of === name)[2];
  shown = make({ id, params, context, reload: show });
  document.title = `${shown.title} – JobStatus`;
  main.replaceChildren(...shown.elements);
  if (context.now) shown.onLine({ now: context.now });
  run(shown, stopping.signal);
}

async function run(view, signal) {
  try {
    await follow(view.query, {
      signal,
      onState: showState,
      onLine: (line) => {
        hearTime(line.at);
        if (line.session) context.actions = line.session.actions;
        if (line.now) {
          context.now = line.now;
          banner(line.now);
        }
        view.onLine(line);
        if (line.problem) tellProblem(view, line.problem);
      },
    });
  } catch (error) {
    if (error.status === 401 || error.status === 403) return leave(error.message);
    showState("off", error.message);
    view.onProblem?.(error.message);
  }
}

/** What the service answers instead of the view: 4xx is about the address; anything else passes. */
function tellProblem(view, { status, message }) {
  if (status < 500 && view.onProblem) view.onProblem(message);
  else showState("waiting", message);
}

function showState(state, text = "Live") {
  setAttribute(live, "data-state", state);
  setText(liveText, text);
}

// --- signing in ---

function leave(message = "") {
  signOut();
  context.now = null;
  banner(null);
  stopping.abort();
  shown?.leave?.();
  shown = null;
  showSignIn(message);
}

function showSignIn(message = "") {
  frame(false);
  showState("off", "Signed out");
  document.title = "Sign in – JobStatus";
  const field = el("input", { type: "password", name: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "how" });
  const problem = el("p", { class: "problem", role: "alert" }, message);
  const form = el(
    "form",
    {},
    el("h1", {}, "Sign in"),
    el("p", { class: "muted" }, "The console shows the jobs of all virtual keys, so it needs an admin's token. The token stays in this page's memory."),
    problem,
    issuer && withIssuer(problem),
    el("label", {}, "Token", field),
    el("button", { class: "primary", type: "submit" }, "Sign in"),
    el("p", { class: "muted", id: "how" }, "On the machine of a service in development, this prints one:"),
    el("pre", {}, "jobstatus token admin"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    enter(field.value);
  });
  main.replaceChildren(el("section", { class: "card signin" }, form));
  (form.querySelector("button:enabled[type=button]") ?? field).focus();
}

/** A button that signs in with the issuer; each click is an attempt of its own, and ends the one before. */
function withIssuer(problem) {
  const button = el("button", { type: "button", class: "primary", disabled: true, onclick: () => attempt() }, `Sign in with ${new URL(issuer.issuer).host}`);
  let open = null;
  const ready = async () => {
    try {
      open = await prepare(issuer);
      button.disabled = false;
    } catch (error) {
      setText(problem, error.message);
    }
  };
  async function attempt() {
    signingIn.abort();
    signingIn = new AbortController();
    const { signal } = signingIn;
    const opened = open(signal); // at once, because a browser opens a window for a click only
    button.disabled = true;
    setText(problem, "");
    ready();
    try {
      enter(await opened);
    } catch (error) {
      if (!signal.aborted) setText(problem, error.message);
    }
  }
  ready();
  return button;
}

function enter(token) {
  signingIn.abort();
  if (!signIn(token)) return showSignIn("This is no token: a token has letters, digits and dots, and no spaces.");
  frame(true);
  show();
}

function frame(isIn) {
  nav.hidden = !isIn;
  document.getElementById("sign-out").hidden = !isIn;
}

// --- the keyboard ---

function isTyping(target) {
  return target.closest("input:not([type=checkbox]), select, textarea, dialog") !== null;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !isSignedIn() || isTyping(event.target)) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = `#/${view[0]}`;
  else if (event.key === "?") showShortcuts();
  else if (event.key === "/") main.querySelector("[data-filter]")?.focus();
  else if (event.key === "n") main.querySelector(".new:not([hidden])")?.click();
  else if (event.key === "j" || event.key === "k") moveRow(event.key === "j" ? 1 : -1);
  else if (event.key === "Escape" && place().id) history.length > 1 ? history.back() : (location.hash = "#/jobs");
  else return;
  event.preventDefault();
}

function moveRow(by) {
  const links = [...main.querySelectorAll("[data-row]")];
  const at = links.indexOf(document.activeElement);
  links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + by))]?.focus();
}

// --- the start ---

async function begin() {
  const hash = location.hash;
  if (!hash.startsWith(TICKET)) return showSignIn();
  history.replaceState(null, "", location.pathname);
  try {
    await redeem(hash.slice(TICKET.length));
  } catch (error) {
    return leave(error.message);
  }
  frame(true);
  show();
}

nav.append(...VIEWS.map(([name, title]) => el("a", { href: `#/${name}`, "data-view": name }, title)));
document.getElementById("sign-out").addEventListener("click", () => leave());
document.getElementById("help").addEventListener("click", showShortcuts);
document.addEventListener("keydown", onKey);
addEventListener("hashchange", () => {
  if (location.hash.startsWith(TICKET)) return begin();
  show();
  if (isSignedIn()) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
    say(document.title);
  }
});
setInterval(() => shown?.tick?.(), 1000);
begin();
