// Follows a job over its event stream. EventSource cannot send a bearer header, so this reads the stream with fetch.

const ENDED = ["completed", "failed"];
const PAUSE_SECONDS = 2;

/**
 * Call `onDocument` with each new document of the job, in the form of a poll's answer; resolve with the last one.
 *
 * A stream that breaks is resumed where it ended. A server without room for another stream answers a plain poll, which
 * is repeated after its `Retry-After`. Reject with the server's message when it refuses, and when `signal` aborts.
 */
export async function follow(url, token, onDocument, signal) {
  let lastEventId = "";
  let known = "";
  for (;;) {
    const headers = { Authorization: `Bearer ${token}`, Accept: "text/event-stream" };
    if (lastEventId) headers["Last-Event-ID"] = lastEventId;
    let pause = PAUSE_SECONDS;
    try {
      const response = await fetch(url, { headers, signal, cache: "no-store" });
      if (response.status === 204) return JSON.parse(known); // the known document is the last one
      for await (const { id, data } of answers(response)) {
        lastEventId = id || lastEventId;
        if (!data || data === known) continue;
        known = data;
        const job = JSON.parse(data);
        onDocument(job);
        if (ENDED.includes(job.status)) return job;
      }
      pause = Number(response.headers.get("Retry-After")) || pause;
    } catch (error) {
      if (error instanceof Refused || signal?.aborted) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  }
}

/** The server refuses the request, and a retry would not help. */
export class Refused extends Error {}

async function* answers(response) {
  if (response.status >= 500 || response.status === 429) return;
  if (!response.ok) throw new Refused(await messageOf(response));
  if (response.headers.get("Content-Type").startsWith("text/event-stream")) yield* events(response.body);
  else yield { id: "", data: await response.text() };
}

/** What a refusal says. A proxy in between may answer without JSON. */
async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with ${response.status}`;
  }
}

/** The blocks of an event stream (HTML standard, section 9.2), each with its id and its data. */
async function* events(stream) {
  let text = "";
  for await (const part of chunks(stream.pipeThrough(new TextDecoderStream()))) {
    const blocks = (text + part).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const values = (name) =>
        block
          .split("\n")
          .filter((line) => line.startsWith(`${name}: `))
          .map((line) => line.slice(name.length + 2));
      yield { id: values("id").at(-1) ?? "", data: values("data").join("\n") };
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel();
  }
}
