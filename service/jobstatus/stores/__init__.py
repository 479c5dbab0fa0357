"""The implementations of the port. `open_store` maps a URL to one, and imports its driver only then."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobstatus.core.store import Store

SCHEMES: Final = (
    "sqlite:///path/to/file.db",
    "postgresql://user@host/database",
    "redis://host:6379",
    "rediss://host:6379",
    "memory://",
)


class StoreConfigError(ValueError):
    """A store cannot be opened as configured; the message is one sentence that says why and what to do."""


def open_store(url: str, *, redis_replicas: int | None = None, must_exist: bool = False) -> Store:
    """Return the store that a URL names, to be entered as an async context manager.

    `sqlite:///relative/path` and `sqlite:////absolute/path` keep jobs in a file, `postgresql://` in a database,
    `redis://` and `rediss://` (with TLS) in a Redis or Valkey server or cluster, where a write is acknowledged once it
    is on `redis_replicas` replicas (None: one, where there are replicas), `memory://` until the process ends.

    Raises StoreConfigError for any other URL, for a missing file with `must_exist`, and here or on entering when the
    store cannot be opened.
    """
    scheme, separator, rest = url.partition("://")
    match scheme if separator else "":
        case "memory" if not rest:
            from jobstatus.stores.memory import MemoryJobStore  # noqa: PLC0415  # drivers are imported when they are used

            return MemoryJobStore()
        case "sqlite" if rest.startswith("/") and len(rest) > 1:
            from jobstatus.stores.sqlite import SQLiteJobStore  # noqa: PLC0415

            if must_exist and not Path(rest[1:]).is_file():
                raise StoreConfigError(f"there is no file {rest[1:]}")
            return SQLiteJobStore(rest[1:])
        case "postgresql" | "postgres":
            with _driver_of("postgresql"):
                from jobstatus.stores.postgresql import PostgreSQLJobStore  # noqa: PLC0415
            return PostgreSQLJobStore(url)
        case "redis" | "rediss":
            with _driver_of("redis"):
                from jobstatus.stores.redis import RedisJobStore  # noqa: PLC0415
            return RedisJobStore(url, replicas=redis_replicas)
        case _:
            raise StoreConfigError(f"the store URL (JOBSTATUS_STORE) must be one of {', '.join(SCHEMES)}")


async def describe_store(url: str, *, redis_replicas: int | None = None) -> str:
    """Return in words what `open_store` would open or create, after the checks of a start. Changes nothing.

    Raises StoreConfigError where a start would.
    """
    open_store(url, redis_replicas=redis_replicas)  # refuses what is no URL of a store
    scheme, _, rest = url.partition("://")
    match scheme:
        case "sqlite":
            from jobstatus.stores.sqlite import check as sqlite  # noqa: PLC0415  # as above

            return await asyncio.to_thread(sqlite.describe, Path(rest[1:]))
        case "postgresql" | "postgres":
            from jobstatus.stores.postgresql import check as postgresql  # noqa: PLC0415
            from jobstatus.stores.postgresql.limits import PostgreSQLLimits  # noqa: PLC0415

            return await postgresql.describe(url, PostgreSQLLimits())
        case "redis" | "rediss":
            from jobstatus.stores.redis.url import parse_url  # noqa: PLC0415

            async with open_store(url, redis_replicas=redis_replicas):  # which writes nothing
                return f"the Redis or Valkey servers at {', '.join(map(str, parse_url(url).cluster.addresses))}"
        case _:
            return "the memory of the process: jobs are lost when it ends"


@contextmanager
def _driver_of(extra: str) -> Iterator[None]:
    """Name the package to install when the driver is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise StoreConfigError(f"this store needs a driver: pip install '.[{extra}]' in the checkout") from error
