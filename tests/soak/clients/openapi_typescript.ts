// Polls with openapi-fetch and the types that openapi-typescript makes: URL TOKEN JOB…; the job "waits" is waited for.
import createClient from "openapi-fetch";
import type { paths } from "./client";

const [url, token, ...jobs] = process.argv.slice(2);
const client = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${token}` } });

(async () => {
  for (const job of jobs) {
    const { data, error, response } = await client.GET("/v1/async/audio/transcriptions/{job_id}", {
      params: { path: { job_id: job }, header: job === "waits" ? { Prefer: "wait=30" } : {} },
    });
    const result = data?.result as { text?: string } | undefined;
    const failure = error ?? data?.error;
    const row = [job, response.status, data?.status ?? null, result?.text ?? null, failure?.error.message ?? null];
    console.log(JSON.stringify(row));
  }
})();
