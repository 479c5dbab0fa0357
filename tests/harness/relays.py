"""A network that falls silent: a relay of TCP connections that stops passing bytes on, both ways, and closes nothing.

To whoever is connected it is as if packets were dropped, but for one thing: the kernel still acknowledges what is sent,
so what depends on acknowledgements (keep-alive, TCP_USER_TIMEOUT) needs `harness.hosts`.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Final, Self

_PIECE_BYTES: Final = 65_536
_BACKLOG: Final = 128


class Relay:
    """Passes connections to its port on to another one. Connections that are made while it is cut are not answered."""

    def __init__(self, target: int, *, make_socket: Callable[[], socket.socket] = socket.socket) -> None:
        """`target` is a port of this machine; `make_socket` may make a socket that is in another network."""
        self._target: Final = target
        self._make_socket: Final = make_socket
        self._listener: Final = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: Final[int] = self._listener.getsockname()[1]
        self._passes: Final = asyncio.Event()
        self._passes.set()
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    async def __aenter__(self) -> Self:
        self._start(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    def cut(self) -> None:
        """Fall silent. The kernel takes one more connection, and drops the packets of others."""
        self._passes.clear()
        self._listener.listen(0)

    def heal(self) -> None:
        """Pass on what was sent meanwhile, and all that follows."""
        self._listener.listen(_BACKLOG)
        self._passes.set()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._passes.wait()
            client, _ = await loop.sock_accept(self._listener)
            self._start(self._relay(client))

    async def _relay(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client, self._make_socket() as server:
            for side in (client, server):
                side.setblocking(False)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._passes.wait()
            try:
                await loop.sock_connect(server, ("127.0.0.1", self._target))
                await asyncio.gather(self._pass_on(client, server), self._pass_on(server, client))
            except OSError:
                await self._passes.wait()  # a connection that was reset is closed on both sides, when it can be told

    async def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what one side sends, and its end."""
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(source, _PIECE_BYTES):
            await self._passes.wait()
            await loop.sock_sendall(target, piece)
        await self._passes.wait()
        target.shutdown(socket.SHUT_WR)
