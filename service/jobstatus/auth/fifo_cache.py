"""A bounded memory: a dict that forgets the oldest when it is full.

Bounded, because what is remembered comes from outside; no cleverer than that, because the bound is far above what is in
use and forgetting only costs time.
"""

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FifoCache(OrderedDict[K, V]):
    """Holds at most `limit` items, none when that is 0. Read with `get`, forget with `clear`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def put(self, key: K, value: V) -> None:
        """Hold this item as the newest."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
