"""Answer plain polls between aiohttp's parser and its connection, without a handler.

For each request to a handler aiohttp makes a request, a writer, a future and a task, and the event loop turns twice
more, which costs more than the poll itself. So what can be answered without waiting is answered before aiohttp sees it.

This relies on private parts of aiohttp; `fast_path_check` verifies at start that they are there and behave.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from jobstatus.rest.headers import HOST, PREFER, TRANSFER_ENCODING, is_host
from jobstatus.rest.parked import Guest, Parkable, ParkedConnection, Parking
from jobstatus.rest.protocol import HEAD_END, RestProtocol
from jobstatus.rest.responses import ALLOWED_METHODS

TryAnswer: TypeAlias = Callable[[RawRequestMessage], bytes | None]
"""Return the whole answer to a GET or HEAD over HTTP/1.1 on a connection that stays open; None to leave it to the
handler."""
BeginWait: TypeAlias = Callable[[RawRequestMessage, Parkable], bytes | None]
"""Return the whole answer to such a request that need not wait; an empty one where it waits on a parked connection;
None to leave it to the handler."""
Requests: TypeAlias = Sequence[tuple[RawRequestMessage, StreamReader]]


class WriteBatch:
    """Answers of one turn of the event loop, written together at its end.

    The first write wakes up a client on the same machine, such as a proxy, which then finds the other answers too. One
    wake-up for each answer would cost as much as the answer.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Write the answer at the end of this turn, in order, unless the connection is closing by then."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._write)
        self._answers.append((transport, answer))

    def _write(self) -> None:
        answers, self._answers = self._answers, []
        for transport, answer in answers:
            if not transport.is_closing():
                transport.write(answer)


class FastPathProtocol(RestProtocol):
    """A connection that passes to its handler only what cannot be answered at once."""

    def __init__(
        self,
        server: web.Server,
        *,
        try_answer: TryAnswer,
        write_batch: WriteBatch,
        begin_wait: BeginWait | None = None,
        parking: Parking | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of RestProtocol. `parking` is where connections wait for what `begin_wait` has begun."""
        super().__init__(server, **options)
        self._parser = cast("Any", InterceptingParser(self._parser, self))
        self._try_answer = try_answer
        self._write_batch = write_batch
        self._begin_wait = begin_wait
        self._parking = parking
        self._under_way = 0
        """Requests that the handler has still to answer; answers must keep the order of their requests."""

    data_received = RequestHandler.data_received
    """Without a further frame for each poll: InterceptingParser calls `note`."""

    def is_answered(self, request: RawRequestMessage) -> bool:
        """Answer a request without a body, if that is possible at once, and return whether it was."""
        transport, headers = self.transport, request.headers
        if (
            not self._under_way
            and transport is not None
            and not self.writing_paused
            and not request.should_close
            and TRANSFER_ENCODING not in headers
            and is_host(headers.get(HOST, ""))
        ):
            answer = self._try_answer(request)
            if answer is None and self._begin_wait is not None and PREFER in headers:
                answer = self._begin_wait(request, self)
            if answer is not None:
                if not answer:
                    return True  # it comes later, on a parked connection
                self._write_batch.put(transport, answer)
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                return True
        return False

    def park(self, guest: Guest) -> ParkedConnection:
        """Give the connection up, except for its transport, while the guest waits."""
        assert self._parking is not None  # noqa: S101  # for the type checker: whoever begins a wait may park it
        return self._parking.park(*self.give_up(), guest)

    def hand_over(self, requests: Requests) -> None:
        """Note the requests that are passed to the handler."""
        self._under_way += len(requests)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the handler's answer. aiohttp calls this once for each request that was passed to it."""
        finished = await super().finish_response(request, resp, start_time)
        self._under_way -= 1
        return finished


class InterceptingParser:
    """aiohttp's parser for a connection, without the requests that are answered at once."""

    def __init__(self, parser: Any, connection: FastPathProtocol) -> None:
        self._parser = parser
        self._connection = connection
        self.message_consumed = parser.message_consumed

    def feed_data(self, data: bytes) -> tuple[Requests, bool, bytes]:
        """Return the requests for the handler, whether the last one is an upgrade, and the bytes that follow it."""
        requests, is_upgrade, rest = self._parser.feed_data(data)
        if self._connection.request_timer is not None or not data.endswith(HEAD_END):
            self._connection.note(data, requests[-1][1] if requests else None)
        if len(requests) == 1 and not is_upgrade:
            [(request, body)] = requests
            is_plain = request.method in ALLOWED_METHODS and request.version == HttpVersion11 and body is EMPTY_PAYLOAD
            if is_plain and self._connection.is_answered(request):
                self.message_consumed()
                return (), False, rest
        self._connection.hand_over(requests)
        return requests, is_upgrade, rest

    def __getattr__(self, name: str) -> Any:
        """Return what else aiohttp uses of its parser."""
        return getattr(self._parser, name)
