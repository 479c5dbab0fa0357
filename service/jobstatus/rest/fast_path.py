"""Answers that need no handler.

For each request that a handler answers aiohttp makes a request, a writer, a future and a task, and the event loop turns
twice more, which costs more than all that a poll needs. So what can be answered without waiting for anything is
answered between aiohttp's parser and its connection, which is not told of it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD

from jobstatus.rest.protocol import RestProtocol

TryAnswer: TypeAlias = Callable[[RawRequestMessage], bytes | None]
"""The whole answer to a GET over HTTP/1.1, on a connection that stays open; None where a handler is to be asked."""


class WriteBatch:
    """Answers of one turn of the event loop, written together when it ends.

    A client on this machine, a proxy say, is woken by the first and finds the others. To wake it for each alone would
    cost as much as the answer.
    """

    def __init__(self) -> None:
        self._answers: list[tuple[asyncio.Transport, bytes]] = []

    def put(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Write this soon, in order, unless the client goes away."""
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._write)
        self._answers.append((transport, answer))

    def _write(self) -> None:
        answers, self._answers = self._answers, []
        for transport, answer in answers:
            if not transport.is_closing():
                transport.write(answer)


class FastPathProtocol(RestProtocol):
    """A connection that leaves to its handler only what cannot be answered at once."""

    def __init__(self, server: web.Server, try_answer: TryAnswer, write_batch: WriteBatch, **options: Any) -> None:
        """`options` are aiohttp's for a connection."""
        super().__init__(server, **options)
        self._parser = cast("Any", _InterceptingParser(self._parser, self))
        self._try_answer = try_answer
        self._outbox = write_batch
        self._under_way = 0
        """Requests that the handler has still to answer; answers have to come in the order of their requests."""

    def is_answered(self, request: RawRequestMessage) -> bool:
        """Whether a request without a body has been answered at once."""
        transport = self.transport
        if not self._under_way and transport is not None and not self.writing_paused:
            answer = self._try_answer(request)
            if answer is not None:
                self._outbox.put(transport, answer)
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                return True
        return False

    def asks_handler(self, requests: int) -> None:
        """So many requests more are left to the handler."""
        self._under_way += requests

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the handler's answer; aiohttp calls this once for each request that it was told of."""
        finished = await super().finish_response(request, resp, start_time)
        self._under_way -= 1
        return finished


class _InterceptingParser:
    """aiohttp's parser for a connection, less the requests that are answered at once."""

    def __init__(self, parser: Any, connection: FastPathProtocol) -> None:
        self._parser = parser
        self._connection = connection
        self.message_consumed = parser.message_consumed

    def feed_data(self, data: bytes) -> tuple[Sequence[tuple[RawRequestMessage, StreamReader]], bool, bytes]:
        """The requests in this data that are for a handler, whether the last one is an upgrade, and what follows it."""
        requests, is_upgrade, rest = self._parser.feed_data(data)
        if len(requests) == 1 and not is_upgrade:
            [(request, body)] = requests
            is_plain = request.method == "GET" and request.version == HttpVersion11 and body is EMPTY_PAYLOAD
            if is_plain and not request.should_close and self._connection.is_answered(request):
                self.message_consumed()
                return (), False, rest
        self._connection.asks_handler(len(requests))
        return requests, is_upgrade, rest

    def __getattr__(self, name: str) -> Any:
        """What else aiohttp asks of its parser."""
        return getattr(self._parser, name)
