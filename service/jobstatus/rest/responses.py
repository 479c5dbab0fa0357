"""The answers that the edge gives on its own account, and the headers of every answer. Pure: no request, no core."""

import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final, cast

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from jobstatus.core import errors
from jobstatus.core.answer import to_json
from jobstatus.rest.headers import EVENT_STREAM

ALLOWED_METHODS: Final = ("GET", "HEAD")
MAX_BYTES: Final = 64 * 1024
"""Larger answers are aiohttp's: they are sent in parts, as fast as the client reads."""
_MAX_UNREAD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer without a job: its HTTP code, and the type, code and message of its BifrostError."""

    status: int
    type: str
    code: str
    message: str

    def body(self, request_id: str) -> bytes:
        """The BifrostError; it depends on nothing but the request's id."""
        return to_json(
            {
                "event_id": request_id,
                "is_bifrost_error": False,
                "status_code": self.status,
                "error": {"type": self.type, "code": self.code, "message": self.message},
                "extra_fields": {},
            }
        )


MISSING_CREDENTIALS: Final = Problem(401, "authentication_error", "missing_credentials", "Credentials are required")
INVALID_CREDENTIALS: Final = Problem(401, "authentication_error", "invalid_credentials", "The credentials are invalid")
JOB_NOT_FOUND: Final = Problem(404, "not_found", "job_not_found", "Job not found or expired")
PATH_NOT_FOUND: Final = Problem(404, "not_found", "path_not_found", "There is nothing at this path")
METHOD_NOT_ALLOWED: Final = Problem(405, "method_not_allowed", "method_not_allowed", "Only GET and HEAD are allowed")
STORE_UNAVAILABLE: Final = Problem(503, "unavailable", "store_unavailable", "Temporarily unavailable, try again later")
INTERNAL: Final = Problem(500, "internal_error", "internal_error", "Internal error")

PROBLEMS: Final[dict[type[Exception], Problem]] = {
    errors.JobNotFound: JOB_NOT_FOUND,
    errors.StoreUnavailable: STORE_UNAVAILABLE,
    errors.StoreFull: STORE_UNAVAILABLE,
    errors.Overloaded: STORE_UNAVAILABLE,
    errors.ShuttingDown: STORE_UNAVAILABLE,
    # What only a write can meet says nothing to a reader: should it come up here it is a fault of ours.
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

_CHALLENGE: Final = 'Bearer realm="jobstatus"'
_PROBLEM_HEADERS: Final[dict[Problem, dict[str, str]]] = {
    MISSING_CREDENTIALS: {"WWW-Authenticate": _CHALLENGE},
    INVALID_CREDENTIALS: {"WWW-Authenticate": f'{_CHALLENGE}, error="invalid_token"'},
    METHOD_NOT_ALLOWED: {"Allow": ", ".join(ALLOWED_METHODS)},
    STORE_UNAVAILABLE: {"Retry-After": "2"},
}


def event_stream(request_id: str) -> web.StreamResponse:
    """A 200 whose events are still to be written."""
    headers = _headers(request_id)
    headers.update({"Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"})
    return web.StreamResponse(headers=headers)


def nothing_new(request_id: str) -> web.Response:
    """A 204: the client has had the last event of the stream, and is to ask no more (HTML standard, section 9.2.2)."""
    headers = _headers(request_id)
    del headers["Content-Type"]
    return web.Response(status=204, headers=headers)


def answer(status: int, body: bytes, request_id: str, lines: str = "", *, is_kept: bool = False) -> web.StreamResponse:
    """A 200 or 202 with a job's document or another JSON body.

    `lines` are further header lines, each with its CRLF; `is_kept`: the client may keep the answer, and ask whether it
    is still the same.
    """
    of_every = _LINES_OF_KEPT_ANSWERS if is_kept else _LINES_OF_EVERY_ANSWER
    whole = f"{of_every}X-Request-Id: {request_id}\r\n{lines}"
    if len(body) <= MAX_BYTES:
        return prebuilt_response(status, body, whole)
    return web.Response(status=status, body=body, headers=headers_of(whole))


def not_modified(request_id: str, tag: str) -> web.Response:
    """A 304: the client has it already."""
    headers = _headers(request_id)
    del headers["Content-Type"]
    headers.update({"Cache-Control": _KEPT, "ETag": tag})
    return web.Response(status=304, headers=headers)


def problem_answer(problem: Problem, request_id: str) -> web.Response:
    """An answer without a job."""
    headers = _headers(request_id)
    headers.extend(_PROBLEM_HEADERS.get(problem, {}))
    return web.Response(status=problem.status, body=problem.body(request_id), headers=headers)


_EVERY_ANSWER: Final = CIMultiDict(
    {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Server": "jobstatus",  # else aiohttp tells its version
    }
)
_KEPT: Final = "private, no-cache"
_LINES_OF_EVERY_ANSWER: Final = "".join(f"{name}: {value}\r\n" for name, value in _EVERY_ANSWER.items())
_LINES_OF_KEPT_ANSWERS: Final = _LINES_OF_EVERY_ANSWER.replace("no-store", _KEPT)


def _headers(request_id: str) -> CIMultiDict[str]:
    headers = _EVERY_ANSWER.copy()
    headers["X-Request-Id"] = request_id
    return headers


class PrebuiltResponse:
    """What aiohttp asks of a response that a handler has returned; see `prebuilt_response`."""

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


def prebuilt_response(status: int, body: bytes, lines: str) -> web.StreamResponse:
    """A 200 or 202 of at most MAX_BYTES. `lines` are its header lines, each with its CRLF, in ASCII."""
    return cast("web.StreamResponse", PrebuiltResponse(status, body, lines))


_STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n" for status in (200, 202)}
_last_date: tuple[int, str] = (0, "")


def _date() -> str:
    """The Date header (RFC 9110, section 6.6.1), made once a second."""
    global _last_date  # noqa: PLW0603  # a cache of one value
    now = int(time.time())
    if _last_date[0] != now:
        _last_date = (now, formatdate(now, usegmt=True))
    return _last_date[1]
