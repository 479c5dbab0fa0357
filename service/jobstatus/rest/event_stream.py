"""A job's updates as an event stream: `text/event-stream` of the HTML standard, section 9.2 (server-sent events).

The stream has one event `status` for each document that a poll would return, with the document's id as its `id`, and
ends with the job. There is nothing between two empty lines but an event with data, because many parsers pass on a block
without data as an event whose data is empty. Nothing is queued for a slow client: while it does not read, the job is
not read for it either, and after a while it is disconnected.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final, TypeAlias

from aiohttp import web

from jobstatus.auth.errors import CredentialError, KeysUnavailable
from jobstatus.core.answer import RESULT_TAIL
from jobstatus.core.errors import JobStatusError
from jobstatus.core.poll import LargeResult, Poll
from jobstatus.rest.headers import document_id
from jobstatus.rest.responses import MAX_BYTES, document_bytes
from jobstatus.rest.send_limits import LargeResponses, NoRoomForLarge, cut_off
from jobstatus.telemetry.throttle import LogThrottle

_RETRY: Final = b"retry: 2000\n"
"""Part of the first event: after how many ms a browser reconnects."""
_COMMENT: Final = b": nothing new\n"
_TIMER_SECONDS: Final = 0.01
"""A timer may end this much early."""
_KEPT_EVENTS: Final = 16
"""Small events that are kept for other streams of the same job, in case their client reads more slowly."""
_line_end: Final = re.compile(rb"\r\n?|\n")

_log = logging.getLogger(__name__)

ReadResult: TypeAlias = Callable[[LargeResult], Awaitable[bytes]]
"""Returns a result that a poll has found and not read; raises JobNotFound or StoreUnavailable."""


def event(poll: Poll, head: bytes = b"", rest: Iterable[bytes] = ()) -> Iterator[bytes]:
    """Yield the event of a job's document; each line of it, whatever its ending, becomes a line of `data`.

    In pieces, so that a large document is in memory only once. `head` are lines that precede the event in its block.
    `rest` is the rest of the document, where the poll has only the beginning.
    """
    yield b"%bevent: status\nid: %b\ndata: " % (head, event_id(poll).encode())
    for part in (poll.body, *rest):
        start = 0
        while start < len(part):
            end = start + MAX_BYTES
            if part[end - 1 : end + 1] == b"\r\n":  # one line ending, not two
                end += 1
            yield _line_end.sub(b"\ndata: ", part[start:end])
            start = end
    yield b"\n\n"


def _small_event(poll: Poll) -> bytes:
    return b"".join(event(poll))


def event_id(poll: Poll) -> str:
    """Return the `id` of a document's event, which a client sends as Last-Event-ID to resume the stream."""
    return document_id(poll.version, poll.created_at_ms)


class EventSender:
    """Sends event streams."""

    def __init__(self, *, read_result: ReadResult, large: LargeResponses, quiet_seconds: float) -> None:
        """After `quiet_seconds` without an event a comment is sent, so that proxies keep the connection open."""
        self._read_result = read_result
        self._large = large
        self._quiet_seconds = quiet_seconds
        self._failed = LogThrottle()
        self._render_small = lru_cache(_KEPT_EVENTS)(_small_event)

    def stream(self, request: web.BaseRequest, known_id: str | None) -> "EventStream":
        """Return a stream that is still to be sent; the client already has the document of `known_id`."""
        return EventStream(
            request,
            known_id,
            self._render_small,
            read_result=self._read_result,
            large=self._large,
            quiet_seconds=self._quiet_seconds,
            failed=self._failed,
        )


class EventStream:
    """The stream of one request, still to be sent."""

    def __init__(
        self,
        request: web.BaseRequest,
        known_id: str | None,
        render_small: Callable[[Poll], bytes],
        *,
        read_result: ReadResult,
        large: LargeResponses,
        quiet_seconds: float,
        failed: LogThrottle,
    ) -> None:
        """`render_small` returns the whole event of a document of at most MAX_BYTES, rendered once for all streams.

        `failed` is that of all streams' log line.
        """
        self._request = request
        self._read_result = read_result
        self._known_id = known_id
        self._known_body = b""
        self._render_small = render_small
        self._large = large
        self._quiet_seconds = quiet_seconds
        self._failed = failed
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
            await self._send_all(response, first, later)
            await self._large.end(response)
        except (ConnectionError, TimeoutError, NoRoomForLarge):
            cut_off(self._request)
        except Exception:  # noqa: BLE001  # the response has begun, so there can be no other
            if streams := self._failed.should_log():
                _log.exception(
                    "An event stream failed because of a bug of this program.",
                    extra={"event": "event_stream_failed", "streams": streams},
                )
            cut_off(self._request)

    async def _send_all(self, response: web.StreamResponse, first: Poll, later: AsyncIterator[Poll]) -> None:
        """Send all updates; end early when the credential is no longer accepted or the store fails."""
        try:
            await self._send(response, first)
            async for poll in later:
                await self._send(response, poll)
        except (CredentialError, KeysUnavailable, JobStatusError) as error:
            _log.debug(
                "An event stream ended early.", extra={"event": "event_stream_ended", "cause": type(error).__name__}
            )

    async def _send(self, response: web.StreamResponse, poll: Poll) -> None:
        """Send the event if the client does not have this document, or a comment if one is due."""
        known_id = event_id(poll)
        if known_id != self._known_id and poll.body != self._known_body:
            await self._send_event(response, poll)
            self._retry = b""
        elif self._now() + _TIMER_SECONDS >= self.next_at():
            if self._request.transport is not None and self._request.transport.get_write_buffer_size() > 0:
                raise TimeoutError
            await self._write(response, (_COMMENT,))
        self._known_id, self._known_body = known_id, poll.body

    async def _send_event(self, response: web.StreamResponse, poll: Poll) -> None:
        """Send the event of a document; a small one at once, a large one once there is room for it."""
        large = poll.large_result
        if large is None and len(poll.body) <= MAX_BYTES:
            await self._write(response, (self._retry + self._render_small(poll),))
            return
        with self._large.hold(poll.reader, document_bytes(poll)):
            rest = () if large is None else (await self._read_result(large), RESULT_TAIL)
            await self._write(response, event(poll, self._retry, rest))

    async def _write(self, response: web.StreamResponse, pieces: Iterable[bytes]) -> None:
        await self._large.write(response, pieces)
        self._written_at = self._now()
