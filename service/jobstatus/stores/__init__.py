"""The port's implementations. `open_store` maps a URL to one and imports its driver only then."""

from typing import Final

from jobstatus.core.store import Store

SCHEMES: Final = ("sqlite:///path/to/file.db", "memory://")


class StoreConfigError(ValueError):
    """A store cannot be opened as configured; the message is one sentence that says why and what to do."""


def open_store(url: str) -> Store:
    """The store that a URL names, to be entered as an async context manager.

    `sqlite:///relative/path` and `sqlite:////absolute/path` keep jobs in a file; `memory://` keeps them until the
    process ends. Raises StoreConfigError for any other URL, and on entering when the store refuses to open.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "memory" and not rest:
        from jobstatus.stores.memory import MemoryJobStore  # noqa: PLC0415  # drivers are imported when they are used

        return MemoryJobStore()
    if separator and scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from jobstatus.stores.sqlite import SQLiteJobStore  # noqa: PLC0415

        return SQLiteJobStore(rest[1:])
    raise StoreConfigError(f"the store URL (JOBSTATUS_STORE) must be one of {', '.join(SCHEMES)}")
