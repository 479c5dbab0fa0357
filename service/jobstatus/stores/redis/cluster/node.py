"""One server and the connections to it: as many exchanges at a time as there are callers, within a bound.

A node is a circuit breaker: one that does not answer is marked down, and exchanges with it fail at once until a health
check succeeds. So one batch waits for the silence of a node, not every batch that follows.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import hiredis

from jobstatus.stores.redis.cluster.connection import Connection, connect, pack
from jobstatus.stores.redis.cluster.errors import FAULTS, NodeDown
from jobstatus.stores.redis.cluster.limits import ClusterLimits
from jobstatus.stores.redis.cluster.server_info import ServerInfo, parse_server_info
from jobstatus.stores.redis.cluster.url import ClusterConfig, NodeAddress

_PING: Final = pack("PING")
_INFO: Final = pack("INFO")


class Node:
    """One server, primary or replica."""

    def __init__(
        self, address: NodeAddress, config: ClusterConfig, limits: ClusterLimits, on_down: Callable[[], None]
    ) -> None:
        """`on_down` is called when the node is marked down; it must have `health_check` called from time to time."""
        self.address = address
        self.info = ServerInfo()
        self.is_down = False
        self.stable_since = float("-inf")
        """Since when (monotonic) no connection was lost: the server still has all that was read from it since then."""
        self._config = config
        self._limits = limits
        self._on_down = on_down
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._room = asyncio.Semaphore(limits.max_connections)
        self._is_closed = False
        self._is_quiet = asyncio.Event()

    async def exchange(self, packed: bytes, wanted: int, *, until: float, waits_ms: int = 0) -> list[Any]:
        """Send `wanted` commands and return their replies, error replies in their places.

        What was sent is finished when the caller is cancelled. Raises one of FAULTS: at once while the node is down,
        else after a silence, which `waits_ms` of the commands may prolong, or at the loop's time `until`.
        """
        try:
            async with asyncio.timeout_at(until):
                await self._room.acquire()
                try:
                    self._check_up()
                    connection = self._take() or await self._connect()
                    replies = self._begin(
                        connection, packed, wanted, self._limits.silence_seconds + waits_ms / 1000, self._end_in_room
                    )
                except BaseException:
                    self._room.release()
                    raise
                return await replies
        except NodeDown:
            raise
        except FAULTS:
            self.mark_down()
            raise

    async def health_check(self, question: bytes) -> Any:
        """Send one command, even while the node is down, and return its reply.

        The node is up again if it answers and serves; one that answers but does not serve yet stays down. Raises one of
        FAULTS when it does not answer.
        """
        seconds = self._limits.health_check_seconds
        async with asyncio.timeout(2 * seconds):
            connection = self._take() or await self._connect()
            answer, ping, info = await self._begin(connection, question + _PING + _INFO, 3, seconds, self._end)
        if not isinstance(info, hiredis.ReplyError):
            self.info = parse_server_info(info)
        if self.is_down and not isinstance(ping, hiredis.ReplyError):
            self.stable_since = time.monotonic()
            self.is_down = False
        return answer

    def mark_down(self) -> None:
        """Open the circuit breaker: exchanges fail at once until a health check succeeds."""
        self.stable_since = time.monotonic()
        self.is_down = True
        self._drop_idle()
        self._on_down()

    async def close(self) -> None:
        """Close all connections, after the exchanges under way have ended."""
        self.drop()
        if self._busy:
            await self._is_quiet.wait()

    def drop(self) -> None:
        """Close the idle connections now, and the others when their exchanges have ended."""
        self._is_closed = True
        self._drop_idle()

    def _check_up(self) -> None:
        if self.is_down:
            raise NodeDown

    async def _connect(self) -> Connection:
        return await connect(self.address, self._config, self._limits.connect_seconds)

    def _begin(
        self,
        connection: Connection,
        packed: bytes,
        wanted: int,
        silence_seconds: float,
        on_end: Callable[[Connection], None],
    ) -> asyncio.Future[list[Any]]:
        replies = connection.exchange(packed, wanted, silence_seconds, on_end)
        self._busy.add(connection)
        return replies

    def _end_in_room(self, connection: Connection) -> None:
        self._room.release()
        self._end(connection)

    def _end(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if self._is_closed:
            connection.abort()
            if not self._busy:
                self._is_quiet.set()
        elif connection.is_open:
            self._idle.append(connection)

    def _take(self) -> Connection | None:
        """Return the idle connection that was used last, which is the most likely to be open."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            self.stable_since = time.monotonic()  # it was closed by the server, which may have been restarted
        return None

    def _drop_idle(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
