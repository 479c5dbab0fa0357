"""A client for the processes that write jobs: the gateway that creates them and the workers that run them.

    async with JobStatusClient("127.0.0.1:50051") as client:
        job = await client.create_job(request_type=RequestType.TRANSCRIPTION, virtual_key_id="vk-1")
        async with client.run_job(job.job_id) as run:
            run.report(progress=0.4, message="decoding")
            run.complete({"text": "hello"})

BlockingJobStatusClient has the same calls for programs whose work is threads. Everything a caller needs is exported
here, including every error that a call raises. Importing it loads grpc, protobuf and the standard library only, because
a worker installs nothing else. A name is imported when it is first used, so that a short program loads no more than it
needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jobstatus.client.blocking import BlockingIterator, BlockingJobRun, BlockingJobStatusClient
    from jobstatus.client.client import JobFilter, JobPage, JobStatusClient
    from jobstatus.client.errors import AnswerTooLarge, JobCancelled, ServiceFailed, ServiceUnreachable
    from jobstatus.client.loop_thread import ClientClosed
    from jobstatus.client.run import JobRun
    from jobstatus.client.writes import Write
    from jobstatus.core.commands import CancelJob, CompleteJob, CreateJob, FailJob, HeartbeatJob, StartJob
    from jobstatus.core.errors import (
        ClientNotAllowed,
        ClientNotIdentified,
        InvalidField,
        JobExists,
        JobNotFound,
        JobNotStarted,
        JobStatusError,
        JobTerminal,
        LeaseHeld,
        LeaseLost,
        Overloaded,
        ResultNotJson,
        ResultTooLarge,
        ShuttingDown,
        StoreFull,
        StoreUnavailable,
        VirtualKeyNotFound,
    )
    from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType
    from jobstatus.core.virtual_keys import VirtualKey, hash_key

__all__ = [
    "AnswerTooLarge",
    "BlockingIterator",
    "BlockingJobRun",
    "BlockingJobStatusClient",
    "CancelJob",
    "ClientClosed",
    "ClientNotAllowed",
    "ClientNotIdentified",
    "CompleteJob",
    "CreateJob",
    "ErrorExtraFields",
    "ErrorField",
    "FailJob",
    "HeartbeatJob",
    "InvalidField",
    "Job",
    "JobCancelled",
    "JobError",
    "JobExists",
    "JobFilter",
    "JobNotFound",
    "JobNotStarted",
    "JobPage",
    "JobRun",
    "JobState",
    "JobStatusClient",
    "JobStatusError",
    "JobTerminal",
    "LeaseHeld",
    "LeaseLost",
    "Overloaded",
    "RequestType",
    "ResultNotJson",
    "ResultTooLarge",
    "ServiceFailed",
    "ServiceUnreachable",
    "ShuttingDown",
    "StartJob",
    "StoreFull",
    "StoreUnavailable",
    "VirtualKey",
    "VirtualKeyNotFound",
    "Write",
    "hash_key",
]

_MODULES: Final = {
    "jobstatus.client.blocking": (
        "BlockingIterator",
        "BlockingJobRun",
        "BlockingJobStatusClient",
    ),
    "jobstatus.client.client": (
        "JobFilter",
        "JobPage",
        "JobStatusClient",
    ),
    "jobstatus.client.errors": (
        "AnswerTooLarge",
        "JobCancelled",
        "ServiceFailed",
        "ServiceUnreachable",
    ),
    "jobstatus.client.loop_thread": ("ClientClosed",),
    "jobstatus.client.run": ("JobRun",),
    "jobstatus.client.writes": ("Write",),
    "jobstatus.core.commands": (
        "CancelJob",
        "CompleteJob",
        "CreateJob",
        "FailJob",
        "HeartbeatJob",
        "StartJob",
    ),
    "jobstatus.core.errors": (
        "ClientNotAllowed",
        "ClientNotIdentified",
        "InvalidField",
        "JobExists",
        "JobNotFound",
        "JobNotStarted",
        "JobStatusError",
        "JobTerminal",
        "LeaseHeld",
        "LeaseLost",
        "Overloaded",
        "ResultNotJson",
        "ResultTooLarge",
        "ShuttingDown",
        "StoreFull",
        "StoreUnavailable",
        "VirtualKeyNotFound",
    ),
    "jobstatus.core.job": (
        "ErrorExtraFields",
        "ErrorField",
        "Job",
        "JobError",
        "JobState",
        "RequestType",
    ),
    "jobstatus.core.virtual_keys": (
        "VirtualKey",
        "hash_key",
    ),
}
"""Where each name is, as the imports above say it."""
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import what is exported under this name."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
