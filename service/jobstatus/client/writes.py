"""From a caller's commands, results and errors to the messages of the contract.

Commands check their bounds on construction, so most mistakes are found without a round trip. Lone surrogates are
replaced where a message is made, so a write of a batch is sent as a single call is.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Final, TypeVar, cast

from google.protobuf.message import Message

from jobstatus.client.encoding import Default, json_bytes, mended, well_formed
from jobstatus.core.commands import CancelJob, CompleteJob, CreateJob, FailJob, HeartbeatJob, StartJob
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

T = TypeVar("T")

WORKER_ERROR: Final = "worker_error"
MAX_REASON_CHARS: Final = 2000


def create_request(command: CreateJob) -> CreateJobRequest:
    return CreateJobRequest(
        job_id=command.job_id,
        request_type=REQUEST_TYPES[command.request_type],
        virtual_key_id=command.virtual_key_id,
        result_ttl=duration_from_ms(command.result_ttl_ms),
        provider=_well_formed(command.provider),
        model_requested=_well_formed(command.model_requested),
        max_attempts=command.max_attempts,
        traceparent=_well_formed(command.traceparent),
    )


def start_request(command: StartJob) -> StartJobRequest:
    lease = None if command.lease_ms is None else duration_from_ms(command.lease_ms)
    return StartJobRequest(job_id=command.job_id, worker_id=command.worker_id, lease=lease)


def heartbeat_request(command: HeartbeatJob) -> HeartbeatJobRequest:
    return HeartbeatJobRequest(
        job_id=command.job_id,
        attempt=command.attempt,
        progress=command.progress,
        message=_well_formed(command.message),
    )


def complete_request(command: CompleteJob) -> CompleteJobRequest:
    return CompleteJobRequest(
        job_id=command.job_id,
        attempt=command.attempt,
        result=mended(command.result),
        status_code=command.status_code,
    )


def fail_request(command: FailJob) -> FailJobRequest:
    return FailJobRequest(
        job_id=command.job_id,
        attempt=command.attempt,
        error=error_to_message(_well_formed(command.error)),
        status_code=command.status_code,
    )


def cancel_request(command: CancelJob) -> CancelJobRequest:
    return CancelJobRequest(job_id=command.job_id, reason=_well_formed(command.reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteKind:
    """How one kind of write is sent: its RPC, the field of an Operation, and what makes its request."""

    rpc: str
    field: str
    request: Callable[[Any], Message]


KINDS: Final[dict[type[Write], WriteKind]] = {
    CreateJob: WriteKind(rpc="CreateJob", field="create_job", request=create_request),
    StartJob: WriteKind(rpc="StartJob", field="start_job", request=start_request),
    HeartbeatJob: WriteKind(rpc="HeartbeatJob", field="heartbeat_job", request=heartbeat_request),
    CompleteJob: WriteKind(rpc="CompleteJob", field="complete_job", request=complete_request),
    FailJob: WriteKind(rpc="FailJob", field="fail_job", request=fail_request),
    CancelJob: WriteKind(rpc="CancelJob", field="cancel_job", request=cancel_request),
}


def operation(command: Write) -> Operation:
    """Return the command as one operation of a batch."""
    kind = KINDS[type(command)]
    return operation_of(kind, kind.request(command))


def operation_of(kind: WriteKind, request: Message) -> Operation:
    """Return the request of a write of this kind as one operation of a batch."""
    only: dict[str, Any] = {kind.field: request}
    return Operation(**only)


def encoded_result(result: object, *, default: Default | None = None) -> bytes:
    """Return the result as JSON. `bytes` and `str` are JSON text already and stay as they are.

    A lone surrogate in a `str` has no bytes, so U+FFFD stands in its place. Raises ResultNotJson for a value that JSON
    cannot express. The service checks whether text is valid JSON.
    """
    if isinstance(result, bytes):
        return result
    if isinstance(result, str):
        return well_formed(result).encode()
    return json_bytes(result, default=default)


def job_error(error: JobError | str) -> JobError:
    """Return the error; a `str` becomes the message of an error of the worker's own."""
    if isinstance(error, str):
        return JobError(error=ErrorField(type=WORKER_ERROR, message=error))
    return error


def job_error_from(error: BaseException) -> JobError:
    """Return the job's error for a worker that raised this: the class as the code, the bounded text as the message.

    A worker that is being stopped has a code of its own.
    """
    if not isinstance(error, Exception):
        return JobError(error=ErrorField(type=WORKER_ERROR, code="worker_stopped", message="The worker was stopped."))
    text = str(error) or "The worker failed."
    storable = text[:MAX_REASON_CHARS].replace("\0", "")
    return JobError(error=ErrorField(type=WORKER_ERROR, code=type(error).__name__, message=storable))


def _well_formed(value: T) -> T:
    """Return a text, or a value of the domain with all its texts, as it can be sent. Other values stay as they are."""
    return cast("T", _sendable(value))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: _sendable(getattr(value, field.name)) for field in fields(value)}
    return replace(value, **parts)
