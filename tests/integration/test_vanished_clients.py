"""Clients that vanish without closing their connection: what the kernel is asked to do about them.

No test can make the kernel of this machine vanish; that the options do what they say is measured with network
namespaces (`make partitions`).
"""

import asyncio
import socket
from typing import Final

import pytest
from aiohttp import web
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.server import HttpServer

IDLE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
)
UNACKNOWLEDGED: Final = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 35_000)


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
async def test_every_connection_inherits_the_options(host: str) -> None:
    """An idle client is asked for a sign of life, and one that acknowledges nothing is given up, within a minute."""
    found: list[tuple[int, int, int]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        of_client = request.transport.get_extra_info("socket")
        for level, option, _ in (*IDLE, UNACKNOWLEDGED):
            found.append((level, option, of_client.getsockopt(level, option)))
        return web.Response()

    server = HttpServer(handle, max_connections=10, grace_seconds=1)
    port = await server.start(host, 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await reader.readline()
        writer.close()
    finally:
        await server.stop()
    assert found == [*IDLE, UNACKNOWLEDGED]


def test_streams_of_vanished_clients_end_within_a_minute() -> None:
    """The time until the next comment is sent, and the time to acknowledge it."""
    assert RestLimits().quiet_seconds + RestLimits().vanished_seconds < 60
