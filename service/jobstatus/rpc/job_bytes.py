"""The messages that answer writes, as bytes.

To fill a message field by field and serialise it costs three times as much. Most fields of the jobs of a batch are the
same, so they are serialised once, by protobuf, and what differs is put beside them: a message is its fields one after
the other, in any order (https://protobuf.dev/programming-guides/encoding).
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, TypeAlias

from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.rpc.errors import operation_error
from jobstatus.rpc.messages import JOB_STATES, REQUEST_TYPES, duration_from_ms, error_to_message, timestamp_from_ms
from jobstatus.v1 import job_status_pb2 as pb

_BYTES: Final = 2
"""The wire type of strings and messages: their length comes first."""
_DOUBLE: Final = 1
_CONTINUES: Final = 0x80

_Alike: TypeAlias = tuple[
    RequestType,
    JobState,
    int,
    str | None,
    str | None,
    str | None,
    int,
    int,
    int | None,
    int,
    str | None,
    str | None,
]
"""The values of the fields that are usually the same for many jobs."""


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _CONTINUES:
        encoded.append(number & _CONTINUES - 1 | _CONTINUES)
        number >>= 7
    return bytes((*encoded, number))


_LENGTHS: Final = tuple(map(_varint, range(1 << 10)))
"""Those that are usual."""


def _length(size: int) -> bytes:
    return _LENGTHS[size] if size < len(_LENGTHS) else _varint(size)


def _tag(message: Any, field: str, wire_type: int) -> bytes:
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type)


_JOB_ID: Final = _tag(pb.Job, "job_id", _BYTES)
_CREATED_AT: Final = _tag(pb.Job, "created_at", _BYTES)
_STARTED_AT: Final = _tag(pb.Job, "started_at", _BYTES)
_COMPLETED_AT: Final = _tag(pb.Job, "completed_at", _BYTES)
_EXPIRES_AT: Final = _tag(pb.Job, "expires_at", _BYTES)
_LEASE_EXPIRES_AT: Final = _tag(pb.Job, "lease_expires_at", _BYTES)
_PROGRESS: Final = _tag(pb.Job, "progress", _DOUBLE)
_MESSAGE: Final = _tag(pb.Job, "message", _BYTES)
_ERROR: Final = _tag(pb.Job, "error", _BYTES)
_TRACEPARENT: Final = _tag(pb.Job, "traceparent", _BYTES)
_JOB_OF_RESPONSE: Final = _tag(pb.CreateJobResponse, "job", _BYTES)
_RESULT_OF_BATCH: Final = _tag(pb.BatchWriteResponse, "result", _BYTES)
_JOB_OF_RESULT: Final = _tag(pb.OperationResult, "job", _BYTES)
_ERROR_OF_RESULT: Final = _tag(pb.OperationResult, "error", _BYTES)


def single_response(job: Job) -> bytes:
    """Return the response to a single write: of each, the job is field 1."""
    data = job_bytes(job)
    return b"%b%b%b" % (_JOB_OF_RESPONSE, _length(len(data)), data)


def batch_response(outcomes: Iterable[Job | JobStatusError]) -> bytes:
    """Return the BatchWriteResponse with an outcome for each operation."""
    parts: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, JobStatusError):
            tag, data = _ERROR_OF_RESULT, operation_error(outcome).SerializeToString()
        else:
            tag, data = _JOB_OF_RESULT, job_bytes(outcome)
        size = _length(len(data))
        parts += (_RESULT_OF_BATCH, _length(len(tag) + len(size) + len(data)), tag, size, data)
    return b"".join(parts)


def job_bytes(job: Job) -> bytes:
    """Return the message of a job without its result, as `messages.fill_job` makes it."""
    job_id = job.job_id.encode()
    data = b"%b%b%b%b%b" % (
        _JOB_ID,
        _length(len(job_id)),
        job_id,
        _alike(
            (
                job.request_type,
                job.state,
                job.version,
                job.virtual_key_id,
                job.provider,
                job.model_requested,
                job.result_ttl_ms,
                job.max_attempts,
                job.status_code,
                job.attempt,
                job.worker_id,
                job.last_writer,
            )
        ),
        _time(_CREATED_AT, job.created_at_ms),
    )
    if job.started_at_ms is not None:
        data += _time(_STARTED_AT, job.started_at_ms)
    if job.completed_at_ms is not None:
        data += _time(_COMPLETED_AT, job.completed_at_ms)
    if job.expires_at_ms is not None:
        data += _time(_EXPIRES_AT, job.expires_at_ms)
    if job.lease_expires_at_ms is not None:
        data += _time(_LEASE_EXPIRES_AT, job.lease_expires_at_ms)
    if job.progress is not None:
        data += _PROGRESS + _double(job.progress)
    if job.message is not None:
        data += _field(_MESSAGE, job.message.encode())
    if job.traceparent is not None:
        data += _field(_TRACEPARENT, job.traceparent.encode())
    if job.error is not None:
        data += _field(_ERROR, error_to_message(job.error).SerializeToString())
    return data


def _field(tag: bytes, data: bytes) -> bytes:
    return b"%b%b%b" % (tag, _length(len(data)), data)


@lru_cache(4096)
def _time(tag: bytes, at_ms: int) -> bytes:
    return _field(tag, timestamp_from_ms(at_ms).SerializeToString())


@lru_cache(1024)
def _alike(fields: _Alike) -> bytes:
    (
        request_type,
        state,
        version,
        virtual_key_id,
        provider,
        model_requested,
        result_ttl_ms,
        max_attempts,
        status_code,
        attempt,
        worker_id,
        last_writer,
    ) = fields
    return pb.Job(
        request_type=REQUEST_TYPES[request_type],
        state=JOB_STATES[state],
        version=version,
        virtual_key_id=virtual_key_id,
        provider=provider,
        model_requested=model_requested,
        result_ttl=duration_from_ms(result_ttl_ms),
        max_attempts=max_attempts,
        status_code=status_code,
        attempt=attempt,
        worker_id=worker_id,
        last_writer=last_writer,
    ).SerializeToString()


_double: Final = struct.Struct("<d").pack
