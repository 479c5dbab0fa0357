"""An HTTP port: from an aiohttp application to a listening socket and back, with limits."""

import asyncio
import os
import socket
from functools import partial
from typing import Final

from aiohttp import web

from jobstatus.rest.protocol import protocol_factory

KEEPALIVE_SECONDS: Final = 45.0
"""An idle connection is closed after this long: longer than the longest Retry-After, so that pollers keep theirs."""
_BACKLOG: Final = 1024


class HttpServer:
    """Serves one application on one port. Build and use it inside the running loop."""

    def __init__(self, app: web.Application, *, max_connections: int, grace_seconds: float) -> None:
        """Stopping takes at most `grace_seconds`, which requests under way have to be answered."""
        # aiohttp waits this long for handlers, then cancels them and waits as long again.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=grace_seconds / 2)
        self._max_connections = max_connections
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port it became. Raises OSError when the address cannot be had."""
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101  # for the type checker: set by setup
        factory = partial(
            protocol_factory,
            self._runner.server,
            max_connections=self._max_connections,
            keepalive_seconds=KEEPALIVE_SECONDS,
        )
        try:
            self._server = await asyncio.get_running_loop().create_server(factory, host, port, backlog=_BACKLOG)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise OSError(f"cannot listen on {host}:{port} for HTTP: {why}") from error
        sockets = [part for part in self._server.sockets if part.family in (socket.AF_INET, socket.AF_INET6)]
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept nothing more, answer the requests under way, close idle connections."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()
