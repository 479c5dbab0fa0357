"""The time of a service, and since when it may be trusted.

All times that are written or compared come from one clock: the store's, where processes of several machines share a
store, else this machine's. Between two answers of that clock the time is a monotonic clock's plus an offset, so it does
not step when somebody sets the clock of this machine.

A step of the clock, or a pause of this process, is a gap in which heartbeats could not be heard: each lease runs once
more in full. After a step nothing is purged, and nothing times out, until the new time has lasted for some minutes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SECOND_MS: Final = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """When a difference counts. All in seconds."""

    answer_seconds: float = 0.5
    """A store's time that took longer to arrive is not believed."""
    step_seconds: float = 2.0
    """A larger change of the offset is a step; a larger difference from this machine's clock is a warning."""
    pause_seconds: float = 2.0
    """A process that has not run for longer may have missed heartbeats."""
    settle_seconds: float = 300.0
    """How long a new time must last before jobs time out, or are purged, by it."""


class Timekeeper:
    """Tells the time in milliseconds and seconds since the epoch. Call `tick` several times in `pause_seconds`."""

    def __init__(
        self,
        *,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        pulse: Callable[[], float] = time.monotonic,
        follows_store: bool = True,
        limits: TimeLimits = TimeLimits(),  # a frozen value
        on_offset: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`monotonic` and `pulse` return seconds and never step; `pulse` measures the pauses of this process.

        `on_offset` is called with the seconds by which the store's clock is ahead of this machine's.
        """
        self.monotonic: Final = monotonic
        self._wall_ms = wall_ms
        self._pulse = pulse
        self._follows_store = follows_store
        self._limits = limits
        self._on_offset = on_offset
        self._offset_ms = wall_ms() - _ms(monotonic())
        self._hears_store = False
        self._differs = False
        self._beaten_at = pulse()
        self._leases_from_ms = self.ms()
        self._settled_from_ms = 0

    def ms(self) -> int:
        """Return milliseconds since the epoch."""
        return _ms(self.monotonic()) + self._offset_ms

    def seconds(self) -> float:
        """Return seconds since the epoch."""
        return self.monotonic() + self._offset_ms / SECOND_MS

    @property
    def leases_from_ms(self) -> int:
        """Since when heartbeats could arrive without a gap."""
        self.beat()
        return self._leases_from_ms

    @property
    def settled_from_ms(self) -> int:
        """From when on jobs may time out, and be purged."""
        return self._settled_from_ms

    def restart_leases(self, from_ms: int) -> None:
        """Let each lease run once more in full."""
        self._leases_from_ms = from_ms

    def tick(self) -> None:
        """Note that this process runs, and follow the clock of this machine where the store has none."""
        self.beat()
        if not self._hears_store:
            self._adopt(self._wall_ms() - _ms(self.monotonic()))

    def beat(self) -> None:
        """Note that this process runs. After a pause the leases start anew."""
        now = self._pulse()
        paused, self._beaten_at = now - self._beaten_at, now
        if paused > self._limits.pause_seconds:
            self._leases_from_ms = self.ms()
            _log.warning(
                "The process was paused. Leases run once more in full.",
                extra={"event": "process_paused", "seconds": round(paused, 1)},
            )

    def hear(self, store_ms: int | None, asked_at: float) -> None:
        """Take the store's time from an answer that has just come, and was asked for at `asked_at` by `monotonic`.

        The offset moves only as far as the answer proves it wrong: the store read its clock at some moment between
        question and answer. None: the store has no clock of its own.
        """
        answered_at = self.monotonic()
        if store_ms is None or not self._follows_store or answered_at - asked_at > self._limits.answer_seconds:
            return
        latest, earliest = store_ms - _ms(asked_at), store_ms - _ms(answered_at)
        self._hears_store = True
        self._adopt(min(max(self._offset_ms, earliest), latest))
        self._compare()

    def _adopt(self, offset_ms: int) -> None:
        step_ms, self._offset_ms = offset_ms - self._offset_ms, offset_ms
        if abs(step_ms) > self._limits.step_seconds * SECOND_MS:
            self._leases_from_ms = self.ms()
            self._settled_from_ms = self._leases_from_ms + _ms(self._limits.settle_seconds)
            _log.warning(
                "The clock has stepped. Leases run once more in full; nothing is purged for some minutes.",
                extra={
                    "event": "clock_stepped",
                    "seconds": round(step_ms / SECOND_MS, 1),
                    "clock": "store" if self._hears_store else "machine",
                },
            )

    def _compare(self) -> None:
        """Say when the clocks of the store and of this machine part, and when they agree again."""
        ahead = (self.ms() - self._wall_ms()) / SECOND_MS
        self._on_offset(ahead)
        differed, self._differs = self._differs, abs(ahead) > self._limits.step_seconds
        if self._differs and not differed:
            _log.warning(
                "The clock of this machine differs from the store's, which counts.",
                extra={"event": "clock_differs", "store_ahead_seconds": round(ahead, 1)},
            )
        if differed and not self._differs:
            _log.info("The clock of this machine agrees with the store's again.", extra={"event": "clock_agrees"})


def _ms(seconds: float) -> int:
    return round(seconds * SECOND_MS)
