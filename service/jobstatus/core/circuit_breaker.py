"""A circuit breaker: refuses work at once while the other side is silent, until a health check has an answer.

Without it each caller would wait for its whole time limit for as long as the silence lasts, and callers would pile up.
Work that fails, or is slow, is no silence: the health check decides, which asks for nothing but an answer.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from jobstatus.core.errors import StoreUnavailable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """When the other side counts as silent."""

    silence_seconds: float = 1.0
    """How long work may take before the other side's health is checked."""
    health_check_seconds: float = 1.0
    """How long a health check may take before the other side is marked down."""
    pause_seconds: float = 0.25
    """Between two health checks while the other side is down."""


class CircuitBreaker:
    """Watches work with one other side. End with `close`."""

    def __init__(
        self,
        health_check: Callable[[], Awaitable[object]],
        limits: BreakerLimits,
        on_down: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`health_check` returns when the other side has answered; it ends in limited time, and raises when it fails.

        `on_down` is called when the other side is marked down.
        """
        self.is_down = False
        self._health_check = health_check
        self._limits = limits
        self._on_down = on_down
        self._checking: asyncio.Task[None] | None = None
        self._is_closed = False

    def check_up(self) -> None:
        """Raise StoreUnavailable while the other side is down."""
        if self.is_down:
            raise StoreUnavailable from TimeoutError("the store is silent, and only health checks are sent to it")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the work of the block. Raise StoreUnavailable at once while the other side is down."""
        self.check_up()
        timer = asyncio.get_running_loop().call_later(self._limits.silence_seconds, self._begin_check)
        try:
            yield
        finally:
            timer.cancel()
        self._mark_up()

    async def close(self) -> None:
        """End the health checks."""
        self._is_closed = True
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])

    def _begin_check(self) -> None:
        if not self._is_closed and (self._checking is None or self._checking.done()):
            self._checking = asyncio.create_task(self._check(), name="jobstatus-health-check")

    async def _check(self) -> None:
        """Check the health, and go on while the other side is down."""
        while True:
            if await self._answers() or not self.is_down:
                return
            await asyncio.sleep(self._limits.pause_seconds)

    async def _answers(self) -> bool:
        """Whether a health check succeeds. Mark the other side down while there is no answer in time."""
        check = asyncio.ensure_future(self._health_check())
        try:
            done, _ = await asyncio.wait({check}, timeout=self._limits.health_check_seconds)
            if not done:
                await self._mark_down()
            await check
        except Exception:  # noqa: BLE001  # whatever it is, the checks must go on, or nothing would ever be asked again
            return False
        finally:
            check.cancel()
            await asyncio.gather(check, return_exceptions=True)
        self._mark_up()
        return True

    async def _mark_down(self) -> None:
        """Open the circuit breaker: work is refused at once until a health check, or work under way, succeeds."""
        if self.is_down:
            return
        self.is_down = True
        _log.warning(
            "The store is silent. It is not asked until a health check succeeds.", extra={"event": "store_silent"}
        )
        if self._on_down is not None:
            await self._on_down()

    def _mark_up(self) -> None:
        if self.is_down:
            self.is_down = False
            _log.info("The store answers again.", extra={"event": "store_answers"})
