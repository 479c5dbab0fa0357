"""The limits of the SQLite store."""

from dataclasses import dataclass

from jobstatus.stores.listing import MAX_SCANS


@dataclass(frozen=True, slots=True, kw_only=True)
class SQLiteLimits:
    """How long the store waits for locks, and how much it caches."""

    busy_timeout_ms: int = 3000
    """For a write, behind other writes of this process and other programs' locks."""
    max_rowids: int = 100_000
    """Of how many polled jobs the rowid is cached."""
    max_recent_jobs: int = 10_000
    """Of how many jobs under way the last version is kept in memory."""
    max_kept_frames: int = 1000
    """Reads keep a transaction open only while the log has no more frames than this."""
    max_scans: int = MAX_SCANS
    """How many jobs one step of a listing looks at."""
    kept_seconds: float = 0.05
    """How long a transaction is kept, so that the log of another process's writes grows no further than that."""
