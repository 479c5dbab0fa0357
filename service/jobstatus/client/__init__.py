"""An asyncio client for the services that write: the gateway that accepts jobs and the workers that run them.

    async with JobStatusClient("127.0.0.1:50051") as client:
        job = await client.create_job(request_type=RequestType.TRANSCRIPTION, virtual_key_id="vk-1")
        async with client.run_job(job.job_id) as run:
            run.report(progress=0.4, message="decoding")
            run.complete({"text": "hello"})

It stands above `jobstatus.rpc.messages` and the core's values and errors; it must not know servers, stores or REST.
"""

from jobstatus.client.client import JobFilter, JobPage, JobStatusClient
from jobstatus.client.errors import ServiceFailed, ServiceUnreachable
from jobstatus.client.run import JobRun
from jobstatus.client.writes import Write
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType

__all__ = [
    "ErrorExtraFields",
    "ErrorField",
    "Job",
    "JobError",
    "JobFilter",
    "JobPage",
    "JobRun",
    "JobState",
    "JobStatusClient",
    "RequestType",
    "ServiceFailed",
    "ServiceUnreachable",
    "Write",
]
