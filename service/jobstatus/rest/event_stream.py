"""A job's updates as an event stream: `text/event-stream` of the HTML standard, section 9.2 (server-sent events).

The stream has one event `status` for each document that a poll would return, with the document's id as its `id`, and
ends with the job. There is nothing between two empty lines but an event with data, because many parsers pass on a block
without data as an event whose data is empty. Nothing is queued for a slow client: while it does not read, the job is
not read for it either, and after a while it is disconnected.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final

from aiohttp import web

from jobstatus.auth.errors import CredentialError, KeysUnavailable
from jobstatus.core.errors import JobStatusError
from jobstatus.core.poll import Poll
from jobstatus.rest.headers import document_id
from jobstatus.rest.responses import MAX_BYTES
from jobstatus.rest.send_limits import LargeResponses, NoRoomForLarge

_RETRY: Final = b"retry: 2000\n"
"""Part of the first event: after how many ms a browser reconnects."""
_COMMENT: Final = b": nothing new\n"
_TIMER_SECONDS: Final = 0.01
"""A timer may end this much early."""
_KEPT_EVENTS: Final = 16
"""Small events that are kept for other streams of the same job, in case their client reads more slowly."""
_line_end: Final = re.compile(rb"\r\n?|\n")

_log = logging.getLogger(__name__)


def event(poll: Poll, head: bytes = b"") -> Iterator[bytes]:
    """Yield the event of a job's document; each line of it, whatever its ending, becomes a line of `data`.

    In pieces, so that a large document is in memory only once. `head` are lines that precede the event in its block.
    """
    yield b"%bevent: status\nid: %b\ndata: " % (head, event_id(poll).encode())
    body, start = poll.body, 0
    while start < len(body):
        end = start + MAX_BYTES
        if body[end - 1 : end + 1] == b"\r\n":  # one line ending, not two
            end += 1
        yield _line_end.sub(b"\ndata: ", body[start:end])
        start = end
    yield b"\n\n"


def _small_event(poll: Poll) -> bytes:
    return b"".join(event(poll))


def event_id(poll: Poll) -> str:
    """Return the `id` of a document's event, which a client sends as Last-Event-ID to resume the stream."""
    return document_id(poll.version, poll.created_at_ms)


class EventSender:
    """Sends event streams."""

    def __init__(self, *, large: LargeResponses, quiet_seconds: float) -> None:
        """After `quiet_seconds` without an event a comment is sent, so that proxies keep the connection open."""
        self._large = large
        self._quiet_seconds = quiet_seconds
        self._render_small = lru_cache(_KEPT_EVENTS)(_small_event)

    def stream(self, request: web.BaseRequest, known_id: str | None) -> "EventStream":
        """Return a stream that is still to be sent; the client already has the document of `known_id`."""
        return EventStream(request, known_id, self._render_small, large=self._large, quiet_seconds=self._quiet_seconds)


class EventStream:
    """The stream of one request, still to be sent."""

    def __init__(
        self,
        request: web.BaseRequest,
        known_id: str | None,
        render_small: Callable[[Poll], bytes],
        *,
        large: LargeResponses,
        quiet_seconds: float,
    ) -> None:
        """`render_small` returns the whole event of a document of at most MAX_BYTES, rendered once for all streams."""
        self._request = request
        self._known_id = known_id
        self._known_body = b""
        self._render_small = render_small
        self._large = large
        self._quiet_seconds = quiet_seconds
        self._now = asyncio.get_running_loop().time
        self._written_at = self._now()
        self._retry = _RETRY

    def next_at(self) -> float:
        """Return the loop's time at which a comment is due."""
        return self._written_at + self._quiet_seconds

    async def send(self, response: web.StreamResponse, first: Poll, later: AsyncIterator[Poll]) -> None:
        """Send the updates until they end. An unchanged document is not sent again.

        A client can resume a stream that ends before the job does: the first event of its next request is the current
        document.
        """
        try:
            await response.prepare(self._request)
            if event_id(first) == self._known_id:
                await self._write(response, (_COMMENT,))  # so that the client receives the response's headers
            async for poll in _all(first, later):
                await self._send(response, poll)
            async with self._large.sending(0):
                await response.write_eof()
        except (ConnectionError, TimeoutError, NoRoomForLarge):
            self._cut_off()
        except Exception:  # noqa: BLE001  # the response has begun, so there can be no other
            _log.exception("An event stream failed.", extra={"event": "event_stream_failed"})
            self._cut_off()

    async def _send(self, response: web.StreamResponse, poll: Poll) -> None:
        """Send the event if the client does not have this document, or a comment if one is due."""
        known_id = event_id(poll)
        if known_id != self._known_id and poll.body != self._known_body:
            size = len(poll.body)
            pieces = event(poll, self._retry) if size > MAX_BYTES else (self._retry, self._render_small(poll))
            await self._write(response, pieces, size=size)
            self._retry = b""
        elif self._now() + _TIMER_SECONDS >= self.next_at():
            if self._request.transport is not None and self._request.transport.get_write_buffer_size() > 0:
                raise TimeoutError
            await self._write(response, (_COMMENT,))
        self._known_id, self._known_body = known_id, poll.body

    async def _write(self, response: web.StreamResponse, pieces: Iterable[bytes], *, size: int = 0) -> None:
        """Write the pieces of a document of `size` bytes; a small one at once."""
        is_large = size > MAX_BYTES
        async with self._large.sending(size if is_large else 0):
            for piece in pieces if is_large else (b"".join(pieces),):
                await response.write(piece)
        self._written_at = self._now()

    def _cut_off(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


async def _all(first: Poll, later: AsyncIterator[Poll]) -> AsyncIterator[Poll]:
    """Yield all updates; end early when the credential is no longer accepted or the store fails."""
    yield first
    try:
        async for poll in later:
            yield poll
    except (CredentialError, KeysUnavailable, JobStatusError) as error:
        _log.debug("An event stream ended early.", extra={"event": "event_stream_ended", "cause": type(error).__name__})
