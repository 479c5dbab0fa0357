"""The gRPC server's services, limits and options. The service and its double share them.

It imports nothing that only the extra `server` installs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobstatus.rpc.pages import PageLimits
from jobstatus.v1 import job_status_pb2, virtual_keys_pb2

MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
"""How many bytes of results and errors one BatchGetJobs returns at most. This bounds the memory of a call."""

_MESSAGE_OVERHEAD: Final = 4 * 1024 * 1024
"""Room beyond the largest result, so that a result a little too large is refused with a reason."""

DESCRIPTORS: Final = (
    job_status_pb2.DESCRIPTOR.services_by_name["JobStatus"],
    virtual_keys_pb2.DESCRIPTOR.services_by_name["VirtualKeys"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcLimits:
    """The bounds of the gRPC server."""

    max_rpcs: int = 20_000
    """Calls in progress. A further one is RESOURCE_EXHAUSTED."""
    max_message_bytes: int = 256 * 1024 * 1024
    """Of the messages that have arrived or are taking long to, until their calls are answered. At least one message of
    the greatest length."""
    pages: PageLimits = PageLimits()  # noqa: RUF009  # a frozen value
    """The bounds of listings."""
    min_idle_ms: int = 5_000
    """The shortest interval of signs of life that a watch may ask for."""
    min_ping_interval_ms: int = 15_000
    """Clients that ping more often are disconnected, calls in progress or not. The documents promise 20 s; the rest is
    for networks that deliver one ping late and the next in time."""
    max_age_ms: int = 5 * 60 * 1000
    """Clients reconnect this often (give or take a tenth), so that a new replica or process gets its share of them."""
    max_age_grace_ms: int = 3 * 60 * 1000
    """Calls on a connection of that age go on for so long: enough for the largest result on a line of 1 Mbit/s. A watch
    that does not end by then is ended, within the 10 minutes of silence that proxies are set to; clients resume it."""
    ping_ms: int = 20_000
    """The server pings each client this often, calls in progress or not, to find those that vanished."""
    pong_ms: int = 20_000
    """A client that does not answer a ping for so long, or acknowledges no data, is disconnected."""
    hold_seconds: float = 0.05
    """How long a stop holds answers back before it closes, and again until the next call; see `RpcServer.stop`."""


def max_message_length(max_result_bytes: int) -> int:
    """Return the greatest length of a message that the server takes."""
    return max_result_bytes + _MESSAGE_OVERHEAD


def server_options(max_result_bytes: int, limits: RpcLimits, *, shared: bool) -> Sequence[tuple[str, int]]:
    """Return gRPC's options. gRPC ignores a name that it does not know, so a test compares the names with gRPC's."""
    return (
        ("grpc.max_connection_age_ms", limits.max_age_ms),
        ("grpc.max_connection_age_grace_ms", limits.max_age_grace_ms),
        ("grpc.so_reuseport", int(shared)),  # else a second server on the port would go unnoticed
        ("grpc.max_receive_message_length", max_message_length(max_result_bytes)),
        ("grpc.max_send_message_length", max(max_result_bytes, MAX_ANSWER_BYTES) * 2 + _MESSAGE_OVERHEAD),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.min_ping_interval_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # Calls that have arrived and not been accepted. gRPC's own limit is 1000, beyond which it cancels silently.
        ("grpc.server.max_pending_requests", limits.max_rpcs),
        ("grpc.server.max_pending_requests_hard_limit", limits.max_rpcs),
        ("grpc.keepalive_time_ms", limits.ping_ms),
        ("grpc.keepalive_timeout_ms", limits.pong_ms),  # only data; gRPC gives pings another limit:
        ("grpc.http2.ping_timeout_ms", limits.pong_ms),
        ("grpc.http2.max_pings_without_data", 0),  # any number: a watch may be silent for hours
    )
