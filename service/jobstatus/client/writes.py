"""From a caller's commands, results and errors to the messages of the contract.

Commands check their bounds on construction, so most mistakes are found without a round trip.
"""

import json
from typing import Final

from jobstatus.core.commands import CancelJob, CompleteJob, CreateJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.errors import ResultNotJson
from jobstatus.core.job import ErrorField, JobError
from jobstatus.rpc.messages import REQUEST_TYPES, duration_from_ms, error_to_message
from jobstatus.v1.job_status_pb2 import (
    CancelJobRequest,
    CompleteJobRequest,
    CreateJobRequest,
    FailJobRequest,
    HeartbeatJobRequest,
    Operation,
    StartJobRequest,
)

Write = CreateJob | StartJob | HeartbeatJob | CompleteJob | FailJob | CancelJob

WORKER_ERROR: Final = "worker_error"
MAX_REASON_CHARS: Final = 2000


def create_request(command: CreateJob) -> CreateJobRequest:
    return CreateJobRequest(
        job_id=command.job_id,
        request_type=REQUEST_TYPES[command.request_type],
        virtual_key_id=command.virtual_key_id,
        result_ttl=duration_from_ms(command.result_ttl_ms),
        provider=command.provider,
        model_requested=command.model_requested,
        max_attempts=command.max_attempts,
    )


def start_request(command: StartJob) -> StartJobRequest:
    lease = None if command.lease_ms is None else duration_from_ms(command.lease_ms)
    return StartJobRequest(job_id=command.job_id, worker_id=command.worker_id, lease=lease)


def heartbeat_request(command: HeartbeatJob) -> HeartbeatJobRequest:
    return HeartbeatJobRequest(
        job_id=command.job_id, attempt=command.attempt, progress=command.progress, message=command.message
    )


def complete_request(command: CompleteJob) -> CompleteJobRequest:
    return CompleteJobRequest(
        job_id=command.job_id, attempt=command.attempt, result=command.result, status_code=command.status_code
    )


def fail_request(command: FailJob) -> FailJobRequest:
    return FailJobRequest(
        job_id=command.job_id,
        attempt=command.attempt,
        error=error_to_message(command.error),
        status_code=command.status_code,
    )


def cancel_request(command: CancelJob) -> CancelJobRequest:
    return CancelJobRequest(job_id=command.job_id, reason=command.reason)


def operation(command: Write) -> Operation:
    """Return the command as one operation of a batch."""
    match command:
        case CreateJob():
            return Operation(create_job=create_request(command))
        case StartJob():
            return Operation(start_job=start_request(command))
        case HeartbeatJob():
            return Operation(heartbeat_job=heartbeat_request(command))
        case CompleteJob():
            return Operation(complete_job=complete_request(command))
        case FailJob():
            return Operation(fail_job=fail_request(command))
        case CancelJob():
            return Operation(cancel_job=cancel_request(command))


def encoded_result(result: object) -> bytes:
    """Return the result as JSON. `bytes` and `str` are JSON text already and stay as they are.

    Raises ResultNotJson for a value that JSON cannot express. The service checks whether text is valid JSON.
    """
    try:
        if isinstance(result, bytes):
            return result
        if isinstance(result, str):
            return result.encode()
        return json.dumps(result, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultNotJson(f"The result cannot be written as JSON: {error}") from error


def job_error(error: JobError | str) -> JobError:
    """Return the error; a `str` becomes the message of an error of the worker's own."""
    return error if isinstance(error, JobError) else JobError(error=ErrorField(type=WORKER_ERROR, message=error))


def job_error_from(error: BaseException) -> JobError:
    """Return the job's error for a worker that raised this: the class as the code, the bounded text as the message.

    A worker that is being stopped has a code of its own.
    """
    if not isinstance(error, Exception):
        return JobError(error=ErrorField(type=WORKER_ERROR, code="worker_stopped", message="The worker was stopped."))
    text = str(error) or "The worker failed."
    storable = text[:MAX_REASON_CHARS].replace("\0", "").encode(errors="replace").decode()
    return JobError(error=ErrorField(type=WORKER_ERROR, code=type(error).__name__, message=storable))
