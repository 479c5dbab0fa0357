"""Between the messages of `jobstatus.v1` and the values of the core, both ways, without I/O.

Anyone may have sent a message, so a value out of bounds raises InvalidField with the field's name.
"""

from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from jobstatus.core.commands import MAX_BATCH
from jobstatus.core.errors import InvalidField
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType
from jobstatus.core.store import Answer
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

REQUEST_TYPES: Final[dict[RequestType, pb.RequestType.ValueType]] = {
    request_type: pb.RequestType.Value(f"REQUEST_TYPE_{request_type.name}") for request_type in RequestType
}
JOB_STATES: Final[dict[JobState, pb.JobState.ValueType]] = {
    state: pb.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState
}
_REQUEST_TYPES_BY_NAME: Final[dict[str, pb.RequestType.ValueType]] = {
    request_type.value: number for request_type, number in REQUEST_TYPES.items()
}
_REQUEST_TYPES_BACK: Final[dict[int, RequestType]] = {
    number: request_type for request_type, number in REQUEST_TYPES.items()
}
_JOB_STATES_BACK: Final[dict[int, JobState]] = {number: state for state, number in JOB_STATES.items()}

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000

_MAX_SECONDS: Final = 315_576_000_000  # of google.protobuf.Duration
_NANOS_PER_MS: Final = 1_000_000


def request_type_of(number: int, field: str = "request_type") -> RequestType:
    """Return the request type. Raises InvalidField for the zero value and for an unknown number."""
    if number not in _REQUEST_TYPES_BACK:
        raise InvalidField.of(field, "must be a request type with a name")
    return _REQUEST_TYPES_BACK[number]


def job_state_of(number: int, field: str = "states") -> JobState:
    """Return the job state. Raises InvalidField for the zero value and for an unknown number."""
    if number not in _JOB_STATES_BACK:
        raise InvalidField.of(field, "must be a job state with a name")
    return _JOB_STATES_BACK[number]


def check_count(field: str, count: int) -> None:
    """Raise InvalidField unless a request has from 1 to MAX_BATCH items."""
    if not 1 <= count <= MAX_BATCH:
        raise InvalidField.of(field, f"must have from 1 to {MAX_BATCH} items")


def page_size(requested: int) -> int:
    """Return the size of a page by AIP-158: 0 is the default, and a larger one than the bound is the bound.

    Raises InvalidField when it is negative.
    """
    if requested < 0:
        raise InvalidField.of("page_size", "must not be negative")
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def duration_from_ms(span_ms: int) -> Duration:
    """Return a Duration of so many milliseconds."""
    return Duration(seconds=span_ms // 1000, nanos=span_ms % 1000 * _NANOS_PER_MS)


def ms_from_duration(span: Duration, field: str) -> int:
    """Return whole milliseconds. Raises InvalidField for a malformed Duration."""
    if abs(span.seconds) > _MAX_SECONDS or abs(span.nanos) >= 1000 * _NANOS_PER_MS or span.seconds * span.nanos < 0:
        raise InvalidField.of(field, "must be a valid google.protobuf.Duration")
    return span.seconds * 1000 + span.nanos // _NANOS_PER_MS


def timestamp_from_ms(at_ms: int) -> Timestamp:
    """Return a Timestamp of so many milliseconds since the epoch."""
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * _NANOS_PER_MS)


