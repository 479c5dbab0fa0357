"""An answer to a poll that is written in one piece.

aiohttp builds, serialises and writes the headers of a response in a dozen calls, which cost more than all else that a
poll needs. Almost every poll is a GET over HTTP/1.1 on a connection that stays open: its answer is put together here.
Any other request gets the same answer as an ordinary aiohttp response.
"""

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

MAX_BYTES: Final = 64 * 1024
"""Larger answers are aiohttp's: they are sent in parts, as fast as the client reads."""
_MAX_UNREAD_BYTES: Final = 64 * 1024


class SmallAnswer:
    """What aiohttp asks of a response that a handler has returned; see `small_answer`."""

    __slots__ = ("_body", "_lines", "_response", "status")

    def __init__(self, status: int, body: bytes, lines: str) -> None:
        self.status = status
        self._body = body
        self._lines = lines
        self._response: web.Response | None = None

    @property
    def content_length(self) -> int:
        return len(self._body)

    @property
    def keep_alive(self) -> bool | None:
        return True if self._response is None else self._response.keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send the whole answer; wait while the client has too much to read already."""
        if request.version != HttpVersion11 or request.method != "GET" or not request.keep_alive:
            self._response = web.Response(status=self.status, body=self._body, headers=headers_of(self._lines))
            await self._response.prepare(request)
            return
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        transport.write(self.whole())
        if transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            await request.writer.drain()

    def whole(self) -> bytes:
        """The answer to a GET over HTTP/1.1 on a connection that stays open."""
        return self._head() + self._body

    async def write_eof(self) -> None:
        """End the answer."""
        if self._response is not None:
            await self._response.write_eof()

    def _head(self) -> bytes:
        status_line, length = _STATUS_LINES[self.status], len(self._body)
        return f"{status_line}{self._lines}Content-Length: {length}\r\nDate: {_date()}\r\n\r\n".encode("ascii")


def headers_of(lines: str) -> CIMultiDict[str]:
    """Header lines, each with its CRLF, as aiohttp wants them."""
    pairs = (line.partition(": ") for line in lines.splitlines())
    return CIMultiDict((name, value) for name, _, value in pairs)


def small_answer(status: int, body: bytes, lines: str) -> web.StreamResponse:
    """A 200 or 202 of at most MAX_BYTES. `lines` are its header lines, each with its CRLF, in ASCII."""
    return cast("web.StreamResponse", SmallAnswer(status, body, lines))


_STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n" for status in (200, 202)}
_last_date: tuple[int, str] = (0, "")


def _date() -> str:
    """The Date header (RFC 9110, section 6.6.1), made once a second."""
    global _last_date  # noqa: PLW0603  # a cache of one value
    now = int(time.time())
    if _last_date[0] != now:
        _last_date = (now, formatdate(now, usegmt=True))
    return _last_date[1]
