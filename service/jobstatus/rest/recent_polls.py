"""Remember what recent polls ask for, for all connections of a port.

A poller asks for the same again and again, and a proxy sends the polls of many clients on one connection, or those of
one client on many. A request of the same bytes as an earlier one is not parsed again.

Requests are recognised by their SHA-256, and what is remembered of them holds no credential. Each repetition is
authenticated and answered anew.
"""

from hashlib import sha256
from typing import Final, Generic, TypeVar

from jobstatus.auth.lru_cache import LruCache

MAX_BYTES: Final = 4 * 1024
"""Longer requests are not remembered, because a part of each is kept."""
_MISSES_IN_A_ROW: Final = 64
_MISSES_PER_LOOK: Final = 8
"""After so many misses in a row only one request of eight is looked up, because no request may ever come twice: some
proxies give each an id of its own."""

T = TypeVar("T")


class RecentPolls(Generic[T]):
    """At most `limit` polls, none when that is 0; those that were not repeated for longest are dropped."""

    def __init__(self, limit: int) -> None:
        self._polls: LruCache[bytes, T] = LruCache(limit)
        self._misses = 0

    def digest(self, data: bytes) -> bytes | None:
        """Return by what a request is looked up and remembered; None for one that is to be neither."""
        if self._misses > _MISSES_IN_A_ROW and self._misses % _MISSES_PER_LOOK:
            self._misses += 1
            return None
        return sha256(data).digest() if len(data) <= MAX_BYTES else None

    def find(self, digest: bytes) -> T | None:
        """Return what is remembered of this request."""
        found = self._polls.get(digest)
        self._misses = 0 if found is not None else self._misses + 1
        return found

    def put(self, digest: bytes, poll: T) -> None:
        """Remember this request."""
        self._polls.put(digest, poll)
