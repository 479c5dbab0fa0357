"""The HTTP connection, and the answer to what is not HTTP.

aiohttp answers a request that its parser refuses without the handler. That answer must have the contract's shape too,
and neither it nor the log may repeat what was sent, which may be a credential.

An idle connection is kept for long, so that a proxy can use it again, but a request that has begun must arrive in time,
and a client must read its answers in time, however small each of them is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final, TypeAlias, cast

from aiohttp import StreamReader, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from multidict import MultiMapping

from jobstatus.rest import responses
from jobstatus.rest.connection_table import network_of
from jobstatus.rest.headers import (
    HOST,
    X_REQUEST_ID,
    credentials_in,
    credentials_of,
    ends_connection,
    is_host,
    request_id_of,
)
from jobstatus.rest.responses import INTERNAL, MALFORMED, refusal
from jobstatus.rest.send_limits import SLICE_BYTES
from jobstatus.rest.turns import Turns
from jobstatus.telemetry.throttle import LogThrottle

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Recognise: TypeAlias = Callable[[Sequence[str], Sequence[str]], str | None]
"""Takes the values of the headers that hold credentials. Returns whose the credential is, None unless it is known to be
good."""
HEAD_END: Final = b"\r\n\r\n"
MAX_HEAD_BYTES: Final = 64 * 1024
"""aiohttp limits each line and their number, which together would be a megabyte."""
_QUEUED: Final = 4
"""Requests that a connection keeps while another one is answered; then no more are read. aiohttp keeps 32."""
_log = logging.getLogger(__name__)


def only_valid(handler: Handler) -> Handler:
    """Return a handler that refuses what aiohttp's parser admits though it is no HTTP of ours, and calls `handler`.

    A request that was sent behind another one, before that was answered, waits for its turn here. It is no coroutine,
    because each further one costs a microsecond.
    """

    def answer(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        connection = cast("RestProtocol", request.protocol)
        connection.is_answering = True
        if request.version.major != 1:
            return _refused(request, responses.VERSION_NOT_SUPPORTED)
        if not is_host(request.headers.get(HOST, "")):
            return _refused(request, MALFORMED)
        return handler(request) if connection.has_turn() else _answer_later(connection, request, handler)

    return answer


async def _answer_later(connection: "RestProtocol", request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
    await connection.turn(request.headers)
    return await handler(request)


async def _refused(request: web.BaseRequest, problem: responses.Problem) -> web.StreamResponse:
    response = refusal(problem, request_id_of(request.headers.get(X_REQUEST_ID)))
    return cast("web.StreamResponse", response)  # which PrebuiltResponse is to aiohttp


def _ignore() -> None: ...


class RestProtocol(RequestHandler):
    """aiohttp's connection, with limits on requests and unread answers, and the contract's answers to refused requests.

    aiohttp closes it when no request has come for `keepalive_timeout` seconds. Here it is also closed when a request,
    or the first one of all, is not complete in `request_seconds`, and after the answer to a request with a body. It is
    cut off when the client has not read what was written in `send_seconds`: once the transport's buffer is full, or
    once the connection is to be closed.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        request_seconds: float,
        send_seconds: float,
        throttles: Mapping[str, LogThrottle],
        turns: Turns,
        recognise: Recognise,
        on_lost: Callable[[], None] = _ignore,
        **options: Any,
    ) -> None:
        """`throttles` are those of the port's log lines, by event. `options` are aiohttp's for a connection.

        `turns` says when requests are begun; `recognise` returns whose turn that of a request is.
        """
        super().__init__(server, **options)
        self._request_seconds = request_seconds
        self._send_seconds = send_seconds
        self._throttles = throttles
        self._turns = turns
        self._recognise = recognise
        self._late = b""
        """What was received and waits for its turn."""
        self._has_turn = False
        """Whether the next request for the handler was received in its turn."""
        self._on_lost = on_lost
        self.request_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        """Received of a request whose head is not complete."""
        self._has_body = False
        """Whether the last request has a body; then no other one follows."""
        self._max_msg_queue_size, self._msg_queue_resume_size = _QUEUED, _QUEUED // 2
        self._last_bytes = b""
        self.is_answering = False
        """Whether a request is being answered; `only_valid` says when that begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the first request is due."""
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_write_buffer_limits(SLICE_BYTES)
        self._await_request()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._await_no_request()
        self._late = b""
        super().connection_lost(exc)
        self._await_no_reader()
        self._on_lost()

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full; the client must read it in time.

        Large answers and event streams have time limits of their own.
        """
        super().pause_writing()
        if not self.is_answering:
            self._await_reader(self.transport)

    def resume_writing(self) -> None:
        """Note that the client has read what was in the transport's buffer."""
        super().resume_writing()
        if self.transport is not None:  # None once the connection is to be closed: then all must be read
            self._await_no_reader()

    def force_close(self) -> None:
        """Close the connection; the client must read in time what is left to be sent."""
        transport = self.transport
        super().force_close()
        self._await_reader(transport)

    async def start(self) -> None:
        """Serve requests until the last one; the client must read the answers in time."""
        await super().start()
        self._await_reader(self.transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes, or have them wait for their turn."""
        if not self._late and self._turns.has_time():
            self.take(data)
        elif data:
            self._take_later(data)
        else:  # aiohttp has room for what it has received already
            self.take(data)

    def _take_later(self, data: bytes) -> None:
        """Keep bytes until the turn of the first of them. Nothing more is read once there are further ones, or many."""
        transport = self.transport
        if transport is None:
            return
        if self._late:
            self._late += data
            transport.pause_reading()
        else:
            self._late = data
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout  # it is not idle
            self._turns.wait(self._recognise(*credentials_in(data)), self._address(), self._take_late)
            if len(data) > MAX_HEAD_BYTES:
                transport.pause_reading()

    def _take_late(self) -> bool:
        """Take the bytes whose turn it is. Return False where the client has gone."""
        data, self._late = self._late, b""
        transport = self.transport
        if not data or transport is None or transport.is_closing():
            return False
        if not self._reading_paused:
            transport.resume_reading()
        self.take(data)
        return True

    def has_turn(self) -> bool:
        """Return whether a request for the handler may be answered in this turn."""
        has_turn, self._has_turn = self._has_turn, False
        return has_turn or self._turns.has_time()

    async def turn(self, headers: MultiMapping[str]) -> None:
        """Return in the turn of a request with these headers."""
        turn = self._loop.create_future()

        def begin() -> bool:
            is_wanted = not turn.done()
            if is_wanted:
                turn.set_result(None)
            return is_wanted

        self._turns.wait(self._recognise(*credentials_of(headers)), self._address(), begin)
        await turn

    def _address(self) -> str:
        transport = self.transport
        return network_of(None if transport is None else transport.get_extra_info("peername")) or ""

    def take(self, data: bytes) -> None:
        """Take bytes in their turn."""
        count, self._has_turn = self._request_count, bool(data)
        RequestHandler.data_received(self, data)
        self.note(data, None if self._request_count == count else self._messages[-1][1])

    def note(self, data: bytes, body: StreamReader | None) -> None:
        """Note what was received: a request without a body ends with an empty line, else more is due.

        `body` is that of the last request whose head is complete with these bytes; None if none is.
        """
        if len(data) < len(HEAD_END):
            data = self._last_bytes + data
        self._last_bytes = data[-len(HEAD_END) :]
        if self._last_bytes == HEAD_END:
            self._await_no_request()
        elif self.request_timer is None:
            self._await_request()
        if body is not None:
            self._head_bytes, self._has_body = 0, body is not EMPTY_PAYLOAD
        elif not self._has_body:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def give_up(self) -> tuple[asyncio.Transport, Callable[[], None]]:
        """Part from the transport, which another protocol has from now on, and end otherwise as a lost connection does.

        Return the transport, and what is to be called once it is lost.
        """
        transport, self.transport = self.transport, None
        on_lost, self._on_lost = self._on_lost, _ignore
        self.connection_lost(None)
        return cast("asyncio.Transport", transport), on_lost

    def _refuse_head(self) -> None:
        """End the connection; answer that the request is not valid unless others are still to be answered."""
        if self.transport is not None and not self.is_answering and not self._messages:
            self._log_refused(HTTPStatus.BAD_REQUEST, "HeadTooLong")
            self.transport.write(refusal(MALFORMED, request_id_of(None)).whole())
        self.force_close()

    def _await_request(self) -> None:
        self.request_timer = self._loop.call_later(self._request_seconds, self._request_is_overdue)

    def _await_no_request(self) -> None:
        if self.request_timer is not None:
            self.request_timer.cancel()
            self.request_timer = None

    def _await_reader(self, transport: asyncio.Transport | None) -> None:
        if self._unread_timer is None and transport is not None and transport.get_write_buffer_size():
            self._unread_timer = self._loop.call_later(self._send_seconds, transport.abort)

    def _await_no_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _request_is_overdue(self) -> None:
        self.request_timer = None
        if self._late:  # it may have arrived, and waits for its turn
            self._await_request()
        elif self.is_answering:
            self.close()  # after the answer
        else:
            self.force_close()

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send the answer, which fits the socket's buffers, or has been sent by the handler."""
        self.is_answering = False
        if ends_connection(request.headers):
            resp.force_close()
        if self.writing_paused:  # since before this request was answered
            self._await_reader(self.transport)
        return super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp did not expect, and of many only the first: a client may have found a way to cause it."""
        if self._throttles["library_log"].should_log():
            super().log_exception(*args, **kw)

    def _log_refused(self, status: int, cause: str) -> None:
        if requests := self._throttles["http_request_refused"].should_log():
            _log.info(
                "Not valid HTTP, so a request was refused.",
                extra={"event": "http_request_refused", "status": status, "cause": cause, "requests": requests},
            )

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the request
    ) -> web.StreamResponse:
        """Return the answer to what the parser refused; the connection is closed after it."""
        problem = INTERNAL if status == HTTPStatus.INTERNAL_SERVER_ERROR else replace(MALFORMED, status=status)
        self._log_refused(status, type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has been sent in part already")
        return cast("web.StreamResponse", refusal(problem, request_id_of(None)))
