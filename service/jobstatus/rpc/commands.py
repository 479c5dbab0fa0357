"""From the messages of the writes to the core's commands, alone or inside a batch."""

import asyncio
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from jobstatus.core import commands as core
from jobstatus.core.errors import InvalidField, JobStatusError
from jobstatus.core.json_text import check_result
from jobstatus.rpc.messages import error_from_message, ms_from_duration, optional, request_type_of
from jobstatus.v1 import job_status_pb2 as pb

M = TypeVar("M", bound=Message)
T = TypeVar("T")

LARGE_MESSAGE_BYTES: Final = 64 * 1024
LARGE_BATCH: Final = 50
"""A batch of more operations takes long to read, however small they are. Their size is not measured, which takes
another while."""

_OF_CREATION: Final = ("virtual_key_id", "provider", "model_requested", "max_attempts")
_OF_AN_END: Final = ("attempt", "status_code")


def _given(message: Message, optional_fields: Iterable[str]) -> dict[str, Any]:
    """Return those of the optional fields that were sent. The command has defaults for the others."""
    return {name: getattr(message, name) for name in optional_fields if message.HasField(name)}


def create_job(message: pb.CreateJobRequest) -> core.CreateJob:
    given = _given(message, _OF_CREATION)
    if message.HasField("result_ttl"):
        given["result_ttl_ms"] = ms_from_duration(message.result_ttl, "result_ttl")
    return core.CreateJob(
        job_id=message.job_id if message.HasField("job_id") else str(uuid.uuid4()),
        request_type=request_type_of(message.request_type),
        **given,
    )


def start_job(message: pb.StartJobRequest) -> core.StartJob:
    return core.StartJob(
        job_id=message.job_id,
        worker_id=message.worker_id,
        lease_ms=ms_from_duration(message.lease, "lease") if message.HasField("lease") else None,
    )


def heartbeat_job(message: pb.HeartbeatJobRequest) -> core.HeartbeatJob:
    return core.HeartbeatJob(
        job_id=message.job_id,
        attempt=message.attempt,
        progress=optional(message, "progress"),
        message=optional(message, "message"),
    )


def fail_job(message: pb.FailJobRequest) -> core.FailJob:
    if not message.HasField("error"):
        raise InvalidField.of("error", "is required")
    return core.FailJob(job_id=message.job_id, error=error_from_message(message.error), **_given(message, _OF_AN_END))


def cancel_job(message: pb.CancelJobRequest) -> core.CancelJob:
    return core.CancelJob(job_id=message.job_id, reason=optional(message, "reason"))


class CommandReader:
    """Makes commands from requests. `max_result_bytes` bounds a result."""

    def __init__(self, max_result_bytes: int) -> None:
        self._max_result_bytes = max_result_bytes
        self._readers: Final[dict[str, Callable[[Any], core.Command]]] = {
            "create_job": create_job,
            "start_job": start_job,
            "heartbeat_job": heartbeat_job,
            "complete_job": self.complete_job,
            "fail_job": fail_job,
            "cancel_job": cancel_job,
        }

    def complete_job(self, message: pb.CompleteJobRequest) -> core.CompleteJob:
        """Raises InvalidField, ResultTooLarge or ResultNotJson."""
        command = core.CompleteJob(job_id=message.job_id, result=message.result, **_given(message, _OF_AN_END))
        check_result(command.result, self._max_result_bytes)
        return command

    def operations(self, message: pb.BatchWriteRequest) -> list[core.Command | JobStatusError]:
        """Return the commands of a batch, and for an invalid one the error that the single call would raise."""
        return [self._operation(operation) for operation in message.operation]

    def _operation(self, message: pb.Operation) -> core.Command | JobStatusError:
        name = message.WhichOneof("operation")
        if name is None:
            return InvalidField.of("operation", "must be one of the six writes")
        try:
            return self._readers[name](getattr(message, name))
        except JobStatusError as error:
            return error


async def read(reader: Callable[[M], T], message: M) -> T:
    """Return what the reader makes of the message. A large one is read on a thread, so that polls go on meanwhile."""
    is_large = isinstance(message, pb.BatchWriteRequest) and len(message.operation) > LARGE_BATCH
    if is_large or message.ByteSize() > LARGE_MESSAGE_BYTES:
        return await asyncio.to_thread(reader, message)
    return reader(message)
