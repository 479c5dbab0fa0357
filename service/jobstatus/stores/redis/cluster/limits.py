"""The time limits of the cluster client."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLimits:
    """How long the client waits for what."""

    operation_seconds: float = 2.7
    """For the replies to one `execute`, redirections and repetitions included."""
    connect_seconds: float = 0.5
    silence_seconds: float = 1.0
    """Without a byte either way; then the node counts as down."""
    health_check_seconds: float = 0.5
    max_connections: int = 16
    """To one node."""
    durable_ms: int = 500
    """For replicas and disks to confirm a write."""
