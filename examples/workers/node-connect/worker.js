// A JobStatus worker with Connect: it reverses the order of the words of a text, half a second for each.
//
//     node worker.js HOST:PORT create JOB_ID
//     node worker.js HOST:PORT run JOB_ID [LEASE_SECONDS] < TEXT
//     node worker.js HOST:PORT watch JOB_ID
import { randomUUID } from "node:crypto";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { JobState, JobStatus, RequestType } from "./gen/jobstatus/v1/job_status_pb.js";

// How long a call may take, and how long it is repeated.
const PATIENCE_TO_START = { callMs: 10_000, totalMs: 60_000 };
const PATIENCE_TO_END = { callMs: 60_000, totalMs: 3_600_000 }; // large results take long, outages longer
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 3_000;
const BEAT_PAUSE_MS = 1_000; // between two heartbeats, however much there is to tell
const WORD_MS = 500;

// Connect has no limit on the size of answers, and no pauses between attempts to connect.
const connect = (target) =>
  createClient(
    JobStatus,
    createGrpcTransport({ baseUrl: `http://${target}`, pingIntervalMs: 30_000, pingTimeoutMs: 10_000 }),
  );

/** The service's word for what is wrong; null when the error is not the service's own. */
const reason = (error) => ConnectError.from(error).metadata.get("jobstatus-reason");

/** What else the service says of an error: the metadata of its google.rpc.ErrorInfo. */
const metadata = (error) => ConnectError.from(error).findDetails(ErrorInfoSchema)[0].metadata;

/** Whether the job is not this worker's any more: there is nothing left to do or to report. */
const isDropped = (error) => ["JOB_NOT_FOUND", "JOB_TERMINAL", "LEASE_LOST"].includes(reason(error));

/** Whether the same message should be sent again. */
function isPassing(error) {
  const { code } = ConnectError.from(error);
  // ResourceExhausted without a reason: a message is too large, and will be next time.
  if (code === Code.ResourceExhausted) return Boolean(reason(error));
  return [Code.Unavailable, Code.DeadlineExceeded, Code.Canceled].includes(code);
}

/** Repeats a call until it is answered or refused for good, the time is over, or the signal comes. */
async function send(call, request, { callMs, totalMs }, signal) {
  const end = Date.now() + totalMs;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      return await call(request, { timeoutMs: callMs });
    } catch (error) {
      if (!isPassing(error) || Date.now() > end) throw error;
    }
    await sleep(pause * (0.5 + Math.random()), undefined, { signal });
  }
}

async function create(jobs, jobId) {
  const request = { jobId, requestType: RequestType.TEXT_COMPLETION, virtualKeyId: "vk-1" };
  await send(jobs.createJob, request, PATIENCE_TO_START);
}

/** Works on the job under a lease, and ends it. */
async function run(jobs, jobId, leaseSeconds, input) {
  const workerId = `connect-${randomUUID()}`; // each run is a worker of its own
  const start = { jobId, workerId, lease: { seconds: BigInt(leaseSeconds) } };
  const { attempt } = (await send(jobs.startJob, start, PATIENCE_TO_START)).job;

  const notes = {}; // the newest one
  const stop = new AbortController();
  const beating = beat(jobs, { jobId, attempt }, 1000 * leaseSeconds, notes, stop.signal).catch((error) => stop.abort(error));
  let result, jobError;
  try {
    result = { text: await reverse(input, notes, stop.signal) };
  } catch (error) {
    if (stop.signal.aborted) throw stop.signal.reason;
    jobError = { type: "invalid_request_error", code: error.code, message: error.message };
  } finally {
    stop.abort();
    await beating;
  }

  if (jobError) {
    await send(jobs.failJob, { jobId, attempt, error: { error: jobError }, statusCode: 400 }, PATIENCE_TO_END);
    console.log("failed");
  } else {
    await send(jobs.completeJob, { jobId, attempt, result: Buffer.from(JSON.stringify(result)) }, PATIENCE_TO_END);
    console.log("completed");
  }
}

/**
 * Sends a heartbeat three times in each lease, and sooner when there is progress, until the signal comes. Throws when
 * the job is not this worker's any more. What else goes wrong, the next heartbeat may mend.
 */
async function beat(jobs, job, leaseMs, notes, signal) {
  for (let sentAt = Date.now(); ; ) {
    await sleep(Math.min(BEAT_PAUSE_MS, leaseMs / 3), undefined, { signal });
    if (!notes.latest && Date.now() - sentAt < leaseMs / 3) continue;
    const note = notes.latest;
    notes.latest = undefined;
    try {
      await send(jobs.heartbeatJob, { ...job, ...note }, { ...PATIENCE_TO_START, totalMs: leaseMs }, signal);
      sentAt = Date.now();
    } catch (error) {
      if (isDropped(error) || signal.aborted) throw error;
    }
  }
}

/** The work. It ends early when the signal comes. */
async function reverse(input, notes, signal) {
  const words = input.split(/\s+/).filter(Boolean);
  if (!words.length) throw Object.assign(new Error("The text is empty."), { code: "empty_text" });
  for (let done = 1; done <= words.length; done++) {
    await sleep(WORD_MS, undefined, { signal });
    notes.latest = { progress: done / words.length, message: `word ${done}` };
  }
  return words.reverse().join(" ");
}

/**
 * Tells of each version on stderr until the job has ended, then writes the result to stdout. A stream that breaks is
 * taken up again.
 */
async function watch(jobs, jobId) {
  for (let afterVersion = 0n; ; await sleep(1000)) {
    try {
      for await (const { job } of jobs.watchJob({ jobId, afterVersion })) {
        afterVersion = job.version;
        show(job);
      }
      return;
    } catch (error) {
      const { code, message } = ConnectError.from(error);
      // A proxy that cuts a silent stream makes it end with one of these two.
      const isCut = !reason(error) && [Code.Internal, Code.Unknown].includes(code);
      if (!isPassing(error) && !isCut) throw error;
      console.error(`taken up again after ${message}`);
    }
  }
}

function show({ version, state, progress, message, error, result }) {
  const name = JobState[state].toLowerCase();
  console.error(`v${version} ${name} ${Math.round(100 * (progress ?? 0))}% ${message ?? ""}${error?.error?.code ?? ""}`);
  if (result) process.stdout.write(result);
}

const [target, command, jobId, leaseSeconds = "30"] = process.argv.slice(2);
const commands = {
  create: (jobs) => create(jobs, jobId),
  run: async (jobs) => run(jobs, jobId, Number(leaseSeconds), await text(process.stdin)),
  watch: (jobs) => watch(jobs, jobId),
};
if (!jobId || !commands[command]) throw new Error("usage: worker.js HOST:PORT create|run|watch JOB_ID [LEASE_SECONDS]");
try {
  await commands[command](connect(target));
} catch (error) {
  if (isDropped(error)) {
    console.log("dropped:", reason(error), metadata(error).code ?? "");
  } else {
    console.error(reason(error) ?? "", ConnectError.from(error).message); // the queue should deliver the work again
    process.exitCode = 1;
  }
}
