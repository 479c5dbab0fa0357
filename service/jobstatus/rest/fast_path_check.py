"""Check at start that the installed aiohttp has the private parts that the fast path uses, and that they behave.

The check drives connections inside the process: their transports are in memory, their handler is a stub. It asks more
plain requests than the parser holds unconsumed, some of them repeated, has a request wait in the handler while another
arrives, watches the keep-alive timer, closes a connection, sends a request with a body, and has a connection parked and
become a whole one again. Any deviation, including a missing attribute, is a reason to switch the fast path off.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from aiohttp import web
from aiohttp.http import RawRequestMessage

from jobstatus.rest.fast_path import FastPathProtocol, Known, TryAnswer, WriteBatch
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.parked import Parkable, ParkedConnection, Parking
from jobstatus.rest.recent_polls import RecentPolls
from jobstatus.rest.turns import TurnLimits, Turns

CHECK_SECONDS: Final = 5.0
"""The check takes about 2 ms; an answer that has not come by then will never come."""
_MORE_THAN_QUEUED: Final = 40
"""Requests; aiohttp's parser pauses at 32 that are not consumed."""
_FAST: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfast"
_PLAIN: Final = b"GET /fast HTTP/1.1\r\nHost: check\r\n\r\n"
_NEXT: Final = b"GET /fast HTTP/1.1\r\nHost: check:80\r\n\r\n"
"""Another one than the last, so that it is parsed."""
_WITH_BODY: Final = b"GET /fast HTTP/1.1\r\nHost: check\r\nContent-Length: 2\r\n\r\n{}"
_OTHER: Final = b"POST /fast HTTP/1.1\r\nHost: check\r\n\r\n"
_WAIT: Final = b"GET /wait HTTP/1.1\r\nHost: check\r\nPrefer: wait=1\r\n\r\n"
_SLOW: Final = b"GET /slow HTTP/1.1\r\nHost: check\r\n\r\n"


class UnexpectedBehaviour(Exception):
    """aiohttp has the parts, but they do something else; the message says what."""


