// The one event stream of the page: lines of JSON over fetch, because EventSource cannot send a header.

import { Refused, documentOf, request } from "./session.js";

const FIRST_PAUSE_MS = 300;
const LONGEST_PAUSE_MS = 8000;
const SILENCE_MS = 40_000; // the service says something every 15 s

/**
 * Call `onLine` with each line until `signal` aborts. `query` returns what to ask for, anew for each connection.
 * A connection that breaks is made again, after a pause that doubles; `onState` is told "live" or why it waits.
 * Rejects with Refused when the service no longer accepts the token.
 */
export async function follow(query, { onLine, onState, signal }) {
  let pause = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    const connection = new AbortController();
    const stop = () => connection.abort();
    signal.addEventListener("abort", stop);
    try {
      const answer = await request(`events?${query()}`, { signal: connection.signal });
      if (!answer.ok) await documentOf(answer);
      for await (const line of lines(answer.body, stop)) {
        if (line.end !== undefined) throw new Refused(line.status ?? 401, line.end);
        pause = FIRST_PAUSE_MS;
        onState("live");
        onLine(line);
      }
      onState("waiting", "The connection ended; connecting again");
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refused && [400, 401, 403, 404].includes(error.status)) throw error;
      onState("waiting", error instanceof Refused ? error.message : "The service does not answer; trying again");
    } finally {
      signal.removeEventListener("abort", stop);
      connection.abort();
    }
    await sleep(pause * (0.75 + Math.random() / 2), signal);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

async function* lines(body, stop) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  let silence = setTimeout(stop, SILENCE_MS);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE_MS);
      const parts = (text + value).split("\n");
      text = parts.pop();
      for (const part of parts) if (part) yield JSON.parse(part);
    }
  } finally {
    clearTimeout(silence);
    reader.cancel().catch(() => {});
  }
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