def ms_from_timestamp(at: Timestamp, field: str) -> int:
    """Return milliseconds since the epoch, rounded up. Raises InvalidField for a malformed Timestamp."""
    if not (
        0 <= at.nanos < 1000 * _NANOS_PER_MS and -62_135_596_800 <= at.seconds <= 253_402_300_799
    ):  # years 1 to 9999
        raise InvalidField.of(field, "must be a valid google.protobuf.Timestamp")
    return at.seconds * 1000 - (-at.nanos // _NANOS_PER_MS)


def optional(message: Message, field: str) -> Any:
    """Return a field's value, or None where it is absent."""
    return getattr(message, field) if message.HasField(field) else None


def _time(at_ms: int | None) -> Timestamp | None:
    return None if at_ms is None else timestamp_from_ms(at_ms)


def fill_job(message: pb.Job, job: Job, *, omit_result: bool = False, left_out_bytes: int | None = None) -> pb.Job:
    """Fill an empty message with the job, and return it. `left_out_bytes` is the size of a result that was not read.

    One that is part of another message is filled in place, because to make it from keywords, or apart and then copy it,
    costs three times as much. Fields that are absent are not set.
    """
    message.job_id = job.job_id
    message.request_type = REQUEST_TYPES[job.request_type]
    message.state = JOB_STATES[job.state]
    message.version = job.version
    message.attempt = job.attempt
    message.max_attempts = job.max_attempts
    _fill_names(message, job)
    _fill_times(message, job)
    if job.progress is not None:
        message.progress = job.progress
    if job.message is not None:
        message.message = job.message
    if job.status_code is not None:
        message.status_code = job.status_code
    if job.error is not None:
        message.error.CopyFrom(error_to_message(job.error))
    if job.result is not None and not omit_result:
        message.result = job.result
    if left_out_bytes is not None:
        message.result_size = left_out_bytes
    return message


def _fill_names(message: pb.Job, job: Job) -> None:
    if job.virtual_key_id is not None:
        message.virtual_key_id = job.virtual_key_id
    if job.provider is not None:
        message.provider = job.provider
    if job.model_requested is not None:
        message.model_requested = job.model_requested
    if job.worker_id is not None:
        message.worker_id = job.worker_id
    if job.last_writer is not None:
        message.last_writer = job.last_writer
    if job.traceparent is not None:
        message.traceparent = job.traceparent


def _fill_times(message: pb.Job, job: Job) -> None:
    _set_ms(message.created_at, job.created_at_ms)
    _set_ms(message.result_ttl, job.result_ttl_ms)
    if job.started_at_ms is not None:
        _set_ms(message.started_at, job.started_at_ms)
    if job.completed_at_ms is not None:
        _set_ms(message.completed_at, job.completed_at_ms)
    if job.expires_at_ms is not None:
        _set_ms(message.expires_at, job.expires_at_ms)
    if job.lease_expires_at_ms is not None:
        _set_ms(message.lease_expires_at, job.lease_expires_at_ms)


def _set_ms(message: Timestamp | Duration, ms: int) -> None:
    message.seconds = ms // 1000
    message.nanos = ms % 1000 * _NANOS_PER_MS


def answer_fields(answer: Answer) -> Any:
    """Return the fields of a PollAnswer by name, as keywords of its message."""
    return {
        "request_type": _REQUEST_TYPES_BY_NAME[answer.request_type],
        "virtual_key_id": answer.virtual_key_id,
        "created_at_ms": answer.created_at_ms,
        "expires_at_ms": answer.expires_at_ms,
        "ended_at_ms": answer.ended_at_ms,
        "version": answer.version,
        "progress": answer.progress,
        "body": answer.body,
        "result_size": answer.result_size,
        "result": answer.result,
    }


def answer_from_message(message: pb.PollAnswer) -> Answer | None:
    """Return the answer, or None for no such job. Raises InvalidField for a type that this version does not know."""
    has, number = message.HasField, message.request_type
    answer = Answer(
        _REQUEST_TYPES_BACK.get(number, ""),
        message.virtual_key_id if has("virtual_key_id") else None,
        message.created_at_ms,
        message.expires_at_ms if has("expires_at_ms") else None,
        message.ended_at_ms if has("ended_at_ms") else None,
        message.version,
        message.progress if has("progress") else None,
        message.body,
        message.result_size if has("result_size") else None,
        message.result if has("result") else None,
    )
    if number == pb.REQUEST_TYPE_UNSPECIFIED:
        return None
    request_type_of(number)  # raises for an unknown one
    return answer


def job_from_message(message: pb.Job) -> Job:
    """Return the job of a message from the service. Raises InvalidField for values that this version does not know."""

    def at(field: str) -> int | None:
        return ms_from_timestamp(getattr(message, field), field) if message.HasField(field) else None  # type: ignore[arg-type]  # field names are Literals in the stubs

    return Job(
        job_id=message.job_id,
        request_type=request_type_of(message.request_type),
        state=job_state_of(message.state, "state"),
        version=message.version,
        virtual_key_id=optional(message, "virtual_key_id"),
        provider=optional(message, "provider"),
        model_requested=optional(message, "model_requested"),
        created_at_ms=ms_from_timestamp(message.created_at, "created_at"),
        started_at_ms=at("started_at"),
        completed_at_ms=at("completed_at"),
        expires_at_ms=at("expires_at"),
        result_ttl_ms=ms_from_duration(message.result_ttl, "result_ttl"),
        status_code=optional(message, "status_code"),
        result=optional(message, "result"),
        error=error_from_message(message.error) if message.HasField("error") else None,
        attempt=message.attempt,
        max_attempts=message.max_attempts,
        worker_id=optional(message, "worker_id"),
        lease_expires_at_ms=at("lease_expires_at"),
        progress=optional(message, "progress"),
        message=optional(message, "message"),
        last_writer=optional(message, "last_writer"),
        traceparent=optional(message, "traceparent"),
    )


def error_to_message(error: JobError) -> pb.JobError:
    """Return the error as a message."""
    inner, extra = error.error, error.extra_fields
    return pb.JobError(
        event_id=error.event_id,
        type=error.type,
        is_bifrost_error=error.is_bifrost_error,
        status_code=error.status_code,
        error=pb.ErrorField(
            type=inner.type,
            code=inner.code,
            message=inner.message,
            param=inner.param,
            event_id=inner.event_id,
            error=inner.error,
        ),
        extra_fields=pb.ErrorExtraFields(
            provider=extra.provider,
            model_requested=extra.model_requested,
            request_type=extra.request_type,
            original_model_requested=extra.original_model_requested,
            resolved_model_used=extra.resolved_model_used,
        ),
    )


def error_from_message(message: pb.JobError) -> JobError:
    """Return the error of a message. Raises InvalidField when the inner `error` is absent."""
    if not message.HasField("error"):
        raise InvalidField.of("error.error", "is required")
    inner, extra = message.error, message.extra_fields
    return JobError(
        event_id=optional(message, "event_id"),
        type=optional(message, "type"),
        is_bifrost_error=message.is_bifrost_error,
        status_code=optional(message, "status_code"),
        error=ErrorField(
            type=optional(inner, "type"),
            code=optional(inner, "code"),
            message=inner.message,
            param=optional(inner, "param"),
            event_id=optional(inner, "event_id"),
            error=optional(inner, "error"),
        ),
        extra_fields=ErrorExtraFields(
            provider=optional(extra, "provider"),
            model_requested=optional(extra, "model_requested"),
            request_type=optional(extra, "request_type"),
            original_model_requested=optional(extra, "original_model_requested"),
            resolved_model_used=optional(extra, "resolved_model_used"),
        ),
    )


def virtual_key_to_message(virtual_key: VirtualKey) -> vk_pb.VirtualKey:
    """Return the virtual key as a message."""
    return vk_pb.VirtualKey(
        virtual_key_id=virtual_key.virtual_key_id,
        key_sha256=virtual_key.key_sha256,
        disabled=virtual_key.disabled,
        expires_at=_time(virtual_key.expires_at_ms),
        created_at=timestamp_from_ms(virtual_key.created_at_ms),
        updated_at=timestamp_from_ms(virtual_key.updated_at_ms),
    )


def virtual_key_from_message(message: vk_pb.VirtualKey) -> VirtualKey:
    """Return the virtual key of a message from the service."""
    return VirtualKey(
        virtual_key_id=message.virtual_key_id,
        key_sha256=tuple(message.key_sha256),
        disabled=message.disabled,
        expires_at_ms=ms_from_timestamp(message.expires_at, "expires_at") if message.HasField("expires_at") else None,
        created_at_ms=ms_from_timestamp(message.created_at, "created_at"),
        updated_at_ms=ms_from_timestamp(message.updated_at, "updated_at"),
    )
