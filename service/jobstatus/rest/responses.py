"""The responses of the public port: their status, headers and bytes. Pure: no request, no core."""

import time
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from jobstatus.core import errors
from jobstatus.core.answer import RESULT_TAIL
from jobstatus.core.poll import Poll
from jobstatus.rest.headers import EVENT_STREAM

ALLOWED_METHODS: Final = ("GET", "HEAD")
MAX_BYTES: Final = 64 * 1024
"""Larger responses are sent in slices, as fast as the client reads."""
_MAX_UNREAD_BYTES: Final = 64 * 1024
ASSUMED_BYTES: Final = 1024 * 1024
"""The room that is asked for a result of unknown size: an edge knows none from a service of an earlier version."""

VARY: Final = "Vary: Accept, Prefer\r\n"
"""Of answers about a job: the request headers that choose between a poll, a wait and an event stream."""
_CHALLENGE: Final = 'WWW-Authenticate: Bearer realm="jobstatus"'


@dataclass(frozen=True, slots=True)
class Problem:
    """A response without a job: its status, its own header lines, and type, code and message of its BifrostError."""

    status: int
    type: str
    code: str
    message: str
    lines: str = ""

    def body(self, request_id: str) -> bytes:
        """Return the BifrostError. Spelt out because it is fast and no part of it has a character to escape."""
        return (
            f'{{"event_id":"{request_id}","is_bifrost_error":false,"status_code":{self.status},'
            f'"error":{{"type":"{self.type}","code":"{self.code}","message":"{self.message}"}},"extra_fields":{{}}}}'
        ).encode("ascii")


MISSING_CREDENTIALS: Final = Problem(
    401, "authentication_error", "missing_credentials", "Credentials are required", f"{_CHALLENGE}\r\n"
)
INVALID_CREDENTIALS: Final = Problem(
    401,
    "authentication_error",
    "invalid_credentials",
    "The credentials are invalid",
    f'{_CHALLENGE}, error="invalid_token"\r\n',
)
MULTIPLE_CREDENTIALS: Final = replace(
    INVALID_CREDENTIALS, code="multiple_credentials", message="Send one credential, not several"
)
JOB_NOT_FOUND: Final = Problem(404, "not_found", "job_not_found", "Job not found or expired")
PATH_NOT_FOUND: Final = Problem(404, "not_found", "path_not_found", "There is nothing at this path")
METHOD_NOT_ALLOWED: Final = Problem(
    405,
    "method_not_allowed",
    "method_not_allowed",
    "Only GET and HEAD are allowed",
    f"Allow: {', '.join(ALLOWED_METHODS)}\r\n",
)
STORE_UNAVAILABLE: Final = Problem(
    503, "unavailable", "store_unavailable", "Temporarily unavailable, try again later", "Retry-After: 2\r\n"
)
TOO_OFTEN: Final = replace(
    STORE_UNAVAILABLE, code="requested_too_often", message="This was requested too often, try again later"
)
RATE_LIMITED: Final = Problem(429, "rate_limit_error", "rate_limit_exceeded", "Too many requests, try again later")
PRECONDITION_FAILED: Final = Problem(
    412, "precondition_failed", "precondition_failed", "The job is not what If-Match names", VARY
)
MALFORMED: Final = Problem(400, "invalid_request_error", "malformed_request", "The request is not valid HTTP")
VERSION_NOT_SUPPORTED: Final = replace(MALFORMED, status=505)
KEYS_UNAVAILABLE: Final = replace(STORE_UNAVAILABLE, code="keys_unavailable", lines="Retry-After: 5\r\n")
INTERNAL: Final = Problem(500, "internal_error", "internal_error", "Internal error")

PROBLEMS: Final[dict[type[Exception], Problem]] = {
    errors.JobNotFound: JOB_NOT_FOUND,
    errors.StoreUnavailable: STORE_UNAVAILABLE,
    errors.StoreFull: STORE_UNAVAILABLE,
    errors.Overloaded: STORE_UNAVAILABLE,
    errors.ShuttingDown: STORE_UNAVAILABLE,
    # Only writes raise these, so here they are a fault of this program.
    errors.VirtualKeyNotFound: INTERNAL,
    errors.InvalidField: INTERNAL,
    errors.ResultNotJson: INTERNAL,
    errors.ResultTooLarge: INTERNAL,
    errors.JobExists: INTERNAL,
    errors.JobTerminal: INTERNAL,
    errors.JobNotStarted: INTERNAL,
    errors.LeaseHeld: INTERNAL,
    errors.LeaseLost: INTERNAL,
    errors.ClientNotIdentified: INTERNAL,
    errors.ClientNotAllowed: INTERNAL,
}


