"""Which calls are recorded in the audit log, and what of them: who called, from where, on what, and how it ended.

Recorded are the calls by which an operator or a gateway changes what others rely on. The calls of workers are not,
because each job has several, and reads are not, because edges poll by them.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import Message

from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import is_valid_id
from jobstatus.rpc.errors import INTERNAL

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Record: TypeAlias = Callable[..., None]
"""Takes the name of the action and its facts, as `telemetry.audit.AuditLog.record`."""
DONE: Final = "OK"
UNKNOWN: Final = "CANCELLED"
"""The client went away, so whether it was done is not known."""
_NO_ID: Final = "(not an id)"
_CANCEL: Final = "CancelJob"
_BATCH: Final = "BatchWrite"


def _virtual_key(request: Any) -> dict[str, Any]:
    return {"virtual_key_id": _id(request.virtual_key_id)}


def _put_virtual_key(request: Any) -> dict[str, Any]:
    return _virtual_key(request) | {"disabled": request.disabled, "keys": len(request.key_sha256)}


def _job(request: Any) -> dict[str, Any]:
    return {"job_id": _id(request.job_id)}


_FACTS: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "PutVirtualKey": _put_virtual_key,
    "DeleteVirtualKey": _virtual_key,
    "DeleteJob": _job,
    _CANCEL: _job,
}
AUDITED: Final = frozenset({*_FACTS, _BATCH})
"""The names of the methods that are recorded; of a batch its cancellations are."""


def client_names(context: Context) -> list[str]:
    """Return the names in the client's certificate, of which there are none without TLS."""
    return sorted({name.decode("utf-8", "replace") for name in context.peer_identities() or () if name})


def outcome_of(error: BaseException) -> str:
    """Return the word by which the caller knows the error."""
    if isinstance(error, asyncio.CancelledError):
        return UNKNOWN
    return error.reason if isinstance(error, JobStatusError) else INTERNAL


def record_call(
    record: Record,
    context: Context,
    method: str,
    *,
    request: Message | None,
    outcome: str,
    response: Message | None = None,
) -> None:
    """Record a call of an audited method. `request` is None if the client may not make it, so that it was not read."""
    who = {"client": client_names(context), "peer": context.peer()}
    if method == _BATCH:
        for job_id, of_job in _cancellations(request, outcome, response):
            record(_CANCEL, **who, outcome=of_job, job_id=_id(job_id), method=method)
    else:
        record(method, **who, outcome=outcome, **({} if request is None else _FACTS[method](request)))


def _cancellations(request: Any, outcome: str, response: Any) -> Iterator[tuple[str, str]]:
    """Yield the job and the outcome of each cancellation in a batch."""
    for index, operation in enumerate(() if request is None else request.operation):
        if operation.WhichOneof("operation") == "cancel_job":
            refusal = "" if response is None else response.result[index].error.reason
            yield operation.cancel_job.job_id, refusal or outcome


def _id(text: str) -> str:
    return text if is_valid_id(text) else _NO_ID
