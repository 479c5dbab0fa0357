// Polls with the client that openapi-generator makes for TypeScript: URL TOKEN JOB…; the job "waits" is waited for.
import { AsyncJobsApi, BifrostErrorFromJSON, Configuration, ResponseError } from "./client";
import type { BifrostError } from "./client";

const [url, token, ...jobs] = process.argv.slice(2);
const api = new AsyncJobsApi(new Configuration({ basePath: url, accessToken: token }));

async function poll(jobId: string): Promise<unknown[]> {
  try {
    const answer = await api.getAsyncTranscriptionJobRaw({ jobId, prefer: jobId === "waits" ? "wait=30" : undefined });
    const body = await answer.value();
    return [jobId, answer.raw.status, body.status, body.result?.text ?? null, body.error?.error.message ?? null];
  } catch (refused) {
    if (!(refused instanceof ResponseError)) throw refused;
    const error: BifrostError = BifrostErrorFromJSON(await refused.response.json());
    return [jobId, refused.response.status, null, null, error.error.message];
  }
}

(async () => {
  for (const job of jobs) console.log(JSON.stringify(await poll(job)));
})();
