"""The limits of a service's parts that no operator sets: defaults here, other values where a test needs them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """Limits of the parts that `serving` builds."""

    refusing_seconds: float = 0.2
    """How long a stopping service still accepts calls, to tell callers why they are refused; gRPC cancels the calls
    that wait when it stops."""
