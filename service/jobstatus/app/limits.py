"""The limits of a service's parts that no operator sets: defaults here, other values where a test needs them."""

from dataclasses import dataclass

from jobstatus.core.tracker import TrackerLimits
from jobstatus.rpc.server import RpcLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Limits of the parts that `serving` builds."""

    tracker: TrackerLimits = TrackerLimits()  # noqa: RUF009  # a frozen value
    rpc: RpcLimits = RpcLimits()  # noqa: RUF009  # a frozen value
    refusing_seconds: float = 0.2
    """How long a stopping service still accepts calls, to tell callers why they are refused; gRPC cancels the calls
    that wait when it stops."""
