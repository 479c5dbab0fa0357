"""Whether a process should receive requests: its store answers reads, takes writes, and the process is not stopping.

A store that takes no writes still serves polls, so such a process is degraded, not unready: a balancer that took it out
would turn a full disk into an outage of reads.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Final, NamedTuple, Self

from jobstatus.core.errors import JobStatusError, StoreFull

PROBE_EVERY_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Status(Enum):
    """From bad to good."""

    NOT_READY = "not_ready"
    DEGRADED = "degraded"
    READY = "ready"


class Health(NamedTuple):
    """What a process can do at present. `reason` is a stable word; empty when it is ready."""

    status: Status
    reason: str = ""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return what `to_text` was called on. Raises ValueError."""
        status, _, reason = text.partition(" ")
        return cls(Status(status), reason)

    def to_text(self) -> str:
        """Return the line by which a serving process tells its supervisor."""
        return f"{self.status.value} {self.reason}"

    @property
    def serves_polls(self) -> bool:
        return self.status is not Status.NOT_READY


READY: Final = Health(Status.READY)


def worst(all_health: Iterable[Health]) -> Health:
    """Return the first of those in the worst state."""
    order = list(Status)
    return min(all_health, key=lambda health: order.index(health.status))


class Readiness:
    """Finds out the health of one process, and logs when its status changes."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[object]],
        probe_reads: Callable[[], Awaitable[object]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`probe` writes to the store and `probe_reads` only reads; each raises a JobStatusError when that fails.

        Without `probe_reads` nothing works when `probe` fails. `monotonic` returns seconds.
        """
        self._probe_writes = probe
        self._probe_reads = probe_reads
        self._monotonic = monotonic
        self._health = READY
        self._probed_at = float("-inf")
        self._probing = asyncio.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Be not ready from now on."""
        self._stopping = True

    @property
    def health(self) -> Health:
        """The health as last found out; READY before that."""
        return Health(Status.NOT_READY, "stopping") if self._stopping else self._health

    async def check(self) -> Health:
        """Return the health of this process. Probes once a second at most."""
        if self._stopping:
            return Health(Status.NOT_READY, "stopping")
        async with self._probing:
            if self._monotonic() - self._probed_at >= PROBE_EVERY_SECONDS:
                await self._probe()
                self._probed_at = self._monotonic()
            return self._health

    async def _probe(self) -> None:
        before, cause = self._health.status, None
        try:
            await self._probe_writes()
            self._health = READY
        except JobStatusError as error:
            cause = type(error.__cause__ or error).__name__
            self._health = await self._without_writes(error)
        if self._health.status is not before:  # not where the reason alone differs: a full disk has several
            self._tell(cause)

    async def _without_writes(self, refused: JobStatusError) -> Health:
        if self._probe_reads is None:
            return Health(Status.NOT_READY, refused.reason.lower())
        try:
            await self._probe_reads()
        except JobStatusError as error:
            return Health(Status.NOT_READY, error.reason.lower())
        return Health(Status.DEGRADED, "store_full" if isinstance(refused, StoreFull) else "store_takes_no_writes")

    def _tell(self, cause: str | None) -> None:
        status, reason = self._health
        facts = {"reason": reason, "cause": cause}
        if status is Status.READY:
            _log.info("The service is ready again.", extra={"event": "ready_again"})
        elif status is Status.DEGRADED:
            _log.warning("The store takes no writes; polls are answered.", extra={"event": "degraded", **facts})
        else:
            _log.warning("The service is not ready.", extra={"event": "not_ready", **facts})
