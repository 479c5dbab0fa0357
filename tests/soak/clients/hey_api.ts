// Polls with the client that @hey-api/openapi-ts makes: URL TOKEN JOB…; the job "waits" is waited for.
import { getAsyncTranscriptionJob } from "./client";

const [baseUrl, token, ...jobs] = process.argv.slice(2);

(async () => {
  for (const job of jobs) {
    const { data, error, response } = await getAsyncTranscriptionJob({
      baseUrl,
      auth: () => token,
      path: { job_id: job },
      headers: job === "waits" ? { Prefer: "wait=30" } : {},
    });
    const result = data?.result as { text?: string } | undefined;
    const failure = error ?? data?.error;
    const row = [job, response?.status, data?.status ?? null, result?.text ?? null, failure?.error.message ?? null];
    console.log(JSON.stringify(row));
  }
})();
