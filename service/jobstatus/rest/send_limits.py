"""Limits on large answers: how much memory they use, in all and for each reader, and how slowly they may be read.

An answer holds its memory from before its result is read until it has been sent. It is sent in pieces, which
are views of the result, so that it is in memory once; the system keeps no more than a slice unsent.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Final, NoReturn, Protocol

from aiohttp import web

from jobstatus.rest.vanished_clients import ListeningSocket
from jobstatus.telemetry.throttle import LogThrottle

SLICE_BYTES: Final = 64 * 1024
"""What a connection, and the system, keep unsent of an answer before no more is written."""
PIECE_BYTES: Final = 4 * SLICE_BYTES
"""What is written at a time of a large answer: each piece costs a turn of the loop."""
_log = logging.getLogger(__name__)


class NoRoomForLarge(Exception):
    """The large answers being sent, or those of one reader, use all of the memory that they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPace:
    """How slowly a client may read. One that makes steady progress is never cut off."""

    stall_seconds: float = 30.0
    """A client that reads nothing for so long is disconnected."""
    least_bytes_per_second: int = 16 * 1024
    """A client that falls `stall_seconds` behind this rate is disconnected, because one that reads a byte now and then
    would hold its memory for ever."""

    def deadline(self, started_at: float, progressed_at: float, sent_bytes: int) -> float:
        """Return when the client must have read more."""
        pace_at = started_at + sent_bytes / self.least_bytes_per_second
        return min(progressed_at, pace_at) + self.stall_seconds


class Connection(Protocol):
    """A connection on which an answer is written as bytes. `write` is as that of Writable."""

    async def write(self, data: bytes | memoryview, /) -> None: ...

    def abort(self) -> None: ...


class Writable(Protocol):
    """A response that has begun. `write` returns when the client has made room for more."""

    async def write(self, data: bytes | memoryview, /) -> None: ...


class LargeResponses:
    """The large answers being sent, on all connections of one process."""

    def __init__(
        self, *, max_bytes: int, max_bytes_each: int, pace: ReadingPace, on_refused: Callable[[], None] = lambda: None
    ) -> None:
        """`max_bytes` bounds what all hold together. A reader gets more while it holds less than `max_bytes_each`.

        Where nothing is held an answer of any size has room, so that no result is too large for ever. `on_refused` is
        called for each answer that is refused.
        """
        self._max_bytes = max_bytes
        self._max_bytes_each = max_bytes_each
        self._pace = pace
        self._on_refused = on_refused
        self._refused = LogThrottle()
        self._failed = LogThrottle()
        self._of_each: Counter[str | None] = Counter()
        self.held_bytes = 0

    @contextmanager
    def hold(self, reader: str | None, size: int) -> Iterator[None]:
        """Hold `size` bytes for a reader while the block lasts. Raise NoRoomForLarge before the block.

        `reader` is a virtual key; all admins together are one reader, None.
        """
        if not self._has_room(reader, size):
            self._refuse(reader)
        self.held_bytes += size
        self._of_each[reader] += size
        try:
            yield
        finally:
            self.held_bytes -= size
            self._of_each[reader] -= size
            if not self._of_each[reader]:
                del self._of_each[reader]

    def _has_room(self, reader: str | None, size: int) -> bool:
        if self._of_each.get(reader, 0) >= self._max_bytes_each:
            return False
        return not self.held_bytes or self.held_bytes + size <= self._max_bytes

    def _refuse(self, reader: str | None) -> NoReturn:
        self._on_refused()
        if answers := self._refused.should_log():
            _log.warning(
                "Large answers were refused because those being sent use all memory that they may.",
                extra={
                    "event": "large_answers_refused",
                    "answers": answers,
                    "held_bytes": self.held_bytes,
                    "virtual_key_id": reader,
                    "held_bytes_of_virtual_key": self._of_each.get(reader, 0),
                },
            )
        raise NoRoomForLarge

    async def send(
        self, request: web.BaseRequest, response: web.StreamResponse, pieces: Iterable[bytes | memoryview]
    ) -> None:
        """Send the response with these pieces for its body; disconnect a client that reads it too slowly."""

        async def sending() -> None:
            await response.prepare(request)
            await self.write(response, pieces)
            await self.end(response)

        await self._or_cut_off(sending(), partial(cut_off, request))

    async def send_directly(self, connection: Connection, head: bytes, pieces: Iterable[bytes | memoryview]) -> None:
        """As `send`, for an answer that needs no help of aiohttp."""
        await self._or_cut_off(self.write(connection, chain((head,), pieces)), connection.abort)

    async def _or_cut_off(self, sending: Awaitable[None], cut: Callable[[], None]) -> None:
        try:
            await sending
        except (ConnectionError, TimeoutError):
            cut()
        except Exception:  # noqa: BLE001  # the response has begun, so there can be no other
            if answers := self._failed.should_log():
                _log.exception(
                    "A large answer failed because of a bug of this program.",
                    extra={"event": "large_answer_failed", "answers": answers},
                )
            cut()

    async def write(self, response: Writable, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the pieces as fast as the client reads. Raise TimeoutError when it reads too slowly."""
        now = asyncio.get_running_loop().time
        started_at = progressed_at = now()
        sent_bytes = 0
        for piece in pieces:
            if sent_bytes:
                await asyncio.sleep(0)  # others have their turn where the client reads so fast that it is never awaited
            async with asyncio.timeout_at(self._pace.deadline(started_at, progressed_at, sent_bytes)):
                await response.write(piece)
            progressed_at = now()
            sent_bytes += len(piece)

    async def end(self, response: web.StreamResponse) -> None:
        """End the response. Raise TimeoutError when the client does not read what precedes its end."""
        async with asyncio.timeout(self._pace.stall_seconds):
            await response.write_eof()


def cut_off(request: web.BaseRequest) -> None:
    """End the connection of a request whose response has begun and cannot be ended."""
    if request.transport is not None:
        request.transport.abort()


def pieces(before: bytes, document: bytes, after: bytes) -> Iterator[bytes | memoryview]:
    """Yield the three, joined, in pieces of at most PIECE_BYTES.

    Most of them are views of the document, because copies would cost as much as sending does. The last ones are copies:
    what of them still waits to be sent when the answer no longer counts as held would keep the whole in memory.
    """
    view, copies_from = memoryview(document), max(0, len(document) - 2 * SLICE_BYTES)
    start = min(SLICE_BYTES, copies_from)
    yield before + view[:start]
    while start < copies_from:
        end = min(start + PIECE_BYTES, copies_from)
        yield view[start:end]
        start = end
    rest = view[start:].tobytes() + after
    yield from (rest[first : first + SLICE_BYTES] for first in range(0, len(rest), SLICE_BYTES))


def limit_unsent(listening: ListeningSocket) -> None:
    """Have the kernel keep at most a slice unsent on connections accepted from now on, where it can.

    Otherwise it takes megabytes at once, and then nothing until a slow client has read a third of them: the client
    seems to stand still.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)  # not every system has it
    if option is not None:
        listening.setsockopt(socket.IPPROTO_TCP, option, SLICE_BYTES)
