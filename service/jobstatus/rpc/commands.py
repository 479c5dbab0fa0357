"""From the messages of the writes to the core's commands, alone or inside a batch."""

import uuid
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, TypeAlias, TypeVar

from google.protobuf.message import Message

from jobstatus.core import commands as core
from jobstatus.core.caller import TRACEPARENT
from jobstatus.core.errors import InvalidField, JobStatusError
from jobstatus.core.json_slices import SLICE_BYTES, check_result, check_small_result
from jobstatus.core.json_text import Scanner
from jobstatus.core.traceparent import valid_traceparent
from jobstatus.rpc.messages import error_from_message, ms_from_duration, optional, request_type_of
from jobstatus.v1 import job_status_pb2 as pb

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Something that takes long: it yields whenever others may have the event loop, and returns a value."""

OPERATIONS_AT_ONCE: Final = 50
"""Operations of a batch that are read before others may have the event loop."""
BYTES_AT_ONCE: Final = 2 * SLICE_BYTES
"""After so many bytes of small results others may have it earlier."""

_OF_AN_END: Final = ("attempt", "status_code")


def _given(message: Message, optional_fields: Iterable[str]) -> dict[str, Any]:
    """Return those of the optional fields that were sent. The command has defaults for the others."""
    return {name: getattr(message, name) for name in optional_fields if message.HasField(name)}


def create_job(message: pb.CreateJobRequest) -> core.CreateJob:
    has = message.HasField
    return core.CreateJob(
        job_id=message.job_id if has("job_id") else str(uuid.uuid4()),
        request_type=request_type_of(message.request_type),
        virtual_key_id=message.virtual_key_id if has("virtual_key_id") else None,
        result_ttl_ms=ms_from_duration(message.result_ttl, "result_ttl")
        if has("result_ttl")
        else core.DEFAULT_RESULT_TTL_MS,
        provider=message.provider if has("provider") else None,
        model_requested=message.model_requested if has("model_requested") else None,
        max_attempts=message.max_attempts if has("max_attempts") else 1,
        traceparent=valid_traceparent(message.traceparent) if message.traceparent else TRACEPARENT.get(),
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


def complete_job(message: pb.CompleteJobRequest) -> core.CompleteJob:
    """Return the command, whose result is still to be checked."""
    return core.CompleteJob(
        job_id=message.job_id,
        result=message.result,
        attempt=message.attempt,
        status_code=message.status_code if message.HasField("status_code") else core.OK,
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
        self._scanner = Scanner()

    def complete_job(self, message: pb.CompleteJobRequest) -> Steps[core.CompleteJob]:
        """Raises InvalidField, ResultTooLarge or ResultNotJson."""
        command = complete_job(message)
        del message  # it holds the result a second time
        yield from check_result(command.result, self._max_result_bytes, scanner=self._scanner)
        return command

    def operations(self, message: pb.BatchWriteRequest) -> Steps[list[core.Command | JobStatusError]]:
        """Return the commands of a batch, and for an invalid one the error that the single call would raise."""
        commands: list[core.Command | JobStatusError] = []
        number = size = 0
        for operation in message.operation:
            try:
                command = _operation(operation)
                if type(command) is core.CompleteJob:
                    size += len(command.result)
                    if len(command.result) <= SLICE_BYTES:
                        check_small_result(command.result, self._max_result_bytes, self._scanner)
                    else:
                        yield from check_result(command.result, self._max_result_bytes)
                commands.append(command)
            except JobStatusError as error:
                commands.append(error)
            number += 1
            if number == OPERATIONS_AT_ONCE or size >= BYTES_AT_ONCE:
                yield
                number = size = 0
        return commands


def _operation(message: pb.Operation) -> core.Command:
    name = message.WhichOneof("operation")
    if name is None:
        raise InvalidField.of("operation", "must be one of the six writes")
    return _READERS[name](getattr(message, name))


_READERS: Final[dict[str, Callable[[Any], core.Command]]] = {
    "create_job": create_job,
    "start_job": start_job,
    "heartbeat_job": heartbeat_job,
    "complete_job": complete_job,
    "fail_job": fail_job,
    "cancel_job": cancel_job,
}
