"""When a write counts as durable: the commands that wait for replicas and disks, and what they must answer.

Both count only what was written through the same connection, so they follow the writes in one exchange. WAIT comes
first also where WAITAOF asks for more: a replica that is asked about its disk before it has the write answers with what
it had, and is not asked again for a second.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.server_info import ServerInfo

PATIENCE_MS: Final = 500
IMPATIENCE_MS: Final = 50
"""How long replicas are waited for that were missed the last time: those that are back answer sooner."""
BYTES_A_MS: Final = 50_000
"""How fast writes reach replicas and disks at least: large ones are waited for so much longer."""
EVERY_SECOND_MS: Final = 1_600
"""How long disks are waited for that are synced once a second only."""


class DurabilityWait(NamedTuple):
    """Commands, what each must answer at least, and how long they may take together."""

    packed: bytes
    least: tuple[tuple[int, ...], ...]
    ms: int

    def are_fulfilled_by(self, replies: list[Any]) -> bool:
        """Whether it is certain that everything before is durable; an error reply is no certainty."""
        return all(_reaches(reply, least) for reply, least in zip(replies, self.least, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Durability:
    """What an acknowledged write is on: so many replicas, the disk of the primary, the disks of so many of those."""

    replicas: int = 0
    fsync: bool = False
    replicas_with_aof: int = 0
    is_synced_each_second: bool = False

    def waits(self, info: ServerInfo, *, size: int, was_missed: bool) -> DurabilityWait:
        """What is to be asked of a primary after writes of so many bytes."""
        patience_ms = (IMPATIENCE_MS if was_missed else PATIENCE_MS) + size // BYTES_A_MS
        disk_ms = EVERY_SECOND_MS if self.is_synced_each_second else patience_ms
        asked: list[tuple[bytes, tuple[int, ...], int]] = []
        fsync = self.fsync and info.knows_waitaof
        if self.replicas:
            asked.append((pack("WAIT", self.replicas, patience_ms), (self.replicas,), patience_ms))
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
