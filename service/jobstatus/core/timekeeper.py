"""The time of a service, and since when it may be trusted.

All times that are written or compared come from one clock: the store's, where processes of several machines share a
store, else this machine's. Between two answers of that clock the time is a monotonic clock's plus an offset, so it does
not step when somebody sets the clock of this machine.

A step of the clock, or a pause of this process, is a gap in which heartbeats could have been missed: each lease runs
once more in full. After a step nothing expires or is purged by the new time, and nothing times out, until it has lasted
for some minutes; nor is anything purged before the store has told its time for the first time.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SECOND_NS: Final = 1_000_000_000
MS_NS: Final = 1_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """When a difference counts. All in seconds."""

    step_seconds: float = 2.0
    """A larger change of the offset is a step; a larger difference from this machine's clock is a warning."""
    pause_seconds: float = 2.0
    """A process that has not run for longer may have missed heartbeats."""
    hold_seconds: float = 300.0
    """How long a new time must last before jobs time out, or are purged, by it."""


class Timekeeper:
    """Tells the time in milliseconds and seconds since the epoch. Call `tick` several times in `pause_seconds`."""

    def __init__(
        self,
        *,
        wall_ms: Callable[[], int],
        monotonic_ns: Callable[[], int],
        pulse: Callable[[], float],
        follows_store: bool = True,
        limits: TimeLimits = TimeLimits(),  # a frozen value
        on_offset: Callable[[float], None] = lambda _: None,
    ) -> None:
        """`monotonic_ns` and `pulse` (in seconds) never step; `pulse` measures the pauses of this process.

        `on_offset` is called with the seconds by which the store's clock is ahead of this machine's.
        """
        self.monotonic_ns: Final = monotonic_ns
        self._wall_ms = wall_ms
        self._pulse = pulse
        self._limits = limits
        self._on_offset = on_offset
        self._offset_ns = wall_ms() * MS_NS - monotonic_ns()
        self._awaits_store = follows_store
        self._follows_store = False
        self._differs = False
        self._alive_at = pulse()
        self._leases_count_from_ms = self.ms()
        self._timeouts_count_from_ms = 0
        self._step_ns = 0

    def ms(self) -> int:
        """Return milliseconds since the epoch."""
        return (self.monotonic_ns() + self._offset_ns) // MS_NS

    def seconds(self) -> float:
        """Return seconds since the epoch."""
        return (self.monotonic_ns() + self._offset_ns) / SECOND_NS

    def expiry_ms(self) -> int:
        """Return the time by which jobs expire: as if the clock had not stepped ahead, until that has lasted."""
        return (self.monotonic_ns() + self._offset_ns - self._step_ns) // MS_NS

    def step_ms(self) -> int:
        """Return by how much `expiry_ms` is behind `ms`."""
        return self._step_ns // MS_NS

    def leases_count_from_ms(self) -> int:
        """Return since when heartbeats could arrive without a gap, a pause that has just ended included."""
        self._note_alive()
        return self._leases_count_from_ms

    def timeouts_count_from_ms(self) -> int:
        """Return from when on jobs may time out, and be purged."""
        return self._later_ms() if self._awaits_store else self._timeouts_count_from_ms

    def restart_leases(self, from_ms: int) -> None:
        """Let each lease run once more in full."""
        self._leases_count_from_ms = from_ms

    def tick(self) -> None:
        """Note that this process runs, and follow the clock of this machine unless the store's counts."""
        self._note_alive()
        if not self._follows_store:
            self._set_offset(self._wall_ms() * MS_NS - self.monotonic_ns())
        if self._step_ns and self.ms() >= self._timeouts_count_from_ms:
            self._step_ns = 0

    def observe_store(self, store_ms: int | None, asked_at_ns: int) -> None:
        """Take the store's time from an answer that has just come, and was asked for at `asked_at_ns`, monotonic.

        The offset moves only as far as the answer proves it wrong, however long it took, because the store looked at
        its clock at some moment between question and answer. None: the store has no clock of its own.
        """
        is_first, self._awaits_store = self._awaits_store, False
        if store_ms is None or not (is_first or self._follows_store):
            return
        self._follows_store = True
        latest_ns, earliest_ns = (store_ms + 1) * MS_NS - asked_at_ns, store_ms * MS_NS - self.monotonic_ns()
        offset_ns = min(max(self._offset_ns, earliest_ns), latest_ns)
        if is_first:
            self._offset_ns, self._timeouts_count_from_ms = offset_ns, 0
            self._leases_count_from_ms = self.ms()
        else:
            self._set_offset(offset_ns)
        self._compare()

    def _note_alive(self) -> None:
        now = self._pulse()
        paused, self._alive_at = now - self._alive_at, now
        if paused > self._limits.pause_seconds:
            self._leases_count_from_ms = self.ms()
            _log.warning(
                "The process was paused. Leases run once more in full.",
                extra={"event": "process_paused", "seconds": round(paused, 1)},
            )

    def _set_offset(self, offset_ns: int) -> None:
        step_ns, self._offset_ns = offset_ns - self._offset_ns, offset_ns
        step = step_ns / SECOND_NS
        if abs(step) <= self._limits.step_seconds:
            return
        self._step_ns = max(0, self._step_ns + step_ns)
        self._leases_count_from_ms = self.ms()
        self._timeouts_count_from_ms = self._later_ms()
        _log.warning(
            "The clock has stepped. Leases run once more in full; nothing expires by the new time for some minutes.",
            extra={
                "event": "clock_stepped",
                "seconds": round(step, 1),
                "clock": "store" if self._follows_store else "machine",
            },
        )

    def _later_ms(self) -> int:
        return self.ms() + round(self._limits.hold_seconds * 1000)

    def _compare(self) -> None:
        """Say when the clocks of the store and of this machine part, and when they agree again."""
        ahead = (self.ms() - self._wall_ms()) / 1000
        self._on_offset(ahead)
        differed, self._differs = self._differs, abs(ahead) > self._limits.step_seconds
        if self._differs and not differed:
            _log.warning(
                "The clock of this machine differs from the store's, which counts.",
                extra={"event": "clock_differs", "store_ahead_seconds": round(ahead, 1)},
            )
        if differed and not self._differs:
            _log.info("The clock of this machine agrees with the store's again.", extra={"event": "clock_agrees"})
