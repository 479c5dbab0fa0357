"""Polls with the client that openapi-python-client makes: URL TOKEN JOB…; the job "waits" is waited for."""

import json
import sys

from job_status_client import AuthenticatedClient
from job_status_client.api.async_jobs import get_async_transcription_job
from job_status_client.models import BifrostError
from job_status_client.types import UNSET

url, token, *jobs = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token, timeout=40)
for job in jobs:
    prefer = "wait=30" if job == "waits" else UNSET
    answer = get_async_transcription_job.sync_detailed(job, client=client, prefer=prefer)
    body, status, text = answer.parsed, None, None
    error = body if isinstance(body, BifrostError) else body.error
    if body is not error:
        status, text = body.status.value, (body.result or {}).get("text")
    print(json.dumps([job, answer.status_code, status, text, error.error.message if error else None]))
