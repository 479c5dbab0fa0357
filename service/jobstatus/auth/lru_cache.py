"""A bounded cache that drops what was not used for longest when it is full.

It is bounded because clients determine its content. It keeps what is in use, so that many new items, such as the fresh
tokens of one client, do not push out those of others. A dropped item only costs time.
"""

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruCache(OrderedDict[K, V]):
    """Holds at most `limit` items, none when that is 0. Read with `get`, empty with `clear`. No item may be None."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def get(self, key: K) -> V | None:  # type: ignore[override]  # without a default, because each poll pays for it
        """Return the item, which counts as used now; None where there is none."""
        item = dict.get(self, key)
        if item is not None:
            self.move_to_end(key)
        return item

    def put(self, key: K, value: V) -> None:
        """Store this item, which counts as used now."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
