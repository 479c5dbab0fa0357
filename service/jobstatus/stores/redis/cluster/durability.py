"""When a write counts as durable: the commands that wait for replicas and disks, and the replies that they need.

Both WAIT and WAITAOF count only what was written through the same connection, so they follow the writes in one
exchange. WAIT is sent first even where WAITAOF asks for more, because a replica that is asked about its disk before it
has the write replies with what it had, and is not asked again for a second.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.server_info import ServerInfo

MISSED_MS: Final = 50
"""The wait after replicas did not confirm the write before: those that are back confirm sooner."""
BYTES_PER_MS: Final = 50_000
"""How fast writes reach replicas and disks at least: the wait grows with the size."""
EVERY_SECOND_MS: Final = 1_600
"""The wait for disks that are synced once a second only."""


class DurabilityWait(NamedTuple):
    """Commands, the least reply that each needs, and how long they may take together in ms."""

    packed: bytes
    least: tuple[tuple[int, ...], ...]
    ms: int

    def are_fulfilled_by(self, replies: list[Any]) -> bool:
        """Whether these replies prove that everything written before is durable."""
        return all(_reaches(reply, least) for reply, least in zip(replies, self.least, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """What an acknowledged write is on: how many replicas, the disk of the primary, the disks of how many replicas."""

    replicas: int = 0
    fsync: bool = False
    replicas_with_aof: int = 0
    is_synced_each_second: bool = False
    wait_ms: int = 500
    """For confirmations of a small write."""

    def waits(self, info: ServerInfo, *, size: int, was_missed: bool) -> DurabilityWait:
        """Return the commands to send to a primary after writes of `size` bytes."""
        replica_ms = (MISSED_MS if was_missed else self.wait_ms) + size // BYTES_PER_MS
        disk_ms = EVERY_SECOND_MS if self.is_synced_each_second else replica_ms
        asked: list[tuple[bytes, tuple[int, ...], int]] = []
        fsync = self.fsync and info.knows_waitaof
        if self.replicas:
            asked.append((pack("WAIT", self.replicas, replica_ms), (self.replicas,), replica_ms))
        if fsync:
            least = (1, self.replicas_with_aof)
            asked.append((pack("WAITAOF", *least, disk_ms), least, disk_ms))
        return DurabilityWait(
            b"".join(packed for packed, _, _ in asked),
            tuple(least for _, least, _ in asked),
            sum(ms for _, _, ms in asked),
        )


def _reaches(reply: Any, least: tuple[int, ...]) -> bool:
    counts = reply if isinstance(reply, list) else [reply]
    return len(counts) == len(least) and all(
        isinstance(count, int) and count >= needed for count, needed in zip(counts, least, strict=True)
    )
