"""An HTTP port: from a handler of aiohttp's requests to a listening socket and back, with limits."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from jobstatus.rest.fast_path import FastPathProtocol, TryAnswer, WriteBatch
from jobstatus.rest.protocol import RefusedConnection, RestProtocol

KEEPALIVE_SECONDS: Final = 45.0
"""An idle connection is closed after this long: longer than the longest Retry-After, so that pollers keep theirs."""
_BACKLOG: Final = 1024


Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class HttpServer:
    """Serves one handler on one port. Build and use it inside the running loop."""

    def __init__(
        self,
        handler: Handler,
        try_answer: TryAnswer | None = None,
        *,
        max_connections: int,
        grace_seconds: float,
    ) -> None:
        """Stopping takes at most `grace_seconds`, which requests under way have to be answered.

        The handler is not asked for what `try_answer` answers.
        """
        server = web.Server(handler, handler_cancellation=True)  # a client that goes away waits no longer
        # aiohttp waits this long for handlers, then cancels them and waits as long again.
        self._runner = web.ServerRunner(server, shutdown_timeout=grace_seconds / 2)
        self._try_answer = try_answer
        self._max_connections = max_connections
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listen; the port it became. Raises OSError when the address cannot be had.

        `shared`: with other processes of this user's that want to share it, among which the kernel spreads connections.
        """
        factory = await self._factory()
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(factory, host, port, backlog=_BACKLOG, reuse_port=shared or None)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(f"cannot listen on {host}:{port} for HTTP: {why}") from error
        sockets = [part for part in self._server.sockets if part.family in (socket.AF_INET, socket.AF_INET6)]
        return int(sockets[0].getsockname()[1])

    async def start_at(self, path: Path) -> None:
        """Listen on a socket in the file system. Raises OSError when it cannot be made."""
        factory = await self._factory()
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(factory, str(path))
        except OSError as error:
            raise OSError(f"cannot listen at {path}: {error}") from error

    async def _factory(self) -> Callable[[], asyncio.Protocol]:
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101  # for the type checker: set by setup
        server, write_batch = self._runner.server, WriteBatch()
        # Bodies are never read: nor shall a stranger have them decompressed.
        options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": KEEPALIVE_SECONDS,
            "auto_decompress": False,
            "access_log": None,
        }

        def connection() -> asyncio.Protocol:
            if len(server.connections) >= self._max_connections:
                return RefusedConnection()
            if self._try_answer is None:
                return RestProtocol(server, **options)
            return FastPathProtocol(server, self._try_answer, write_batch, **options)

        return connection

    async def stop(self) -> None:
        """Accept nothing more, answer the requests under way, close idle connections."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
