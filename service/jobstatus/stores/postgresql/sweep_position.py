"""Where a sweep begins in an index of times.

While somebody's snapshot stays open (`pg_dump`, a forgotten transaction) the server keeps the entries of rows that have
gone, and a scan from the left end of the index walks over all of them. So each scan begins where the last one ended.

A job may still be added to the left of that: by this process, which tells; by another one, if its commit took longer
than OVERLAP_MS; or by a clock that was set back. So a scan begins at the left end at first, after the time went back,
and every FULL_SCAN_MS.
"""

from collections.abc import Iterable
from typing import Final

LEFT_END: Final = -(2**63)
OVERLAP_MS: Final = 3_000
"""So much before the end of a scan the next one begins: longer than a commit may take."""
FULL_SCAN_MS: Final = 60_000
"""How long a job at most lies to the left of where the scans begin. A full scan that fails is not repeated earlier."""
_NEVER: Final = 2**63 - 1


class SweepPosition:
    """The position in one index. One scan at a time: `begin`, then `end` if it succeeded."""

    def __init__(self) -> None:
        self._position_ms = _NEVER
        self._added_ms = _NEVER
        """The earliest time added since the scan began."""
        self._last_ms = _NEVER
        self._full_scan_at_ms = LEFT_END

    def begin(self, now_ms: int) -> int:
        """Return the time at which a scan up to `now_ms` begins."""
        went_back = now_ms < self._last_ms  # also at first
        self._last_ms = now_ms
        self._added_ms = _NEVER
        if not went_back and now_ms < self._full_scan_at_ms:
            return self._position_ms
        self._full_scan_at_ms = now_ms + FULL_SCAN_MS
        self._position_ms = min(self._position_ms, now_ms - OVERLAP_MS)
        return LEFT_END

    def end(self, left_ms: int | None) -> None:
        """Note that the scan succeeded. `left_ms` is the earliest time that it may have left; None if it left none."""
        found_ms = self._last_ms - OVERLAP_MS if left_ms is None else left_ms
        self._position_ms = min(found_ms, self._added_ms)

    def add(self, times_ms: Iterable[int | None]) -> None:
        """Note that jobs with these times were committed."""
        first_ms = min((time_ms for time_ms in times_ms if time_ms is not None), default=_NEVER)
        self._added_ms = min(self._added_ms, first_ms)
        self._position_ms = min(self._position_ms, first_ms)
