"""The limits on connections with real sockets of several addresses: who is turned away, and how that is told."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Final

import pytest
from aiohttp import web
from harness.http import LIMIT_SECONDS, request
from harness.logged import events_logged
from harness.service import Service, edge_here, service_here
from harness.waiting import until
from jobstatus.rest.server import HttpServer

WAITING: Final = 96
"""Connections that the kernel has made and nobody has accepted."""
REQUEST: Final = b"GET /nothing HTTP/1.1\r\nHost: test\r\n\r\n"
HOSTS: Final = {"127.0.0.1": "127.0.0.1", "127.0.0.2": "127.0.0.1", "::1": "::1"}
"""Where a client of each address connects to."""


class Crowd:
    """Connections of several addresses that stay open."""

    def __init__(self, port: int, stack: AsyncExitStack) -> None:
        self._port = port
        self._stack = stack
        self._writers: list[asyncio.StreamWriter] = []

    async def is_admitted(self, address: str) -> bool:
        """Whether one more connection from the address is served; it stays."""
        reader, writer = await asyncio.open_connection(HOSTS[address], self._port, local_addr=(address, 0))
        self._stack.callback(writer.close)
        self._writers.append(writer)
        async with asyncio.timeout(LIMIT_SECONDS):
            try:
                writer.write(REQUEST)
                return (await reader.read(12)).startswith(b"HTTP/1.1 404")
            except ConnectionError:
                return False

    async def admitted(self, address: str, count: int) -> list[bool]:
        return [await self.is_admitted(address) for _ in range(count)]

    def close_first(self) -> None:
        self._writers.pop(0).close()


@asynccontextmanager
async def crowd_at(port: int) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        yield Crowd(port, stack)


async def figures(service: Service) -> dict[str, float]:
    """What the metrics say about connections: how many are open, and what limits have turned how many away."""
    text = (await request(service.admin_port, "/metrics")).body.decode()
    found = re.findall(r'(?m)^jobstatus_http_connections(?:_refused_total\{limit="(\w+)"\})? (\S+)$', text)
    return {limit or "open": float(value) for limit, value in found if not limit or float(value)}


async def test_one_address_cannot_lock_out_another(caplog: pytest.LogCaptureFixture) -> None:
    """Addresses are counted one by one; what is turned away is counted, and logged once."""
    async with (
        service_here(http="[::]:0", max_connections_each=2) as service,
        crowd_at(service.http_port) as crowd,
    ):
        for address in HOSTS:
            assert await crowd.admitted(address, 4) == [True, True, False, False]
        assert await figures(service) == {"open": 6, "max_connections_each": 6}
        assert events_logged(caplog).count("connections_refused") == 1
        crowd.close_first()
        await until(lambda: crowd.is_admitted("127.0.0.1"))


async def test_a_full_table_is_told() -> None:
    """The limit on all of them names itself."""
    async with (
        service_here(max_connections=3, max_connections_each=0) as service,
        crowd_at(service.http_port) as crowd,
    ):
        assert await crowd.admitted("127.0.0.1", 4) == [True, True, True, False]
        assert await crowd.admitted("127.0.0.2", 1) == [False]
        assert await figures(service) == {"open": 3, "max_connections": 2}


async def test_an_edge_has_the_limits() -> None:
    """And the admin port has none for each address, since a proxy's checks and Prometheus come from one."""
    async with (
        service_here() as service,
        edge_here(service, max_connections_each=1) as edge,
        crowd_at(edge.http_port) as crowd,
        crowd_at(edge.admin_port) as checks,
    ):
        assert await crowd.admitted("127.0.0.1", 2) == [True, False]
        assert await checks.admitted("127.0.0.1", 5) == [True] * 5
        assert await figures(edge) == {"open": 1, "max_connections_each": 1}


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_connections_that_come_together_are_accepted_together(host: str) -> None:
    """Not one in each turn of the loop: with much to do in a turn, new clients would queue for seconds."""
    server = HttpServer(nobody_asks, max_connections=1000, grace_seconds=1)
    port = await server.start(host, 0)
    try:
        with ExitStack() as stack:
            for _ in range(WAITING):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            turns = 0
            while server.connection_count < WAITING and turns < WAITING:
                turns += 1
                await asyncio.sleep(0)
            assert turns < WAITING / 2
    finally:
        await server.stop()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port))


async def nobody_asks(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError
