"""Why jobs wait: what the red banner of the console says, as a pure function of the figures."""

from typing import Final

PATIENCE_MS: Final = 5_000
"""A job that waits for less is no reason to worry."""
SILENCE_MS: Final = 10_000
"""How long no worker is heard before that is worth saying."""
LONG_SILENCE_MS: Final = 60_000
"""The same where jobs run without a lease, whose workers need not say anything before the end."""

NOTHING_RUNS: Final = "nothing_runs"
SILENT: Final = "silent"


def likely_cause(
    now_ms: int,
    *,
    pending: int,
    oldest_created_ms: int | None,
    heard_ms: int | None,
    is_on_time: bool,
    unleased: int,
) -> str | None:
    """Return why jobs wait although they should not, or None. `is_on_time`: at least one worker with a lease is.

    NOTHING_RUNS: every worker is late or gone. SILENT: jobs without a lease may run, but no worker was heard for long.
    """
    if not pending or oldest_created_ms is None:
        return None
    waited_ms = now_ms - oldest_created_ms
    silent_ms = waited_ms if heard_ms is None else now_ms - heard_ms
    if waited_ms < PATIENCE_MS or silent_ms < SILENCE_MS:
        return None
    if is_on_time:
        return None
    if unleased:
        return SILENT if min(waited_ms, silent_ms) >= LONG_SILENCE_MS else None
    return NOTHING_RUNS
