"""Why jobs wait: what the red banner of the console says, as a pure function of the figures."""

from typing import Final

PATIENCE_MS: Final = 5_000
"""A job that waits for less is no reason to worry."""
SILENCE_MS: Final = 10_000
"""How long no worker is heard before that is worth saying."""
SLACK_MS: Final = 1_000
"""How much later than `WorkerSigns.on_time_until_ms` the last worker is late, because counts take time."""
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
    on_time_until_ms: int | None,
    unleased: int,
) -> str | None:
    """Return why jobs wait although they should not, or None.

    NOTHING_RUNS: every worker is late or gone. SILENT: jobs without a lease may run, but no worker was heard for long.
    """
    if not pending or oldest_created_ms is None:
        return None
    waited_ms = now_ms - oldest_created_ms
    silent_ms = waited_ms if heard_ms is None else now_ms - heard_ms
    if waited_ms < PATIENCE_MS or silent_ms < SILENCE_MS:
        return None
    if on_time_until_ms is not None and now_ms <= on_time_until_ms + SLACK_MS:
        return None
    if unleased:
        return SILENT if min(waited_ms, silent_ms) >= LONG_SILENCE_MS else None
    return NOTHING_RUNS
