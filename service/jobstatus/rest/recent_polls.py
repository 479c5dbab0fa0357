"""Remember what recent polls ask for, for all connections of a port.

A poller asks for the same again and again, and a proxy sends the polls of many clients on one connection, or those of
one client on many. A request of the same bytes as an earlier one is not parsed again. Its `X-Request-Id` may be another
one, because proxies and clients give each request its own.

Requests are recognised by their SHA-256, and what is remembered of them holds no credential. Each repetition is
authenticated and answered anew.
"""

import re
from hashlib import sha256
from typing import Final, Generic, NamedTuple, TypeVar

from jobstatus.auth.lru_cache import LruCache
from jobstatus.rest.protocol import HEAD_END

MAX_BYTES: Final = 4 * 1024
"""Longer requests are not remembered, because a part of each is kept."""
_MISSES_IN_A_ROW: Final = 64
_MISSES_PER_LOOK: Final = 8
"""After so many misses in a row only one request of eight is looked up, because no request may ever come twice."""
_PART_OF_NAME: Final = b"equest-"
"""Of X-Request-Id, whether its other letters are small or not; it stands so far behind the end of the line before."""
_PART_AT: Final = len(b"\r\nX-R")
_request_id: Final = re.compile(rb"\r\n[Xx]-[Rr]equest-[Ii][Dd]: ?([A-Za-z0-9._-]{1,128})(?=\r\n[^ \t])").match
"""A line between two others, or the last one, and before none that continues it."""
_WITHOUT_ID: Final = b"\n"
"""What follows a request from which the line is taken, so that it is none of those that had no such line."""

T = TypeVar("T")


class Key(NamedTuple):
    """By what a request is looked up and remembered: the SHA-256 of it all but for `request_id`, if it has one."""

    digest: bytes
    request_id: str | None


def key_of(data: bytes) -> Key:
    """Return the key of what was received. Its request id is one of the request, if `data` is one whole request."""
    at = data.find(_PART_OF_NAME)
    if at > 0 and data.endswith(HEAD_END) and data.startswith((b"GET ", b"HEAD ")):
        line = _request_id(data, at - _PART_AT)
        if line is not None:
            others = b"".join((data[: line.start()], data[line.end() :], _WITHOUT_ID))
            return Key(sha256(others).digest(), line[1].decode())
    return Key(sha256(data).digest(), None)


class RecentPolls(Generic[T]):
    """At most `limit` polls, none when that is 0; those that were not repeated for longest are dropped."""

    def __init__(self, limit: int) -> None:
        self._polls: LruCache[bytes, T] = LruCache(limit)
        self._misses = 0

    def key(self, data: bytes) -> Key | None:
        """Return the key of what was received; None where it is not to be looked up and remembered."""
        if self._misses > _MISSES_IN_A_ROW and self._misses % _MISSES_PER_LOOK:
            self._misses += 1
            return None
        return key_of(data) if len(data) <= MAX_BYTES else None

    def find(self, key: Key) -> T | None:
        """Return what is remembered of this request."""
        found = self._polls.get(key.digest)
        self._misses = 0 if found is not None else self._misses + 1
        return found

    def put(self, key: Key, poll: T) -> None:
        """Remember this request."""
        self._polls.put(key.digest, poll)
