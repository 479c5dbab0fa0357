"""A job's life as an event stream: `text/event-stream` of the HTML standard, section 9.2 (server-sent events).

One event `status` for each document that a poll would answer, whose `id` is the job's version; the stream ends with the
job. Nothing is kept for a client that reads slowly: while it does not read, nothing more is looked up for it, and after
a while it is cut off.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from aiohttp import web

from jobstatus.auth.errors import CredentialError
from jobstatus.core.errors import JobStatusError
from jobstatus.core.poll import Poll
from jobstatus.rest.responses import MAX_BYTES
from jobstatus.rest.send_limits import NoRoomForLarge, sending_large

QUIET_SECONDS: Final = 15.0
"""After so long without an event a comment is sent, so that no proxy takes the connection for dead."""
_RETRY: Final = b"retry: 2000\n\n"
"""First of all: in ms, after how long a browser takes up a stream that broke."""
_COMMENT: Final = b": nothing new\n\n"
_line_end: Final = re.compile(rb"\r\n?|\n")

_log = logging.getLogger(__name__)


def event(poll: Poll) -> Iterator[bytes]:
    """The event of a job's document; each of its lines, whichever way it ends, is one of `data`.

    In pieces, so that a large document is in memory once.
    """
    yield b"event: status\n%bdata: " % _id(poll)
    body, start = poll.body, 0
    while start < len(body):
        end = start + MAX_BYTES
        if body[end - 1 : end + 1] == b"\r\n":  # one end of a line, and to be seen as one
            end += 1
        yield _line_end.sub(b"\ndata: ", body[start:end])
        start = end
    yield b"\n\n"


def _id(poll: Poll) -> bytes:
    """Alone it is no event: it only tells a client from where to take up the stream."""
    return b"id: %d\n" % poll.version


async def send(
    request: web.BaseRequest,
    response: web.StreamResponse,
    first: Poll,
    later: AsyncIterator[Poll],
    known_version: int | None,
) -> None:
    """Send what the updates show, until they end; the document of `known_version` is not sent.

    A document that has not changed is not sent again; where the version has, the client is told that alone. A stream
    that ends before the job does is for the client to take up again: what has happened is told in that answer.
    """
    try:
        await response.prepare(request)
        await _write(response, _RETRY)
        await _send_each(request, response, _all(first, later), known_version)
        async with sending_large(0):
            await response.write_eof()
    except (ConnectionError, TimeoutError, NoRoomForLarge):
        _cut_off(request)
    except Exception:  # noqa: BLE001  # the answer has begun: there can be no other
        _log.exception("A bug of this program ended an event stream.", extra={"event": "event_stream_failed"})
        _cut_off(request)


async def _all(first: Poll, later: AsyncIterator[Poll]) -> AsyncIterator[Poll]:
    """All updates; they end as well when the client may look no more, or nobody can tell."""
    yield first
    try:
        async for poll in later:
            yield poll
    except (CredentialError, JobStatusError) as error:
        _log.debug(
            "An event stream ended before its job did.",
            extra={"event": "event_stream_ended", "cause": type(error).__name__},
        )


async def _send_each(
    request: web.BaseRequest, response: web.StreamResponse, updates: AsyncIterator[Poll], known_version: int | None
) -> None:
    now = asyncio.get_running_loop().time
    version, body, written_at = known_version, b"", now()
    async for poll in updates:
        if poll.version != version:
            await (_write(response, _id(poll) + b"\n") if poll.body == body else _write_event(response, poll))
        elif now() - written_at >= QUIET_SECONDS and _has_unread(request):
            raise TimeoutError
        else:
            await _write(response, _COMMENT)
        version, body, written_at = poll.version, poll.body, now()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with sending_large(0):
        await response.write(data)


async def _write_event(response: web.StreamResponse, poll: Poll) -> None:
    if len(poll.body) <= MAX_BYTES:
        await _write(response, b"".join(event(poll)))
        return
    async with sending_large(len(poll.body)):
        for piece in event(poll):
            await response.write(piece)


def _has_unread(request: web.BaseRequest) -> bool:
    return request.transport is not None and request.transport.get_write_buffer_size() > 0


def _cut_off(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
