// The banner above every view: why jobs wait although they should not.

import { el, setText } from "./element.js";
import { coarse, count, now } from "./format.js";

const element = document.getElementById("banner");
const words = el("span");
const link = el("a", { href: "#/jobs?state=pending" }, "Show them");
element.append(words, link);

const TEXTS = {
  nothing_runs: (facts) => `${facts.waiting} pending, and nothing runs: ${facts.heard}.`,
  silent: (facts) => `${facts.waiting} pending; ${facts.heard}. The jobs that are processing have no lease, so their workers may be gone.`,
};

/** Show or hide the banner by what is known of now; null hides it. */
export function banner(known) {
  element.hidden = !known?.cause;
  if (!known?.cause) return;
  element.dataset.level = known.cause === "nothing_runs" ? "red" : "amber";
  const heard = known.heard_ms
    ? `the last worker was heard ${coarse(now() - known.heard_ms)} ago`
    : `no worker has been heard since the service started ${coarse(now() - known.began_ms)} ago`;
  setText(words, TEXTS[known.cause]({ waiting: count(known.count.by_state.pending), heard }));
}
