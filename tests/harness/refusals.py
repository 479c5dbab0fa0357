"""The error table of the gRPC contract: requests that are in bounds and refused all the same, and how.

They expect a job in each state, called like it, and `leased`, whose attempt 1 of worker-1 holds a lease.
"""

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc import StatusCode as Code
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

from harness.jobs import cancellation, completion, creation, failure, heartbeat, job_error, starting
from harness.wire import Refusal

NOT_FOUND: Final = Refusal(Code.NOT_FOUND, "JOB_NOT_FOUND")
NO_VIRTUAL_KEY: Final = Refusal(Code.NOT_FOUND, "VIRTUAL_KEY_NOT_FOUND")
EXISTS: Final = Refusal(Code.ALREADY_EXISTS, "JOB_EXISTS")
NOT_STARTED: Final = Refusal(Code.FAILED_PRECONDITION, "JOB_NOT_STARTED")
HELD: Final = Refusal(Code.FAILED_PRECONDITION, "LEASE_HELD")
LOST: Final = Refusal(Code.ABORTED, "LEASE_LOST")
NOT_JSON: Final = Refusal(Code.INVALID_ARGUMENT, "RESULT_NOT_JSON")
TOO_LARGE: Final = Refusal(Code.INVALID_ARGUMENT, "RESULT_TOO_LARGE")


def invalid(field: str) -> Refusal:
    """The field is out of bounds."""
    return Refusal(Code.INVALID_ARGUMENT, "INVALID_FIELD", {"field": field})


def terminal(state: str, **code: str) -> Refusal:
    """The job has ended so; with the `code` of its error, if that has one."""
    return Refusal(Code.FAILED_PRECONDITION, "JOB_TERMINAL", {"state": state, **code})


CANCELLED: Final = terminal("failed", code="cancelled_by_client")

_ENDS: Final = (completion, failure)
_WRITES: Final = (heartbeat, *_ENDS)

REFUSED_WRITES: Final[list[tuple[Message, Refusal]]] = [
    (starting("unknown"), NOT_FOUND),
    *((request("unknown"), NOT_FOUND) for request in (*_WRITES, cancellation)),
    (creation("pending", request_type=pb.REQUEST_TYPE_OCR), EXISTS),
    (creation("pending", virtual_key_id="vk-2"), EXISTS),
    (creation("pending", virtual_key_id=None), EXISTS),
    (creation("pending", result_ttl=Duration(seconds=3601)), EXISTS),
    (creation("pending", provider="p"), EXISTS),
    (creation("pending", provider=""), EXISTS),
    (creation("pending", model_requested="m"), EXISTS),
    (creation("pending", max_attempts=2), EXISTS),
    (creation("completed", max_attempts=2), EXISTS),
    (starting("completed"), terminal("completed")),
    (starting("completed", "worker-1"), terminal("completed")),
    (starting("failed"), terminal("failed")),
    (heartbeat("completed"), terminal("completed")),
    (heartbeat("failed", attempt=1), terminal("failed")),
    (completion("completed", b'{"text":"hello"}'), terminal("completed")),
    (completion("completed", status_code=201), terminal("completed")),
    (completion("failed"), terminal("failed")),
    (failure("completed"), terminal("completed")),
    (failure("failed", job_error("Another message.")), terminal("failed")),
    (failure("failed", status_code=501), terminal("failed")),
    (cancellation("completed"), terminal("completed")),
    (cancellation("failed", reason="Not needed."), terminal("failed")),
    (heartbeat("pending"), NOT_STARTED),
    (heartbeat("pending", attempt=1), NOT_STARTED),
    (starting("leased"), HELD),
    (starting("leased", lease=Duration(seconds=3600)), HELD),
    *((request("leased"), LOST) for request in _WRITES),
    *((request("leased", attempt=2), LOST) for request in _WRITES),
    *((request("processing", attempt=2), LOST) for request in _WRITES),
    *((request("pending", attempt=1), LOST) for request in _ENDS),
    *((request("completed", attempt=7), LOST) for request in (heartbeat, failure)),
    (completion("pending", b"'"), NOT_JSON),
    (completion("unknown", b""), NOT_JSON),
    (creation("pending", request_type=0), invalid("request_type")),
    (heartbeat("processing", progress=2), invalid("progress")),
    (cancellation("pending", reason="r\0"), invalid("reason")),
]

REFUSED_OTHERS: Final[list[tuple[Message, Refusal]]] = [
    *(
        (request(job_id="unknown"), NOT_FOUND)
        for request in (pb.GetJobRequest, pb.WatchJobRequest, pb.DeleteJobRequest)
    ),
    (vk_pb.GetVirtualKeyRequest(virtual_key_id="unknown"), NO_VIRTUAL_KEY),
    (vk_pb.DeleteVirtualKeyRequest(virtual_key_id="unknown"), NO_VIRTUAL_KEY),
]
