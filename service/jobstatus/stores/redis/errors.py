"""The cluster client's errors as errors of the store: one table."""

from collections.abc import Iterable
from typing import Any, Final

from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.store import StoreError
from jobstatus.stores.redis.cluster.errors import CommandError, NoSpace, Unavailable

ERRORS: Final[dict[type[CommandError], type[StoreError]]] = {Unavailable: StoreUnavailable, NoSpace: StoreFull}


def store_error(error: CommandError) -> StoreError:
    """Return the store's error, with the same cause."""
    translated = ERRORS[type(error)]()
    translated.__cause__ = error.__cause__
    return translated


def raise_first(replies: Iterable[Any]) -> None:
    """Raise the first error among replies, translated."""
    for reply in replies:
        if isinstance(reply, CommandError):
            raise store_error(reply)