def rate_limited(retry_after_seconds: int) -> Problem:
    """Return the problem of a client that polls more often than its virtual key may."""
    return replace(RATE_LIMITED, lines=f"Retry-After: {retry_after_seconds}\r\n")


_COMMON: Final = "X-Content-Type-Options: nosniff\r\nServer: jobstatus\r\n"
"""`Server`, because aiohttp would send its version."""
_KEPT: Final = f"Cache-Control: private, no-cache\r\n{_COMMON}"
_JSON: Final = "Content-Type: application/json\r\n"
_NOT_STORED: Final = f"Cache-Control: no-store\r\n{_COMMON}"


def event_stream(request_id: str, lines: str = "") -> web.StreamResponse:
    """Return a 200 whose events are still to be written. `lines` are further header lines, each with its CRLF."""
    head = f"Content-Type: {EVENT_STREAM}\r\n{_NOT_STORED}X-Request-Id: {request_id}\r\n{VARY}X-Accel-Buffering: no\r\n"
    return web.StreamResponse(headers=headers_of(head + lines))


def nothing_new(request_id: str) -> web.Response:
    """Return a 204: the client has the last event of the stream and must not reconnect (HTML standard, 9.2.2)."""
    return web.Response(status=204, headers=headers_of(f"{_NOT_STORED}X-Request-Id: {request_id}\r\n{VARY}"))


def preflight(request_id: str, lines: str) -> web.Response:
    """Return the 204 to a preflight; `lines` say what a page may do."""
    return web.Response(status=204, headers=headers_of(f"{_NOT_STORED}X-Request-Id: {request_id}\r\n{lines}"))


def answer(status: int, body: bytes, request_id: str, lines: str = "", *, is_kept: bool = False) -> "PrebuiltResponse":
    """Return a 200 or 202 with a job's document or another JSON body.

    `lines` are further header lines, each with its CRLF; `is_kept`: the client may keep the answer and revalidate it.
    """
    return PrebuiltResponse(status, body, _json_lines(request_id, lines, is_kept=is_kept))


def large_answer(poll: Poll, request_id: str, lines: str) -> "LargeResponse":
    """Return the 200 with a job's document that is large, or whose result has still to be read; otherwise as `answer`.

    The client may keep the answer and revalidate it.
    """
    return LargeResponse(200, _json_lines(request_id, lines, is_kept=True), poll)


def document_bytes(poll: Poll) -> int:
    """Return the size of the whole document, for which a result of unknown size is assumed to be ASSUMED_BYTES."""
    large = poll.large_result
    if large is None:
        return len(poll.body)
    return len(poll.body) + (ASSUMED_BYTES if large.size is None else large.size) + len(RESULT_TAIL)


def _json_lines(request_id: str, lines: str, *, is_kept: bool) -> str:
    return f"{_JSON}{_KEPT if is_kept else _NOT_STORED}X-Request-Id: {request_id}\r\n{lines}"


def not_modified(request_id: str, tag: str) -> "PrebuiltResponse":
    """Return a 304: the client has the document already."""
    return BodilessResponse(304, f"{_KEPT}X-Request-Id: {request_id}\r\n{VARY}ETag: {tag}\r\n")


@dataclass(frozen=True, slots=True)
class LargeResponse:
    """A response that is sent in slices, or whose result has still to be read.

    `lines` are its header lines, each with its CRLF.
    """

    status: int
    lines: str
    poll: Poll

    def without_body(self) -> "BodilessResponse":
        """Return the response to a HEAD, which needs no result. It says no length that is not known for certain."""
        large = self.poll.large_result
        is_known = large is None or large.size is not None
        return BodilessResponse(self.status, self.lines, document_bytes(self.poll) if is_known else None)

    def small(self, document: bytes) -> "PrebuiltResponse":
        """Return the whole response, once the document has been read and is small."""
        return PrebuiltResponse(self.status, document, self.lines)

    def head(self, length: int, lines: str) -> bytes:
        """Return what precedes a body of so many bytes; `lines` are added."""
        return BodilessResponse(self.status, self.lines + lines, length).head()

    def begun(self, length: int, lines: str) -> web.StreamResponse:
        """Return the response with a body of so many bytes, which is still to be written; `lines` are added."""
        response = web.StreamResponse(status=self.status, headers=headers_of(self.lines + lines))
        response.content_length = length
        return response