class _Transport(asyncio.Transport):
    """Collects what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.protocol: Any = None
        self._is_closing = False
        self._has_written = asyncio.Event()

    async def until_written(self, end: bytes) -> None:
        """Return when what is written ends with these bytes."""
        while not self.written.endswith(end):
            self._has_written.clear()
            await self._has_written.wait()

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self._has_written.set()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self._is_closing = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def find_problem(limits: RestLimits, options: Mapping[str, Any]) -> str:
    """Return why the fast path cannot be used, in one sentence; an empty string when it can.

    `limits.connection_type` is a FastPathProtocol; `options` are those of the server's connections.
    """
    unbounded = Turns(TurnLimits(seconds=CHECK_SECONDS), call_soon=asyncio.get_running_loop().call_soon)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await _check(limits, {**options, "turns": unbounded})
    except Exception as error:  # noqa: BLE001  # a changed library raises anything; the caller logs it
        return f"{type(error).__name__}: {error}"
    return ""


async def _check(limits: RestLimits, options: Mapping[str, Any]) -> None:
    handled: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        handled.append(request.path)
        await asyncio.sleep(0)  # a handler that waits, so that a request can arrive meanwhile
        return web.Response(body=f"handled {len(handled)}".encode())

    def prepare(request: RawRequestMessage) -> TryAnswer | None:
        return (lambda *_: _FAST) if request.path == "/fast" else None

    server = web.Server(handle, handler_cancellation=True)

    recent: RecentPolls[Known] = RecentPolls(0)

    def connected() -> AbstractContextManager[tuple[Any, _Transport]]:
        return _connected(
            limits.connection_type(server, prepare=prepare, write_batch=WriteBatch(), recent=recent, **options)
        )

    with connected() as (connection, transport):
        await _check_order(connection, transport, handled)
        _check_keepalive(connection, transport)
    with connected() as (connection, transport):
        await _check_close(connection, transport)
    with connected() as (connection, transport):
        connection.data_received(_WITH_BODY)
        await transport.until_written(b"handled 5")
        _expect(_FAST not in transport.written, "a request with a body is answered without the handler")
    await _check_parking(limits, server, options)


@contextmanager
def _connected(connection: Any) -> Iterator[tuple[Any, _Transport]]:
    transport = _Transport()
    connection.connection_made(transport)
    try:
        yield connection, transport
    finally:
        connection.connection_lost(None)


async def _check_order(connection: FastPathProtocol, transport: _Transport, handled: list[str]) -> None:
    """Raise UnexpectedBehaviour unless plain requests need no handler, all others do, and all are in order."""
    for _ in range(_MORE_THAN_QUEUED):
        for request in (_PLAIN, _NEXT, _NEXT):
            connection.data_received(request)
            await asyncio.sleep(0)
    answers = _FAST * 3 * _MORE_THAN_QUEUED
    _expect((transport.written, handled) == (answers, []), "plain requests are not answered at once")
    transport.written = b""
    connection.data_received(_SLOW + _PLAIN)
    await asyncio.sleep(0)
    _expect(_FAST not in transport.written, "the parser stops after requests that were answered at once")
    connection.data_received(_PLAIN)
    connection.data_received(_OTHER)
    await transport.until_written(b"handled 4")
    _expect(handled == ["/slow", "/fast", "/fast", "/fast"], "requests for the handler are out of order")
    transport.written = b""
    connection.data_received(_PLAIN)
    await asyncio.sleep(0)
    _expect((transport.written, len(handled)) == (_FAST, 4), "no request is answered at once after the handler's")


def _check_keepalive(connection: Any, transport: _Transport) -> None:
    """Raise UnexpectedBehaviour unless each answer at once postpones the end of an idle connection."""
    now = connection._loop.time()  # noqa: SLF001  # these private parts are what is checked
    _expect(connection._next_keepalive_close_time > now, "the keep-alive timer is not set")  # noqa: SLF001
    connection._next_keepalive_close_time = now  # noqa: SLF001
    connection.data_received(_PLAIN)
    connection._process_keepalive()  # noqa: SLF001
    _expect(not transport.is_closing(), "an answer at once does not keep the connection open")
    connection._next_keepalive_close_time = now  # noqa: SLF001
    connection._process_keepalive()  # noqa: SLF001
    _expect(transport.is_closing(), "an idle connection is not closed")


async def _check_close(connection: Any, transport: _Transport) -> None:
    """Raise UnexpectedBehaviour unless a connection that is to be closed answers nothing more."""
    for _ in range(2):
        connection.data_received(_PLAIN)
    connection.close()
    connection.data_received(_PLAIN)
    await asyncio.sleep(0)
    _expect(transport.written == _FAST * 2, "a request is answered after the connection's end")


async def _check_parking(limits: RestLimits, server: web.Server, options: Mapping[str, Any]) -> None:
    """Raise UnexpectedBehaviour unless a connection is given up without an end of its transport, and works again."""
    lost: list[None] = []
    parked: list[ParkedConnection] = []
    batch = WriteBatch()
    recent: RecentPolls[Known] = RecentPolls(0)

    def begin_wait(message: RawRequestMessage, connection: Parkable) -> bytes:  # noqa: ARG001  # one of BeginWait
        parked.append(connection.park(_Guest()))
        return b""

    def connect(on_lost: Callable[[], None]) -> Any:
        return limits.connection_type(
            server,
            prepare=lambda message: (lambda *_: _FAST) if message.path == "/fast" else None,
            write_batch=batch,
            recent=recent,
            begin_wait=begin_wait,
            parking=parking,
            on_lost=on_lost,
            **options,
        )

    parking = Parking(connect, batch.put, keepalive_seconds=CHECK_SECONDS)
    transport, whole = _Transport(), connect(lambda: lost.append(None))
    whole.connection_made(transport)
    whole.data_received(_WAIT)
    _expect(parked == [transport.protocol] and not lost, "a connection cannot be parked")
    for _ in range(3):  # what the whole connection has begun ends
        await asyncio.sleep(0)
    parked[0].answer(_FAST)
    await transport.until_written(_FAST)
    transport.protocol.data_received(_PLAIN)
    await transport.until_written(_FAST * 2)
    is_open = not (lost or transport.is_closing())
    _expect(is_open and transport.protocol is not parked[0], "a parked connection does not become a whole one")
    transport.protocol.connection_lost(None)
    _expect(len(lost) == 1, "the end of a connection that was parked is not noticed")


class _Guest:
    """A request that waits."""

    def cancel(self) -> None: ...


def _expect(is_so: bool, problem: str) -> None:  # an assertion that -O keeps
    if not is_so:
        raise UnexpectedBehaviour(problem)
