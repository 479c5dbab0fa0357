"""An HTTP port: serve a handler of aiohttp's requests on a socket, with limits."""

import asyncio
import ipaddress
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp import web
from aiohttp.http import RawRequestMessage

from jobstatus.rest.connection_table import ConnectionTable, Door, Limit
from jobstatus.rest.fast_path import BeginWait, FastPathProtocol, Prepare, WriteBatch
from jobstatus.rest.fast_path_check import find_problem
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.parked import Parking
from jobstatus.rest.protocol import Handler, Recognise, RestProtocol, only_valid
from jobstatus.rest.recent_polls import RecentPolls
from jobstatus.rest.send_limits import limit_unsent
from jobstatus.rest.turns import Turns
from jobstatus.rest.vanished_clients import ListeningSocket, close_vanished
from jobstatus.telemetry.throttle import LogThrottle

KEEPALIVE_SECONDS: Final = 650.0
"""Longer than proxies keep an idle connection (Google's balancers 600 s), so that none uses one that we close."""
_BACKLOG: Final = 1024
ACCEPTED_AT_A_TIME: Final = 16
"""Connections that are accepted in one turn of the loop, where it takes one of each listening socket."""
_log = logging.getLogger(__name__)


class HttpServer:
    """Serves one handler on one port. Build and use it inside the running loop."""

    def __init__(
        self,
        handler: Handler,
        prepare: Prepare | None = None,
        begin_wait: BeginWait | None = None,
        *,
        max_connections: int,
        max_connections_each: int = 0,
        on_refused: Callable[[Limit], None] = lambda limit: None,  # noqa: ARG005
        recognise: Recognise = lambda authorization, keys: None,  # noqa: ARG005
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        grace_seconds: float,
        limits: RestLimits = RestLimits(),  # noqa: B008  # frozen
    ) -> None:
        """`max_connections`, `max_connections_each` and `on_refused` are those of ConnectionTable.

        Requests under way have `grace_seconds` to be answered at a stop; idle connections live `keepalive_seconds`.
        The handler is not called for what `prepare` finds an answer to, and `begin_wait` begins. Where there is more to
        do than time, each of those whom `recognise` tells apart has its turn.
        """
        server = web.Server(only_valid(handler), handler_cancellation=True)  # a client that disconnects waits no longer
        # aiohttp waits this long for handlers, then cancels them and waits as long again.
        self._runner = web.ServerRunner(server, shutdown_timeout=grace_seconds / 2)
        self._prepare = prepare
        self._begin_wait = begin_wait
        self._grace_seconds = grace_seconds
        self._parking: Parking | None = None
        self._table = ConnectionTable(limit=max_connections, limit_each=max_connections_each, on_refused=on_refused)
        self._keepalive_seconds = keepalive_seconds
        self._limits = limits
        self._recognise = recognise
        self._turns = Turns(limits.turns, call_soon=asyncio.get_running_loop().call_soon)
        self._servers: list[asyncio.Server] = []

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return self._table.count

    async def start(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listen and return the port. Raise OSError when the address is not available.

        `shared`: other processes of this user may share the port; the kernel spreads connections among them.
        """
        factory = await self._factory()
        try:
            first = await _bound(factory, host, port, shared=shared)
            self._servers.append(first)
            for part in first.sockets:
                close_vanished(part, self._limits.vanished_seconds)
                limit_unsent(part)
                self._servers += [await _again(factory, part) for _ in range(ACCEPTED_AT_A_TIME - 1)]
            for server in self._servers:
                await server.start_serving()
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(f"cannot listen on {host}:{port} for HTTP: {why}") from error
        sockets = [part for part in first.sockets if part.family in (socket.AF_INET, socket.AF_INET6)]
        return int(sockets[0].getsockname()[1])

    async def _factory(self) -> Callable[[], asyncio.Protocol]:
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101  # for the type checker: set by setup
        server = self._runner.server
        # Bodies are never read, so they are not decompressed either.
        options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": self._keepalive_seconds,
            "request_seconds": self._limits.request_seconds,
            "send_seconds": self._limits.send_seconds,
            "throttles": defaultdict(LogThrottle),
            "turns": self._turns,
            "recognise": self._recognise,
            "auto_decompress": False,
            "access_log": None,
        }
        connection_type = await self._connection_type(options)

        def connect(release: Callable[[], None]) -> asyncio.Protocol:
            return connection_type(server, on_lost=release, **options)

        if issubclass(connection_type, FastPathProtocol):
            batch = WriteBatch()
            self._parking = Parking(connect, batch.put, self._keepalive_seconds)
            options |= {
                "prepare": self._prepare or _answer_nothing,
                "begin_wait": self._begin_wait,
                "write_batch": batch,
                "recent": RecentPolls(self._limits.recent_polls),
                "parking": self._parking,
            }
        door = Door(self._table, connect)
        return lambda: door

    async def _connection_type(self, options: dict[str, Any]) -> type[RestProtocol]:
        """Return the class of connections: without the fast path where it is not wanted or does not work."""
        chosen = self._limits.connection_type
        if (self._prepare is None and self._begin_wait is None) or not issubclass(chosen, FastPathProtocol):
            return RestProtocol
        problem = await find_problem(self._limits, options)
        if not problem:
            return chosen
        _log.warning(
            "The fast path for polls is off because aiohttp %s is not as expected.",
            aiohttp.__version__,
            extra={"event": "fast_path_disabled", "aiohttp": aiohttp.__version__, "problem": problem},
        )
        return RestProtocol

    async def stop(self) -> None:
        """Stop accepting, answer the requests under way and close idle connections."""
        for server in self._servers:
            server.close()
        self._turns.begin_all()
        if self._parking is None:
            await self._runner.cleanup()
        else:
            await asyncio.gather(self._runner.cleanup(), self._parking.stop(self._grace_seconds / 2))


def _answer_nothing(message: RawRequestMessage) -> None:
    """Leave each request to the handler, because nothing can be read at once."""


def is_any(host: str) -> bool:
    """Return whether this is `::`, all addresses of this machine; gRPC listens for IPv4 there too, and so do we."""
    try:
        return ipaddress.IPv6Address(host) == ipaddress.IPv6Address("::")
    except ValueError:
        return False


async def _bound(factory: Callable[[], asyncio.Protocol], host: str, port: int, *, shared: bool) -> asyncio.Server:
    """Return a server that does not accept connections yet."""
    create = _creator(factory)
    if not is_any(host):
        return await create(host=host, port=port, reuse_port=shared or None)
    both = socket.create_server((host, port), family=socket.AF_INET6, reuse_port=shared, dualstack_ipv6=True)
    return await create(sock=both)


async def _again(factory: Callable[[], asyncio.Protocol], listening: ListeningSocket) -> asyncio.Server:
    """Return a further server on the same socket.

    uvloop accepts one connection of a server in a turn of the loop. When turns are long because there is much to do,
    new clients would queue for a turn each.
    """
    return await _creator(factory)(sock=socket.socket(fileno=os.dup(listening.fileno())))


def _creator(factory: Callable[[], asyncio.Protocol]) -> Callable[..., Awaitable[asyncio.Server]]:
    return partial(asyncio.get_running_loop().create_server, factory, backlog=_BACKLOG, start_serving=False)
