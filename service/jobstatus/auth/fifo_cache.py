"""A bounded cache that drops its oldest item when it is full.

It is bounded because clients determine its content. It is FIFO, not LRU, because the bound is far above the number of
items in use, and a dropped item only costs time.
"""

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FifoCache(OrderedDict[K, V]):
    """Holds at most `limit` items, none when that is 0. Read with `get`, empty with `clear`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def put(self, key: K, value: V) -> None:
        """Store this item as the newest."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
