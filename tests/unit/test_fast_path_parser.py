"""Answers that need no handler, below HTTP: when they are written, and when there are none."""

import asyncio
from typing import Any

from aiohttp import web
from harness.waiting import until
from jobstatus.rest.fast_path import FastPathProtocol, WriteBatch
from jobstatus.rest.limits import RestLimits


class Transport(asyncio.Transport):
    """Notes what is written to it, as (name, bytes); one named `gone` is closing."""

    def __init__(self, written: list[tuple[str, bytes]], name: str) -> None:
        super().__init__()
        self._written = written
        self._name = name

    def is_closing(self) -> bool:
        return self._name == "gone"

    def write(self, data: Any) -> None:
        self._written.append((self._name, bytes(data)))

    def close(self) -> None:
        self._name = "gone"

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...


async def test_answers_of_one_turn_are_written_together_and_to_nobody_who_has_gone() -> None:
    """In the order in which they were put, once the turn is over; each only once."""
    written: list[tuple[str, bytes]] = []
    outbox = WriteBatch()
    for answer in (b"1", b"2"):
        for name in ("a", "gone", "b"):
            outbox.put(Transport(written, name), answer)
        assert written == []
        await asyncio.sleep(0)
        assert written == [("a", answer), ("b", answer)]
        written.clear()


async def test_nothing_is_answered_at_once_while_what_was_written_is_not_read() -> None:
    """The handler's answers wait for that; these would only be heaped up."""
    paths: list[str] = []
    written: list[tuple[str, bytes]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.path)
        await asyncio.Event().wait()
        raise AssertionError

    server = web.Server(handle)
    protocol = FastPathProtocol(
        server,
        large=RestLimits().large_responses(),
        request_seconds=RestLimits().request_seconds,
        try_answer=lambda _: b"at once",
        write_batch=WriteBatch(),
        loop=asyncio.get_running_loop(),
    )
    transport = Transport(written, "client")
    protocol.connection_made(transport)
    protocol.data_received(b"GET /1 HTTP/1.1\r\nHost: test\r\n\r\n")
    await asyncio.sleep(0)
    assert (written, paths) == ([("client", b"at once")], [])
    protocol.pause_writing()
    protocol.data_received(b"GET /2 HTTP/1.1\r\nHost: test\r\n\r\n")
    await until(lambda: paths == ["/2"])
    assert len(written) == 1
    await server.shutdown(0.1)