def public(status: int, body: bytes, request_id: str, tag: str) -> "PrebuiltResponse":
    """Return a 200 or 304 about JSON that is the same for everybody, and that anybody may keep for an hour."""
    kind = _JSON if body else ""
    lines = f"{kind}Cache-Control: public, max-age=3600\r\n{_COMMON}X-Request-Id: {request_id}\r\nETag: {tag}\r\n"
    return PrebuiltResponse(status, body, lines)


def problem_answer(problem: Problem, request_id: str) -> "PrebuiltResponse":
    """Return a response without a job."""
    lines = f"{_JSON}{_NOT_STORED}X-Request-Id: {request_id}\r\n{problem.lines}"
    return PrebuiltResponse(problem.status, problem.body(request_id), lines)


def refusal(problem: Problem, request_id: str) -> "PrebuiltResponse":
    """Return the last response on a connection whose request was not valid HTTP."""
    lines = f"{_JSON}{_NOT_STORED}X-Request-Id: {request_id}\r\nConnection: close\r\n"
    return _LastResponse(problem.status, problem.body(request_id), lines)


class PrebuiltResponse:
    """A response of at most MAX_BYTES whose bytes are made at once.

    It has what aiohttp uses of a response that a handler returns. `lines` are its header lines in ASCII, each with its
    CRLF, without Content-Length and Date.
    """

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

    def add(self, lines: str) -> None:
        """Add header lines, each with its CRLF."""
        self._lines += lines

    def force_close(self) -> None:
        """Have the connection closed after this response."""
        self._response = self.to_response()
        self._response.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send the whole response; wait while the client has too much to read already."""
        if self._response is None and not _is_plain(request):
            self._response = self.to_response()
        if self._response is not None:
            await self._response.prepare(request)
            return
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        transport.write(self.head() if request.method == "HEAD" else self.whole())
        if transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            await request.writer.drain()

    def whole(self) -> bytes:
        """Return the response to a GET over HTTP/1.1 on a connection that stays open."""
        return self.head() + self._body

    def to_response(self) -> web.Response:
        """Return the same as aiohttp's, for any request."""
        return web.Response(status=self.status, body=self._body, headers=headers_of(self._lines))

    async def write_eof(self) -> None:
        """End the response."""
        if self._response is not None:
            await self._response.write_eof()

    def head(self) -> bytes:
        """Return the response to a HEAD over HTTP/1.1 on a connection that stays open."""
        status_line, date = _STATUS_LINES[self.status], _date(int(time.time()))
        length = len(self._body)
        return f"{status_line}{self._lines}Content-Length: {length}\r\nDate: {date}\r\n\r\n".encode("ascii")


class BodilessResponse(PrebuiltResponse):
    """A response that consists of its head: a 304, or the one to the HEAD of a large document."""

    __slots__ = ()

    def __init__(self, status: int, lines: str, length: int | None = None) -> None:
        """`length` is that of the document; None: it is not said."""
        super().__init__(status, b"", lines if length is None else f"{lines}Content-Length: {length}\r\n")

    def to_response(self) -> web.Response:
        """Return the same as aiohttp's, for any request."""
        return web.Response(status=self.status, headers=headers_of(self._lines))

    def head(self) -> bytes:
        """Return the response to a HEAD over HTTP/1.1 on a connection that stays open."""
        return f"{_STATUS_LINES[self.status]}{self._lines}Date: {_date(int(time.time()))}\r\n\r\n".encode("ascii")


class _LastResponse(PrebuiltResponse):
    """A response that is sent as HTTP/1.1 whatever version the request claims, and ends the connection."""

    __slots__ = ()

    @property
    def keep_alive(self) -> bool:
        return False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send the whole response."""
        if request.transport is not None:
            request.transport.write(self.head() if request.method == "HEAD" else self.whole())


def _is_plain(request: web.BaseRequest) -> bool:
    return request.version == HttpVersion11 and request.method in ALLOWED_METHODS and bool(request.keep_alive)


def headers_of(lines: str) -> CIMultiDict[str]:
    """Convert header lines, each with its CRLF, to aiohttp's form."""
    pairs = (line.partition(": ") for line in lines.splitlines())
    return CIMultiDict((name, value) for name, _, value in pairs)


_STATUS_LINES: Final[dict[int, str]] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


@lru_cache(1)
def _date(seconds: int) -> str:
    """Return the Date header (RFC 9110, section 6.6.1), formatted once a second."""
    return formatdate(seconds, usegmt=True)
