"""A job's updates as an event stream: `text/event-stream` of the HTML standard, section 9.2 (server-sent events).

The stream has one event `status` for each document that a poll would return, with the job's version as its `id`, and
ends with the job. Nothing is queued for a slow client: while it does not read, the job is not read for it either, and
after a while it is disconnected.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from aiohttp import web

from jobstatus.auth.errors import CredentialError, KeysUnavailable
from jobstatus.core.errors import JobStatusError
from jobstatus.core.poll import Poll
from jobstatus.rest.responses import MAX_BYTES
from jobstatus.rest.send_limits import LargeResponses, NoRoomForLarge

_RETRY: Final = b"retry: 2000\n\n"
"""Sent first: after how many ms a browser reconnects."""
_COMMENT: Final = b": nothing new\n\n"
_line_end: Final = re.compile(rb"\r\n?|\n")

_log = logging.getLogger(__name__)


def event(poll: Poll) -> Iterator[bytes]:
    """Yield the event of a job's document; each line of it, whatever its ending, becomes a line of `data`.

    In pieces, so that a large document is in memory only once.
    """
    yield b"event: status\n%bdata: " % _id(poll)
    body, start = poll.body, 0
    while start < len(body):
        end = start + MAX_BYTES
        if body[end - 1 : end + 1] == b"\r\n":  # one line ending, not two
            end += 1
        yield _line_end.sub(b"\ndata: ", body[start:end])
        start = end
    yield b"\n\n"


def _id(poll: Poll) -> bytes:
    """Return the id line. Alone it is no event: it only sets from where a client resumes the stream."""
    return b"id: %d\n" % poll.version


class EventSender:
    """Sends event streams."""

    def __init__(self, *, large: LargeResponses, quiet_seconds: float) -> None:
        """After `quiet_seconds` without an event a comment is sent, so that proxies keep the connection open."""
        self._large = large
        self.quiet_seconds = quiet_seconds

    async def send(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        first: Poll,
        later: AsyncIterator[Poll],
        known_version: int | None,
    ) -> None:
        """Send the updates until they end; the client already has the document of `known_version`.

        An unchanged document is not sent again; where only the version has changed, only the id is sent. A client can
        resume a stream that ends before the job does: the first event of its next request is the current document.
        """
        try:
            await response.prepare(request)
            await self._write(response, _RETRY)
            await self._send_each(request, response, _all(first, later), known_version)
            async with self._large.sending(0):
                await response.write_eof()
        except (ConnectionError, TimeoutError, NoRoomForLarge):
            _cut_off(request)
        except Exception:  # noqa: BLE001  # the response has begun, so there can be no other
            _log.exception("An event stream failed.", extra={"event": "event_stream_failed"})
            _cut_off(request)

    async def _send_each(
        self,
        request: web.BaseRequest,
        response: web.StreamResponse,
        updates: AsyncIterator[Poll],
        known_version: int | None,
    ) -> None:
        now = asyncio.get_running_loop().time
        version, body, written_at = known_version, b"", now()
        async for poll in updates:
            if poll.version != version and poll.body == body:
                await self._write(response, _id(poll) + b"\n")
            elif poll.version != version:
                await self._write_event(response, poll)
            elif now() - written_at >= self.quiet_seconds and _has_unread(request):
                raise TimeoutError
            else:
                await self._write(response, _COMMENT)
            version, body, written_at = poll.version, poll.body, now()

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with self._large.sending(0):
            await response.write(data)

    async def _write_event(self, response: web.StreamResponse, poll: Poll) -> None:
        if len(poll.body) <= MAX_BYTES:
            await self._write(response, b"".join(event(poll)))
            return
        async with self._large.sending(len(poll.body)):
            for piece in event(poll):
                await response.write(piece)


async def _all(first: Poll, later: AsyncIterator[Poll]) -> AsyncIterator[Poll]:
    """Yield all updates; end early when the credential is no longer accepted or the store fails."""
    yield first
    try:
        async for poll in later:
            yield poll
    except (CredentialError, KeysUnavailable, JobStatusError) as error:
        _log.debug("An event stream ended early.", extra={"event": "event_stream_ended", "cause": type(error).__name__})


def _has_unread(request: web.BaseRequest) -> bool:
    return request.transport is not None and request.transport.get_write_buffer_size() > 0


def _cut_off(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
