"""The limits of the PostgreSQL store."""

from dataclasses import dataclass

from jobstatus.core.circuit_breaker import BreakerLimits
from jobstatus.stores.listing import MAX_SCANS


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSQLLimits:
    """How many connections there are, and how long the store waits for what."""

    connections: int = 8
    long_connections: int = 1
    """For listings, besides the others, so that point reads and writes never wait for those; and as many for counts,
    which may take long, so that listings do not wait for them."""
    max_scans: int = MAX_SCANS
    """How many jobs one step of a listing looks at."""
    connect_seconds: int = 2
    operation_seconds: float = 3.0
    count_seconds: float = 10.0
    """No caller waits for a count, and it may have to read every job."""
    start_seconds: float = 60.0
    """A replica that starts may have to wait for another one's migration."""
    added_lock_ms: int = 200
    """How long adding a column waits for those who use the table, while all others wait behind it."""
    added_pause_seconds: float = 60.0
    """After which pause columns that could not be added are tried again."""
    close_seconds: float = 4.0
    """For what is under way when the store closes."""
    max_hanging_writes: int = 4
    """So many writes that hang in the server make further ones fail at once."""
    breaker: BreakerLimits = BreakerLimits()  # noqa: RUF009  # a frozen value
