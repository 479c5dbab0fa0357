"""Polls with the client that openapi-generator makes for Python: URL TOKEN JOB…; the job "waits" is waited for."""

import json
import sys

from jobstatus_client import ApiClient, ApiException, AsyncJobsApi, Configuration

url, token, *jobs = sys.argv[1:]
api = AsyncJobsApi(ApiClient(Configuration(host=url, access_token=token)))
for job in jobs:
    prefer = "wait=30" if job == "waits" else None
    try:
        answer = api.get_async_transcription_job_with_http_info(job, prefer=prefer)
        http, body, error = answer.status_code, answer.data, answer.data.error
        status, text = body.status.value, (body.result or {}).get("text")
    except ApiException as refused:
        http, error, status, text = refused.status, refused.data, None, None
    print(json.dumps([job, http, status, text, error and error.error.message]))
