"""Jobs for tests: made over gRPC in any state, with as few words as a test needs."""

from typing import Any, Final

from jobstatus.core.job import JobState, RequestType
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

from harness.service import Service

VIRTUAL_KEY: Final = "vk-1"
RESULT: Final = b'{"text": "hello"}'
ENDED: Final = (JobState.COMPLETED, JobState.FAILED)

KINDS: Final = {
    RequestType.TRANSCRIPTION: "audio/transcriptions",
    RequestType.SPEECH: "audio/speech",
    RequestType.CHAT_COMPLETION: "chat/completions",
    RequestType.TEXT_COMPLETION: "completions",
    RequestType.RESPONSES: "responses",
    RequestType.EMBEDDING: "embeddings",
    RequestType.IMAGE_GENERATION: "images/generations",
    RequestType.IMAGE_EDIT: "images/edits",
    RequestType.IMAGE_VARIATION: "images/variations",
    RequestType.RERANK: "rerank",
    RequestType.OCR: "ocr",
}
"""The contract's table once more, so that a test does not take the paths from the code that it judges."""


def number_of(request_type: RequestType) -> pb.RequestType.ValueType:
    """The request type in the gRPC contract."""
    return pb.RequestType.Value(f"REQUEST_TYPE_{request_type.name}")


def job_error(message: str = "The recording is empty.", **fields: Any) -> pb.JobError:
    """What a worker reports of a failure: no more than it must, unless more is given."""
    return pb.JobError(**{"error": pb.ErrorField(message=message), **fields})


def creation(job_id: str, **fields: Any) -> pb.CreateJobRequest:
    """Asks for a transcription of VIRTUAL_KEY's; a field of None is left out."""
    given = {"request_type": pb.REQUEST_TYPE_TRANSCRIPTION, "virtual_key_id": VIRTUAL_KEY, **fields}
    return pb.CreateJobRequest(job_id=job_id, **{name: value for name, value in given.items() if value is not None})


def starting(job_id: str, worker_id: str = "worker-2", **fields: Any) -> pb.StartJobRequest:
    """Claims the job, for another worker than `start` does."""
    return pb.StartJobRequest(job_id=job_id, worker_id=worker_id, **fields)


def heartbeat(job_id: str, **fields: Any) -> pb.HeartbeatJobRequest:
    """Says that the worker is alive."""
    return pb.HeartbeatJobRequest(job_id=job_id, **fields)


def completion(job_id: str, result: bytes = RESULT, **fields: Any) -> pb.CompleteJobRequest:
    """Ends the job as `complete` does."""
    return pb.CompleteJobRequest(job_id=job_id, result=result, **fields)


def failure(job_id: str, error: pb.JobError | None = None, **fields: Any) -> pb.FailJobRequest:
    """Ends the job as `fail` does."""
    return pb.FailJobRequest(job_id=job_id, error=error or job_error(), **fields)


def cancellation(job_id: str, **fields: Any) -> pb.CancelJobRequest:
    """Ends the job as `cancel` does."""
    return pb.CancelJobRequest(job_id=job_id, **fields)


async def create(service: Service, job_id: str, **fields: Any) -> pb.Job:
    """A new job."""
    return (await service.jobs.CreateJob(creation(job_id, **fields))).job


async def start(service: Service, job_id: str, worker_id: str = "worker-1", **fields: Any) -> pb.Job:
    """The job, started."""
    return (await service.jobs.StartJob(starting(job_id, worker_id, **fields))).job


async def complete(service: Service, job_id: str, result: bytes = RESULT, **fields: Any) -> pb.Job:
    """The job, completed."""
    return (await service.jobs.CompleteJob(completion(job_id, result, **fields))).job


async def fail(service: Service, job_id: str, error: pb.JobError | None = None, **fields: Any) -> pb.Job:
    """The job, failed."""
    return (await service.jobs.FailJob(failure(job_id, error, **fields))).job


async def cancel(service: Service, job_id: str, **fields: Any) -> pb.Job:
    """The job, cancelled."""
    return (await service.jobs.CancelJob(cancellation(job_id, **fields))).job


async def job_in(service: Service, state: JobState, job_id: str, **fields: Any) -> pb.Job:
    """A job in this state, brought there by way of all states before it."""
    job = await create(service, job_id, **fields)
    if state is not JobState.PENDING:
        job = await start(service, job_id)
    if state is JobState.COMPLETED:
        job = await complete(service, job_id)
    if state is JobState.FAILED:
        job = await fail(service, job_id)
    return job


async def put_virtual_key(service: Service, virtual_key_id: str = VIRTUAL_KEY, **fields: Any) -> vk_pb.VirtualKey:
    """The virtual key, registered as given."""
    request = vk_pb.PutVirtualKeyRequest(virtual_key_id=virtual_key_id, **fields)
    return (await service.virtual_keys.PutVirtualKey(request)).virtual_key


async def next_job(stream: Any) -> pb.Job:
    """The job in the next message of a watch, which there has to be."""
    message = await stream.read()
    assert isinstance(message, pb.WatchJobResponse)
    return message.job
