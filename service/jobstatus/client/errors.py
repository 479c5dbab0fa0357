"""From a gRPC status to an error: those that the service raises, and those that only a client can see.

The service's ErrorInfo decides where there is one. A status without it was made on the way (by a proxy, a closed socket
or a limit of gRPC's own) and is translated by its code, with one table.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from jobstatus.core import errors as core
from jobstatus.core.errors import JobStatusError
from jobstatus.core.rules import CANCELLED_CODE
from jobstatus.rpc.errors import CODES, DOMAIN, REASON_KEY
from jobstatus.v1.job_status_pb2 import OperationError


class ServiceUnreachable(JobStatusError):
    """The service does not answer."""

    reason = "SERVICE_UNREACHABLE"


class AnswerTooLarge(JobStatusError):
    """The answer is larger than the client's own limit. A write was decided all the same."""

    reason = "ANSWER_TOO_LARGE"


class StreamBroken(ServiceUnreachable):
    """The stream was broken on the way."""


class ServiceFailed(JobStatusError):
    """The service failed, and says no more than that."""

    reason = "INTERNAL"


class JobCancelled(core.JobTerminal):
    """The job was cancelled: nobody wants its outcome any more."""


TRANSIENT: Final = (ServiceUnreachable, core.StoreUnavailable, core.StoreFull, core.ShuttingDown, core.Overloaded)
"""A call that fails with one of these may succeed when it is sent again a little later."""

LOST: Final = (core.LeaseLost, core.JobTerminal, core.JobNotFound)
"""These tell a worker that the job no longer belongs to its attempt."""

_STATUS_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}
_LEAVES: Final = {leaf.reason: leaf for leaf in CODES}

_WITHOUT_INFO: Final[dict[grpc.StatusCode, type[JobStatusError]]] = {
    grpc.StatusCode.UNAVAILABLE: ServiceUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServiceUnreachable,
    grpc.StatusCode.CANCELLED: ServiceUnreachable,  # by a server that stopped before it accepted the call
    grpc.StatusCode.UNAUTHENTICATED: core.ClientNotIdentified,
    grpc.StatusCode.PERMISSION_DENIED: core.ClientNotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: core.Overloaded,
}

_TOO_LARGE: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)
_TEXT_OF_TOO_LARGE: Final = re.compile("larger than|too large|exceeds maximum")
"""What gRPC's implementations say of a message beyond a limit; they say another thing of too many calls."""
_OWN_LIMIT: Final = "CLIENT: Received message"
_REQUEST_TOO_LARGE: Final = "The message is larger than the service accepts."

_BROKEN: Final = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DATA_LOSS,
)
"""How a stream ends that a proxy took for idle, with RST_STREAM or with END_STREAM and no trailers."""


def from_call(error: grpc.aio.AioRpcError, target: str, *, is_read: bool = False) -> JobStatusError:
    """Return the error for a failed call to this target. A message that is too large is the answer of a read."""
    info = _error_info(error)
    details = error.details() or ""
    if info is not None:
        return _rebuilt(info.reason, details, info.metadata)
    if error.code() in _TOO_LARGE and _TEXT_OF_TOO_LARGE.search(details):
        is_answer = is_read or _OWN_LIMIT in details
        return _answer_too_large(target, details) if is_answer else core.ResultTooLarge(_REQUEST_TOO_LARGE)
    if error.code() is grpc.StatusCode.OUT_OF_RANGE and is_read:
        return _answer_too_large(target, details)
    leaf = _WITHOUT_INFO.get(error.code(), ServiceFailed)
    return leaf(f"{str(leaf.__doc__).rstrip('.')} ({target}: {_last_error(details)}).")


def from_stream(error: grpc.aio.AioRpcError, target: str) -> JobStatusError:
    """Return the error for a failed stream from this target. One that was broken on the way can be opened again.

    For a unary call the same status may mean that the service was called, so it stays what `from_call` makes of it.
    """
    if error.code() in _BROKEN and _error_info(error) is None:
        return StreamBroken(f"The stream was broken on the way ({target}: {_last_error(error.details() or '')}).")
    return from_call(error, target, is_read=True)


def from_operation(error: OperationError) -> JobStatusError:
    """Return the error of a refused operation of a batch."""
    return _rebuilt(error.reason, error.message, error.metadata)


def cause_of(error: OperationError) -> grpc.aio.AioRpcError:
    """Return the error of gRPC's with which the single call would have failed, but for the bytes of its details."""
    code = _STATUS_CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata((REASON_KEY, error.reason)), details=error.message
    )


def deadline_exceeded() -> grpc.aio.AioRpcError:
    """Return the error of gRPC's for a call that took too long."""
    return grpc.aio.AioRpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="Deadline Exceeded"
    )


def _answer_too_large(target: str, details: str) -> AnswerTooLarge:
    return AnswerTooLarge(f"The answer is larger than the client's own limit ({target}: {details.rstrip('.')}).")


def _error_info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    try:
        status = rpc_status.from_call(cast("Any", error))  # uses only what both kinds of call have
    except ValueError:  # a status that contradicts itself: not ours
        return None
    info = ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def _rebuilt(reason: str, message: str, metadata: Mapping[str, str]) -> JobStatusError:
    """The error as the service raised it; ServiceFailed for a reason that this version does not know."""
    if reason == core.JobTerminal.reason and metadata.get("code") == CANCELLED_CODE:
        return JobCancelled(**metadata)
    return _LEAVES.get(reason, ServiceFailed)(message, **metadata)


def _last_error(details: str) -> str:
    """Return gRPC's own text without the layers that it wraps around a failed connection."""
    return re.sub(r"^[A-Z_]+: ", "", details.rpartition("last error: ")[2]).rstrip(".")
