"""Answer plain polls between aiohttp's parser and its connection, without a handler.

For each request to a handler aiohttp makes a request, a writer, a future and a task, and the event loop turns twice
more, which costs more than the poll itself. So what can be answered without waiting is answered before aiohttp sees it.
A poller asks for the same again and again: a request that repeats an earlier one, byte for byte, is not even parsed.
For that each open connection keeps the bytes of its last poll, and what was found in them; `recent_polls` remembers
those of all connections.

This relies on private parts of aiohttp; `fast_path_check` verifies at start that they are there and behave.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from jobstatus.rest.headers import HOST, TRANSFER_ENCODING, X_REQUEST_ID, is_host
from jobstatus.rest.parked import Guest, Parkable, ParkedConnection, Parking
from jobstatus.rest.protocol import HEAD_END, RestProtocol
from jobstatus.rest.recent_polls import Key, RecentPolls
from jobstatus.rest.responses import ALLOWED_METHODS

TryAnswer: TypeAlias = Callable[[RawRequestMessage | None, str | None], bytes | None]
"""Return the whole answer to one request, or None to leave it to the handler. It is called for each repetition, with
None in place of the request; where it then returns None, the request is parsed again. It holds no good credential. The
other argument is the request's X-Request-Id, which repetitions may have of their own."""
Prepare: TypeAlias = Callable[[RawRequestMessage], TryAnswer | None]
"""Return what answers a GET or HEAD over HTTP/1.1 on a connection that stays open; None to leave it to the handler."""
BeginWait: TypeAlias = Callable[[RawRequestMessage, Parkable], bytes | None]
"""Return the whole answer to such a request, which is not answered at once; an empty one where it comes later, on a
parked connection; None to leave it to the handler."""
Known: TypeAlias = tuple[TryAnswer, str | None]
"""What is remembered of a request: what answers it, and its X-Request-Id where repetitions have the same."""
MAX_REPEATED_BYTES: Final = 8 * 1024
"""A longer request is parsed each time, because each open connection may keep one."""
_REFUSED: Final = b"HTTP/1.1 401 "
"""How answers begin whose request only its own connection remembers, so that strangers cannot make others forget."""
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
        prepare: Prepare,
        write_batch: WriteBatch,
        recent: RecentPolls[Known],
        begin_wait: BeginWait | None = None,
        parking: Parking | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of RestProtocol. `recent` is that of all connections of the port; `parking` is where they
        wait for what `begin_wait` has begun.
        """
        super().__init__(server, **options)
        self._parser = cast("Any", InterceptingParser(self._parser, self))
        self.prepare = prepare
        self._write_batch = write_batch
        self._begin_wait = begin_wait
        self._parking = parking
        self._under_way = 0
        """Requests that the handler has still to answer; answers must keep the order of their requests."""
        self._recent = recent
        self.last_poll: tuple[bytes, TryAnswer, str | None] | None = (b"", _answer_nothing, None)
        """What was received last, where it was exactly one request that was answered at once, or nothing so far."""
        self._key: Key | None = None
        """That of what is being received, where it was looked up."""

    def take(self, data: bytes) -> None:
        """Take bytes in their turn. InterceptingParser calls `note`, which spares each poll a frame."""
        last = self.last_poll
        if last is None or self._close:
            self._key = None
        elif self._is_recent(data) if data != last[0] else self.answer_now(last[1], None, last[2]):
            return
        self._has_turn = bool(data)
        RequestHandler.data_received(self, data)

    def _is_recent(self, data: bytes) -> bool:
        """Answer a poll that repeats one of any connection, and return whether this was one."""
        self._key = key = self._recent.key(data)
        if key is None or (known := self._recent.find(key)) is None:
            return False
        try_answer, request_id = known
        if key.request_id is not None:
            request_id = key.request_id
        if not self.answer_now(try_answer, None, request_id):
            return False
        if self.request_timer is not None:  # the first one was due
            self._await_no_request()
            self._last_bytes = HEAD_END
        self._key, self.last_poll = None, (data, try_answer, request_id)
        return True

    def answer_now(
        self, try_answer: TryAnswer, request: RawRequestMessage | None, request_id: str | None
    ) -> bytes | None:
        """Answer a plain request if that is possible at once, and return the answer."""
        transport = self.transport
        if self._under_way or transport is None or self.writing_paused:
            return None
        answer = try_answer(request, request_id)
        if answer:  # else there is none, or it comes later, on a parked connection
            self._write_batch.put(transport, answer)
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return answer

    def is_answered(self, try_answer: TryAnswer, request: RawRequestMessage, data: bytes | None) -> bool:
        """Answer a request that has been parsed, as `answer_now`, and return whether that was possible.

        `data` is what it was parsed of where it was all of it: then its repetition is recognised.
        """
        key, self._key = self._key, None
        request_id = request.headers.get(X_REQUEST_ID)
        answer = self.answer_now(try_answer, request, request_id)
        if answer is None:
            return False
        if data is not None and len(data) <= MAX_REPEATED_BYTES:
            self.last_poll = data, try_answer, request_id
            if not answer.startswith(_REFUSED) and (key := key or self._recent.key(data)):
                if key.request_id is None:
                    self._recent.put(key, (try_answer, request_id))
                elif request.headers.getall(X_REQUEST_ID) == [key.request_id]:
                    self._recent.put(key, (try_answer, None))
        return True

    def waits(self, request: RawRequestMessage) -> bool:
        """Have a plain request wait for what takes time, or answer it. Return whether that was possible."""
        begin_wait = self._begin_wait
        return begin_wait is not None and self.answer_now(lambda *_: begin_wait(request, self), None, None) is not None

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
        if finished[0].keep_alive:  # else nothing that follows is a request
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
        connection = self._connection
        is_due = connection.request_timer is not None
        is_whole = data.endswith(HEAD_END) and (not is_due or connection.last_poll is not None)
        connection.last_poll = None
        requests, is_upgrade, rest = self._parser.feed_data(data)
        if is_due or not is_whole:
            connection.note(data, requests[-1][1] if requests else None)
        if len(requests) == 1 and not is_upgrade:
            [(request, body)] = requests
            if body is EMPTY_PAYLOAD and _is_plain(request):
                try_answer = connection.prepare(request)
                if try_answer and connection.is_answered(try_answer, request, data if is_whole else None):
                    self.message_consumed()
                    return (), False, rest
                if connection.request_timer is None and connection.waits(request):
                    self.message_consumed()
                    return (), False, rest
        connection.hand_over(requests)
        return requests, is_upgrade, rest

    def __getattr__(self, name: str) -> Any:
        """Return what else aiohttp uses of its parser."""
        return getattr(self._parser, name)


def _answer_nothing(request: RawRequestMessage | None, request_id: str | None) -> None: ...


def _is_plain(request: RawRequestMessage) -> bool:
    """Return whether a request without a body is a valid GET or HEAD over HTTP/1.1 that does not end its connection."""
    headers = request.headers
    return (
        request.method in ALLOWED_METHODS
        and request.version == HttpVersion11
        and not request.should_close
        and TRANSFER_ENCODING not in headers
        and is_host(headers.get(HOST, ""))
    )
